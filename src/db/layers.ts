import type { Database } from "bun:sqlite";
import { isDigest } from "../oci/digest.ts";
import type { LayerMetadata } from "../oci/metadata.ts";
import { exactId, type Row, RowReader } from "./row.ts";
import { type Timestamp, writeTimestamp } from "./timestamp.ts";

//   layer ── diff_id           unique: the layer's identity
//         ── blob_digest, media_type, compressed_size_bytes  of whichever image brought it first (interop §7 #10)
//         ── erofs_size_bytes  of the artifact in the cache
//         ── created_at, last_used_at
//   manifest_layer ── manifest_id, position  unique: position 0 is the bottom
//                  ── layer_id ──► layer

/** A layer as one manifest holds it. Sizes in bytes. */
export interface LayerRow {
  diffId: string | null;
  blobDigest: string | null;
  mediaType: string | null;
  compressedSizeBytes: number | bigint | null;
  erofsSizeBytes: number | bigint | null;
  createdAt: Timestamp | null;
  lastUsedAt: Timestamp | null;
  position: number | null;
  damage: string[];
}

const MAX_INTEGER = 2n ** 63n - 1n;

/** A size in bytes as a column holds it: what is larger than 2^63-1 is stored as that. */
export function saturate(bytes: bigint): bigint {
  return bytes > MAX_INTEGER ? MAX_INTEGER : bytes;
}

/** A manifest's layers, bottom to top. */
export function listLayers(db: Database, manifestId: number): LayerRow[] {
  return db
    .query<Row, [number]>(
      `SELECT l.diff_id AS diff_id,
              l.blob_digest AS blob_digest,
              l.media_type AS media_type,
              l.compressed_size_bytes AS compressed_size_bytes,
              l.erofs_size_bytes AS erofs_size_bytes,
              l.created_at AS created_at,
              l.last_used_at AS last_used_at,
              j.position AS position
       FROM manifest_layer AS j
       JOIN layer AS l ON l.id = j.layer_id
       WHERE j.manifest_id = ?
       ORDER BY j.position`,
    )
    .all(manifestId)
    .map((row) => {
      const read = new RowReader(row);
      return {
        diffId: read.text("diff_id"),
        blobDigest: read.text("blob_digest"),
        mediaType: read.text("media_type"),
        compressedSizeBytes: read.integer("compressed_size_bytes"),
        erofsSizeBytes: read.integer("erofs_size_bytes"),
        createdAt: read.timestamp("created_at"),
        lastUsedAt: read.timestamp("last_used_at"),
        position: read.count("position"),
        damage: read.damage,
      };
    });
}

/**
 * Puts a layer on record, and returns its row id. `erofsSize` is the artifact's length in bytes where the cache has
 * it; a row's other facts are kept, since other images rely on them. A layer on record already counts as used `now`
 * if `isUse`.
 */
export function upsertLayer(
  db: Database,
  layer: LayerMetadata,
  erofsSize: number | undefined,
  now: number,
  isUse: boolean,
): number {
  const size = layer.size_bytes;
  const time = writeTimestamp(now);
  // Two statements: most layers of a batch are new, and one that does both and returns the id takes half as long again.
  const inserted = db
    .query<unknown, [string, string, string | null, bigint | null, number | null, string]>(
      `INSERT INTO layer (diff_id, blob_digest, media_type, compressed_size_bytes, erofs_size_bytes, created_at, last_used_at)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
       ON CONFLICT (diff_id) DO NOTHING`,
    )
    .run(layer.diff_id, layer.digest, layer.media_type, size === null ? null : saturate(size), erofsSize ?? null, time);
  if (inserted.changes > 0) return exactId(inserted.lastInsertRowid);
  const { id } = db
    .query<{ id: bigint }, [string, number | null, string, boolean]>(
      `UPDATE layer
       SET last_used_at = iif(?4, ?3, last_used_at),
           erofs_size_bytes = coalesce(?2, erofs_size_bytes)
       WHERE diff_id = ?1
       RETURNING id`,
    )
    .get(layer.diff_id, erofsSize ?? null, time, isUse)!;
  return exactId(id);
}

