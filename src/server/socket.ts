import { chmodSync, closeSync, constants, fstatSync, lstatSync, openSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { LarderError } from "../error.ts";
import { FileLock } from "../host/flock.ts";
import { adopt, HeldFolder, makeFolder, O_PATH, pathOf } from "../host/ownership.ts";

/** A unix socket's place, held by a lock for as long as this process serves. */
export class SocketPlace {
  private readonly name: string;
  private readonly stagedName: string;
  private published: number | undefined;

  private constructor(
    readonly path: string,
    private readonly mode: number,
    private readonly lock: FileLock,
    private readonly folder: HeldFolder,
  ) {
    this.name = basename(path);
    this.stagedName = `.${this.name}.new`;
  }

  /** Where to listen at first: nobody can connect before `publish` has given it its mode and its name. */
  get staged(): string {
    return this.folder.at(this.stagedName);
  }

  /** Takes the place, replacing what a dead server left; throws `failed` where a live one is. */
  static async take(path: string, mode: number): Promise<SocketPlace> {
    makeFolder(dirname(path));
    const folder = HeldFolder.open(dirname(path));
    const lock = FileLock.take(`${path}.lock`);
    if (!lock) throw new LarderError("failed", `cannot listen on "${path}": another larder is serving there`);
    const there = lstatSync(path, { throwIfNoEntry: false });
    if (there && !there.isSocket())
      throw new LarderError("failed", `cannot listen on "${path}": it exists, and is not a socket`);
    // Another program's server holds no lock of larder's, but it answers.
    if (there && (await isAnswered(path)))
      throw new LarderError("failed", `cannot listen on "${path}": another program is serving there`);
    const place = new SocketPlace(path, mode, lock, folder);
    folder.in(place.stagedName, (path) => rmSync(path, { force: true }));
    return place;
  }

  /** Starts a server at the staged path, whose socket is its owner's alone from its first moment on. */
  listen<T>(start: (staged: string) => T): T {
    const before = process.umask(0o177);
    try {
      return start(this.staged);
    } finally {
      process.umask(before);
    }
  }

  /** Gives the socket its owner and its mode, and shows it under its own name in one step. */
  publish(): void {
    const { folder, stagedName } = this;
    // Who owns the folder may have put a link, or another's file, in its place since.
    const fd = folder.in(stagedName, (path) => openSync(path, O_PATH | constants.O_NOFOLLOW));
    try {
      const stat = fstatSync(fd);
      if (!stat.isSocket()) throw new LarderError("failed", `"${join(folder.path, stagedName)}" is no socket any more`);
      adopt(fd, folder);
      chmodSync(pathOf(fd), this.mode);
      this.published = stat.ino;
    } finally {
      closeSync(fd);
    }
    folder.in(stagedName, (path) => renameSync(path, folder.at(this.name)));
  }

  /** Takes its own socket away, and not what somebody has put in its place since. */
  [Symbol.dispose](): void {
    this.folder.in(this.name, (path) => {
      if (lstatSync(path, { throwIfNoEntry: false })?.ino === this.published) rmSync(path, { force: true });
    });
    this.folder[Symbol.dispose]();
    this.lock.release();
  }
}

async function isAnswered(path: string): Promise<boolean> {
  try {
    const socket = await Bun.connect({ unix: path, socket: { data() {} } });
    socket.end();
    return true;
  } catch {
    return false;
  }
}
