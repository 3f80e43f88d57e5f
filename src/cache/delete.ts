import { closeSync, constants, fsyncSync, openSync, type Stats } from "node:fs";
import { asLarderError, isErrno, LarderError } from "../error.ts";
import { FileLock } from "../host/flock.ts";
import { keepListAtHand } from "../host/held.ts";
import { mountsIn } from "../host/mounts.ts";
import { type HeldFile, Unlinker } from "../host/unlink.ts";
import { allocatedBytes, isYoung, type Link, linkOf, measure, measureTree } from "./file.ts";
import type { CacheFile, CachePaths, Kind } from "./paths.ts";
import { findRunningScratch, findRunningWork, LockLook } from "./work.ts";

/** A file that is to go, and what it was when that was decided. */
export interface Target extends CacheFile {
  inode: number;
  mtimeMs: number;
  ctimeMs: number | null;
  link?: Link;
  /** Allocated bytes. */
  bytes: number;
}

/** What became of it. */
export interface Deleted {
  kind: Kind;
  path: string;
  /** Allocated bytes that this freed: none where the file has other names yet. */
  bytes: number;
}

export interface Skipped {
  kind: Kind;
  path: string;
  reason: string;
}

/** A file that is left, with the reason. */
export function skip({ kind, path }: CacheFile, reason: string): Skipped {
  return { kind, path, reason };
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
  /** Told the file that `wanted` will be asked first, before the look for running work and outside of `exclusively`. */
  lookAhead?: (file: CacheFile) => void;
  /** Whether nothing was done before: then a catalogue that stays busy is a failure, and not files left for later. */
  isFirstStep?: boolean;
  /** Whether to stop between two batches, as Ctrl-C asks for. */
  stopped?: () => boolean;
  /** Told how many of the files were dealt with. */
  progress?: (done: number, total: number) => void;
}

// How long one batch keeps writers out: msb takes the write lock at every start.
const BATCH_MS = 50;
// How long a look for running work holds at least, and how long getting the write lock may take after it.
const FRESH_MS = 50;
/** How long larder waits before it looks again whether a pull or load has ended. */
export const WAIT_MS = 50;
/** How long larder waits, in all, for pulls and loads to end before it goes on without what they may need. */
export const PATIENCE_MS = 1000;

/** A file to delete as a target, measured now; undefined where it is not there. A folder outside `tmp/` is left. */
export function target(file: CacheFile): Target | Skipped | undefined {
  const stat = measure(file.path);
  if (!stat) return undefined;
  if (stat.isDirectory() && !file.folder) return skip(file, "it is a folder, and larder did not expect one");
  if (stat.isDirectory() && mountsIn(file.path).length > 0) return skip(file, MOUNTED);
  const link = linkOf(file.path, stat);
  return {
    ...file,
    inode: stat.ino,
    mtimeMs: stat.mtimeMs,
    // The other link of a file may go in the same sweep, and that changes its ctime.
    ctimeMs: stat.nlink > 1 ? null : stat.ctimeMs,
    ...(link && { link }),
    bytes: stat.isDirectory() ? measureTree(file.path).allocated : allocatedBytes(stat),
  };
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
  const cramped: Target[] = [];
  await deleteInTurn(targets, guard, report, cramped);
  // A file that msb never locked needs a lock file first, which a full disk has room for once others have gone.
  await deleteInTurn(cramped, guard, report);
  return report;
}

