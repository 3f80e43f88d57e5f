import type { Database } from "bun:sqlite";
import { canonicalReference, isReference, spellings } from "../oci/reference.ts";
import { type Row, RowReader } from "./row.ts";
import { parseTimestamp, type Timestamp, writeTimestamp } from "./timestamp.ts";

//   image_ref ── reference  as typed (interop §4), unique
//             ── manifest_id ──► manifest
//             ── created_at   first put on record
//             ── updated_at   last put on record, which is what "last used" means

/** One image_ref row with its manifest; an untagged manifest has no reference. Sizes in bytes. */
export interface ImageRow {
  id: number | null;
  reference: string | null;
  manifestId: number | null;
  digest: string | null;
  mediaType: string | null;
  architecture: string | null;
  os: string | null;
  variant: string | null;
  layerCount: number | null;
  sizeBytes: number | bigint | null;
  createdAt: Timestamp | null;
  /** The same as the column holds it; see `placeOf`. */
  storedCreatedAt: unknown;
  updatedAt: Timestamp | null;
  /** What could not be read, a phrase each. */
  damage: string[];
}

const COLUMNS = `
       r.id AS id,
       r.reference AS reference,
       r.created_at AS created_at,
       r.updated_at AS updated_at,
       m.id AS manifest_id,
       m.digest AS digest,
       m.media_type AS media_type,
       m.architecture AS architecture,
       m.os AS os,
       m.variant AS variant,
       m.layer_count AS layer_count,
       m.total_size_bytes AS size_bytes`;

/** A place in a list: behind the row that has, or had, this time as stored and this id. */
export interface Place {
  storedCreatedAt: string | null;
  id: number;
}

// Newest first, undated last, as msb orders its list (interop §6): by the text, to which a time that cannot be read is
// one like any other. What is no plain text of a sensible length counts as undated: a place in the list has to be told.
// The length in characters ends at a NUL, that in octets does not.
const TIME = `iif(typeof(created_at) = 'text' AND length(created_at) < 100 AND octet_length(created_at) = length(created_at) AND created_at NOT GLOB '*[^ -~]*', created_at, NULL)`;
const PLAIN = /^[ -~]{0,99}$/;
const BEHIND = `(?2 IS NULL OR ${TIME} < ?1 OR (${TIME} IS NULL AND ?1 IS NOT NULL) OR (${TIME} IS ?1 AND id > ?2))`;

/** The place of a row that was listed; an untagged manifest's is by its own id. */
export function placeOf({ id, manifestId, storedCreatedAt: time }: ImageRow): Place {
  return { storedCreatedAt: typeof time === "string" && PLAIN.test(time) ? time : null, id: id ?? manifestId ?? 0 };
}

/** Every reference, newest first, from behind a place on, and at most so many of them; read a few at a time. */
export function* eachImage(db: Database, after?: Place, most?: number): Generator<ImageRow> {
  const ids = newestIds(db, after, most);
  for (let i = 0; i < ids.length; i += AT_ONCE) yield* listByIds(db, ids.slice(i, i + AT_ONCE));
}

const AT_ONCE = 64;

// The ids alone are sorted: SQLite's sorter copies rows whole, and the engine's heap would hold all that it was given.
function newestIds(db: Database, after: Place | undefined, most: number | undefined): unknown[] {
  return db
    .query(
      `SELECT id
       FROM image_ref NOT INDEXED
       WHERE ${BEHIND}
       ORDER BY ${TIME} DESC, id
       ${limit(most)}`,
    )
    .values(...placed(after, most))
    .flat();
}

// With a limit SQLite sorts in a tree, which for a whole list takes twice the time, even where the limit is none.
function limit(most: number | undefined): string {
  return most === undefined ? "" : "LIMIT ?3";
}

function placed(after: Place | undefined, most: number | undefined): (string | number | null)[] {
  const place = [after?.storedCreatedAt ?? null, after?.id ?? null];
  return most === undefined ? place : [...place, most];
}

// CROSS JOIN keeps the order of the ids: without it SQLite sorts the rows once more.
function listByIds(db: Database, ids: unknown[]): ImageRow[] {
  return db
    .query<Row, [string]>(
      `SELECT${COLUMNS}
       FROM json_each(?) AS wanted
       CROSS JOIN image_ref AS r ON r.id = wanted.value
       LEFT JOIN manifest AS m ON m.id = r.manifest_id`,
    )
    .all(`[${ids}]`)
    .map(parseImage);
}

/** All of them. */
export function listImages(db: Database): ImageRow[] {
  return [...eachImage(db)];
}

const UNTAGGED = `
       SELECT NULL AS id,
              NULL AS reference,
              created_at,
              NULL AS updated_at,
              id AS manifest_id,
              digest,
              media_type,
              architecture,
              os,
              variant,
              layer_count,
              total_size_bytes AS size_bytes
       FROM manifest
       WHERE id NOT IN (SELECT manifest_id FROM image_ref)`;

/** Every manifest that no reference names, newest first, from behind a place on, and at most so many of them. */
export function listUntagged(db: Database, after?: Place, most?: number): ImageRow[] {
  return db
    .query<Row, (string | number | null)[]>(
      `${UNTAGGED}
         AND ${BEHIND}
       ORDER BY ${TIME} DESC, manifest.id
       ${limit(most)}`,
    )
    .all(...placed(after, most))
    .map(parseImage);
}

/**
 * The rows that `text` means: the one typed exactly so, else every spelling of the same canonical reference
 * (interop §7 #4), else the untagged manifest with that digest. Newest first.
 */
