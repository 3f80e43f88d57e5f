import { isImmutable } from "../cache/deletable.ts";
import { PATIENCE_MS, WAIT_MS } from "../cache/delete.ts";
import { isYoung, measure } from "../cache/file.ts";
import { findRunningScratch } from "../cache/work.ts";
import { lastRecorded } from "../db/images.ts";
import { type Code, LarderError } from "../error.ts";
import { isLocked } from "../host/flock.ts";
import type { Larder } from "../larder.ts";
import { canonicalKey } from "../oci/reference.ts";
import type { SweepOptions } from "./sweep.ts";

/** What stands in the way of a removal. */
export interface Obstacle {
  code: Code;
  message: string;
}

/**
 * Waits a moment while a pull of these very references runs, or a load that may just have written their metadata files,
 * and gives by canonical reference what goes on all the same. Rows that went without such a file would leave it behind,
 * and the next gc would take the catalogue for lost. Where a file is newer than its rows, it waits for those that are to
 * follow: nothing else shows a load of what the cache has already. Before each look it asks for the canonical forms, which
 * may change meanwhile. Where it is stopped, it waits no longer.
 */
export async function awaitSettled(
  larder: Larder,
  canonicals: () => string[],
  { grace, stopped }: Pick<SweepOptions, "grace" | "stopped">,
): Promise<Map<string, Obstacle>> {
  for (let waited = 0; ; waited += WAIT_MS) {
    const asked = canonicals();
    const obstacles = findObstacles(larder, asked, grace);
    const others = asked.filter((canonical) => !obstacles.has(canonical));
    const isAwaited = waited < COMMIT_MS && others.some((canonical) => isUnsettled(larder, canonical));
    const isBusy = waited < PATIENCE_MS && obstacles.values().some(({ code }) => code === "busy");
    if ((!isAwaited && !isBusy) || stopped?.()) return obstacles;
    await Bun.sleep(WAIT_MS);
  }
}

// Within how long of its metadata file msb has put an image on record: it waits 5 s for the write lock at most.
const COMMIT_MS = 10_000;

/**
 * For how long, in milliseconds, a metadata file speaks for rows that may be about to follow. No grace is too short for that:
 * a load of what the cache has already shows in nothing else.
 */
export function metadataGrace(grace: number): number {
  return Math.max(grace, COMMIT_MS);
}

/** What stands in the way at this moment, by canonical reference. */
export function findObstacles(larder: Larder, canonicals: string[], grace: number): Map<string, Obstacle> {
  const obstacles = new Map<string, Obstacle>();
  for (const canonical of canonicals) {
    const obstacle = findObstacle(larder, canonical, grace);
    if (obstacle) obstacles.set(canonical, obstacle);
  }
  return obstacles;
}

/** Says of a metadata file that it cannot go, and what lets it. */
export function whyImmutable(path: string): string {
  return `"${path}" cannot be deleted: it is immutable (chattr -i lets it)`;
}

function findObstacle(larder: Larder, canonical: string, grace: number): Obstacle | undefined {
  const { path } = larder.cache.metadata(canonicalKey(canonical));
  if (isImmutable(path)) return { code: "failed", message: whyImmutable(path) };
  try {
    const work = findWriter(larder, canonical, grace);
    if (work === undefined) return undefined;
    return { code: "busy", message: `a pull or load of it is running ("${work}"); try again when it is done` };
  } catch (error) {
    // A lock that cannot be asked.
    if (error instanceof LarderError) return { code: error.code, message: error.message };
    throw error;
  }
}

function findWriter({ cache, now }: Larder, canonical: string, grace: number): string | undefined {
  const { path, lock } = cache.metadata(canonicalKey(canonical));
  if (isLocked(lock)) return lock;
  const stat = measure(path);
  return stat && isYoung(stat.mtimeMs, now(), grace) ? findRunningScratch(cache, now(), grace) : undefined;
}

function isUnsettled({ db, cache, now }: Larder, canonical: string): boolean {
  const stat = measure(cache.metadata(canonicalKey(canonical)).path);
  if (!stat?.isFile() || Math.abs(now() - stat.mtimeMs) >= COMMIT_MS) return false;
  // Rows have their times in milliseconds.
  return Math.floor(stat.mtimeMs) > lastRecorded(db, canonical);
}
