import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync, statfsSync, statSync } from "node:fs";
import { basename } from "node:path";
import { majorOf, minorOf } from "./device.ts";
import { FileLock } from "./flock.ts";

// ext2 to ext4, XFS and tmpfs. The device of a file on btrfs or overlayfs is not the one that the kernel's list gives, and
// what another host holds on a network file system is not in it.
const LISTED_TYPES = [0xef53, 0x58465342, 0x01021994];
// Elsewhere, as in a container, the list leaves out what a process outside holds.
const FIRST_PID_NAMESPACE = "pid:[4026531836]";
const LIST = "/proc/locks";
// The kernel gives its list a page at a time, and only what is on one page is all of one moment. That nothing follows
// does not tell: what was to follow may have been released. A page that is not half full had room for one more line.
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
    // What the list must show, if it shows anything: msb locks no folders.
    using own = FileLock.takeExisting(folder);
    const list = own && readOnePage();
    if (list === undefined) return undefined;
    const { dev, ino } = statSync(folder);
    const device = formatDevice(dev);
    const held = parseLocks(list).filter((lock) => lock.device === device);
    const isOwn = ({ pid, inode }: HeldLock) => pid === process.pid && inode === ino;
    if (!held.some(isOwn)) return undefined;
    const names = held.filter((lock) => !isOwn(lock)).map(nameOf);
    if (!names.every((name) => name !== undefined)) return undefined;
    lastRead = performance.now();
    return names;
  } catch {
    // Whatever goes wrong, the locks themselves can be asked.
    return undefined;
  }
}

// For some 12 ms after a read the kernel gives its list at once; later it first waits for about as long (`rcu_sync`). Where it
// ticks more often than 250 times a second both are shorter. Each read keeps all others on the host that take a lock, or let
// go of one, waiting for some 10 µs: so it is not done more often than it takes.
const AT_HAND_MS = 8;
const AGAIN_MS = 2;
// What a read takes that had to wait.
const WAITED_MS = 1;
let lastRead = Number.NEGATIVE_INFINITY;

/**
 * Spares the next look that wait, where the list was of use a moment ago and this is called every few milliseconds. Where that
 * comes too late it waits itself, and then no more until after the next look.
 */
export function keepListAtHand(): void {
  const start = performance.now();
  if (start - lastRead < AGAIN_MS || start - lastRead > AT_HAND_MS) return;
  lastRead = Number.NEGATIVE_INFINITY;
  try {
    // As much as it takes: the kernel makes a page of its list all the same.
    withList((fd) => readSync(fd, Buffer.alloc(1)));
    const end = performance.now();
    if (end - start < WAITED_MS) lastRead = end;
  } catch {}
}

function readOnePage(): string | undefined {
  return withList((fd) => {
    const page = Buffer.alloc(PAGE);
    const length = readSync(fd, page);
    const isWhole = length < PAGE / 2 && readSync(fd, Buffer.alloc(1)) === 0;
    return isWhole ? page.toString("latin1", 0, length) : undefined;
  });
}

function withList<T>(read: (fd: number) => T): T {
  const fd = openSync(LIST, "r");
  try {
    return read(fd);
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
  return [majorOf(dev), minorOf(dev)].map((part) => part.toString(16).padStart(2, "0")).join(":");
}

// The name under which the holder opened it. One that has ended, and left the lock to a child, gives none; nor does a
// file of two names, as the other may be one of those that are asked for. No file but that one is touched: one on a
// dead network file system would not answer.
function nameOf({ pid, device, inode }: HeldLock): string | undefined {
  const holder = `/proc/${pid}`;
  const fd = readdirSync(`${holder}/fd`).find((fd) =>
    readFileSync(`${holder}/fdinfo/${fd}`, "latin1").includes(` ${device}:${inode} `),
  );
  if (fd === undefined || statSync(`${holder}/fd/${fd}`).nlink > 1) return undefined;
  return basename(readlinkSync(`${holder}/fd/${fd}`));
}