export function findImages(db: Database, text: string): ImageRow[] {
  const exact = selectByReferences(db, [text]);
  if (exact.length > 0) return exact;
  if (isReference(text)) {
    const same = selectByReferences(db, spellings(canonicalReference(text)));
    if (same.length > 0) return same;
  }
  return db
    .query<Row, [string]>(
      `${UNTAGGED}
         AND digest = ?`,
    )
    .all(text)
    .map(parseImage);
}

/** The rows that name the manifest with this digest, newest first. */
export function findByDigest(db: Database, digest: string): ImageRow[] {
  return db
    .query<Row, [string]>(
      `SELECT${COLUMNS}
       FROM image_ref AS r
       JOIN manifest AS m ON m.id = r.manifest_id
       WHERE m.digest = ?
       ORDER BY r.created_at DESC, r.id`,
    )
    .all(digest)
    .map(parseImage);
}

function selectByReferences(db: Database, references: string[]): ImageRow[] {
  return db
    .query<Row, [string]>(
      `SELECT${COLUMNS}
       FROM image_ref AS r
       LEFT JOIN manifest AS m ON m.id = r.manifest_id
       WHERE r.reference IN (SELECT value FROM json_each(?))
       ORDER BY r.created_at DESC, r.id`,
    )
    .all(JSON.stringify(references))
    .map(parseImage);
}

function parseImage(row: Row): ImageRow {
  const read = new RowReader(row);
  const digest = read.text("digest");
  if (row.manifest_id === null) read.damaged("manifest", "is missing");
  return {
    id: read.count("id"),
    reference: read.text("reference"),
    manifestId: read.count("manifest_id"),
    digest,
    mediaType: read.text("media_type"),
    architecture: read.text("architecture"),
    os: read.text("os"),
    variant: read.text("variant"),
    layerCount: read.count("layer_count"),
    sizeBytes: read.integer("size_bytes"),
    createdAt: read.timestamp("created_at"),
    storedCreatedAt: row.created_at,
    updatedAt: read.timestamp("updated_at"),
    damage: read.damage,
  };
}

/** The labels of every image that has some, by manifest row; the text is JSON as stored. */
export function listLabels(db: Database): { manifestId: number; labels: unknown }[] {
  return db
    .query<{ manifest_id: bigint; labels: unknown }, []>(
      `SELECT manifest_id, labels
       FROM config
       WHERE labels IS NOT NULL`,
    )
    .all()
    .map(({ manifest_id, labels }) => ({ manifestId: Number(manifest_id), labels }));
}

/** Points `reference` at a manifest, on record since `now` (milliseconds) or before. */
export function upsertReference(db: Database, reference: string, manifestId: number, now: number): void {
  const time = writeTimestamp(now);
  db.query(
    `INSERT INTO image_ref (reference, manifest_id, created_at, updated_at)
     VALUES (?1, ?2, ?3, ?3)
     ON CONFLICT (reference) DO UPDATE
     SET manifest_id = excluded.manifest_id,
         updated_at = excluded.updated_at`,
  ).run(reference, manifestId, time);
}

/** The manifest row that a reference names and that does not exist, or null. */
export function danglingManifest(db: Database, reference: string): number | null {
  const row = db
    .query<{ manifest_id: bigint }, [string]>(
      `SELECT manifest_id
       FROM image_ref
       WHERE reference = ?
         AND NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.id = image_ref.manifest_id)`,
    )
    .get(reference);
  return row && Number(row.manifest_id);
}

/** Points a reference at a manifest if the one that it points at does not exist; its times stay. */
export function repointDangling(db: Database, reference: string, manifestId: number): void {
  db.query(
    `UPDATE image_ref
     SET manifest_id = ?
     WHERE reference = ?
       AND NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.id = image_ref.manifest_id)`,
  ).run(manifestId, reference);
}

/** Drops image_ref rows by id. */
export function deleteReferences(db: Database, ids: number[]): void {
  db.query("DELETE FROM image_ref WHERE id IN (SELECT value FROM json_each(?))").run(JSON.stringify(ids));
}

/** Every reference on record, as typed. */
export function listReferences(db: Database): string[] {
  return db
    .query<{ reference: unknown }, []>("SELECT reference FROM image_ref")
    .all()
    .map(({ reference }) => String(reference));
}

/** Every row's id and reference. */
export function listNames(db: Database): { id: number; reference: string }[] {
  return db
    .query<{ id: bigint; reference: unknown }, []>("SELECT id, reference FROM image_ref")
    .all()
    .map(({ id, reference }) => ({ id: Number(id), reference: String(reference) }));
}

/** When the rows whose reference has this canonical form were last put on record, in milliseconds since 1970; or 0. */
export function lastRecorded(db: Database, canonical: string): number {
  return db
    .query<{ updated_at: unknown }, [string]>(
      "SELECT updated_at FROM image_ref WHERE reference IN (SELECT value FROM json_each(?))",
    )
    .all(JSON.stringify(spellings(canonical)))
    .reduce((latest, { updated_at }) => Math.max(latest, parseTimestamp(String(updated_at))?.ms ?? 0), 0);
}

/** The rows, by id, whose reference has this canonical form. */
export function idsSpelling(db: Database, canonical: string): number[] {
  return db
    .query<{ id: bigint }, [string]>("SELECT id FROM image_ref WHERE reference IN (SELECT value FROM json_each(?))")
    .all(JSON.stringify(spellings(canonical)))
    .map(({ id }) => Number(id));
}
