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
// Newer msb files snapshots in groups, a folder a level.
const DEEPEST_GROUP = 4;

/**
 * The snapshots under `paths.snapshots`. msb's index of them is rebuilt from these files, so they pin images whether
 * the index names them or not.
 */
export function readSnapshots(folder: string, depth = 0, prefix = ""): SnapshotOnDisk[] {
  const found: SnapshotOnDisk[] = [];
  for (const entry of namesIn(folder).sort()) {
    const path = join(folder, entry);
    if (!isFolder(path)) continue;
    const name = prefix + entry;
    const snapshot = readSnapshot(path, name);
    if (snapshot) found.push(snapshot);
    else if (depth < DEEPEST_GROUP) found.push(...readSnapshots(path, depth + 1, `${name}/`));
  }
  return found;
}

// Through links: a snapshot that was moved to another disk needs its image no less.
function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch (error) {
    if (isErrno(error, "ELOOP")) return false;
    throw error;
  }
}

function readSnapshot(folder: string, name: string): SnapshotOnDisk | undefined {
  for (const descriptor of DESCRIPTORS) {
    const path = join(folder, descriptor);
    if (!measure(path)) continue;
    try {
      const digest: unknown = JSON.parse(readRegular(path) ?? "")?.image?.manifest_digest;
      if (isDigest(digest)) return { name, digest };
      return { name, trouble: `"${path}" names no image.manifest_digest` };
    } catch (error) {
      return { name, trouble: asLarderError(error).message };
    }
  }
  return undefined;
}
