import type { Database } from "bun:sqlite";
import type { DoomedLayer } from "./layers.ts";
import { parseTimestampMs } from "./timestamp.ts";

/** A manifest with its names and layers, for accounting. Times are milliseconds since 1970, null where unknown. */
export interface ManifestUsage {
  id: number;
  digest: string;
  createdAt: number | null;
  names: {
    id: number;
    reference: string;
    createdAt: number | null;
    updatedAt: number | null;
    storedUpdatedAt: unknown;
  }[];
  layers: LayerUsage[];
}

export interface LayerUsage {
  id: number;
  diffId: string;
  lastUsedAt: number | null;
  /** How many manifests have it. */
  manifests: number;
  /** Whether a row of `manifest_layer` names it for a manifest that is not there. */
  isHeldElsewhere: boolean;
}

/** Who has what, in the order of the rows, as the tables say, whatever their indexes say. */
export interface CatalogueUsage {
  manifests: ManifestUsage[];
  layers: LayerUsage[];
}

/** Reads all of it. */
export function listUsage(db: Database): CatalogueUsage {
  const manifests = new Map<number, ManifestUsage>();
  for (const { id, digest, created_at } of manifestRows(db)) {
    manifests.set(Number(id), {
      id: Number(id),
      digest: String(digest),
      createdAt: toMs(created_at),
      names: [],
      layers: [],
    });
  }
  for (const row of nameRows(db)) {
    manifests.get(Number(row.manifest_id))?.names.push({
      id: Number(row.id),
      reference: String(row.reference),
      createdAt: toMs(row.created_at),
      updatedAt: toMs(row.updated_at),
      storedUpdatedAt: row.updated_at,
    });
  }
  const layers = new Map<number, LayerUsage>();
  for (const { id, diff_id, last_used_at } of layerRows(db))
    layers.set(Number(id), {
      id: Number(id),
      diffId: String(diff_id),
      lastUsedAt: toMs(last_used_at),
      manifests: 0,
      isHeldElsewhere: false,
    });
  for (const { manifest_id, layer_id } of junctionRows(db)) {
    const layer = layers.get(layer_id);
    if (!layer) continue;
    const manifest = manifests.get(manifest_id);
    if (!manifest) layer.isHeldElsewhere = true;
    // One manifest may hold the same layer twice.
    else if (!manifest.layers.includes(layer)) {
      layer.manifests++;
      manifest.layers.push(layer);
    }
  }
  return { manifests: [...manifests.values()], layers: [...layers.values()] };
}

/** What `unneededLayers` says, of a catalogue that was read before. */
export function unneededOf({ manifests, layers }: CatalogueUsage, leavingManifestIds: number[]): DoomedLayer[] {
  const leaving = new Set(leavingManifestIds);
  const staying = manifests.filter(({ id }) => !leaving.has(id));
  const needed = new Set(layers.filter(({ isHeldElsewhere }) => isHeldElsewhere));
  for (const { layers } of staying) for (const layer of layers) needed.add(layer);
  const twins = new Set(Array.from(needed, ({ diffId }) => diffId));
  return layers.filter((layer) => !needed.has(layer) && !twins.has(layer.diffId));
}

function toMs(text: unknown): number | null {
  return typeof text === "string" ? (parseTimestampMs(text) ?? null) : null;
}

function manifestRows(db: Database) {
  return db
    .query<{ id: bigint; digest: unknown; created_at: unknown }, []>(
      "SELECT id, digest, created_at FROM manifest ORDER BY id",
    )
    .all();
}

function nameRows(db: Database) {
  return db
    .query<{ id: bigint; manifest_id: bigint; reference: unknown; created_at: unknown; updated_at: unknown }, []>(
      `SELECT id, manifest_id, reference, created_at, updated_at
       FROM image_ref
       ORDER BY id`,
    )
    .all();
}

function layerRows(db: Database) {
  return db
    .query<{ id: number; diff_id: unknown; last_used_at: unknown }, []>(
      "SELECT id, diff_id, last_used_at FROM layer NOT INDEXED",
    )
    .safeIntegers(false)
    .iterate();
}

// The most rows by far, and nothing but numbers: with a BigInt for each a prune takes a tenth more memory.
function junctionRows(db: Database) {
  return db
    .query<{ manifest_id: number; layer_id: number }, []>(
      "SELECT manifest_id, layer_id FROM manifest_layer NOT INDEXED",
    )
    .safeIntegers(false)
    .all();
}