/** `cramped` is given what there was no room for; without it that is a failure. */
async function deleteInTurn(targets: Target[], guard: Guard, report: DeleteReport, cramped?: Target[]): Promise<void> {
  await using unlinker = new Unlinker(guard.cache.root);
  let patience = PATIENCE_MS;
  let work: RunningWork | undefined;
  for (let next = 0, late = 0; next < targets.length && !mayStop(targets[next]!, guard); ) {
    guard.progress?.(next, targets.length);
    guard.lookAhead?.(targets[next]!);
    if (!work?.isFresh()) work = new RunningWork(guard);
    if (patience > 0 && work.stopsNext(targets, next)) {
      patience -= WAIT_MS;
      await Bun.sleep(WAIT_MS);
      work = undefined;
      continue;
    }
    let seen: RunningWork | undefined = work;
    const asked = performance.now();
    try {
      guard.exclusively(() => {
        if (performance.now() - asked > FRESH_MS || !seen!.isFresh()) seen = undefined;
        // Where others write all the time the lock is never had soon: better one long transaction than none.
        if (!seen && ++late >= 3) seen = new RunningWork(guard);
        if (seen) next = deleteBatch(targets, next, seen, guard, unlinker, report, cramped);
      });
    } catch (error) {
      // What was done is done, and what is left of the files is for the next gc: no failure of what was asked.
      const isBusy = error instanceof LarderError && error.code === "busy";
      if (!isBusy || (guard.isFirstStep && report.deleted.length === 0)) throw error;
      report.skipped.push(...targets.slice(next).map((file) => skip(file, error.message)));
      break;
    }
    if (seen) late = 0;
    work = seen;
    const following = targets[next];
    if (seen && isMetadata(targets[next - 1]!) && !(following && isMetadata(following)))
      syncFolder(guard.cache.folder("manifests"));
    // Between two transactions: signals are heard here.
    await Bun.sleep(0);
    await unlinker.room();
  }
}

/** Parts files into those that may go at this moment, and those that running work or a lock of their own forbids to delete. */
export function partByWork(
  targets: Target[],
  guard: Pick<Guard, "cache" | "now" | "grace">,
): { targets: Target[]; skipped: Skipped[] } {
  if (targets.length === 0) return { targets, skipped: [] };
  const work = new RunningWork(guard);
  const locks = new LockLook();
  return part(targets, (file) => {
    const obstacle = work.obstacleOf(file);
    return obstacle === undefined ? whyLocked(file, locks) : describeWork(obstacle);
  });
}

/** Parts files into those that may go and those that stay, these with the reason that `whyLeft` gives. */
export function part(
  files: Target[],
  whyLeft: (file: Target) => string | undefined,
): { targets: Target[]; left: Target[]; skipped: Skipped[] } {
  const targets: Target[] = [];
  const left: Target[] = [];
  const skipped: Skipped[] = [];
  for (const file of files) {
    const reason = whyLeft(file);
    if (reason === undefined) targets.push(file);
    else {
      left.push(file);
      skipped.push(skip(file, reason));
    }
  }
  return { targets, left, skipped };
}

function whyLocked(file: Target, locks: LockLook): string | undefined {
  if (file.lock === undefined) return undefined;
  try {
    return locks.isHeld(file.lock) ? describeLock(file) : undefined;
  } catch (error) {
    // One that may not be opened.
    if (error instanceof LarderError) return error.message;
    throw error;
  }
}

function describeLock({ lock }: Target): string {
  return `its lock is held ("${lock}")`;
}

function describeWork(obstacle: string): string {
  return `a pull or load is running ("${obstacle}")`;
}

// So that a power cut brings no metadata file back whose rows are gone: the next gc would take the catalogue for lost. What
// cannot be synced is as good as a file system does it.
function syncFolder(path: string): void {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch {}
}

// Once rows have gone, a metadata file that stayed behind without them would make the next gc take the catalogue for
// lost. They come first of the targets.
function mayStop(next: Target, { stopped, isFirstStep }: Guard): boolean {
  return stopped?.() === true && (isFirstStep === true || !isMetadata(next));
}

function isMetadata({ kind }: Target): boolean {
  return kind === "metadata";
}

function deleteBatch(
  targets: Target[],
  first: number,
  work: RunningWork,
  guard: Guard,
  unlinker: Unlinker,
  report: DeleteReport,
  cramped?: Target[],
): number {
  const deadline = performance.now() + BATCH_MS;
  const isOfMetadata = isMetadata(targets[first]!);
  let next = first;
  // Which files were let go of is heard between two batches only.
  const isOver = () => next > first && (unlinker.isFull || performance.now() >= deadline);
  for (; next < targets.length && !isOver(); next++) {
    keepListAtHand();
    const file = targets[next]!;
    // Metadata files have batches of their own: their folder is then read anew before the one that asks what is young.
    if (isMetadata(file) !== isOfMetadata) break;
    try {
      const obstacle = work.obstacleOf(file);
      const done = obstacle === undefined ? deleteOne(file, guard, unlinker) : describeWork(obstacle);
      if (typeof done === "number") report.deleted.push({ kind: file.kind, path: file.path, bytes: done });
      else report.skipped.push(skip(file, done));
    } catch (error) {
      if (cramped && (isErrno(error, "ENOSPC") || isErrno(error, "EDQUOT"))) cramped.push(file);
      else report.failed.push(skip(file, asLarderError(error).message));
    }
  }
  return next;
}

