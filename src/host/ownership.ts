import { existsSync, fchownSync, fstatSync, lchownSync, lstatSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";

/**
 * Gives what was just created (a path, or an open file) the owner and group of the folder it lies in: a larder run by
 * root must not leave a file that a user's msb cannot open. Only root can, and only root needs to.
 */
export function adopt(created: string | number, folder: string): void {
  if (process.geteuid?.() !== 0) return;
  const owner = statSync(folder);
  const now = typeof created === "number" ? fstatSync(created) : lstatSync(created);
  if (now.uid === owner.uid && now.gid === owner.gid) return;
  if (typeof created === "number") fchownSync(created, owner.uid, owner.gid);
  // A user may have put a link in its place since: root must not give away what that points to.
  else lchownSync(created, owner.uid, owner.gid);
}

/** Makes a folder and its missing parents, each owned as the folder it lies in, mode 0755 less umask. */
export function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  mkdirSync(path, { recursive: true, mode: 0o755 });
  adopt(path, dirname(path));
}
