import { accessSync, constants } from "node:fs";
import { dirname } from "node:path";
import { asLarderError, isErrno, LarderError } from "../error.ts";
import { FileLock } from "../host/flock.ts";
import type { Guard } from "./delete.ts";
import type { CacheFile } from "./paths.ts";
import { findRunningWork } from "./work.ts";

/**
 * Throws `failed` where the system lets larder delete nothing in a folder of these files, or lock nothing there, or does not
 * tell whether a pull or load runs: no row may go whose files would then have to stay. A metadata file among them would make
 * the next gc take the catalogue for lost, and so would one that cannot be changed (chattr(1)). `grace` in milliseconds.
 */
export function refuseUndeletable(
  { cache, now }: Pick<Guard, "cache" | "now">,
  files: CacheFile[],
  grace: number,
): void {
  if (files.length === 0) return;
  for (const folder of new Set(files.map(({ path }) => dirname(path))))
    attempt(["EROFS", "EACCES", "EPERM"], () => accessSync(folder, constants.W_OK | constants.X_OK));
  for (const { kind, path } of files)
    if (kind === "metadata") attempt(["EPERM"], () => accessSync(path, constants.W_OK));
  attempt(["EACCES", "EPERM"], () => void findRunningWork(cache, now(), grace));
  const locks = files.flatMap(({ lock }) => lock ?? []);
  // One of each folder: what is wrong with a single lock is told of its own file.
  for (const [lock] of Map.groupBy(locks, dirname).values())
    attempt(["EROFS", "EACCES", "EPERM"], () => FileLock.take(lock!)?.release());
}

// Whatever else goes wrong may be over when it comes to the file: a full disk has room once others have gone.
function attempt(refusals: string[], work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof LarderError) && !refusals.some((code) => isErrno(error, code))) return;
    throw new LarderError(
      "failed",
      `nothing was deleted, because no file could be: ${asLarderError(error).message}`,
      error,
    );
  }
}
