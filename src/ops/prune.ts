import { PATIENCE_MS, partByWork, type Target, WAIT_MS } from "../cache/delete.ts";
import { scanCache } from "../cache/scan.ts";
import { findRunningWork } from "../cache/work.ts";
import { toRfc3339 } from "../db/timestamp.ts";
import { unneededOf } from "../db/usage.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
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
  freeWanted,
  hasBudget,
  type PrunePlan,
  type PrunePolicy,
  type PruneState,
  planPrune,
} from "./prune-plan.ts";
import { measureSpace, type ReadState, readState } from "./prune-state.ts";
import { type DiskReport, reportDeleted, reportPlanned } from "./report.ts";
import { sweep } from "./sweep.ts";
import { stockOf, takeStock, type Usage, type UsedImage } from "./usage.ts";

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
  /**
   * What the file system lacked of a budget of free space once all that was planned had gone: blocks that are compressed, or
   * that a snapshot, a copy or a lower layer has too, do not become free, or others have filled them meanwhile.
   */
  lacking: number;
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
  const { plan, used, unmatched_keeps, disk } = selection;
  collection.unsafe.unshift(...selection.unsafe);
  const planned = [...collection.targets, ...collection.later, ...selection.young];
  const leftOf = (gone: { path: string }[]) =>
    collection.unaccounted === null
      ? selection.bytesLeft(planned, new Set(gone.map(({ path }) => path)))
      : (plan.target?.planned ?? 0);
  if (options.dryRun) {
    const { targets, skipped } = partByWork(collection.targets, { ...larder, ...options });
    return {
      ...report(plan, used, collection, plannedRows(collection)),
      target: plan.target && { ...plan.target, left: leftOf(targets), lacking: 0 },
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
  const target = plan.target && { ...plan.target, left: leftOf(deleted.deleted), lacking: 0 };
  if (target && target.needed > 0 && shortOf(target) === 0)
    target.lacking = await measureLack(larder, freeWanted(options.policy, disk));
  return {
    ...done,
    target,
    unmatched_keeps,
    ...reportDeleted(larder, deleted, collection.skipped),
  };
}

/** Bytes that a budget is short of by the plan: what no eviction can free, and what was left of the plan. */
export function shortOf({ needed, planned, left }: Omit<BudgetOutcome, "lacking">): number {
  return Math.max(needed - (planned - left), 0);
}

// Some file systems take a moment to give back what has been let go of (XFS).
async function measureLack({ cache }: Larder, wanted: number): Promise<number> {
  if (wanted === 0) return 0;
  for (let waited = 0; ; waited += WAIT_MS) {
    const lacking = wanted - measureSpace(cache).free_bytes;
    if (lacking <= 0) return 0;
    if (waited >= PATIENCE_MS) return lacking;
    await Bun.sleep(WAIT_MS);
  }
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
  disk: PruneState["disk"];
  used: UsedImage[];
  unmatched_keeps: string[];
  /** Named images that stay, because what their rows hold is no digest. */
  unsafe: string[];
  /** Strays that a budget counts on although they are too young to go yet. */
  young: Target[];
  bytesLeft: ReadState["bytesLeft"];
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
  const { state, bytesLeft } = readState(larder, usage, used, [...strays.targets, ...young], {
    policy,
    pins: pins.read(),
    work,
    now,
    grace,
  });
  const plan = planPrune(state, policy, now);
  const kept = plan.decisions.filter(({ action, reference }) => action === "keep" && reference === null);
  return {
    plan,
    disk: state.disk,
    used,
    unmatched_keeps: findUnmatchedKeeps(state.images, policy.keep),
    unsafe: namedUnsafe(usage),
    young,
    bytesLeft,
    evicted: leavingBy(plan, used),
    spare: new Set(kept.map(({ digest }) => digest)),
    strays,
    stock: stockOf(usage),
    unneeded: (going) => unneededOf(usage.catalogue, going),
  };
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
