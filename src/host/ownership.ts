import { existsSync, fchownSync, fstatSync, lchownSync, lstatSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { LarderError } from "../error.ts";
import { CAP_CHOWN, hasCapability } from "./capabilities.ts";

/**
 * Gives what was just created (a path, or an open file) the owner and group of the folder it lies in: a larder run by
 * root must not leave a file that a user's msb cannot open. Only root can, and only root needs to.
 */
export function adopt(created: string | number, folder: string): void {
  if (!isRoot()) return;
  const owner = statSync(folder);
  const now = typeof created === "number" ? fstatSync(created) : lstatSync(created);
  if (now.uid === owner.uid && now.gid === owner.gid) return;
  if (typeof created === "number") fchownSync(created, owner.uid, owner.gid);
  // A user may have put a link in its place since: root must not give away what that points to.
  else lchownSync(created, owner.uid, owner.gid);
}

/** Throws `failed` where `adopt` could not give away what is about to be made in a folder. */
export function refuseUnadoptable(folder: string): void {
  if (!isRoot() || statSync(folder).uid === 0 || hasCapability(CAP_CHOWN)) return;
  throw new LarderError(
    "failed",
    `can make nothing in "${folder}", which is another user's: this root may give away no file (leave it CAP_CHOWN, or run larder as that user)`,
  );
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** Makes a folder and its missing parents, each owned as the folder it lies in, mode 0755 less umask. */
export function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  refuseUnadoptable(dirname(path));
  mkdirSync(path, { recursive: true, mode: 0o755 });
  adopt(path, dirname(path));
}
