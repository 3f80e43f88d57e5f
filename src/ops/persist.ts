import type { Database } from "bun:sqlite";
import type { Stats } from "node:fs";
import { measure } from "../cache/file.ts";
import { readMetadataFile } from "../cache/metadata.ts";
import { CachePaths } from "../cache/paths.ts";
import { upsertConfig } from "../db/configs.ts";
import { upsertReference } from "../db/images.ts";
import { saturate, setJunctions, upsertLayer } from "../db/layers.ts";
import { upsertManifest } from "../db/manifests.ts";
import { addIndexes } from "../db/open.ts";
import { keepPages, writeTransaction } from "../db/write.ts";
import { LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import type { Larder } from "../larder.ts";
import type { Digest } from "../oci/digest.ts";
import { type ImageMetadata, type Platform, platformOf } from "../oci/metadata.ts";
import { cacheKey, canonicalReference } from "../oci/reference.ts";

/** An image to put on record, already checked. */
export interface Entry {
  reference: string;
  metadata: ImageMetadata;
  /** The cache's own file that the metadata was read from, as it was then. */
  source?: { path: string; stat: Stats };
}

/** What was put on record. */
export interface Persisted {
  reference: string;
  canonical: string;
  digest: Digest;
}

/** A reference with the metadata that the cache holds for it; throws `not_found`, or `invalid` for what cannot be used. */
export function entryFor(home: Pick<Home, "cache">, reference: string): Entry {
  const { path } = new CachePaths(home.cache).metadata(cacheKey(reference));
  const stat = measure(path);
  const metadata = readMetadataFile(path);
  if (stat && metadata) return { reference, metadata, source: { path, stat } };
  throw new LarderError(
    "not_found",
    `cannot persist ${JSON.stringify(reference)}: the cache "${home.cache}" holds no metadata for it (pull or load it with msb, or give --metadata FILE)`,
  );
}

/**
 * Puts images on record in one transaction: manifest, config, layers, junctions and reference each. One on record
 * already is updated in place, and loses no layer by it. References are checked before anything is written; throws
 * `invalid`, `busy`, and `not_found` where a metadata file is gone by now. `transaction` may be one that is timed.
 */
export function persist(larder: Larder, entries: Entry[], transaction = writeTransaction): Persisted[] {
  const persisted = entries.map(({ reference, metadata }) => ({
    reference,
    canonical: canonicalReference(reference),
    digest: metadata.manifest_digest,
  }));
  // Measured before the transaction, in which files are looked at only to see that they are still there.
  const sizes = measureArtifacts(larder, entries);
  const now = larder.now();
  const layerIds = new Map<Digest, number>();
  addIndexes(larder.db);
  unsynced(larder.db, () =>
    transaction(larder.db, () => {
      for (const entry of entries) refuseChanged(entry);
      for (const { reference, metadata } of entries)
        upsertReference(larder.db, reference, recordImage(larder.db, metadata, sizes, now, true, null, layerIds), now);
    }),
  );
  return persisted;
}

// Asked while nobody else can write: a removal or a prune deletes the metadata file before all others, and only while no row
// wants it. Where it is still the one that was read, the layers are there that were there then.
function refuseChanged({ reference, source }: Entry): void {
  if (!source) return;
  const { path, stat } = source;
  const now = measure(path);
  if (now?.ino === stat.ino && now.ctimeMs === stat.ctimeMs) return;
  const what = `cannot persist ${JSON.stringify(reference)}: its metadata "${path}"`;
  if (!now) throw new Changed("not_found", `${what} was deleted meanwhile`);
  throw new Changed("busy", `${what} was replaced meanwhile; try again`);
}

/**
 * The same, but one image that is refused does not keep the others off the record: gives what became of each, in their
 * order, and each before the next is tried.
 */
export function* persistEach<E extends Entry>(
  larder: Larder,
  entries: E[],
  transaction = writeTransaction,
): Generator<[entry: E, outcome: Persisted | LarderError]> {
  try {
    const persisted = persist(larder, entries, transaction);
    yield* entries.map((entry, i): [E, Persisted] => [entry, persisted[i]!]);
  } catch (error) {
    if (!isRefused(error)) throw error;
    if (entries.length === 1) yield [entries[0]!, error];
    else for (const each of entries) yield* persistEach(larder, [each]);
  }
}

class Changed extends LarderError {}

function isRefused(error: unknown): error is LarderError {
  return error instanceof Changed || (error instanceof LarderError && error.code === "invalid");
}

// As msb commits: a power cut may take the last images off the record, and they can be put there again. What deletes
// files commits with FULL, which syncs what came before it too. Each image changes pages all over the indexes of
// digests, so that folding the write-ahead log in after every 4 MiB, SQLite's default, would write most of them twice.
function unsynced(db: Database, write: () => void): void {
  db.run("PRAGMA synchronous = NORMAL");
  db.run("PRAGMA wal_autocheckpoint = 4000");
  keepPages(db);
  try {
    write();
  } finally {
    db.run("PRAGMA synchronous = FULL");
    db.run("PRAGMA wal_autocheckpoint = 1000");
  }
}

/**
 * Writes an image's rows inside the caller's transaction, and returns its manifest's row id. `sizes` are the lengths
 * of its artifacts in bytes, by diff ID; its layers count as used `now` if `isUse`. Throws `invalid` where a layer that it
 * has on record would be lost: gc would take the file, be the image in use. A manifest
 * row that has to be made gets `newId`, if that is given. `layerIds` are the layers that the same transaction has put
 * on record, and it adds to them: images of one base share most of theirs.
 */
export function recordImage(
  db: Database,
  metadata: ImageMetadata,
  sizes: Map<Digest, number>,
  now: number,
  isUse: boolean,
  newId: number | null = null,
  layerIds = new Map<Digest, number>(),
): number {
  const { layers } = metadata;
  const fields = {
    configDigest: metadata.config_digest,
    layerCount: layers.length,
    totalSizeBytes: totalSize(metadata),
  };
  const manifestId = upsertManifest(db, metadata.manifest_digest, fields, platformOf(metadata), HOST, now, newId);
  upsertConfig(db, manifestId, metadata.config_digest, metadata.config, now);
  for (const layer of layers) {
    if (layerIds.has(layer.diff_id)) continue;
    layerIds.set(layer.diff_id, upsertLayer(db, layer, sizes.get(layer.diff_id), now, isUse));
  }
  const [lost] = setJunctions(
    db,
    manifestId,
    layers.map(({ diff_id }) => layerIds.get(diff_id)!),
  );
  if (lost !== undefined)
    throw new LarderError(
      "invalid",
      `cannot put ${metadata.manifest_digest} on record anew: this metadata lacks its layer ${lost}, and a digest stands for one image (where the record is wrong, remove it first)`,
    );
  return manifestId;
}

/** The sum of the layers' compressed sizes in bytes, at most 2^63-1; a layer of unknown size counts nothing. */
export function totalSize(metadata: ImageMetadata): bigint {
  return saturate(metadata.layers.reduce((sum, layer) => sum + (layer.size_bytes ?? 0n), 0n));
}

/** The lengths of the artifacts that the cache has of these images, in bytes, by diff ID. */
export function measureArtifacts({ cache }: Larder, entries: Pick<Entry, "metadata">[]): Map<Digest, number> {
  const sizes = new Map<Digest, number>();
  const diffIds = new Set(entries.flatMap(({ metadata }) => metadata.layers.map(({ diff_id }) => diff_id)));
  for (const diffId of diffIds) {
    const stat = measure(cache.layer(diffId).path);
    if (stat?.isFile()) sizes.set(diffId, stat.size);
  }
  return sizes;
}

// What msb records for every image; larder only where an image's own config is not at hand.
const HOST: Platform = {
  architecture: ({ x64: "amd64", arm64: "arm64" } as Record<string, string>)[process.arch] ?? process.arch,
  os: "linux",
  variant: null,
};
