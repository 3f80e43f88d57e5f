import { existsSync, statfsSync } from "node:fs";
import { dirname } from "node:path";

/** A file system's size, and what an ordinary user may still fill, in bytes. */
export interface FileSystem {
  total_bytes: number;
  free_bytes: number;
}

/** The file system that a path lies on, or would lie on once it is made. */
export function fileSystemOf(path: string): FileSystem {
  const { bsize, blocks, bavail } = statfsSync(existing(path));
  return { total_bytes: blocks * bsize, free_bytes: bavail * bsize };
}

function existing(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : existing(dirname(path));
}
