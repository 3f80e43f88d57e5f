import { rmSync, type Stats, unlinkSync } from "node:fs";
import { asLarderError, isErrno } from "../error.ts";
import { FileLock } from "../host/flock.ts";
import { measure, measureTree } from "./file.ts";
import type { CacheFile, CachePaths, Kind } from "./paths.ts";
import { findRunningWork } from "./work.ts";

/** A file that is to go, and what it was when that was decided. */
export interface Target extends CacheFile {
  inode: number;
  mtimeMs: number;
  /** Allocated bytes. */
  bytes: number;
}

/** What became of it. */
export interface Deleted {
  kind: Kind;
  path: string;
  bytes: number;
}

export interface Skipped {
  kind: Kind;
  path: string;
  reason: string;
}

export interface DeleteReport {
  deleted: Deleted[];
  /** What a guard refused, for the next gc. */
  skipped: Skipped[];
  /** What the system refused. */
  failed: Skipped[];
}

/** What the guards of a delete ask; see `deleteGuarded`. */
export interface Guard {
  cache: CachePaths;
  now: () => number;
  /** Milliseconds. */
  grace: number;
  /** Runs `work` while an empty write transaction is open, so that nobody can claim a file meanwhile. */
  exclusively(work: () => void): void;
  /** Why some row still wants the file, or undefined; asked inside `exclusively`. */
  wanted(file: CacheFile): string | undefined;
  /** Whether to stop between two batches, as Ctrl-C asks for. */
  stopped?: () => boolean;
}

// How long one batch keeps writers out: msb takes the write lock at every start.
const BATCH_MS = 50;
/** How long larder waits, in all, for pulls and loads to end before it goes on without what they may need. */
export const PATIENCE_MS = 1000;

/** Files to delete as targets, measured now; what is not there is left out, and so is a folder outside staging. */
export function target(file: CacheFile): Target | Skipped | undefined {
  const stat = measure(file.path);
  if (!stat) return undefined;
  if (stat.isDirectory() && file.kind !== "staging")
    return { kind: file.kind, path: file.path, reason: "it is a folder, and larder did not expect one" };
  return { ...file, inode: stat.ino, mtimeMs: stat.mtimeMs, bytes: measureTree(file.path).allocated };
}

/** Whether `target` made a file to delete, and not a reason to leave it. */
export function isTarget(made: Target | Skipped): made is Target {
  return !("reason" in made);
}

/**
 * Deletes files of the cache under all guards of a shared home: no pull or load runs; the file's own msb lock is
 * held; an empty write transaction is open, in which no row wants the file; and it is the file that was planned.
 * What a guard refuses is skipped with its reason, for the next gc. Batches are short, and lock files stay.
 */
export async function deleteGuarded(targets: Target[], guard: Guard): Promise<DeleteReport> {
  const report: DeleteReport = { deleted: [], skipped: [], failed: [] };
  let patience = PATIENCE_MS;
  for (let next = 0; next < targets.length && !guard.stopped?.(); ) {
    let work: string | undefined;
    guard.exclusively(() => {
      work = findRunningWork(guard.cache, guard.now(), guard.grace);
      if (!work || patience <= 0) next = deleteBatch(targets, next, work, guard, report);
    });
    // Between two transactions: signals are heard here, and work that ends soon is waited for.
    const wait = work && patience > 0 ? 50 : 0;
    patience -= wait;
    await Bun.sleep(wait);
  }
  return report;
}

function deleteBatch(
  targets: Target[],
  first: number,
  work: string | undefined,
  guard: Guard,
  report: DeleteReport,
): number {
  const deadline = performance.now() + BATCH_MS;
  let next = first;
  for (; next < targets.length && (next === first || work || performance.now() < deadline); next++) {
    const file = targets[next]!;
    const { kind, path, bytes } = file;
    try {
      const reason = work && !isSettled(file, guard) ? `a pull or load is running ("${work}")` : deleteOne(file, guard);
      if (reason === undefined) report.deleted.push({ kind, path, bytes });
      else report.skipped.push({ kind, path, reason });
    } catch (error) {
      report.failed.push({ kind, path, reason: asLarderError(error).message });
    }
  }
  return next;
}

// A metadata file that no work of late has written goes even while other work runs: left behind without its rows, it
// would make the next gc take the catalogue for lost.
function isSettled({ kind, mtimeMs }: Target, { now, grace }: Guard): boolean {
  return kind === "metadata" && now() - mtimeMs >= grace;
}

function deleteOne(file: Target, guard: Guard): string | undefined {
  const reason = guard.wanted(file);
  if (reason !== undefined) return reason;
  using lock = file.lock === undefined ? NO_LOCK : FileLock.take(file.lock);
  if (!lock) return `its lock is held ("${file.lock}")`;
  const now = measure(file.path);
  if (now && !isSame(now, file)) return "it changed meanwhile";
  remove(file, now);
  return undefined;
}

const NO_LOCK = { [Symbol.dispose]() {} };

function isSame(now: Stats, planned: Target): boolean {
  return now.ino === planned.inode && now.mtimeMs === planned.mtimeMs;
}

function remove(file: Target, stat: Stats | undefined): void {
  try {
    // Only staging holds folders. Neither call follows a link.
    if (stat?.isDirectory()) rmSync(file.path, { recursive: true, force: true });
    else unlinkSync(file.path);
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
  }
}