/**
 * Makes a manifest's layers exactly `layerIds`, bottom to top; junction rows that say so already keep their ids. Returns
 * the diff IDs that it had and now has no more; a row that is gone, or that names no layer, is none.
 */
export function setJunctions(db: Database, manifestId: number, layerIds: number[]): string[] {
  const stored = db
    .query<{ layer_id: unknown; position: unknown }, [number]>(
      `SELECT layer_id, position
       FROM manifest_layer
       WHERE manifest_id = ?
       ORDER BY position`,
    )
    .all(manifestId);
  const same =
    stored.length === layerIds.length &&
    stored.every((row, i) => Number(row.position) === i && Number(row.layer_id) === layerIds[i]);
  if (same) return [];
  if (stored.length > 0) db.query("DELETE FROM manifest_layer WHERE manifest_id = ?").run(manifestId);
  db.query(
    `INSERT INTO manifest_layer (manifest_id, layer_id, position)
     SELECT ?, value, key
     FROM json_each(?)
     ORDER BY key`,
  ).run(manifestId, JSON.stringify(layerIds));
  const lost = stored
    .map(({ layer_id }) => layer_id)
    .filter((id) => typeof id === "bigint")
    .filter((id) => !layerIds.includes(Number(id)));
  return lost.length === 0 ? [] : diffIdsOf(db, lost).filter(isDigest);
}

function diffIdsOf(db: Database, ids: bigint[]): unknown[] {
  return db
    .query<{ diff_id: unknown }, [string]>("SELECT diff_id FROM layer WHERE id IN (SELECT value FROM json_each(?))")
    .all(`[${ids}]`)
    .map(({ diff_id }) => diff_id);
}

/** A layer row that is to go. */
export interface DoomedLayer {
  id: number;
  diffId: string;
}

/**
 * The layers that only these manifests have; who else has them, the table says, whatever its indexes say. A second row
 * of one diff ID, which only a damaged index lets in, keeps the first.
 */
export function layersOnlyOf(db: Database, manifestIds: number[]): DoomedLayer[] {
  return db
    .query<{ id: bigint; diff_id: unknown }, [string]>(
      `WITH doomed (id) AS MATERIALIZED (SELECT value FROM json_each(?)),
       theirs (id, diff_id) AS MATERIALIZED (
         SELECT DISTINCT l.id, l.diff_id
         FROM doomed
         JOIN manifest_layer AS j ON j.manifest_id = doomed.id
         JOIN layer AS l ON l.id = j.layer_id
       ),
       needed (id) AS MATERIALIZED (
         SELECT other.layer_id
         FROM manifest_layer AS other NOT INDEXED
         WHERE other.layer_id IN (SELECT id FROM theirs)
           AND other.manifest_id NOT IN (SELECT id FROM doomed)
       )
       SELECT id, diff_id
       FROM theirs
       WHERE id NOT IN (SELECT id FROM needed)
         AND diff_id NOT IN (
           SELECT twin.diff_id
           FROM layer AS twin NOT INDEXED
           WHERE twin.diff_id IN (SELECT diff_id FROM theirs)
             AND (twin.id NOT IN (SELECT id FROM theirs) OR twin.id IN (SELECT id FROM needed))
         )
       ORDER BY id`,
    )
    .all(JSON.stringify(manifestIds))
    .map(parseDoomed);
}

/**
 * The layers that no manifest has, or none but these, as the tables say, whatever their indexes say; twins as above.
 * One pass over all layers: for a few manifests `layersOnlyOf` is quicker.
 */
