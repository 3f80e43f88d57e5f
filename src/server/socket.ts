import { chmodSync, lstatSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { LarderError } from "../error.ts";
import { FileLock } from "../host/flock.ts";
import { adopt, makeFolder } from "../host/ownership.ts";

/** A unix socket's place, held by a lock for as long as this process serves. */
export class SocketPlace {
  /** Where to listen at first: nobody can connect before `publish` has given it its mode and its name. */
  readonly staged: string;
  private readonly lock: FileLock;

  /** Takes the place, replacing what a dead server left; throws `failed` where a live one is. */
  constructor(
    readonly path: string,
    private readonly mode: number,
  ) {
    makeFolder(dirname(path));
    const lock = FileLock.take(`${path}.lock`);
    if (!lock) throw new LarderError("failed", `cannot listen on "${path}": another larder is serving there`);
    const there = lstatSync(path, { throwIfNoEntry: false });
    if (there && !there.isSocket())
      throw new LarderError("failed", `cannot listen on "${path}": it exists, and is not a socket`);
    this.lock = lock;
    this.staged = join(dirname(path), `.${basename(path)}.new`);
    rmSync(this.staged, { force: true });
  }

  /** Shows the socket under its own name, in one step. */
  publish(): void {
    chmodSync(this.staged, this.mode);
    adopt(this.staged, dirname(this.path));
    renameSync(this.staged, this.path);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { force: true });
    this.lock.release();
  }
}
