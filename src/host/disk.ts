import { closeSync, existsSync, openSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { loadLibc } from "./libc.ts";
import { fileSystemAt } from "./mounts.ts";

/** A file system's size, and what an ordinary user may still fill, in bytes. */
export interface FileSystem {
  total_bytes: number;
  free_bytes: number;
}

// <linux/magic.h>
const BTRFS = 0x9123683e;

/** The file system that a path lies on, or would lie on once it is made. */
export function fileSystemOf(path: string): FileSystem {
  const { bsize, blocks, bavail } = statfsSync(existing(path));
  return { total_bytes: blocks * bsize, free_bytes: bavail * bsize };
}

/**
 * The same, with the blocks of every file that is gone counted as free. Btrfs does so half a minute later, or once it has
 * written what is changed: whoever deletes until enough is free would delete far more.
 */
export function settledFileSystemOf(path: string): FileSystem {
  if (statfsSync(existing(path)).type === BTRFS) sync(existing(path));
  return fileSystemOf(path);
}

/** Whether what two paths hold, or would hold, takes its space from one file system. */
export function isOneFileSystem(one: string, other: string): boolean {
  return fileSystemAt(existing(one)) === fileSystemAt(existing(other));
}

let syncfs: ((fd: number) => number) | undefined;

function sync(path: string): void {
  const fd = openSync(path, "r");
  try {
    syncfs ??= loadLibc({ syncfs: { args: ["i32"], returns: "i32" } }).syncfs;
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}

function existing(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : existing(dirname(path));
}
