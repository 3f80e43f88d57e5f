import { basename } from "node:path";
import { isTarget, part, type Skipped, type Target, target } from "../cache/delete.ts";
import { namesIn } from "../cache/file.ts";
import { FlatBlobs, readFlatRef } from "../cache/flat.ts";
import type { CacheFile, CachePaths, Kind } from "../cache/paths.ts";
import { idsSpelling, listNames } from "../db/images.ts";
import type { Pins } from "../db/pins.ts";
import type { Larder } from "../larder.ts";
import { type Digest, isDigest } from "../oci/digest.ts";
import { canonicalKey, canonicalOrNull } from "../oci/reference.ts";
import { bootedBy } from "./snapshots.ts";

/** What leaves the catalogue, and so leaves its files behind. Digests are as stored, and checked before use. */
export interface Doomed {
  /** Canonical references that no remaining row spells. */
  canonicals: string[];
  manifests: string[];
  layers: string[];
}

/** Files to delete, and what must stay with the reason. */
export interface Targets {
  targets: Target[];
  skipped: Skipped[];
}

/** What is known of the cache's files. */
export interface Stock {
  /** Whether there may be a file of a kind by the digest or key in its name: its whole path takes longer to make. */
  mayHave(kind: Kind, name: string): boolean;
  /** A file as it is to go; undefined where it is not there. */
  measure(file: CacheFile): Target | Skipped | undefined;
}

// Asks the disk.
const ON_DISK: Stock = { mayHave: () => true, measure: target };

/**
 * The files of what is doomed, in the order in which a crash between two of them does least harm: metadata files
 * first, since one without its rows makes the catalogue look lost (`findUnrecorded`).
 * `strayRefs` are flat refs that go at the same time, by the manifest in their name: they keep no blob. What one of the
 * `pins` boots by stays.
 */
export function filesOf(
  cache: CachePaths,
  doomed: Doomed,
  pins: Pins,
  strayRefs: Digest[] = [],
  stock = ON_DISK,
): Targets {
  return withoutBooted(measureTargets(eachFile(cache, doomed, strayRefs, stock), stock), pins);
}

// One by one: most names of a large catalogue may have no file, and those that have one are kept as targets.
function* eachFile(cache: CachePaths, doomed: Doomed, strayRefs: Digest[], stock: Stock): Generator<CacheFile> {
  for (const canonical of doomed.canonicals) {
    const key = canonicalKey(canonical);
    if (stock.mayHave("metadata", key)) yield { ...cache.metadata(key), canonical };
  }
  const manifests = doomed.manifests.filter(isDigest);
  const having = (kind: Kind) => manifests.filter((digest) => stock.mayHave(kind, digest));
  for (const digest of having("vmdk")) yield cache.vmdk(digest);
  for (const digest of having("fsmeta")) yield cache.fsmeta(digest);
  yield* flatFilesOf(cache, having("flat_ref"), strayRefs);
  for (const diffId of doomed.layers) if (stock.mayHave("layer", diffId) && isDigest(diffId)) yield cache.layer(diffId);
}

/**
 * The canonical references that no row spells once `dropped` are gone: their metadata files have nobody left to serve
 * (interop §7 #2).
 */
export function unspelled({ db }: Larder, dropped: { id: number; reference: string }[]): string[] {
  const ids = new Set(dropped.map(({ id }) => id));
  const canonicals = new Set(
    dropped.map(({ reference }) => canonicalOrNull(reference)).filter((canonical) => canonical !== null),
  );
  if (canonicals.size <= FEW)
    return [...canonicals].filter((canonical) => idsSpelling(db, canonical).every((id) => ids.has(id)));
  // Where most images go, few names stay, and to look at those is quicker than to look for every spelling.
  for (const { id, reference } of listNames(db)) {
    if (ids.has(id)) continue;
    const canonical = canonicalOrNull(reference);
    if (canonical !== null) canonicals.delete(canonical);
  }
  return [...canonicals];
}

const FEW = 200;

/** Measures files; those that are not there fall away. */
export function measureTargets(files: Iterable<CacheFile>, stock = ON_DISK): Targets {
  const result: Targets = { targets: [], skipped: [] };
  for (const file of files) {
    const made = stock.measure(file);
    if (made && isTarget(made)) result.targets.push(made);
    else if (made) result.skipped.push(made);
  }
  return result;
}

/** Leaves the metadata files that a snapshot boots by. */
export function withoutBooted({ targets, skipped }: Targets, pins: Pins): Targets {
  const parted = part(targets, bootedBy(pins));
  return { targets: parted.targets, skipped: [...skipped, ...parted.skipped] };
}

function flatFilesOf(cache: CachePaths, manifests: Digest[], strayRefs: Digest[]): CacheFile[] {
  const refs: CacheFile[] = [];
  const blobs = new Map<Digest, CacheFile>();
  // One look at the folder instead of a file that is not there for each image of a host without flat roots.
  const there = manifests.length > FEW ? new Set(namesIn(cache.folder("flat/refs"))) : undefined;
  for (const manifest of manifests) {
    const file = cache.flatRef(manifest);
    if (there && !there.has(basename(file.path))) continue;
    const ref = readFlatRef(file.path);
    const lock = ref && cache.flatLock(ref.derivation_digest);
    refs.push(lock ? { ...file, lock } : file);
    if (ref && lock) blobs.set(ref.artifact_digest, { ...cache.flatBlob(ref.artifact_digest), lock });
  }
  if (blobs.size === 0) return refs;
  const kept = FlatBlobs.of(cache, new Set([...manifests, ...strayRefs]));
  return [...refs, ...[...blobs].filter(([digest]) => !kept.needs(digest)).map(([, file]) => file)];
}
