import { type Deleted, PATIENCE_MS, partByWork, type Target, WAIT_MS } from "../cache/delete.ts";
import { measure } from "../cache/file.ts";
import type { CachePaths } from "../cache/paths.ts";
import { scanCache } from "../cache/scan.ts";
import { findRunningScratch, findRunningWork } from "../cache/work.ts";
import { toRfc3339 } from "../db/timestamp.ts";
import { unneededOf } from "../db/usage.ts";
import { type FileSystem, fileSystemOf, settledFileSystemOf } from "../host/disk.ts";
import { mayBeLocked } from "../host/flock.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import { canonicalKey } from "../oci/reference.ts";
import {
  type CollectedRows,
  type CollectionPlan,
  type CollectOptions,
  collectRows,
  hasCollected,
  type Leaving,
  planForDeletion,
  plannedRows,
  type Selection,
} from "./collect.ts";
import { PinWatch } from "./pins.ts";
import {
  type BudgetTarget,
  type Decision,
  findUnmatchedKeeps,
  hasBudget,
  type PruneImage,
  type PrunePlan,
  type PrunePolicy,
  type PruneState,
  planPrune,
} from "./prune-plan.ts";
import { bytesLeft, type DiskReport, reportDeleted, reportPlanned } from "./report.ts";
import { sweep } from "./sweep.ts";
import { stockOf, takeStock, type Usage, type UsedFile, type UsedImage } from "./usage.ts";

export interface PruneOptions extends Omit<CollectOptions, "layersOnly"> {
  policy: PrunePolicy;
  dryRun: boolean;
  /** Told each image that was taken off the record, also where the work then fails. */
  evicted?: (decision: PruneReport["decisions"][number]) => void;
}

/** What a budget asked for and the plan had for it, and what became of that; sizes in bytes. */
export interface BudgetOutcome extends BudgetTarget {
  /**
   * What of `planned` was left, because it is too young, a guard or the system refused it, or the work was stopped. In a dry
   * run, what is known to be left.
   */
  left: number;
}

/** Why each image stays or goes, what the budget asks for, and what became of rows and files. */
export interface PruneReport extends DiskReport {
  decisions: (Omit<Decision, "referenceId" | "manifestId"> & { last_used_at: string | null })[];
  target: BudgetOutcome | null;
  /** Patterns to keep that matched no name. */
  unmatched_keeps: string[];
  references: string[];
  manifests: string[];
  layers: string[];
  unsafe: string[];
  spared: CollectedRows["spared"];
  unaccounted: string | null;
}

/**
 * Evicts images by policy, then collects: a plan from what is on record and on disk, the rows in short transactions
 * that ask again, then the files under the guards. A dry run prints the plan that the same call would apply.
 */
export async function prune(larder: Larder, options: PruneOptions): Promise<PruneReport> {
  if (hasBudget(options.policy)) await awaitIdle(larder, options);
  const pins = new PinWatch(larder);
  const { selection, plan: collection } = await planForDeletion(larder, pins, options, () =>
    selectByPolicy(larder, pins, options),
  );
  const { plan, used, unmatched_keeps } = selection;
  collection.unsafe.unshift(...selection.unsafe);
  const waiting = [...collection.later, ...selection.young];
  const leftOf = (targets: Target[], deleted: Deleted[]) =>
    collection.unaccounted === null ? bytesLeft([...targets, ...waiting], deleted) : (plan.target?.planned ?? 0);
  if (options.dryRun) {
    const { targets, forbidden, skipped } = partByWork(collection.targets, { ...larder, ...options });
    return {
      ...report(plan, used, collection, plannedRows(collection)),
      target: plan.target && { ...plan.target, left: leftOf(forbidden, []) },
      unmatched_keeps,
      ...reportPlanned(larder, targets, [...collection.skipped, ...skipped]),
    };
  }
  const rows = await collectRows(larder, collection, pins, options);
  const stays = options.stopped?.() ? "the work was stopped before it came to this" : CHANGED;
  const done = report(plan, used, collection, rows, stays);
  for (const decision of done.decisions) if (decision.action === "evict") options.evicted?.(decision);
  const deleted = await sweep(larder, collection.targets, { ...options, isFirstStep: !hasCollected(rows) });
  if (rows.failure !== undefined) throw rows.failure;
  const left = leftOf(collection.targets, deleted.deleted);
  return {
    ...done,
    target: plan.target && { ...plan.target, left },
    unmatched_keeps,
    ...reportDeleted(larder, deleted, collection.skipped),
  };
}

// A budget evicts nothing while work runs: it waits a moment, as the deletes do.
async function awaitIdle({ cache, now }: Larder, { grace, stopped }: PruneOptions): Promise<void> {
  for (let waited = 0; waited < PATIENCE_MS && !stopped?.(); waited += WAIT_MS) {
    if (findRunningWork(cache, now(), grace) === undefined) return;
    await Bun.sleep(WAIT_MS);
  }
}

const CHANGED = "it was changed since the plan was made";

