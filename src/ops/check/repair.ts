import { closeSync, fsyncSync, openSync, renameSync, writeSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { examineErofs, readExtents, rewriteExtents } from "../../cache/artifact.ts";
import { isTarget, target } from "../../cache/delete.ts";
import { readRegular } from "../../cache/file.ts";
import type { CacheFile } from "../../cache/paths.ts";
import { repointDangling } from "../../db/images.ts";
import { setErofsSize } from "../../db/layers.ts";
import { listUsage } from "../../db/usage.ts";
import { asCatalogueError, writeTransaction } from "../../db/write.ts";
import { asLarderError, namingPath } from "../../error.ts";
import { FileLock } from "../../host/flock.ts";
import { adopt } from "../../host/ownership.ts";
import type { Larder } from "../../larder.ts";
import { isDigest } from "../../oci/digest.ts";
import { measureArtifacts, recordImage } from "../persist.ts";
import { PinWatch } from "../pins.ts";
import { type SweepOptions, sweep } from "../sweep.ts";
import { relocated } from "./artifacts.ts";
import { isCorrupt } from "./database.ts";
import type { Mend, Problem } from "./problem.ts";

/** What became of a problem: mended, or left with the reason. */
export type Outcome = { mended: true } | { mended: false; reason: string };

type MendOf<K extends Mend["kind"]> = Extract<Mend, { kind: K }>;

/**
 * Mends what can be mended without losing anything, and tells of each problem what became of it. A damaged database
 * is left alone altogether. Rows first, then files.
 */
export async function repair(
  larder: Larder,
  problems: Problem[],
  options: SweepOptions,
): Promise<Map<Problem, Outcome>> {
  const outcomes = new Map<Problem, Outcome>();
  if (isCorrupt(problems)) return outcomes;
  const run = (kind: Mend["kind"], mendAll: (mends: Mend[]) => void) => {
    const mine = problems.filter(({ mend }) => mend?.kind === kind);
    const outcome = attempt(larder, () => mendAll(mine.map(({ mend }) => mend!)));
    for (const problem of mine) outcomes.set(problem, outcome);
  };
  run("rebuild", (mends) => rebuild(larder, mends as MendOf<"rebuild">[]));
  run("size", (mends) => recordSizes(larder, mends as MendOf<"size">[]));
  for (const problem of problems) {
    if (problem.mend?.kind === "relocate") outcomes.set(problem, relocate(larder, problem.mend.file));
  }
  await discard(larder, problems, options, outcomes);
  await sweepStrays(larder, problems, options, outcomes);
  return outcomes;
}

function attempt({ home }: Larder, mend: () => void): Outcome {
  try {
    mend();
    return { mended: true };
  } catch (error) {
    return { mended: false, reason: asLarderError(asCatalogueError(home.database, error)).message };
  }
}

function rebuild(larder: Larder, mends: MendOf<"rebuild">[]): void {
  if (mends.length === 0) return;
  const unique = new Map(mends.map((mend) => [`${mend.reference} ${mend.metadata.manifest_digest}`, mend]));
  const sizes = measureArtifacts(larder, [...unique.values()]);
  const now = larder.now();
  writeTransaction(larder.db, () => {
    for (const { reference, metadata } of unique.values()) {
      repointDangling(larder.db, reference, recordImage(larder.db, metadata, sizes, now, false));
    }
  });
}

function recordSizes(larder: Larder, mends: MendOf<"size">[]): void {
  if (mends.length === 0) return;
  writeTransaction(larder.db, () => {
    for (const { diffId, bytes } of mends) setErofsSize(larder.db, diffId, bytes);
  });
}

/** Writes a disk anew with its files where they lie now: beside it first, then in its place. */
function relocate(larder: Larder, file: CacheFile): Outcome {
  return attempt(larder, () => {
    using lock = FileLock.take(file.lock!);
    if (!lock) throw new Error(`its lock is held ("${file.lock}")`);
    const descriptor = readRegular(file.path) ?? "";
    const text = rewriteExtents(descriptor, (path) => relocated(larder, path) ?? path);
    const staged = join(larder.cache.folder("tmp"), `${basename(file.path)}.part`);
    const fd = openSync(staged, "w", 0o644);
    try {
      adopt(fd, dirname(file.path));
      namingPath(staged, () => {
        writeSync(fd, text);
        fsyncSync(fd);
      });
    } finally {
      closeSync(fd);
    }
    renameSync(staged, file.path);
  });
}

async function discard(
  larder: Larder,
  problems: Problem[],
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
): Promise<void> {
  const mine = problems.filter(({ mend }) => mend?.kind === "discard");
  const pinned = pinnedFiles(larder);
  const stillFaulty = (file: CacheFile) => {
    if (pinned.has(file.path)) return "a sandbox or snapshot needs it";
    const isFaulty = file.kind === "vmdk" ? readExtents(file.path).length === 0 : examineErofs(file.path) !== undefined;
    return isFaulty ? undefined : "it is sound by now";
  };
  await sweepProblems(larder, mine, (mend) => target((mend as MendOf<"discard">).file), options, outcomes, stillFaulty);
}

// What a pinned image has is left to msb: a running VM may have it open.
function pinnedFiles(larder: Larder): Set<string> {
  const { cache, db } = larder;
  const { byDigest, unreadable } = new PinWatch(larder).read();
  const pinned = listUsage(db).filter(({ digest }) => byDigest.has(digest) || unreadable.length > 0);
  const files = pinned.flatMap(({ digest, layers }) => [
    ...(isDigest(digest) ? [cache.vmdk(digest), cache.fsmeta(digest)] : []),
    ...layers.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId) : [])),
  ]);
  return new Set(files.map(({ path }) => path));
}

async function sweepStrays(
  larder: Larder,
  problems: Problem[],
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
): Promise<void> {
  const mine = problems.filter(({ mend }) => mend?.kind === "sweep");
  await sweepProblems(larder, mine, (mend) => (mend as MendOf<"sweep">).target, options, outcomes);
}

async function sweepProblems(
  larder: Larder,
  problems: Problem[],
  targetOf: (mend: Mend) => ReturnType<typeof target>,
  options: SweepOptions,
  outcomes: Map<Problem, Outcome>,
  wanted?: (file: CacheFile) => string | undefined,
): Promise<void> {
  const byPath = new Map<string, Problem>();
  const targets = problems.flatMap((problem) => {
    const made = targetOf(problem.mend!);
    if (!made || !isTarget(made)) return [];
    byPath.set(made.path, problem);
    return [made];
  });
  const { deleted, skipped, failed } = await sweep(larder, targets, options, wanted);
  for (const { path } of deleted) outcomes.set(byPath.get(path)!, { mended: true });
  for (const { path, reason } of [...skipped, ...failed]) outcomes.set(byPath.get(path)!, { mended: false, reason });
}
