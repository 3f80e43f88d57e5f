import { closeSync, openSync, readdirSync, readlinkSync, readSync, statfsSync, statSync } from "node:fs";
import { basename } from "node:path";
import { isSystemError } from "../error.ts";

// ext2 to ext4, XFS and tmpfs. The device of a file on btrfs or overlayfs is not the one that the kernel's list gives, and
// what another host holds on a network file system is not in it.
const LISTED_TYPES = [0xef53, 0x58465342, 0x01021994];
// Elsewhere, as in a container, the list leaves out what a process outside holds.
const FIRST_PID_NAMESPACE = "pid:[4026531836]";
// The kernel gives its list a page at a time, and only what is on one page is all of one moment.
const PAGE = 4096;

/** A lock that some process holds on the whole of a file, as the kernel lists it. */
interface HeldLock {
  pid: number;
  device: string;
  inode: number;
}

/**
 * The names, without their folder, of all files on the file system of `folder` that some process holds exclusively, as
 * `flock` does: a few milliseconds, however many locks there are. Undefined where the kernel's list cannot be relied on
 * to show every one of them by a name.
 */
export function namesHeldBeside(folder: string): string[] | undefined {
  try {
    if (readlinkSync("/proc/self/ns/pid") !== FIRST_PID_NAMESPACE) return undefined;
    if (!LISTED_TYPES.includes(statfsSync(folder).type)) return undefined;
    const { dev } = statSync(folder);
    const held = parseLocks(readOnePage("/proc/locks")).filter(({ device }) => device === formatDevice(dev));
    return held.map(({ pid, inode }) => nameOf(pid, dev, inode));
  } catch (error) {
    if (error instanceof Unlisted || isSystemError(error)) return undefined;
    throw error;
  }
}

class Unlisted extends Error {}

function readOnePage(path: string): string {
  const fd = openSync(path, "r");
  try {
    const page = Buffer.alloc(PAGE);
    const length = readSync(fd, page);
    if (readSync(fd, Buffer.alloc(1)) > 0) throw new Unlisted();
    return page.toString("latin1", 0, length);
  } finally {
    closeSync(fd);
  }
}

const LOCK = /^\d+: FLOCK +\S+ +WRITE (-?\d+) ([0-9a-f]+:[0-9a-f]+):(\d+) /gm;

/** The whole-file locks in the kernel's list, proc_locks(5), that are held exclusively. Those who wait do not count. */
export function parseLocks(list: string): HeldLock[] {
  return [...list.matchAll(LOCK)].map(([, pid, device, inode]) => ({
    pid: Number(pid),
    device: device!,
    inode: Number(inode),
  }));
}

// As the list writes it: hexadecimal, two digits at least.
function formatDevice(dev: number): string {
  const major = Math.floor(dev / 2 ** 32) * 2 ** 12 + ((dev >>> 8) & 0xfff);
  const minor = ((dev >>> 12) & 0xfff00) | (dev & 0xff);
  return [major, minor].map((part) => part.toString(16).padStart(2, "0")).join(":");
}

// The name under which the holder opened it. One that has ended, and left the lock to a child, gives none.
function nameOf(pid: number, dev: number, inode: number): string {
  const folder = `/proc/${pid}/fd`;
  for (const fd of readdirSync(folder)) {
    const stat = statSync(`${folder}/${fd}`, { throwIfNoEntry: false });
    if (stat?.ino !== inode || stat.dev !== dev) continue;
    // By another name it may be one of those that are asked for.
    if (stat.nlink > 1) break;
    return basename(readlinkSync(`${folder}/${fd}`));
  }
  throw new Unlisted();
}
