import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { isLocked } from "../host/flock.ts";
import { namesHeldBeside } from "../host/held.ts";
import { isYoung, measure, namesIn } from "./file.ts";
import { type CachePaths, isLock, isWorkScratch, loaderOf, WORK_LOCKS } from "./paths.ts";

/**
 * The sign of a pull or load that runs now, as the path that shows it; undefined where there is none. Such work may
 * have found a layer in the cache already, and holds no lock on it (interop §3). `grace` is in milliseconds.
 */
export function findRunningWork(cache: CachePaths, now: number, grace: number): string | undefined {
  const idle = new Set<number>();
  for (const [folder, ending] of WORK_LOCKS) {
    const parent = cache.folder(folder);
    for (const name of namesToAsk(parent, idle)) {
      if (!name.endsWith(ending)) continue;
      const path = `${parent}/${name}`;
      if (isLocked(path)) return path;
    }
  }
  return findRunningScratch(cache, now, grace);
}

// Which files of a folder may be locked. Where there are many, to let the kernel say what is held in all takes a tenth of
// the time of asking each. `idle` are the file systems on which no lock at all was held when it said so: then no work was
// under way in any folder there. Where one was, it may have gone on to a lock in the next folder, and is asked for anew.
function namesToAsk(folder: string, idle: Set<number>): string[] {
  const stat = statSync(folder, { throwIfNoEntry: false });
  if (!stat || stat.size <= LARGE) return namesIn(folder);
  if (idle.has(stat.dev)) return [];
  const held = namesHeldBeside(folder);
  if (held && !held.some(isLock)) idle.add(stat.dev);
  return held ?? namesIn(folder);
}

// Bytes of a folder with some thousand locks.
const LARGE = 128 * 1024;

/** Tells which locks are held at one moment; where a folder has thousands, by one look at the kernel's list. */
export class LockLook {
  private readonly held = new Map<string, ReadonlySet<string> | undefined>();

  /** Throws as `isLocked` does. */
  isHeld(path: string): boolean {
    // Asked of a hundred thousand: `dirname` and `basename` would take longer than all the rest.
    const slash = path.lastIndexOf("/");
    const folder = path.slice(0, slash);
    if (!this.held.has(folder)) this.held.set(folder, namesHeldIn(folder));
    return this.held.get(folder)?.has(path.slice(slash + 1)) ?? isLocked(path);
  }
}

function namesHeldIn(folder: string): ReadonlySet<string> | undefined {
  const stat = statSync(folder, { throwIfNoEntry: false });
  const names = stat && stat.size > LARGE ? namesHeldBeside(folder) : undefined;
  return names && new Set(names);
}

/** The same for work that shows by its scratch alone: a load, which writes metadata files under no lock, or a stitch. */
export function findRunningScratch(cache: CachePaths, now: number, grace: number): string | undefined {
  for (const name of namesIn(cache.folder("tmp"))) {
    if (!isWorkScratch(name)) continue;
    const path = join(cache.folder("tmp"), name);
    const stat = measure(path);
    if (stat && (isYoung(stat.mtimeMs, now, grace) || isOfLivingMsb(name))) return path;
  }
  return undefined;
}

// A load has its process ID in the names of its scratch (interop §3). Where that lives it is at work, however old the file
// is; of a process in another container nothing but the age is known.
function isOfLivingMsb(name: string): boolean {
  const pid = loaderOf(name);
  try {
    return pid !== undefined && readFileSync(`/proc/${pid}/comm`, "latin1") === "msb\n";
  } catch {
    return false;
  }
}