/** What a policy selects, and what its report is made of. */
interface PolicySelection extends Selection {
  plan: PrunePlan;
  used: UsedImage[];
  unmatched_keeps: string[];
  /** Named images that stay, because what their rows hold is no digest. */
  unsafe: string[];
  /** Strays that a budget counts on although they are too young to go yet. */
  young: Target[];
}

function selectByPolicy(larder: Larder, pins: PinWatch, { policy, grace }: PruneOptions): PolicySelection {
  const now = larder.now();
  // Without the locks: they are a half of all entries, and hold nothing.
  const { usage, strays } = takeStock(larder, pins, grace, (cache, listing) => scanCache(cache, { listing }));
  // An image whose digest is no digest has no files that could be named, and no policy may take it.
  const used = usage.images.filter(({ manifest }) => isDigest(manifest.digest));
  const work = findRunningWork(larder.cache, now, grace);
  // Without a pull or load they are what a crash has left, and go soon: no image need go in their place meanwhile. A download
  // and other scratch may belong to work that is tried again and again, and needs the room.
  const young = work !== undefined ? [] : strays.young.filter(({ kind }) => kind !== "staging" && kind !== "blob");
  const disk = (hasBudget(policy) ? settledFileSystemOf : fileSystemOf)(larder.cache.root);
  const state = readState(larder, usage, used, [...strays.targets, ...young], disk, { work, now, grace });
  const plan = planPrune(state, policy, now);
  const kept = plan.decisions.filter(({ action, reference }) => action === "keep" && reference === null);
  return {
    plan,
    used,
    unmatched_keeps: findUnmatchedKeeps(state.images, policy.keep),
    unsafe: namedUnsafe(usage),
    young,
    evicted: leavingBy(plan, used),
    spare: new Set(kept.map(({ digest }) => digest)),
    strays,
    stock: stockOf(usage),
    unneeded: (going) => unneededOf(usage.catalogue, going),
  };
}

function readState(
  larder: Larder,
  { files, images, catalogue, index }: Usage,
  used: UsedImage[],
  strays: Target[],
  disk: FileSystem,
  { work, now, grace }: Pick<Moment, "work" | "now" | "grace">,
): PruneState {
  const { cache } = larder;
  const isLoading = work !== undefined && findRunningScratch(cache, now, grace) !== undefined;
  const orphans = catalogue.layers.filter(({ manifests, isHeldElsewhere }) => manifests === 0 && !isHeldElsewhere);
  const orphaned = orphans.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId).path : []));
  const garbage = new Set([...strays.map(({ path }) => path), ...orphaned]);
  const unsettled = findUnsettled(used, files, now, grace);
  const { units, bytes } = unitsOf(files);
  // What an image needs that no policy may take stays, as does a file that is nobody's and no garbage either, a layer of a
  // manifest that is not there, and a folder in an artifact's place.
  const staying = [
    ...images.filter(({ manifest }) => !isDigest(manifest.digest)).flatMap(({ files }) => files),
    ...catalogue.layers
      .filter(({ isHeldElsewhere }) => isHeldElsewhere)
      .flatMap(({ diffId }) => index.find("layer", diffId) ?? []),
  ];
  const isKept = ({ path }: UsedFile) => !garbage.has(path);
  for (const [i, file] of files.entries())
    if ((file.images === 0 && isKept(file)) || (file.isFolder && !cache.isScratch(file.path))) staying.push(i);
  for (const file of staying) bytes[units[file]!] = 0;
  const kept = new Set(units.filter((_, i) => isKept(files[i]!)));
  const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);
  return {
    images: used.map((image) => ({
      ...toPruneImage(cache, image, files, { work, isLoading, unsettled, now, grace }),
      files: [...new Set(image.files.map((file) => units[file]!))],
    })),
    files: bytes,
    ...(work !== undefined && { work }),
    disk: {
      cacheBytes: sum(files.map(({ allocated }) => allocated)),
      garbageBytes: sum(bytes.filter((_, unit) => !kept.has(unit))),
      totalBytes: disk.total_bytes,
      freeBytes: disk.free_bytes,
    },
  };
}

// Names of one file are one unit, that of the first of them: its blocks are free once all have gone, and never where there
// are others outside of the cache.
function unitsOf(files: UsedFile[]): { units: number[]; bytes: number[] } {
  const units = files.map((_, i) => i);
  const bytes = files.map(({ allocated }) => allocated);
  const linked = new Map<string, { unit: number; elsewhere: number }>();
  for (const [i, { link }] of files.entries()) {
    if (!link) continue;
    const known = linked.get(link.inode) ?? { unit: i, elsewhere: link.of };
    linked.set(link.inode, known);
    known.elsewhere--;
    units[i] = known.unit;
  }
  for (const { unit, elsewhere } of linked.values()) if (elsewhere > 0) bytes[unit] = 0;
  return { units, bytes };
}

/** What runs while the plan is made, which some images must not be taken from. */
interface Moment {
  work: string | undefined;
  /** Of that, work that writes metadata files under no lock. */
  isLoading: boolean;
  /** Metadata files whose rows are about to follow. */
  unsettled: ReadonlySet<number>;
  now: number;
  grace: number;
}

