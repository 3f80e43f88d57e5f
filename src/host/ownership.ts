import {
  chownSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  type Stats,
  statSync,
} from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { isErrno, isSystemError, LarderError } from "../error.ts";
import { CAP_CHOWN, hasCapability } from "./capabilities.ts";

// <fcntl.h>: a descriptor that stands for a file and opens nothing. It takes no permission, and waits for no pipe.
export const O_PATH = 0o10000000;

/** Who can change where a path leads. */
interface Masters {
  /** Users other than root. */
  users: number[];
  /** The path without the links in it that are root's. Whatever really lies there was led to by no link of a user's. */
  place: string;
}

/** What else helps against a refusal, where root's msb has made a folder of a user's. */
export const OR_CHOWN = ", or chown the folder where it should be that user's";

// As many as the kernel follows.
const MOST_LINKS = 40;

/**
 * The users other than root, and than who owns `/`, to whom a part of a path belongs, up to where a link of theirs leads on:
 * each can change where it leads. Undefined where there is none, and where this process is not root's: then nobody gains by it.
 */
export function mastersOf(path: string, links = MOST_LINKS): Masters | undefined {
  if (!isRoot() || links === 0) return undefined;
  const place = resolve(path);
  // To the root of a user namespace the system's root is nobody, as every user of whom it does not know.
  const system = statSync("/").uid;
  const users = new Set<number>();
  let parent = "/";
  for (const name of place.slice(1).split("/")) {
    const part = join(parent, name);
    const stat = lstatSync(part, { throwIfNoEntry: false });
    if (!stat) break;
    if (stat.uid !== 0 && stat.uid !== system) users.add(stat.uid);
    if (stat.isSymbolicLink() && users.size === 0)
      return mastersOf(join(resolve(parent, readlinkSync(part)), relative(part, place)), links - 1);
    if (!stat.isDirectory()) break;
    parent = part;
  }
  return users.size === 0 ? undefined : { users: [...users], place };
}

// To delete a file may take a lock of its own, and a batch is of thousands. Who changes the answer meanwhile harms nobody else.
const FRESH_MS = 100;
const asked = new Map<string, { masters: Masters | undefined; until: number }>();

function lately(path: string): Masters | undefined {
  const now = performance.now();
  let answer = asked.get(path);
  if (answer === undefined || answer.until < now) {
    answer = { masters: mastersOf(path), until: now + FRESH_MS };
    asked.set(path, answer);
  }
  return answer.masters;
}

// Opens what a path leads to. Throws `failed` where a user has it lead root to what is not that user's.
function openOwn(path: string, { users, place }: Masters, flags: number): number {
  const fd = openSync(path, O_PATH | flags);
  let isOwn = false;
  try {
    const { uid } = fstatSync(fd);
    const stranger = users.find((user) => user !== uid);
    isOwn = stranger === undefined || readlinkSync(pathOf(fd)) === place;
    if (isOwn) return fd;
    throw new LarderError(
      "failed",
      `will not follow "${path}" as root: user ${stranger} has it lead to what is another's (run larder as that user${uid === 0 ? OR_CHOWN : ""})`,
    );
  } finally {
    if (!isOwn) closeSync(fd);
  }
}

/**
 * A folder in which something is made or deleted. Where root does that in what is another user's, the folder is held: a link
 * that the user puts at its path, before or meanwhile, does not lead root out of what is that user's.
 */
export class HeldFolder implements Disposable {
  private constructor(
    readonly path: string,
    private readonly fd: number | undefined,
  ) {}

  /** Throws `failed` where a user has the folder's path lead root to what is not that user's. */
  static open(path: string): HeldFolder {
    const masters = lately(path);
    return new HeldFolder(path, masters && openOwn(path, masters, constants.O_DIRECTORY));
  }

  /** A path to a name in the folder. */
  at(name: string): string {
    return this.fd === undefined ? join(this.path, name) : `${pathOf(this.fd)}/${name}`;
  }