export function unneededLayers(db: Database, leavingManifestIds: number[]): DoomedLayer[] {
  const unneeded = db.query<{ id: bigint; diff_id: unknown }, [string]>(
    `SELECT id, diff_id
     FROM layer NOT INDEXED
     WHERE id NOT IN (
       SELECT layer_id
       FROM manifest_layer NOT INDEXED
       WHERE manifest_id NOT IN (SELECT value FROM json_each(?))
     )
     ORDER BY id`,
  );
  const layers = Array.from(unneeded.iterate(JSON.stringify(leavingManifestIds)), parseDoomed);
  // Nearly always so in a `gc`, where all that follows would be for nothing.
  if (layers.length === 0) return [];
  const ids = new Set(layers.map(({ id }) => id));
  const all = db.query<{ id: bigint; diff_id: unknown }, []>("SELECT id, diff_id FROM layer NOT INDEXED");
  const needed = new Set<string>();
  for (const row of all.iterate()) if (!ids.has(Number(row.id))) needed.add(String(row.diff_id));
  return layers.filter(({ diffId }) => !needed.has(diffId));
}

function parseDoomed(row: { id: bigint; diff_id: unknown }): DoomedLayer {
  return { id: Number(row.id), diffId: String(row.diff_id) };
}

/** Deletes those of these layer rows that no manifest has, as the index says, and returns their diff IDs. */
export function deleteOrphans(db: Database, layers: DoomedLayer[]): string[] {
  // Their ids are returned: with the diff IDs it would take a seventh longer.
  const gone = db
    .query<unknown, [string]>(
      `DELETE FROM layer
       WHERE id IN (SELECT value FROM json_each(?))
         AND NOT EXISTS (SELECT 1 FROM manifest_layer AS j WHERE j.layer_id = layer.id)
       RETURNING id`,
    )
    .values(JSON.stringify(layers.map(({ id }) => id)));
  const ids = new Set(gone.map(([id]) => Number(id)));
  return layers.filter(({ id }) => ids.has(id)).map(({ diffId }) => diffId);
}

/** Whether a layer with this diff ID is on record. */
export function hasLayer(db: Database, diffId: string): boolean {
  return db.query("SELECT 1 FROM layer WHERE diff_id = ?").get(diffId) !== null;
}

/** Whether any layer is on record. */
export function hasAnyLayer(db: Database): boolean {
  return db.query("SELECT 1 FROM layer LIMIT 1").get() !== null;
}

/** Every diff ID on record, as stored in the table. */
export function listDiffIds(db: Database): string[] {
  return db
    .query<{ diff_id: unknown }, []>("SELECT diff_id FROM layer NOT INDEXED")
    .all()
    .map(({ diff_id }) => String(diff_id));
}

/**
 * The row ids of the layers whose diff ID is no digest, so that nothing tells which file they stand for. SQLite passes over
 * what is plainly SHA-256: to bring every diff ID here would take three times as long.
 */
export function layersWithoutDigest(db: Database): number[] {
  return db
    .query<{ id: bigint; diff_id: unknown }, []>(
      `SELECT id, diff_id
       FROM layer NOT INDEXED
       WHERE octet_length(diff_id) <> 71
          OR diff_id IS NOT 'sha256:' || lower(hex(unhex(substr(diff_id, 8))))`,
    )
    .all()
    .filter(({ diff_id }) => !isDigest(diff_id))
    .map(({ id }) => Number(id));
}

/** What is on record of every layer's artifact size, in bytes; null where nothing is. */
export function listErofsSizes(db: Database): { diffId: string; erofsSize: bigint | null }[] {
  return db
    .query<{ diff_id: unknown; erofs_size_bytes: unknown }, []>(
      "SELECT diff_id, erofs_size_bytes FROM layer ORDER BY id",
    )
    .all()
    .map(({ diff_id, erofs_size_bytes }) => ({
      diffId: String(diff_id),
      erofsSize: typeof erofs_size_bytes === "bigint" ? erofs_size_bytes : null,
    }));
}

/** Records the size of a layer's artifact, in bytes. */
export function setErofsSize(db: Database, diffId: string, bytes: number): void {
  db.query("UPDATE layer SET erofs_size_bytes = ? WHERE diff_id = ?").run(bytes, diffId);
}