function toPruneImage(
  cache: CachePaths,
  image: UsedImage,
  measured: UsedFile[],
  moment: Moment,
): Omit<PruneImage, "files"> {
  const { manifest, canonicals, lastUsed, pinnedBy } = image;
  const names = manifest.names.map(({ id, reference, createdAt }, i) => ({
    id,
    reference,
    createdAt,
    canonical: canonicals[i]!,
  }));
  const written = image.files.find((file) => moment.unsettled.has(file));
  const locked =
    (moment.work !== undefined ? findHeldFile(cache, image, moment) : undefined) ??
    (written === undefined ? undefined : measured[written]!.path);
  return {
    manifestId: manifest.id,
    digest: manifest.digest,
    names,
    lastUsed,
    pinnedBy,
    ...(locked !== undefined && { locked }),
  };
}

// The metadata files that are newer than every row they speak for. A load of what the cache has already shows in nothing
// else: it writes that file, and the rows a moment later.
function findUnsettled(used: UsedImage[], files: UsedFile[], now: number, grace: number): Set<number> {
  const recorded = new Map<number, number>();
  for (const image of used) {
    const latest = Math.max(0, ...image.manifest.names.map(({ updatedAt }) => updatedAt ?? 0));
    for (const file of image.files)
      if (files[file]!.kind === "metadata") recorded.set(file, Math.max(latest, recorded.get(file) ?? 0));
  }
  // Rows have their times in milliseconds.
  const isUnsettled = ({ mtimeMs }: UsedFile, latest: number) =>
    Math.floor(mtimeMs) > latest && Math.abs(now - mtimeMs) < grace;
  return new Set([...recorded].filter(([file, latest]) => isUnsettled(files[file]!, latest)).map(([file]) => file));
}

// A lock that is held, or may be, or a metadata file that the running load may just have written.
function findHeldFile(
  cache: CachePaths,
  { manifest, canonicals }: UsedImage,
  { isLoading, now, grace }: Moment,
): string | undefined {
  const metadata = canonicals.flatMap((canonical) =>
    canonical === null ? [] : cache.metadata(canonicalKey(canonical)),
  );
  const layers = manifest.layers.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId).lock! : []));
  const fsmeta = isDigest(manifest.digest) ? [cache.fsmeta(manifest.digest).lock!] : [];
  const held = [...metadata.map(({ lock }) => lock), ...fsmeta, ...layers].find(mayBeLocked);
  if (held !== undefined || !isLoading) return held;
  return metadata.find(({ path }) => now - (measure(path)?.mtimeMs ?? 0) < grace)?.path;
}

// The collection speaks of untagged rows only.
function namedUnsafe({ images }: Usage): string[] {
  return images
    .filter(({ manifest: { digest, names } }) => names.length > 0 && !isDigest(digest))
    .map(({ manifest }) => `manifest ${JSON.stringify(manifest.digest.slice(0, 100))}`);
}

// The names that go, by manifest. An untagged manifest is left to the gc.
function leavingBy(plan: PrunePlan, used: UsedImage[]): Leaving[] {
  const evicted = new Set(
    plan.decisions.filter(({ action }) => action === "evict").map(({ referenceId }) => referenceId),
  );
  return used.flatMap(({ manifest: { id, digest, names } }) => {
    const drop = names
      .filter((name) => evicted.has(name.id))
      .map(({ id, reference, storedUpdatedAt }) => ({ id, reference, updatedAt: storedUpdatedAt }));
    return drop.length > 0 ? [{ id, digest, drop }] : [];
  });
}

// An image that was to go, and was not taken off the record, stays for the reason that it was spared for, or `stays`.
function report(
  plan: PrunePlan,
  used: UsedImage[],
  { unsafe, unaccounted }: CollectionPlan,
  rows: CollectedRows,
  stays = CHANGED,
) {
  const lastUsed = new Map(used.map(({ manifest, lastUsed }) => [manifest.id, lastUsed]));
  const spared = new Map(rows.spared.map(({ digest, reason }) => [digest, reason]));
  const gone = { references: new Set(rows.references), manifests: new Set(rows.manifests) };
  const decisions = plan.decisions.map(({ referenceId: _, manifestId, ...decision }) => {
    const { action, reference, digest } = decision;
    const ms = lastUsed.get(manifestId) ?? null;
    const isGone = reference === null ? gone.manifests.has(digest) : gone.references.has(reference);
    return {
      ...decision,
      ...(action === "evict" &&
        !isGone && { ...STAYS, cause: "changed" as const, reason: spared.get(digest) ?? stays }),
      ...(unaccounted !== null && { ...STAYS, ...UNACCOUNTED }),
      last_used_at: ms === null ? null : toRfc3339(ms),
    };
  });
  const [manifests, layers] = [rows.manifests.toSorted(), rows.layers.toSorted()];
  return { decisions, ...rows, manifests, layers, unsafe, unaccounted };
}

const STAYS = { action: "keep", bytes: 0 } as const;
const UNACCOUNTED = { cause: "unaccounted", reason: "the catalogue does not account for its cache" } as const;
