import { statSync } from "node:fs";
import { join } from "node:path";
import { asLarderError, isErrno } from "../error.ts";
import { refuseAstray } from "../host/ownership.ts";
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
  const entries = unlessTrouble(prefix.slice(0, -1) || folder, () => {
    // Root would walk all of the disk behind a user's link to it.
    if (prefix === "") refuseAstray(folder);
    return namesIn(folder).sort();
  });
  if (!Array.isArray(entries)) return yield entries;
  for (const entry of entries) {
    const path = join(folder, entry);
    const found = unlessTrouble(prefix + entry, () => {
      const identity = identifyFolder(path);
      // A link may lead back to where the walk came from.
      if (identity === undefined || seen.has(identity)) return undefined;
      seen.add(identity);
      if (measure(path)?.isSymbolicLink()) refuseAstray(path);
      return readSnapshot(path, prefix + entry);
    });
    if (found === undefined) continue;
    if (!Array.isArray(found)) yield found;
    else if (found.length > 0) yield* found;
    else yield* walk(path, `${prefix}${entry}/`, seen);
  }
}

// What may not be looked at, such as another user's, may hold any number of snapshots.
function unlessTrouble<T>(name: string, look: () => T): T | SnapshotOnDisk {
  try {
    return look();
  } catch (error) {
    return { name, trouble: asLarderError(error).message };
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
  return unlessTrouble(name, () => {
    const digest: unknown = JSON.parse(readRegular(path) ?? "")?.image?.manifest_digest;
    return isDigest(digest) ? { name, digest } : { name, trouble: `"${path}" names no image.manifest_digest` };
  });
}
