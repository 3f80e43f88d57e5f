import { close, readSync, statfsSync, statSync } from "node:fs";
import { loadLibc } from "./libc.ts";

// ext2 to ext4, XFS and tmpfs: what changes there, changes through this kernel, and it tells. Of a network file system it
// tells only what this host does, and of an overlay not what was done below it.
const TOLD_TYPES = [0xef53, 0x58465342, 0x01021994];

// <sys/inotify.h>. A file that is written in its place counts when it is closed; one that is renamed over another came.
const CLOSE_WRITE = 0x8;
const MOVED_FROM = 0x40;
const MOVED_TO = 0x80;
const CREATE = 0x100;
const DELETE = 0x200;
const OF_NAMES = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE;
const ONLY_FOLDERS = 0x1000000;
const NONBLOCK_CLOEXEC = 0o2004000;
// wd, mask, cookie and length, four bytes each; the name follows.
const HEADER = 16;
const FIONREAD = 0x541b;

function load() {
  return loadLibc({
    inotify_init1: { args: ["i32"], returns: "i32" },
    inotify_add_watch: { args: ["i32", "ptr", "u32"], returns: "i32" },
    ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
  });
}

/**
 * Which names of a folder change, as the kernel tells (inotify(7)), from `start` to the end of its use. What it does not
 * tell: a write through another name of a file, or through a mapping.
 */
export class FolderWatch {
  private readonly waiting = new Int32Array(1);
  private isLost = false;

  private constructor(
    private readonly libc: ReturnType<typeof load>,
    private readonly fd: number,
    private readonly folder: string,
    private readonly identity: string,
  ) {}

  /** Undefined where the kernel cannot be relied on to tell of every change, or refuses one more watch. */
  static start(folder: string): FolderWatch | undefined {
    try {
      if (!TOLD_TYPES.includes(statfsSync(folder).type)) return undefined;
      const before = identify(folder);
      const libc = load();
      const fd = libc.inotify_init1(NONBLOCK_CLOEXEC);
      if (fd < 0) return undefined;
      const isWatched = libc.inotify_add_watch(fd, Buffer.from(`${folder}\0`), OF_NAMES | ONLY_FOLDERS) >= 0;
      if (isWatched && identify(folder) === before) return new FolderWatch(libc, fd, folder, before);
      closeLater(fd);
    } catch {}
    return undefined;
  }

  /**
   * The names that came, went, or were written since this was asked last. Undefined once some were lost, for good: there
   * were too many, or another folder is at its path.
   */
  changes(): Set<string> | undefined {
    const names = new Set<string>();
    // The kernel tells of the folder, and not of the path: of a parent that was renamed, or a mount on it, it is silent.
    if (identify(this.folder) !== this.identity) this.isLost = true;
    while (!this.isLost) {
      if (this.libc.ioctl(this.fd, FIONREAD, this.waiting) !== 0) this.isLost = true;
      else if (this.waiting[0] === 0) return names;
      else this.read(Buffer.alloc(this.waiting[0]!), names);
    }
    return undefined;
  }

  private read(events: Buffer, names: Set<string>): void {
    const length = readSync(this.fd, events);
    for (let at = 0; at < length; ) {
      const mask = events.readUInt32LE(at + 4);
      const next = at + HEADER + events.readUInt32LE(at + 12);
      // Whatever else it tells: an overflow, a file system that was unmounted, a folder that is no more.
      if ((mask & OF_NAMES) === 0) this.isLost = true;
      const [name] = events.toString("utf8", at + HEADER, next).split("\0", 1);
      names.add(name!);
      at = next;
    }
  }

  [Symbol.dispose](): void {
    closeLater(this.fd);
  }
}

function identify(folder: string): string {
  const stat = statSync(folder, { throwIfNoEntry: false });
  return stat ? `${stat.dev}:${stat.ino}` : "";
}

// The kernel takes some 20 ms to end a watch, which nothing has to wait for.
function closeLater(fd: number): void {
  close(fd, () => {});
}
