import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { examineErofs, isRejected, readExtents, rewriteExtents } from "../../cache/artifact.ts";
import { isTarget, type Target, target } from "../../cache/delete.ts";
import { readRegular } from "../../cache/file.ts";
import type { CacheFile } from "../../cache/paths.ts";
import { danglingManifest, findImages, repointDangling } from "../../db/images.ts";
import { refuseLostLayers, refuseUnnamedLayers } from "../../db/integrity.ts";
import { setErofsSize } from "../../db/layers.ts";
import { addIndexes } from "../../db/open.ts";
import type { Pins } from "../../db/pins.ts";
import { listUsage } from "../../db/usage.ts";
import { asCatalogueError, writeTransaction } from "../../db/write.ts";
import { asLarderError, type Code, LarderError, namingPath } from "../../error.ts";
import { FileLock } from "../../host/flock.ts";
import { adopt, HeldFolder, makeFolder } from "../../host/ownership.ts";
import type { Larder } from "../../larder.ts";
import type { ImageMetadata } from "../../oci/metadata.ts";
import { inSweepOrder } from "../collect.ts";
import { measureArtifacts, recordImage } from "../persist.ts";
import { PinWatch } from "../pins.ts";
import { type SweepOptions, sweep } from "../sweep.ts";
import { findPinnedUnrecorded } from "../unrecorded.ts";
import { canRelocate, pinnedFiles } from "./artifacts.ts";
import { isCorrupt } from "./database.ts";
import type { Mend, Problem } from "./problem.ts";

/** What became of a problem: mended, or left with the reason. With a code it failed, and was not spared. */
export type Outcome = { mended: true } | { mended: false; reason: string; code?: Code };

type MendOf<K extends Mend["kind"]> = Extract<Mend, { kind: K }>;

/**
 * Mends what can be mended without losing anything, and tells of each problem what became of it. A damaged database
 * is left alone altogether. Rows first, then files. Where it is stopped between two mends, nothing is told of those that it
 * had not come to.
 */
export async function repair(
  larder: Larder,
  problems: Problem[],
  { grace, stopped }: SweepOptions,
): Promise<Map<Problem, Outcome>> {
  // The files that it sweeps are few, and would show as another bar than the check's.
  const options = { grace, ...(stopped && { stopped }) };
  const outcomes = new Map<Problem, Outcome>();
  if (isCorrupt(problems)) return outcomes;
  addIndexes(larder.db);
  rebuild(larder, problems, outcomes);
  const sizes = mendedBy("size", problems);
  const recorded = attempt(larder, () => recordSizes(larder, [...sizes.values()]));
  for (const problem of sizes.keys()) outcomes.set(problem, recorded);
  for (const [problem, { file }] of mendedBy("relocate", problems)) {
    if (await isStopped(stopped)) return outcomes;
    outcomes.set(problem, relocate(larder, file));
  }
  if (await isStopped(stopped)) return outcomes;
  await discard(larder, problems, options, outcomes);
  if (await isStopped(stopped)) return outcomes;
  await sweepStrays(larder, problems, options, outcomes);
  return outcomes;
}

function mendedBy<K extends Mend["kind"]>(kind: K, problems: Problem[]): Map<Problem, MendOf<K>> {
  return new Map(
    problems.flatMap((problem) => (problem.mend?.kind === kind ? [[problem, problem.mend as MendOf<K>]] : [])),
  );
}

// Signals are heard here.
async function isStopped(stopped: (() => boolean) | undefined): Promise<boolean> {
  await Bun.sleep(0);
  return stopped?.() === true;
}

function attempt({ home }: Larder, mend: () => void): Outcome {
  try {
    mend();
    return { mended: true };
  } catch (error) {
    const { code, message } = asLarderError(asCatalogueError(home.database, error));
    return { mended: false, reason: message, ...(code !== "in_use" && { code }) };
  }
}

// Rows in one transaction: about 30 ms, and msb takes the write lock at every start.
const BATCH = 200;

function rebuild(larder: Larder, problems: Problem[], outcomes: Map<Problem, Outcome>): void {
  const mine = mendedBy("rebuild", problems);
  const unique = new Map(Array.from(mine.values(), (mend) => [imageOf(mend), mend]));
  const became = new Map<string, Outcome>();
  for (const batch of batches([...unique.values()], BATCH))
    for (const [mend, outcome] of rebuildEach(larder, batch)) became.set(imageOf(mend), outcome);
  for (const [problem, mend] of mine) outcomes.set(problem, became.get(imageOf(mend))!);
}

function imageOf({ reference, metadata }: MendOf<"rebuild">): string {
  return `${reference} ${metadata.manifest_digest}`;
}

// One image that is refused keeps no other from being rebuilt: what became of each.
function* rebuildEach(larder: Larder, mends: MendOf<"rebuild">[]): Generator<[MendOf<"rebuild">, Outcome]> {
  const outcome = attempt(larder, () => rebuildAll(larder, mends));
  const isRefused = !outcome.mended && outcome.code === "invalid";
  if (isRefused && mends.length > 1) for (const mend of mends) yield* rebuildEach(larder, [mend]);
  else for (const mend of mends) yield [mend, outcome];
}

