import { closeSync, constants, fstatSync, openSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { isErrno, LarderError } from "../error.ts";
import { loadLibc } from "./libc.ts";
import { HeldFolder, makeFolder } from "./ownership.ts";

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

// A pipe of a lock's name would wait for a writer, and all of msb with it.
const TO_READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

let flock: ((fd: number, operation: number) => number) | undefined;

// Loaded on first use: a command that only reads takes no lock.
function tryFlock(fd: number, operation: number): boolean {
  flock ??= loadLibc({ flock: { args: ["i32", "i32"], returns: "i32" } }).flock;
  return flock(fd, operation | LOCK_NB) === 0;
}

/** A whole-file lock that this process holds until `release`. */
export class FileLock {
  private constructor(private readonly fd: number) {}

  /** Takes the lock of a file or folder that is there, without waiting; undefined where it is held. */
  static takeExisting(path: string): FileLock | undefined {
    const lock = new FileLock(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
    let isTaken = false;
    try {
      isTaken = tryFlock(lock.fd, LOCK_EX);
      return isTaken ? lock : undefined;
    } finally {
      if (!isTaken) lock.release();
    }
  }

  /**
   * Takes the lock at `path` without waiting, creating the file where it is missing; undefined where it is held.
   * msb unlinks lock files while they are held (interop §3), so what was locked must still be what the path names.
   */
  static take(path: string): FileLock | undefined {
    for (let attempt = 0; attempt < 10; attempt++) {
      const lock = new FileLock(openLockFile(path));
      let isTaken = false;
      try {
        if (!tryFlock(lock.fd, LOCK_EX)) return undefined;
        isTaken = isStillAt(lock.fd, path);
        if (isTaken) return lock;
      } finally {
        // Whatever fails here: a lock that nobody can release would keep msb waiting.
        if (!isTaken) lock.release();
      }
    }
    return undefined;
  }

  /** The same, trying again for up to `ms` milliseconds; throws `busy` after that. */
  static wait(path: string, ms: number): FileLock {
    for (const deadline = Date.now() + ms; ; Bun.sleepSync(20)) {
      const lock = FileLock.take(path);
      if (lock) return lock;
      if (Date.now() >= deadline) throw new LarderError("busy", `another process holds the lock "${path}"; try again`);
    }
  }

  release(): void {
    closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/**
 * Whether some process holds the lock at `path` exclusively. A missing file is not locked, and none is created. Throws
 * `failed` where it may not be opened: another user's may be held, and to wait for it may be to wait for ever.
 */
export function isLocked(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, TO_READ);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false;
    // A link or a socket where a lock belongs is nobody's lock.
    if (isErrno(error, "ELOOP") || isErrno(error, "ENXIO")) return false;
    if (!isErrno(error, "EACCES")) throw error;
    throw new LarderError(
      "failed",
      `cannot tell whether the lock "${path}" is held: it may not be opened (run larder as root, or give the file to the owner of its folder)`,
      error,
    );
  }
  try {
    // Shared, so that two processes that look do not take each other for the holder.
    return !tryFlock(fd, LOCK_SH);
  } finally {
    closeSync(fd);
  }
}

/** The same of a lock that may not be opened, for which there is no other answer: it may be held. */
export function mayBeLocked(path: string): boolean {
  try {
    return isLocked(path);
  } catch (error) {
    if (error instanceof LarderError) return true;
    throw error;
  }
}

function openLockFile(path: string): number {
  const flags = constants.O_RDWR | constants.O_NOFOLLOW;
  for (;;) {
    try {
      return openSync(path, flags);
    } catch (error) {
      // Another user's that all can read (msb 0.5 leaves such) can be locked all the same.
      if (isErrno(error, "EACCES")) return openSync(path, TO_READ);
      if (!isErrno(error, "ENOENT")) throw error;
    }
    try {
      return createLockFile(path, flags);
    } catch (error) {
      if (isErrno(error, "ENOENT")) makeFolder(dirname(path));
      else if (!isErrno(error, "EEXIST")) throw error;
    }
  }
}

function createLockFile(path: string, flags: number): number {
  using folder = HeldFolder.open(dirname(path));
  return folder.create(basename(path), flags, 0o600);
}

function isStillAt(fd: number, path: string): boolean {
  const held = fstatSync(fd);
  const named = statSync(path, { throwIfNoEntry: false });
  return held.nlink > 0 && named !== undefined && held.ino === named.ino && held.dev === named.dev;
}
