import { target } from "../cache/delete.ts";
import { allocatedBytes, type Link, linkOf, measure, measureTree } from "../cache/file.ts";
import { readFlatRef } from "../cache/flat.ts";
import type { CacheFile, CachePaths, Kind } from "../cache/paths.ts";
import { Listing } from "../cache/scan.ts";
import type { Pin } from "../db/pins.ts";
import { type CatalogueUsage, listUsage, type ManifestUsage } from "../db/usage.ts";
import { readTransaction } from "../db/write.ts";
import type { Larder } from "../larder.ts";
import { canonicalKey, canonicalOrNull } from "../oci/reference.ts";
import type { Measure } from "./doomed.ts";
import type { PinWatch } from "./pins.ts";
import { findStrays, type Strays } from "./strays.ts";

/** A file of the cache, measured. Sizes in bytes. */
export interface UsedFile {
  kind: Kind;
  path: string;
  /** Length. */
  bytes: number;
  /** Blocks on the disk; 0 for a further link to a file that was counted already. */
  allocated: number;
  mtimeMs: number;
  ctimeMs: number;
  inode: number;
  isFolder: boolean;
  /** How many images need it; 0 for what belongs to none. */
  images: number;
  link?: Link;
}

/** An image with the files that it needs, as indexes into `Usage.files`. */
export interface UsedImage {
  manifest: ManifestUsage;
  pinnedBy: Pin[];
  /** Milliseconds since 1970; null where it is not known. */
  lastUsed: number | null;
  /** Canonical form of each of its names, null for one that is no reference. */
  canonicals: (string | null)[];
  files: number[];
}

export interface Usage {
  files: UsedFile[];
  images: UsedImage[];
  catalogue: CatalogueUsage;
}

/** What of the cache's files is to go, as they were measured for the account: none is measured twice. */
export function targetsIn({ files }: Usage): Measure {
  // Made when the first is asked for: often nothing is to go.
  let byPath: Map<string, UsedFile> | undefined;
  return (file) => {
    byPath ??= new Map(files.map((file) => [file.path, file]));
    const used = byPath.get(file.path);
    // A folder, or a further link to blocks that were counted already, is seldom met, and measured for itself.
    if (!used || used.isFolder || used.link) return used && target(file);
    const { inode, mtimeMs, ctimeMs, allocated } = used;
    return { ...file, inode, mtimeMs, ctimeMs, bytes: allocated };
  };
}

/** Measures what `scan` gives of the cache, and finds its strays; both are of one reading of the names in msb's folders. */
export function takeStock(
  larder: Larder,
  pins: PinWatch,
  grace: number,
  scan: (cache: CachePaths, listing: Listing) => Iterable<CacheFile>,
): { usage: Usage; strays: Strays } {
  const listing = new Listing(larder.cache);
  const usage = measureUsage(larder, pins, scan(larder.cache, listing));
  return { usage, strays: findStrays(larder, grace, listing) };
}

// Each of them once, with the images that need it.
function measureUsage(larder: Larder, pins: PinWatch, entries: Iterable<CacheFile>): Usage {
  const { catalogue, byDigest } = readTransaction(larder.db, () => ({
    catalogue: listUsage(larder.db),
    byDigest: pins.read().byDigest,
  }));
  const files: UsedFile[] = [];
  const index = indexFiles(entries, files);
  const images = catalogue.manifests.map((manifest): UsedImage => {
    const canonicals = manifest.names.map(({ reference }) => canonicalOrNull(reference));
    const keys = new Set(canonicals.flatMap((canonical) => (canonical === null ? [] : canonicalKey(canonical))));
    const needed = new Set([
      ...[...keys].flatMap((key) => index.metadata.get(key) ?? []),
      ...(index.manifests.get(manifest.digest) ?? []),
      ...manifest.layers.flatMap(({ diffId }) => index.layers.get(diffId) ?? []),
    ]);
    for (const file of needed) files[file]!.images++;
    return {
      manifest,
      pinnedBy: byDigest.get(manifest.digest) ?? [],
      lastUsed: lastUse(manifest),
      canonicals,
      files: [...needed],
    };
  });
  return { files, images, catalogue };
}

// msb refreshes a layer for every image that has it, so it tells about this image only where no other has it. One use
// that cannot be dated makes the latest unknown; an untagged image has only its own age to go by.
function lastUse({ createdAt, names, layers }: ManifestUsage): number | null {
  const uses = names.length > 0 ? names.map(lastUseOfName) : [createdAt];
  const own = layers.filter(({ manifests }) => manifests === 1).map(({ lastUsedAt }) => lastUsedAt ?? 0);
  const dated = uses.filter((use) => use !== null);
  return dated.length === uses.length ? Math.max(...dated, ...own) : null;
}

// A time that is there and cannot be read may be any.
function lastUseOfName({ storedUpdatedAt, updatedAt, createdAt }: ManifestUsage["names"][number]): number | null {
  return storedUpdatedAt === null ? createdAt : updatedAt;
}

interface FileIndex {
  metadata: Map<string, number>;
  /** vmdk, fsmeta, flat ref and flat blob of a manifest. */
  manifests: Map<string, number[]>;
  layers: Map<string, number>;
}

function indexFiles(entries: Iterable<CacheFile>, files: UsedFile[]): FileIndex {
  const index: FileIndex = { metadata: new Map(), manifests: new Map(), layers: new Map() };
  const refs = new Map<string, string[]>();
  const counted = new Set<string>();
  for (const file of entries) {
    const stat = measure(file.path);
    if (!stat) continue;
    const link = linkOf(stat);
    const again = link !== undefined && counted.has(link.inode);
    if (link) counted.add(link.inode);
    const { bytes, allocated } = stat.isDirectory()
      ? measureTree(file.path, counted)
      : { bytes: stat.size, allocated: allocatedBytes(stat) };
    addToIndex(index, refs, file, files.length);
    files.push({
      kind: file.kind,
      path: file.path,
      bytes,
      allocated: again ? 0 : allocated,
      mtimeMs: stat.mtimeMs,
      ctimeMs: stat.ctimeMs,
      inode: stat.ino,
      isFolder: stat.isDirectory(),
      images: 0,
      ...(link && { link }),
    });
  }
  return index;
}

// Refs are scanned before blobs, so a blob finds the manifests that need it.
function addToIndex(
  index: FileIndex,
  refs: Map<string, string[]>,
  { kind, path, digest, key }: CacheFile,
  number: number,
): void {
  if (kind === "metadata") index.metadata.set(key!, number);
  if (kind === "layer") index.layers.set(digest!, number);
  if (kind === "vmdk" || kind === "fsmeta" || kind === "flat_ref") push(index.manifests, digest!, number);
  if (kind === "flat_ref") {
    const ref = readFlatRef(path);
    if (ref) push(refs, ref.artifact_digest, digest!);
  }
  if (kind === "flat_blob") for (const manifest of refs.get(digest!) ?? []) push(index.manifests, manifest, number);
}

function push<T>(map: Map<string, T[]>, key: string, value: T): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}