/**
 * What runs at one moment, and which files it forbids to delete. Where the kernel's list cannot be used, looking opens
 * every lock of pulls and stitches, 0.2 s at 10,000 images: too long to keep writers out, and too long to do for each
 * batch. So it is done before the transaction, and holds for as long as it took: that a pull which begins meanwhile
 * goes unseen, a look of that length has in it anyway, and what the pull puts on record or into a metadata file
 * `wanted` sees all the same. A pull writes a metadata file under that file's own lock, so only a load, which takes
 * none, stands in the way of one, and only of a young one. The others would make the next gc take the catalogue for
 * lost if they stayed behind without their rows.
 */
class RunningWork {
  private readonly any: string | undefined;
  /** Why that cannot be told: then no file may go that any work forbids. */
  private readonly failure: unknown;
  private readonly scratch: string | undefined;
  private readonly scratchFailure: unknown;
  private readonly until: number;

  constructor(private readonly guard: Pick<Guard, "cache" | "now" | "grace">) {
    const { cache, now, grace } = guard;
    const start = performance.now();
    try {
      this.any = findRunningWork(cache, now(), grace);
    } catch (failure) {
      this.failure = failure;
    }
    try {
      if (this.any !== undefined || this.failure !== undefined) this.scratch = findRunningScratch(cache, now(), grace);
    } catch (failure) {
      this.scratchFailure = failure;
    }
    const end = performance.now();
    this.until = end + Math.max(end - start, FRESH_MS);
  }

  isFresh(): boolean {
    return performance.now() <= this.until;
  }

  /** Whether it forbids any file of the kind that comes next: metadata need not wait for what forbids the others alone. */
  stopsNext(targets: Target[], from: number): boolean {
    const next = isMetadata(targets[from]!);
    return (
      this.any !== undefined &&
      targets.some((file, i) => i >= from && isMetadata(file) === next && this.obstacleOf(file) !== undefined)
    );
  }

  obstacleOf(file: Target): string | undefined {
    if (isMetadata(file)) {
      if (!isYoung(file.mtimeMs, this.guard.now(), this.guard.grace)) return undefined;
      if (this.scratchFailure !== undefined) throw this.scratchFailure;
      return this.scratch;
    }
    if (this.failure !== undefined) throw this.failure;
    return this.any;
  }
}

// The bytes that this freed, or the reason why the file stays.
function deleteOne(file: Target, guard: Guard, unlinker: Unlinker): number | string {
  const reason = guard.wanted(file);
  if (reason !== undefined) return reason;
  using lock = file.lock === undefined ? NO_LOCK : FileLock.take(file.lock);
  if (!lock) return describeLock(file);
  using held = unlinker.hold(file.path);
  // Somebody else has deleted it meanwhile: done, but the bytes are not larder's.
  if (!held) return 0;
  if (!isSame(held.stat, file)) return "it changed meanwhile";
  if (held.stat.isDirectory() && mountsIn(file.path).length > 0) return MOUNTED;
  remove(file, held);
  return held.stat.isDirectory() || held.stat.nlink === 1 ? file.bytes : 0;
}

const NO_LOCK = { [Symbol.dispose]() {} };
// What goes with a folder that holds a mount is all of that file system.
const MOUNTED = "a file system is mounted in it";

// A new file may get the inode of the one before it, and any mtime, but not its ctime.
function isSame(now: Stats, planned: Target): boolean {
  return (
    now.ino === planned.inode &&
    now.mtimeMs === planned.mtimeMs &&
    (planned.ctimeMs === null || now.ctimeMs === planned.ctimeMs)
  );
}

function remove({ folder }: Target, held: HeldFile): void {
  try {
    // Only `tmp/` holds folders. Neither call follows a link.
    if (folder && held.stat.isDirectory()) held.unlinkTree();
    else held.unlink();
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
  }
}
