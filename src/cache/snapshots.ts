import { statSync } from "node:fs";
import { join } from "node:path";
import { asLarderError, isErrno } from "../error.ts";
import { type Digest, isDigest } from "../oci/digest.ts";
import { measure, namesIn, readRegular } from "./file.ts";

/** A snapshot's folder, with the image that it needs or why that cannot be told. */
export interface SnapshotOnDisk {
  name: string;
  digest?: Digest;
  trouble?: string;
}

// msb 0.4.4 to 0.6 write the one, later versions the other; both hold `image.manifest_digest`.
const DESCRIPTORS = ["snapshot.json", "manifest.json"];

/**
 * The snapshots under these folders, which newer msb files in groups, a folder a level. msb's index of them is rebuilt
 * from these files, so they pin images whether the index names them or not.
 */
export function readSnapshots(...folders: string[]): SnapshotOnDisk[] {
  const seen = new Set<string>();
  return folders.flatMap((folder) => [...walk(folder, "", seen)]);
}

function* walk(folder: string, prefix: string, seen: Set<string>): Generator<SnapshotOnDisk> {
  for (const entry of namesIn(folder).sort()) {
    const path = join(folder, entry);
    const identity = identifyFolder(path);
    // A link may lead back to where the walk came from.
    if (identity === undefined || seen.has(identity)) continue;
    seen.add(identity);
    const snapshots = readSnapshot(path, prefix + entry);
    if (snapshots.length > 0) yield* snapshots;
    else yield* walk(path, `${prefix}${entry}/`, seen);
  }
}

// Through links: a snapshot that was moved to another disk needs its image no less.
function identifyFolder(path: string): string | undefined {
  try {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat?.isDirectory() ? `${stat.dev}:${stat.ino}` : undefined;
  } catch (error) {
    if (isErrno(error, "ELOOP")) return undefined;
    throw error;
  }
}

// A folder with both descriptors needs what either names.
function readSnapshot(folder: string, name: string): SnapshotOnDisk[] {
  return DESCRIPTORS.map((descriptor) => join(folder, descriptor))
    .filter((path) => measure(path))
    .map((path) => readDescriptor(path, name));
}

function readDescriptor(path: string, name: string): SnapshotOnDisk {
  try {
    const digest: unknown = JSON.parse(readRegular(path) ?? "")?.image?.manifest_digest;
    return isDigest(digest) ? { name, digest } : { name, trouble: `"${path}" names no image.manifest_digest` };
  } catch (error) {
    return { name, trouble: asLarderError(error).message };
  }
}
