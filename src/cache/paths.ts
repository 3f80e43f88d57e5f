import { existsSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Digest, isDigest } from "../oci/digest.ts";

//   <cache>/
//     manifests/K.json             metadata of a reference; K = sha256 of its canonical form
//     manifests/K.lock             held by a pull from start to end
//     layers/S(diff).erofs         a layer                            layers/S(diff).erofs.lock
//     layers/S(blob).tar.gz        a layer as downloaded              tmp/S(blob).download.lock
//     fsmeta/S(manifest).erofs     an image's merged tree             fsmeta/S(manifest).erofs.lock
//     vmdk/S(manifest).vmdk        the disk that joins them           (the fsmeta lock)
//     flat/refs/S(manifest).json   which blob an image's flat root is flat/locks/S(derivation).lock
//     flat/blobs/S(artifact).raw   a flat root, shared by its refs    (the same)
//     tmp/…                        staging
//   S(digest) is the digest with ":" written "_" (interop §3). No other file knows these names.

/** The folders that hold something, in the order in which they are scanned. */
export const FOLDERS = ["manifests", "vmdk", "fsmeta", "flat/refs", "flat/blobs", "layers", "tmp"] as const;
/** Where locks lie and nothing else. */
export const LOCK_FOLDER = "flat/locks";

export type Folder = (typeof FOLDERS)[number];

// Those whose files a VMDK joins.
const JOINED = ["layers", "fsmeta"] as const;

/** What a file in the cache is. `blob` is a layer as downloaded, `staging` is scratch, `foreign` is not msb's. */
export const KINDS = [
  "metadata",
  "vmdk",
  "fsmeta",
  "flat_ref",
  "flat_blob",
  "layer",
  "blob",
  "staging",
  "foreign",
  "lock",
] as const;
export type Kind = (typeof KINDS)[number];

/** A file of the cache by its name alone. */
export interface CacheFile {
  kind: Kind;
  path: string;
  /** The digest in its name: a diff ID for `layer`, the manifest's for `vmdk`, `fsmeta` and `flat_ref`. */
  digest?: Digest;
  /** The key in a metadata file's name. */
  key?: string;
  /** The canonical reference behind that key, where it is known: the key itself cannot be turned back. */
  canonical?: string;
  /** The lock that guards it; undefined where msb has none. */
  lock?: string;
  /** Whether it may be a folder, as scratch in `tmp/` may. */
  folder?: true;
}

/** A digest as file names hold it. */
function stem(digest: Digest): string {
  return digest.replace(":", "_");
}

function unstem(text: string): Digest | undefined {
  const digest = text.replace("_", ":");
  return isDigest(digest) ? digest : undefined;
}

/** The name of a metadata file, by its key. */
export function metadataName(key: string): string {
  return `${key}.json`;
}

/** The name of a layer's artifact, by its diff ID, and of an fsmeta, by its manifest's digest. */
export function erofsName(digest: Digest): string {
  return `${stem(digest)}.erofs`;
}

/** The name of a VMDK, by its manifest's digest. */
export function vmdkName(manifest: Digest): string {
  return `${stem(manifest)}.vmdk`;
}

/** The files of one cache, by what they belong to. */
export class CachePaths {
  private readonly resolved = new Map<Folder, string>();

  constructor(readonly root: string) {}

  // With no link in it, as msb writes it into a VMDK; as it is where it does not exist.
  private realFolder(folder: Folder): string {
    const path = this.folder(folder);
    const real = this.resolved.get(folder) ?? (existsSync(path) ? realpathSync(path) : path);
    this.resolved.set(folder, real);
    return real;
  }

  folder(folder: Folder | typeof LOCK_FOLDER): string {
    return join(this.root, folder);
  }

  // `join` looks for dots to resolve, of which there are none: it took an eighth of the time of a plan.
  private at(folder: Folder | typeof LOCK_FOLDER, name: string): string {
    return `${this.root}/${folder}/${name}`;
  }

  /** Whether a path lies in `tmp/`, where nothing outlives the work that made it. */
  isScratch(path: string): boolean {
    return path.startsWith(`${this.folder("tmp")}/`);
  }

  metadata(key: string): CacheFile & { key: string; lock: string } {
    return { kind: "metadata", path: this.at("manifests", metadataName(key)), key, lock: this.metadataLock(key) };
  }

  layer(diffId: Digest): CacheFile & { digest: Digest; lock: string } {
    return {
      kind: "layer",
      path: this.at("layers", erofsName(diffId)),
      digest: diffId,
      lock: this.layerLock(diffId),
    };
  }

  fsmeta(manifest: Digest): CacheFile & { digest: Digest; lock: string } {
    return {
      kind: "fsmeta",
      path: this.at("fsmeta", erofsName(manifest)),
      digest: manifest,
      lock: this.fsmetaLock(manifest),
    };
  }

  vmdk(manifest: Digest): CacheFile & { digest: Digest; lock: string } {
    return {
      kind: "vmdk",
      path: this.at("vmdk", vmdkName(manifest)),
      digest: manifest,
      lock: this.fsmetaLock(manifest),
    };
  }

  /** The flat lock is named by a digest that only the ref's content tells, so it is not part of the file here. */
  flatRef(manifest: Digest): CacheFile & { digest: Digest } {
    return { kind: "flat_ref", path: this.at("flat/refs", `${stem(manifest)}.json`), digest: manifest };
  }

