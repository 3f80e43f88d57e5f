import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  type Stats,
} from "node:fs";
import { join } from "node:path";
import { isErrno, LarderError, namingPath } from "../error.ts";

/** What `lstat` says, or undefined where nothing is. */
export function measure(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Bytes that a file takes on the disk: allocated blocks, not its length. */
export function allocatedBytes(stat: Stats): number {
  return stat.blocks * 512;
}

/** What tells a file that has several links, the same for each of them; undefined where it has one, or is a folder. */
export function linkedInode(stat: Stats): string | undefined {
  return stat.nlink > 1 && !stat.isDirectory() ? `${stat.dev}:${stat.ino}` : undefined;
}

/**
 * What a folder and everything in it takes, links not followed: lengths of its files, and allocated bytes. The blocks
 * of a file with several links count once; those in `counted` count no more. What lies in a folder of somebody else, who
 * lets nobody read it, does not count.
 */
export function measureTree(folder: string, counted = new Set<string>()): { bytes: number; allocated: number } {
  const stat = measure(folder);
  if (!stat) return { bytes: 0, allocated: 0 };
  if (!stat.isDirectory()) {
    const inode = linkedInode(stat);
    const again = inode !== undefined && counted.has(inode);
    if (inode !== undefined) counted.add(inode);
    return { bytes: stat.size, allocated: again ? 0 : allocatedBytes(stat) };
  }
  const inside = namesInReadable(folder).map((name) => measureTree(join(folder, name), counted));
  return inside.reduce((sum, each) => ({ bytes: sum.bytes + each.bytes, allocated: sum.allocated + each.allocated }), {
    bytes: 0,
    allocated: allocatedBytes(stat),
  });
}

function namesInReadable(folder: string): string[] {
  try {
    return namesIn(folder);
  } catch (error) {
    if (isErrno(error, "EACCES")) return [];
    throw error;
  }
}

/** The names in a folder; none where there is no folder. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return [];
    throw error;
  }
}

/**
 * The text of a regular file, or undefined where nothing is. A link is not followed and a pipe is not waited for:
 * both throw `invalid`, as does text that is not UTF-8. A byte order mark stays, since msb rejects it.
 */
export function readRegular(path: string): string | undefined {
  return openRegular(path, (fd) => {
    const bytes = readFileSync(fd);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch (error) {
      throw new LarderError("invalid", `"${path}" is not UTF-8 text`, error);
    }
  });
}

/** The first `length` bytes of a regular file, one character a byte; undefined where nothing is. */
export function readHead(path: string, length: number): string | undefined {
  return openRegular(path, (fd) => {
    const buffer = Buffer.alloc(length);
    return buffer.toString("latin1", 0, readSync(fd, buffer, 0, length, 0));
  });
}

/** Opens a regular file without following a link, and closes it again; undefined where nothing is. */
export function openRegular<T>(path: string, use: (fd: number, stat: Stats) => T): T | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    if (isErrno(error, "ELOOP")) throw new LarderError("invalid", `"${path}" is a link, not a file`, error);
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new LarderError("invalid", `"${path}" is not a regular file`);
    return namingPath(path, () => use(fd, stat));
  } finally {
    closeSync(fd);
  }
}
