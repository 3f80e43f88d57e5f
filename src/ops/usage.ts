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
import type { Stock } from "./doomed.ts";
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
  index: FileIndex;
}

/** The cache's files as they were measured for the account: none is measured twice. */
export function stockOf({ files, index }: Usage): Stock {
  return {
    mayHave: (kind, name) => index.find(kind, name) !== undefined,
    measure(file) {
      const number = index.find(file.kind, file.key ?? file.digest!);
      if (number === undefined) return undefined;
      const { isFolder, link, inode, mtimeMs, ctimeMs, allocated } = files[number]!;
      // A folder, or a further link to blocks that were counted already, is seldom met, and measured for itself.
      return isFolder || link ? target(file) : { ...file, inode, mtimeMs, ctimeMs, bytes: allocated };
    },
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
  return { usage, strays: findStrays(larder, pins.read(), grace, listing) };
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
    const needed = index.of(manifest, canonicals);
    for (const file of needed) files[file]!.images++;
    return {
      manifest,
      pinnedBy: byDigest.get(manifest.digest) ?? [],
      lastUsed: lastUse(manifest),
      canonicals,
      files: [...needed],
    };
  });
  return { files, images, catalogue, index };
}

// msb refreshes a layer for every image that has it, so it tells about this image only where no other has it. One use
// that cannot be dated makes the latest unknown; an untagged image has only its own age to go by.
function lastUse({ createdAt, names, layers }: ManifestUsage): number | null {
  const uses = names.length > 0 ? names.map(lastUseOfName) : [createdAt];
  let latest = Number.NEGATIVE_INFINITY;
  for (const use of uses) {
    if (use === null) return null;
    latest = Math.max(latest, use);
  }
  for (const { manifests, lastUsedAt } of layers) if (manifests === 1) latest = Math.max(latest, lastUsedAt ?? 0);
  return latest;
}

// A time that is there and cannot be read may be any.
function lastUseOfName({ storedUpdatedAt, updatedAt, createdAt }: ManifestUsage["names"][number]): number | null {
  return storedUpdatedAt === null ? createdAt : updatedAt;
}

/** The numbers of the cache's files, by what is in their names. */
class FileIndex {
  private readonly numbers = new Map<Kind, Map<string, number>>();
  /** By a flat blob's digest, the manifests whose refs name it. */
  private readonly sharing = new Map<string, string[]>();
  /** By a manifest's digest, its flat blobs. */
  private readonly blobs = new Map<string, number[]>();

  // Refs are scanned before blobs, so a blob finds the manifests that need it.
  add({ kind, path, digest, key }: CacheFile, number: number): void {
    const name = key ?? digest;
    if (name === undefined) return;
    const numbers = this.numbers.get(kind) ?? new Map<string, number>();
    this.numbers.set(kind, numbers.set(name, number));
    if (kind === "flat_ref") {
      const ref = readFlatRef(path);
      if (ref) push(this.sharing, ref.artifact_digest, name);
    }
    if (kind === "flat_blob") for (const manifest of this.sharing.get(name) ?? []) push(this.blobs, manifest, number);
  }

  /** A file by its kind and the digest or key in its name. */
  find(kind: Kind, name: string): number | undefined {
    return this.numbers.get(kind)?.get(name);
  }

  /** The files of a manifest, whose names have these canonical forms. */
  of({ digest, layers }: ManifestUsage, canonicals: (string | null)[]): Set<number> {
    const files = new Set(this.blobs.get(digest));
    const add = (kind: Kind, name: string) => {
      const number = this.find(kind, name);
      if (number !== undefined) files.add(number);
    };
    for (const kind of ["vmdk", "fsmeta", "flat_ref"] as const) add(kind, digest);
    // A key is a hash, and where there is no such file, there is none to find by it.
    if (this.numbers.has("metadata"))
      for (const canonical of canonicals) if (canonical !== null) add("metadata", canonicalKey(canonical));
    if (this.numbers.has("layer")) for (const { diffId } of layers) add("layer", diffId);
    return files;
  }
}

function indexFiles(entries: Iterable<CacheFile>, files: UsedFile[]): FileIndex {
  const index = new FileIndex();
  const counted = new Set<string>();
  for (const file of entries) {
    const stat = measure(file.path);
    if (!stat) continue;
    const link = linkOf(file.path, stat);
    const again = link !== undefined && counted.has(link.inode);
    if (link) counted.add(link.inode);
    const { bytes, allocated } = stat.isDirectory()
      ? measureTree(file.path, counted)
      : { bytes: stat.size, allocated: allocatedBytes(stat) };
    index.add(file, files.length);
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

function push<T>(map: Map<string, T[]>, key: string, value: T): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}
