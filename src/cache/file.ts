import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  opendirSync,
  openSync,
  readdirSync,
  readSync,
  type Stats,
} from "node:fs";
import { join } from "node:path";
import { isErrno, LarderError, namingPath } from "../error.ts";
import { readWhole } from "../host/read.ts";

/** What `lstat` says, or undefined where nothing is. */
export function measure(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Bytes that a file takes on the disk: allocated blocks, not its length. */
export function allocatedBytes(stat: Stats): number {
  return stat.blocks * 512;
}

/** What the names of a file that has several have in common, and how many there are, in the cache and elsewhere. */
export interface Link {
  inode: string;
  of: number;
}

/** Undefined for a file that has one name, and for a folder. */
export function linkOf(path: string, stat: Stats): Link | undefined {
  if (stat.nlink <= 1 || stat.isDirectory()) return undefined;
  // An overlay's numbers may be larger than a JavaScript number can tell apart.
  const inode = Number.isSafeInteger(stat.ino)
    ? stat.ino
    : lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino;
  return { inode: `${stat.dev}:${inode}`, of: stat.nlink };
}

/** Whether something of this time is younger than `grace`; milliseconds. A time in the future is, but under no grace at all. */
export function isYoung(mtimeMs: number, now: number, grace: number): boolean {
  return grace > 0 && now - mtimeMs < grace;
}

/** Those of these files that have several names, together with the other names of the same file. */
export function groupLinks<T extends { link?: Link }>(files: T[]): T[][] {
  return [
    ...Map.groupBy(
      files.filter(({ link }) => link),
      ({ link }) => link!.inode,
    ).values(),
  ];
}

/**
 * What a folder and everything in it takes, links not followed: lengths of its files, and allocated bytes. The blocks
 * of a file with several links count once; those in `counted` count no more. What lies in a folder of somebody else, who
 * lets nobody read it, does not count.
 */
export function measureTree(folder: string, counted = new Set<string>()): { bytes: number; allocated: number } {
  const stat = unlessForbidden(() => measure(folder));
  if (!stat) return { bytes: 0, allocated: 0 };
  if (!stat.isDirectory()) {
    const inode = linkOf(folder, stat)?.inode;
    const again = inode !== undefined && counted.has(inode);
    if (inode !== undefined) counted.add(inode);
    return { bytes: stat.size, allocated: again ? 0 : allocatedBytes(stat) };
  }
  const names = unlessForbidden(() => namesIn(folder)) ?? [];
  const inside = names.map((name) => measureTree(join(folder, name), counted));
  return inside.reduce((sum, each) => ({ bytes: sum.bytes + each.bytes, allocated: sum.allocated + each.allocated }), {
    bytes: 0,
    allocated: allocatedBytes(stat),
  });
}

function unlessForbidden<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (isErrno(error, "EACCES")) return undefined;
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

/** Whether anything is in a folder, however many entries it has. */
export function hasEntry(folder: string): boolean {
  try {
    using entries = opendirSync(folder);
    return entries.readSync() !== null;
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false;
    throw error;
  }
}

/**
 * The text of a regular file, or undefined where nothing is. A link is not followed and a pipe is not waited for:
 * both throw `invalid`, as does text that is not UTF-8. A byte order mark stays, since msb rejects it. Fails with EFBIG for
 * more than 64 MiB.
 */
export function readRegular(path: string): string | undefined {
  return openRegular(path, (fd, stat) => {
    const bytes = readWhole(fd, stat);
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
    // A socket.
    if (isErrno(error, "ENXIO")) throw new LarderError("invalid", `"${path}" is not a regular file`, error);
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
