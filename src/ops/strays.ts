import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { part, type Skipped, skip, type Target } from "../cache/delete.ts";
import { isYoung } from "../cache/file.ts";
import { FlatBlobs, readFlatRef } from "../cache/flat.ts";
import { type CacheFile, CachePaths, erofsName, FOLDERS, metadataName, vmdkName } from "../cache/paths.ts";
import { type Listing, scanCache } from "../cache/scan.ts";
import { listReferences } from "../db/images.ts";
import { listDiffIds } from "../db/layers.ts";
import { listManifestDigests } from "../db/manifests.ts";
import type { Pins } from "../db/pins.ts";
import { LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import { mountsIn } from "../host/mounts.ts";
import { whyAstray } from "../host/ownership.ts";
import { type Larder, openEmpty, openOrCreate, openToPlan, openToWrite } from "../larder.ts";
import { type Digest, isDigest } from "../oci/digest.ts";
import { cacheKeyOrNull } from "../oci/reference.ts";
import { measureTargets, withoutBooted } from "./doomed.ts";

/** Files that no row accounts for: old enough to go, or too young yet. */
export interface Strays {
  targets: Target[];
  skipped: Skipped[];
  /** Of those that were skipped, what a later gc takes. */
  young: Target[];
}

/**
 * Opens a home for what sweeps, to read where it only plans. Where there is neither a catalogue nor a file, it is an empty
 * one. Throws `unaccounted` where there is no catalogue, and the cache holds a file all the same: it may be lost, or not
 * mounted. If all is to be swept even so, one is made, in which others can claim a file; for a plan, in memory.
 */
export function openToSweep(
  home: Home,
  { dryRun, sweepUnrecorded }: { dryRun: boolean; sweepUnrecorded: boolean },
): Larder {
  const larder = dryRun ? openToPlan(home) : openToWrite(home);
  if (larder) return larder;
  const [file] = scanCache(new CachePaths(home.cache));
  if (file === undefined) return openEmpty(home);
  if (sweepUnrecorded) return dryRun ? openEmpty(home) : openOrCreate(home);
  throw new LarderError(
    "unaccounted",
    `nothing was swept: there is no catalogue at "${home.database}" to account for "${file.path}" (bring it back, or sweep all the same with --sweep-unrecorded)`,
  );
}

/**
 * Finds the stray files of the whole cache, but for those that one of the `pins` needs; `grace` in milliseconds. A file time
 * in the future counts as young. `listing` is given where the cache's names have just been read.
 */
export function findStrays(larder: Larder, pins: Pins, grace: number, listing?: Listing): Strays {
  const elsewhere = foldersOfOthers(larder.cache);
  const found = withoutBooted(measureTargets(withLocks(larder, unaccounted(larder, listing))), pins);
  const targets = found.targets.filter(({ path }) => !elsewhere.has(dirname(path)));
  const now = larder.now();
  const young = targets.filter(({ mtimeMs }) => isYoung(mtimeMs, now, grace));
  const old = targets.filter(({ mtimeMs }) => !isYoung(mtimeMs, now, grace));
  // A ref that stays keeps its blob, whatever the age of that.
  const kept = new FlatBlobs();
  for (const { kind, path } of young) if (kind === "flat_ref") kept.add(path);
  const isKept = ({ kind, digest }: Target) => kind === "flat_blob" && kept.needs(digest!);
  const going = part(old, (file) => (isKept(file) ? "a flat ref needs it" : undefined));
  return {
    targets: going.targets,
    skipped: [
      ...[...elsewhere].map(([path, reason]): Skipped => ({ kind: "foreign", path, reason })),
      ...found.skipped.filter(({ path }) => !elsewhere.has(dirname(path))),
      ...young.map((file) => skip(file, file.mtimeMs > now ? FUTURE : "it is younger than the grace period")),
      ...going.skipped,
    ],
    // One of the future may stay for ever.
    young: young.filter(({ mtimeMs }) => mtimeMs <= now),
  };
}

const FUTURE = "it is dated in the future (a grace of 0s takes it all the same)";

// The folders of the cache that are really elsewhere, with the reason why nothing is swept there: what has no row may be
// anybody's.
function foldersOfOthers({ root }: CachePaths): Map<string, string> {
  const elsewhere = new Map<string, string>();
  if (!existsSync(root)) return elsewhere;
  const real = realpathSync(root);
  const parts = mountsIn(real).filter(({ path, isPart }) => isPart && path !== real);
  for (const folder of FOLDERS) {
    const path = join(root, folder);
    const inside = join(real, folder);
    if (!existsSync(path)) continue;
    if (realpathSync(path) !== inside) elsewhere.set(path, "it is a link, and may lead anywhere");
    else if (parts.some((mount) => `${inside}/`.startsWith(`${mount.path}/`)))
      elsewhere.set(path, "it is mounted from another folder, and may be that of another home");
    else {
      const astray = whyAstray(path);
      if (astray !== undefined) elsewhere.set(path, astray);
    }
  }
  return elsewhere;
}

function* unaccounted({ db, cache }: Larder, listing?: Listing): Generator<CacheFile> {
  let digests: Digest[] | undefined;
  const readDigests = () => (digests ??= listManifestDigests(db).filter(isDigest));
  const manifests = new Recorded(readDigests);
  const blobs = new FlatBlobs();
  // By name: to ask what each file is, which nearly always is on record, would take twice as long.
  const known = {
    manifests: new Recorded(() =>
      listReferences(db).flatMap((reference) => {
        const key = cacheKeyOrNull(reference);
        return key === null ? [] : metadataName(key);
      }),
    ),
    vmdk: new Recorded(() => readDigests().map(vmdkName)),
    fsmeta: new Recorded(() => readDigests().map(erofsName)),
    layers: new Recorded(() => listDiffIds(db).filter(isDigest).map(erofsName)),
  };
  for (const file of scanCache(cache, { known, listing })) {
    if (file.kind === "flat_ref" && manifests.has(file.digest!)) {
      // Refs are scanned before blobs, so every blob that a recorded image needs is known by then.
      blobs.add(file.path);
      continue;
    }
    if (file.kind === "flat_blob" && blobs.needs(file.digest!)) continue;
    yield file;
  }
}

/** What a column tells; read when it is first asked for, which a cache without files of a kind never does. */
class Recorded {
  private values: Set<string> | undefined;

  constructor(private readonly read: () => string[]) {}

  has(value: string): boolean {
    this.values ??= new Set(this.read());
    return this.values.has(value);
  }
}

function* withLocks({ cache }: Larder, files: Iterable<CacheFile>): Generator<CacheFile> {
  for (const file of files) {
    const ref = file.kind === "flat_ref" ? readFlatRef(file.path) : undefined;
    yield ref ? { ...file, lock: cache.flatLock(ref.derivation_digest) } : file;
  }
}
