import { close, closeSync, constants, fstatSync, lstatSync, openSync, type Stats, unlinkSync } from "node:fs";

// <fcntl.h>: a descriptor that stands for a file and opens nothing. It takes no permission, and waits for no pipe.
const O_PATH = 0o10000000;
// A descriptor each, of which a process may have 1024 nearly everywhere.
const MOST = 512;

/**
 * Takes names away at once, and leaves it to other threads to give back the blocks behind them: that is most of what an
 * unlink takes, nine tenths where the disk is told of each block (`discard`), and nobody need be kept waiting for it.
 */
export class Unlinker {
  private waiting = 0;
  private wake = () => {};

  /** Holds what is at a path, of a link the link itself; undefined where nothing is. */
  hold(path: string): HeldFile | undefined {
    const fd = open(path);
    const stat = fd === undefined ? lstatSync(path, { throwIfNoEntry: false }) : fstatSync(fd);
    return stat && new HeldFile(path, stat, fd, (fd) => this.letGo(fd));
  }

  private letGo(fd: number): void {
    this.waiting++;
    close(fd, () => {
      this.waiting--;
      this.wake();
    });
  }

  /** Whether as many files as may wait for their blocks to be given back. */
  get isFull(): boolean {
    return this.waiting >= MOST;
  }

  /** Waits until no more than a half of them do. */
  room(): Promise<void> {
    return this.until(MOST / 2);
  }

  /** Waits until the blocks of all that went are free. */
  settled(): Promise<void> {
    return this.until(0);
  }

  private async until(most: number): Promise<void> {
    while (this.waiting > most) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake = resolve;
      await promise;
    }
  }
}

/** A file that no other can be taken for, from when it was measured until it goes. */
export class HeldFile implements Disposable {
  private isGone = false;

  constructor(
    private readonly path: string,
    readonly stat: Stats,
    private readonly fd: number | undefined,
    private readonly letGo: (fd: number) => void,
  ) {}

  /** Takes the name away; fails as unlink(2) does. */
  unlink(): void {
    unlinkSync(this.path);
    this.isGone = true;
  }

  [Symbol.dispose](): void {
    if (this.fd === undefined) return;
    if (this.isGone) this.letGo(this.fd);
    else closeSync(this.fd);
  }
}

// Undefined where no descriptor is to be had: the unlink then gives back the blocks itself.
function open(path: string): number | undefined {
  try {
    return openSync(path, O_PATH | constants.O_NOFOLLOW);
  } catch {
    return undefined;
  }
}
