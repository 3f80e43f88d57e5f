import { accessSync, constants } from "node:fs";
import { dirname } from "node:path";
import { asLarderError, isErrno, LarderError } from "../error.ts";
import { CAP_DAC_OVERRIDE, hasCapability } from "../host/capabilities.ts";
import { FileLock } from "../host/flock.ts";
import { HeldFolder } from "../host/ownership.ts";
import type { Guard } from "./delete.ts";
import type { CacheFile } from "./paths.ts";
import { findRunningWork } from "./work.ts";

/**
 * Throws `failed` where the system lets larder delete nothing in a folder of these files, or lock nothing there, or does not
 * tell whether a pull or load runs: no row may go whose files would then have to stay. Its metadata file would make the next
 * gc take the catalogue for lost. `grace` in milliseconds.
 */
export function refuseUndeletable(
  { cache, now }: Pick<Guard, "cache" | "now">,
  files: CacheFile[],
  grace: number,
): void {
  if (files.length === 0) return;
  for (const folder of new Set(files.map(({ path }) => dirname(path)))) refuseIf(whyNotWritable(folder));
  refuseIf(whyNot(() => void findRunningWork(cache, now(), grace)));
  const locks = files.flatMap(({ lock }) => lock ?? []);
  // What is wrong with a single lock is told of its own file.
  for (const inFolder of Map.groupBy(locks, dirname).values()) refuseIf(whyNoneCanBeTaken(inFolder));
}

/** Whether the system lets nobody delete a file that is there, not even root (chattr(1)). */
export function isImmutable(path: string): boolean {
  const error = whyNot(() => accessSync(path, constants.W_OK));
  return error !== undefined && isErrno(error, "EPERM");
}

function whyNotWritable(folder: string): unknown {
  const astray = whyNot(() => HeldFolder.open(folder)[Symbol.dispose]());
  if (astray !== undefined) return astray;
  const error = whyNot(() => accessSync(folder, constants.W_OK | constants.X_OK));
  // access(2) asks without the rights that a user's service may have been given, but with those of a root, which in a user
  // namespace are none over what is another's.
  const isGranted = process.getuid?.() !== 0 && hasCapability(CAP_DAC_OVERRIDE);
  return error !== undefined && isErrno(error, "EACCES") && isGranted ? undefined : error;
}

function whyNoneCanBeTaken(locks: string[]): unknown {
  let first: unknown;
  for (const lock of locks) {
    const error = whyNot(() => FileLock.take(lock)?.release());
    if (error === undefined) return undefined;
    first ??= error;
  }
  return first;
}

// Whatever else goes wrong may be over when it comes to the file: a full disk has room once others have gone.
function whyNot(work: () => void): unknown {
  try {
    work();
    return undefined;
  } catch (error) {
    const isLasting = ["EROFS", "EACCES", "EPERM"].some((code) => isErrno(error, code));
    return error instanceof LarderError || isLasting ? error : undefined;
  }
}

function refuseIf(error: unknown): void {
  if (error === undefined) return;
  const why = asLarderError(error).message;
  throw new LarderError("failed", `nothing was deleted, because files that would go cannot: ${why}`, error);
}