function rebuildAll(larder: Larder, mends: MendOf<"rebuild">[]): void {
  const sizes = measureArtifacts(larder, mends);
  // What is about to be discarded has no size to remember.
  for (const diffId of sizes.keys()) if (examineErofs(larder.cache.layer(diffId).path)) sizes.delete(diffId);
  const now = larder.now();
  writeTransaction(larder.db, () => {
    for (const { reference, metadata } of mends) {
      if (!isStillNamed(larder, reference, metadata)) continue;
      // Under its old id, by which a sandbox that runs it still pins it.
      const lost = danglingManifest(larder.db, reference);
      repointDangling(larder.db, reference, recordImage(larder.db, metadata, sizes, now, false, lost));
    }
  });
}

// An image that was removed, or a name that was moved, since the check must not come back.
function isStillNamed({ db }: Larder, reference: string, { manifest_digest }: ImageMetadata): boolean {
  const row = findImages(db, reference).find((row) => row.reference === reference);
  return row !== undefined && (row.manifestId === null || row.digest === manifest_digest);
}

function recordSizes(larder: Larder, mends: MendOf<"size">[]): void {
  for (const batch of batches(mends, 10 * BATCH)) {
    writeTransaction(larder.db, () => {
      for (const { diffId, bytes } of batch) setErofsSize(larder.db, diffId, bytes);
    });
  }
}

function* batches<T>(items: T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}

/** Writes a disk anew with its files where they lie now: beside it first, then in its place. */
function relocate(larder: Larder, file: CacheFile): Outcome {
  return attempt(larder, () => {
    using lock = FileLock.take(file.lock!);
    if (!lock) throw new LarderError("in_use", `its lock is held ("${file.lock}")`);
    const extents = readExtents(file.path);
    if (extents.length === 0) throw new LarderError("busy", "it is gone by now, or names no file any more");
    if (!canRelocate(larder, extents)) throw new LarderError("busy", "a file that it joins is gone by now");
    const text = rewriteExtents(readRegular(file.path) ?? "", (path) => larder.cache.relocated(path) ?? path);
    const staged = larder.cache.staged(file);
    makeFolder(dirname(staged));
    using scratch = HeldFolder.open(dirname(staged));
    using folder = HeldFolder.open(dirname(file.path));
    const inScratch = <T>(work: (path: string) => T) => scratch.in(basename(staged), work);
    // Made anew, so that neither a link nor a left-over in its place is written to.
    inScratch((path) => rmSync(path, { force: true }));
    const fd = inScratch((path) => openSync(path, "wx", 0o644));
    try {
      adopt(fd, folder);
      namingPath(staged, () => {
        // All of it, or an error: `writeSync` may write less.
        writeFileSync(fd, text);
        fsyncSync(fd);
      });
      inScratch((path) => renameSync(path, folder.at(basename(file.path))));
    } catch (error) {
      inScratch((path) => rmSync(path, { force: true }));
      throw error;
    } finally {
      closeSync(fd);
    }
  });
}

async function discard(
  larder: Larder,
  problems: Problem[],
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
): Promise<void> {
  const targets = new Map<Problem, ReturnType<typeof target>>();
  for (const [problem, { file }] of mendedBy("discard", problems)) targets.set(problem, target(file));
  const watch = new PinWatch(larder);
  let pins: Pins | undefined;
  let pinned: ReadonlySet<string> = new Set();
  // Asked inside the empty write transaction, where nobody can add a pin.
  const stillFaulty = (file: CacheFile) => {
    const now = watch.read();
    if (now !== pins) pinned = pinnedFiles(larder.cache, listUsage(larder.db).manifests, now);
    pins = now;
    if (pinned.has(file.path)) return "a sandbox or snapshot needs it";
    const isFaulty = file.kind === "vmdk" ? readExtents(file.path).length === 0 : isRejected(examineErofs(file.path));
    return isFaulty ? undefined : "it is sound by now";
  };
  await sweepProblems(larder, targets, options, outcomes, stillFaulty);
}

async function sweepStrays(
  larder: Larder,
  problems: Problem[],
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
): Promise<void> {
  const mine = mendedBy("sweep", problems);
  let needed: string | undefined;
  const refusal = attempt(larder, () => {
    const pins = new PinWatch(larder).readAll();
    refuseLostLayers(larder.db, larder.home.database);
    refuseUnnamedLayers(larder.db, larder.home.database);
    needed = findPinnedUnrecorded(larder, pins);
  });
  const targets = new Map<Problem, Target>();
  for (const [problem, { target }] of mine) {
    if (!refusal.mended) outcomes.set(problem, refusal);
    // Scratch is no image's, and goes as gc has it go.
    else if (needed !== undefined && !larder.cache.isScratch(target.path))
      outcomes.set(problem, { mended: false, reason: needed });
    else targets.set(problem, target);
  }
  await sweepProblems(larder, targets, options, outcomes);
}

async function sweepProblems(
  larder: Larder,
  files: Map<Problem, ReturnType<typeof target>>,
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
  wanted?: (file: CacheFile) => string | undefined,
): Promise<void> {
  const byPath = new Map<string, Problem>();
  const targets: Target[] = [];
  for (const [problem, made] of files) {
    if (!made || !isTarget(made)) continue;
    byPath.set(made.path, problem);
    targets.push(made);
  }
  const { deleted, skipped, failed } = await sweep(larder, inSweepOrder(targets), options, wanted);
  for (const { path } of deleted) outcomes.set(byPath.get(path)!, { mended: true });
  for (const { path, reason } of skipped) outcomes.set(byPath.get(path)!, { mended: false, reason });
  for (const { path, reason } of failed) outcomes.set(byPath.get(path)!, { mended: false, reason, code: "failed" });
}
