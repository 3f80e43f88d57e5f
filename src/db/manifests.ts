import type { Database } from "bun:sqlite";
import type { Platform } from "../oci/metadata.ts";
import { exactId } from "./row.ts";
import { writeTimestamp } from "./timestamp.ts";

//   manifest ── digest            unique
//            ── config_digest, architecture, os, variant, layer_count, total_size_bytes, created_at

/** What a manifest row says, less its identity. */
export interface ManifestFields extends Platform {
  configDigest: string;
  layerCount: number;
  totalSizeBytes: bigint;
}

interface StoredManifest extends Platform {
  id: bigint;
  config_digest: string | null;
  layer_count: bigint | null;
  total_size_bytes: bigint | null;
}

/**
 * Puts a manifest on record and returns its row id. One on record already is updated in place, so its id stays;
 * `platform` undefined keeps what the row says, or takes `host` for a new row. A new row gets `newId`, if that is given.
 */
export function upsertManifest(
  db: Database,
  digest: string,
  fields: Omit<ManifestFields, keyof Platform>,
  platform: Platform | undefined,
  host: Platform,
  now: number,
  newId: number | null = null,
): number {
  const stored = db
    .query<StoredManifest, [string]>(
      `SELECT id,
              config_digest,
              architecture,
              os,
              variant,
              layer_count,
              total_size_bytes
       FROM manifest
       WHERE digest = ?`,
    )
    .get(digest);
  if (!stored) {
    const { architecture, os, variant } = platform ?? host;
    const { id } = db
      .query<
        { id: bigint },
        [number | null, string, string, string | null, string | null, string | null, number, bigint, string]
      >(
        `INSERT INTO manifest (id, digest, config_digest, architecture, os, variant, layer_count, total_size_bytes, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         RETURNING id`,
      )
      .get(
        newId,
        digest,
        fields.configDigest,
        architecture,
        os,
        variant,
        fields.layerCount,
        fields.totalSizeBytes,
        writeTimestamp(now),
      )!;
    return exactId(id);
  }
  const { architecture, os, variant } = platform ?? stored;
  const unchanged =
    stored.config_digest === fields.configDigest &&
    stored.architecture === architecture &&
    stored.os === os &&
    stored.variant === variant &&
    stored.layer_count === BigInt(fields.layerCount) &&
    stored.total_size_bytes === fields.totalSizeBytes;
  if (!unchanged) {
    db.query(
      `UPDATE manifest
       SET config_digest = ?,
           architecture = ?,
           os = ?,
           variant = ?,
           layer_count = ?,
           total_size_bytes = ?
       WHERE id = ?`,
    ).run(fields.configDigest, architecture, os, variant, fields.layerCount, fields.totalSizeBytes, stored.id);
  }
  return exactId(stored.id);
}

/** Whether a manifest with this digest is on record. */
export function hasManifest(db: Database, digest: string): boolean {
  return manifestIdOf(db, digest) !== null;
}

/** The row id of the manifest with this digest; null where it is not on record. */
export function manifestIdOf(db: Database, digest: string): number | null {
  const row = db.query<{ id: bigint }, [string]>("SELECT id FROM manifest WHERE digest = ?").get(digest);
  return row && Number(row.id);
}

/** Whether any manifest is on record. */
export function hasAnyManifest(db: Database): boolean {
  return db.query("SELECT 1 FROM manifest LIMIT 1").get() !== null;
}

/** A reference of a manifest, with `updated_at` as stored: a change of it means a new use. */
export interface Name {
  id: number;
  manifestId: number;
  reference: string;
  updatedAt: unknown;
}

/** The references that name each of these manifests. */
export function referencesOf(db: Database, manifestIds: number[]): Name[] {
  return db
    .query<{ id: bigint; manifest_id: bigint; reference: unknown; updated_at: unknown }, [string]>(
      `SELECT id, manifest_id, reference, updated_at
       FROM image_ref
       WHERE manifest_id IN (SELECT value FROM json_each(?))
       ORDER BY id`,
    )
    .all(JSON.stringify(manifestIds))
    .map((row) => ({
      id: Number(row.id),
      manifestId: Number(row.manifest_id),
      reference: String(row.reference),
      updatedAt: row.updated_at,
    }));
}

/** Deletes manifests with their configs and junctions, children first: a cascade would be slower. */
export function deleteManifests(db: Database, ids: number[]): void {
  const list = JSON.stringify(ids);
  db.query("DELETE FROM config WHERE manifest_id IN (SELECT value FROM json_each(?))").run(list);
  db.query("DELETE FROM manifest_layer WHERE manifest_id IN (SELECT value FROM json_each(?))").run(list);
  db.query("DELETE FROM manifest WHERE id IN (SELECT value FROM json_each(?))").run(list);
}

/** Every manifest digest on record, as stored in the table. */
export function listManifestDigests(db: Database): string[] {
  return db
    .query<{ digest: unknown }, []>("SELECT digest FROM manifest NOT INDEXED")
    .all()
    .map(({ digest }) => String(digest));
}

/** The manifests, by row id and digest, that no reference names. */
export function untaggedManifests(db: Database): { id: number; digest: string }[] {
  return db
    .query<{ id: bigint; digest: unknown }, []>(
      `SELECT m.id AS id, m.digest AS digest
       FROM manifest AS m
       WHERE m.id NOT IN (SELECT manifest_id FROM image_ref)
       ORDER BY m.id`,
    )
    .all()
    .map((row) => ({ id: Number(row.id), digest: String(row.digest) }));
}

/** Those of these manifests that no reference names, found by larder's index: a writer always has it. */
export function untaggedAmong(db: Database, ids: number[]): { id: number; digest: string }[] {
  return db
    .query<{ id: bigint; digest: unknown }, [string]>(
      `SELECT m.id AS id, m.digest AS digest
       FROM manifest AS m
       WHERE m.id IN (SELECT value FROM json_each(?))
         AND NOT EXISTS (SELECT 1 FROM image_ref AS r WHERE r.manifest_id = m.id)
       ORDER BY m.id`,
    )
    .all(JSON.stringify(ids))
    .map((row) => ({ id: Number(row.id), digest: String(row.digest) }));
}
