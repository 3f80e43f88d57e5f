import {
  close,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  rmSync,
  type Stats,
  statfsSync,
  unlinkSync,
} from "node:fs";
import { basename, dirname } from "node:path";
import { isErrno } from "../error.ts";
import { HeldFolder, O_PATH } from "./ownership.ts";
import { widenPool } from "./pool.ts";

// <linux/magic.h>: NFS and CIFS. An unlink of what somebody holds makes another name of it there, until it is let go of.
const RENAMING_TYPES = [0x6969, 0xff534d42, 0xfe534d42];
const MOST = 512;

/**
 * Takes names away at once, and leaves it to other threads to give back the blocks behind them: that is most of what an
 * unlink takes, nine tenths where the disk is told of each block (`discard`), and nobody need be kept waiting for it. To be
 * awaited at the end of its use: then all blocks are free.
 */
export class Unlinker implements AsyncDisposable {
  private readonly most: number;
  private readonly folders = new Map<string, HeldFolder>();
  private waiting = 0;
  private wake = () => {};
  private readonly letGo = (fd: number) => {
    this.waiting++;
    close(fd, () => {
      this.waiting--;
      this.wake();
    });
  };

  /** For files on the file system of `folder`. */
  constructor(folder: string) {
    this.most = mayHold(folder) ? Math.min(MOST, Math.floor(mostDescriptors() / 8)) : 0;
    if (this.most > 0) widenPool();
  }

  /** Holds what is at a path, of a link the link itself; undefined where nothing is. Throws as `HeldFolder.open` does. */
  hold(path: string): HeldFile | undefined {
    const folder = this.folderOf(path);
    if (!folder) return undefined;
    const name = basename(path);
    return folder.in(name, (path) => {
      const fd = this.most === 0 ? undefined : open(path);
      const stat = fd === undefined ? lstatSync(path, { throwIfNoEntry: false }) : fstatSync(fd);
      return stat && new HeldFile(folder, name, stat, fd, this.letGo);
    });
  }

  private folderOf(path: string): HeldFolder | undefined {
    const parent = dirname(path);
    let folder = this.folders.get(parent);
    if (folder) return folder;
    try {
      folder = HeldFolder.open(parent);
    } catch (error) {
      if (isErrno(error, "ENOENT")) return undefined;
      throw error;
    }
    this.folders.set(parent, folder);
    return folder;
  }

  /** Whether as many files as may wait for their blocks to be given back. */
  get isFull(): boolean {
    return this.most > 0 && this.waiting >= this.most;
  }

  /** Waits until no more than a half of them do. */
  room(): Promise<void> {
    return this.until(this.most / 2);
  }

  private async until(most: number): Promise<void> {
    while (this.waiting > most) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake = resolve;
      await promise;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const folder of this.folders.values()) folder[Symbol.dispose]();
    return this.until(0);
  }
}

/** A file as it was measured, whose inode no other can get until this is disposed of. */
export class HeldFile implements Disposable {
  private isGone = false;

  constructor(
    private readonly folder: HeldFolder,
    private readonly name: string,
    readonly stat: Stats,
    private readonly fd: number | undefined,
    private readonly letGo: (fd: number) => void,
  ) {}

  /** Takes the name away; fails as unlink(2) does. */
  unlink(): void {
    this.folder.in(this.name, unlinkSync);
    this.isGone = true;
  }

  /** The same of a folder and all that is in it. Follows no link. */
  unlinkTree(): void {
    this.folder.in(this.name, (path) => rmSync(path, { recursive: true, force: true }));
  }

  [Symbol.dispose](): void {
    if (this.fd === undefined) return;
    if (this.isGone) this.letGo(this.fd);
    else closeSync(this.fd);
  }
}

// Where nothing is, or no descriptor is to be had: the unlink then gives back the blocks itself.
function open(path: string): number | undefined {
  try {
    return openSync(path, O_PATH | constants.O_NOFOLLOW);
  } catch {
    return undefined;
  }
}

function mayHold(folder: string): boolean {
  try {
    return !RENAMING_TYPES.includes(statfsSync(folder).type);
  } catch {
    return false;
  }
}

// Locks, folders and a server's connections need some, too.
function mostDescriptors(): number {
  const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1")) ?? [];
  return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
}