  flatBlob(artifact: Digest): CacheFile & { digest: Digest } {
    return { kind: "flat_blob", path: this.at("flat/blobs", `${stem(artifact)}.raw`), digest: artifact };
  }

  flatLock(derivation: Digest): string {
    return this.at("flat/locks", `${stem(derivation)}.lock`);
  }

  /** Where in `tmp/` the next version of a file is written, which then takes its place. */
  staged({ path }: CacheFile): string {
    return this.at("tmp", `${basename(path)}.part`);
  }

  /**
   * Where the file that an extent of a VMDK names lies in this cache, as msb writes it: with no link in the folder's path.
   * Undefined for a path that is none of a cache.
   */
  relocated(path: string): string | undefined {
    const parent = dirname(path);
    // A folder that is a link may have another name where it leads to.
    const folder =
      JOINED.find((folder) => this.realFolder(folder) === parent) ??
      JOINED.find((folder) => basename(parent) === folder);
    if (!folder) return undefined;
    const { kind } = this.classify(folder, basename(path));
    return kind === "layer" || kind === "fsmeta" ? join(this.realFolder(folder), basename(path)) : undefined;
  }

  /** Whether the path that an extent of a VMDK names leads to that place, as it is or by way of a link to the cache. */
  isInPlace(path: string): boolean {
    const place = this.relocated(path);
    return place === path || (existsSync(path) && realpathSync(path) === place);
  }

  private metadataLock(key: string): string {
    return this.at("manifests", `${key}.lock`);
  }

  private layerLock(diffId: Digest): string {
    return this.at("layers", `${stem(diffId)}.erofs.lock`);
  }

  private fsmetaLock(manifest: Digest): string {
    return this.at("fsmeta", `${stem(manifest)}.erofs.lock`);
  }

  private downloadLock(blob: Digest): string {
    return this.at("tmp", `${stem(blob)}.download.lock`);
  }

  /** What the entry `name` of `folder` is. */
  classify(folder: Folder, name: string): CacheFile {
    const path = this.at(folder, name);
    if (isLock(name)) return { kind: "lock", path };
    if (folder === "tmp") return this.classifyStaging(path, name);
    if (folder === "manifests") return this.classifyMetadata(path, name);
    return this.classifyArtifact(folder, name) ?? { kind: name.endsWith(".part") ? "staging" : "foreign", path };
  }

  private classifyMetadata(path: string, name: string): CacheFile {
    const match = /^([0-9a-f]{64})\.json(\.part)?$/.exec(name);
    if (!match) return { kind: "foreign", path };
    const file = this.metadata(match[1]!);
    return match[2] ? { kind: "staging", path, lock: file.lock } : file;
  }

  private classifyArtifact(folder: Folder, name: string): CacheFile | undefined {
    // With a colon it is a name that msb never looks for: what lies there is not what the digest's own path names.
    if (name.includes(":")) return undefined;
    // An algorithm has no dot and neither has hex: the first dot ends the stem.
    const dot = name.indexOf(".");
    const digest = unstem(name.slice(0, Math.max(dot, 0)));
    if (!digest) return undefined;
    const ending = `${folder} ${name.slice(dot)}`;
    if (ending === "layers .erofs") return this.layer(digest);
    if (ending === "layers .tar.gz")
      return { kind: "blob", path: this.at(folder, name), digest, lock: this.downloadLock(digest) };
    if (ending === "fsmeta .erofs") return this.fsmeta(digest);
    if (ending === "vmdk .vmdk") return this.vmdk(digest);
    if (ending === "flat/refs .json") return this.flatRef(digest);
    if (ending === "flat/blobs .raw") return this.flatBlob(digest);
    return undefined;
  }

  // 0.4.4 wrote some of these with the digest's colon in the name.
  private classifyStaging(path: string, name: string): CacheFile {
    const dot = name.indexOf(".");
    const digest = unstem(name.slice(0, Math.max(dot, 0)));
    const lock = digest && this.stagingLock(digest, name.slice(dot));
    return { kind: "staging", path, folder: true, ...(lock && { lock }) };
  }

  private stagingLock(digest: Digest, ending: string): string | undefined {
    if (ending === ".part") return this.downloadLock(digest);
    if (ending === ".work") return this.fsmetaLock(digest);
    if (ending === ".flat.work") return this.flatLock(digest);
    if (ending === ".spool" || ending === ".erofs.part") return this.layerLock(digest);
    return undefined;
  }
}

/** Whether an entry is a lock, whatever its folder. */
export function isLock(name: string): boolean {
  return name.endsWith(".lock");
}

/** The locks that a running pull, stitch or flattening holds, and not a layer's build alone. */
export const WORK_LOCKS: [folder: Folder | typeof LOCK_FOLDER, ending: string][] = [
  ["manifests", ".lock"],
  ["tmp", ".download.lock"],
  ["fsmeta", ".lock"],
  [LOCK_FOLDER, ".lock"],
];

/** Whether an entry of `tmp/` is the scratch of a load or a stitch, which hold no lock on the layers they found. */
export function isWorkScratch(name: string): boolean {
  return name.startsWith("load-") || name.endsWith(".work");
}

/** The process ID of the load that an entry of `tmp/` is scratch of; undefined for other work, and other versions of msb. */
export function loaderOf(name: string): string | undefined {
  return /^load-\d+-(\d+)-/.exec(name)?.[1];
}