  get stat(): Stats {
    return this.fd === undefined ? statSync(this.path) : fstatSync(this.fd);
  }

  /** Runs `work` on the path that `at` gives for a name; what fails there names the path that people know. */
  in<T>(name: string, work: (path: string) => T): T {
    try {
      return work(this.at(name));
    } catch (error) {
      if (this.fd !== undefined && isSystemError(error)) error.path = join(this.path, name);
      throw error;
    }
  }

  /** Makes a file in the folder, which then is the folder's owner's, and gives it open. Throws `failed` where it could not be. */
  create(name: string, flags: number, mode: number): number {
    // Made first, it would stay.
    refuseUnadoptable(this.path);
    const fd = this.in(name, (path) => openSync(path, flags | constants.O_CREAT | constants.O_EXCL, mode));
    try {
      adopt(fd, this);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  [Symbol.dispose](): void {
    if (this.fd !== undefined) closeSync(this.fd);
  }
}

/** Throws `failed` where a user has a path lead root to what is not that user's; not where nothing is. */
export function refuseAstray(path: string): void {
  const masters = lately(path);
  if (!masters) return;
  try {
    closeSync(openOwn(path, masters, 0));
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
  }
}

/** Why it would, as a sentence; undefined where it would not. */
export function whyAstray(path: string): string | undefined {
  try {
    refuseAstray(path);
    return undefined;
  } catch (error) {
    if (error instanceof LarderError) return error.message;
    throw error;
  }
}

/** A path to what an open descriptor stands for, wherever that lies by now. */
export function pathOf(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/**
 * Gives an open file that was just created the owner and group of the folder it lies in: a larder run by root must not leave
 * a file that a user's msb cannot open. Only root can, and only root needs to.
 */
export function adopt(created: number, folder: HeldFolder): void {
  if (!isRoot()) return;
  const owner = folder.stat;
  const now = fstatSync(created);
  if (now.gid !== owner.gid) give(created, AS_IT_IS, owner.gid);
  if (now.uid !== owner.uid) give(created, owner.uid, AS_IT_IS);
}

// chown(2)
const AS_IT_IS = -1;

function give(created: number, uid: number, gid: number): void {
  try {
    // Through its path: a descriptor that opens nothing, as of a socket, takes no fchown(2).
    chownSync(pathOf(created), uid, gid);
  } catch (error) {
    // To a user or group that this user namespace does not know its root can give nothing, as no other user can.
    if (!isErrno(error, "EINVAL")) throw error;
  }
}

/** Throws `failed` where `adopt` could not give away what is about to be made in a folder. */
export function refuseUnadoptable(folder: string): void {
  const why = whyUnadoptable(folder);
  if (why !== undefined) throw new LarderError("failed", why);
}

/** Why it would, as a sentence; undefined where it would not. */
export function whyUnadoptable(folder: string): string | undefined {
  if (!isRoot() || statSync(folder).uid === 0 || hasCapability(CAP_CHOWN)) return undefined;
  return `can make nothing in "${folder}", which is another user's: this root may give away no file (leave it CAP_CHOWN, or run larder as that user)`;
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** Makes a folder and its missing parents, each owned as the folder it lies in, mode 0755 less umask. */
export function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  refuseUnadoptable(dirname(path));
  using parent = HeldFolder.open(dirname(path));
  const name = basename(path);
  try {
    parent.in(name, (path) => mkdirSync(path, { mode: 0o755 }));
  } catch (error) {
    // Somebody else has made it meanwhile.
    if (isErrno(error, "EEXIST") && statSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
    throw error;
  }
  if (!isRoot()) return;
  // A user may have put a link in its place since: root must not give away what that points to.
  const made = parent.in(name, (path) =>
    openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW),
  );
  try {
    adopt(made, parent);
  } finally {
    closeSync(made);
  }
}
