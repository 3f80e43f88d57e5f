import type { Skipped, Target } from "../cache/delete.ts";
import type { Kind } from "../cache/paths.ts";
import { collectManifests } from "../db/collect.ts";
import { type DoomedLayer, deleteOrphans, layersOnlyOf, orphanLayers } from "../db/layers.ts";
import { untaggedManifests } from "../db/manifests.ts";
import { readTransaction, writeTransaction } from "../db/write.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import { filesOf } from "./doomed.ts";
import { PinWatch } from "./pins.ts";
import { type DiskReport, reportDeleted, reportPlanned } from "./report.ts";
import { findStrays, findUnrecorded } from "./strays.ts";
import { type SweepOptions, sweep } from "./sweep.ts";

export interface GcOptions extends SweepOptions {
  /** Orphan layers alone. */
  layersOnly: boolean;
  /** Sweep although the catalogue does not account for the cache. */
  sweepUnrecorded: boolean;
  dryRun: boolean;
}

export interface GcReport extends DiskReport {
  /** Digests of the untagged manifests that went. */
  manifests: string[];
  /** Diff IDs of the layers that went. */
  layers: string[];
  /** Rows that were left, because what they hold is no digest. */
  unsafe: string[];
  /** Why only staging was swept, or null. */
  unaccounted: string | null;
}

interface GcPlan {
  manifests: { id: number; digest: string }[];
  orphans: DoomedLayer[];
  /** All layers that go: the orphans, and those of the manifests. */
  layers: string[];
  unsafe: string[];
  targets: Target[];
  skipped: Skipped[];
  unaccounted: string | null;
}

// Manifests deleted in one transaction: about 30 ms, and msb takes the write lock at every start.
const BATCH = 500;

/** Collects orphan layers, untagged unpinned manifests and stray files: rows first, in short transactions, then files. */
export async function gc(larder: Larder, options: GcOptions): Promise<GcReport> {
  const pins = new PinWatch(larder);
  const plan = planGc(larder, pins, options);
  if (options.dryRun) return { ...reportRows(plan), ...reportPlanned(larder, plan.targets, plan.skipped) };
  const gone = await deleteRows(larder, plan, pins, options);
  return {
    ...reportRows({ ...plan, ...gone }),
    ...reportDeleted(larder, await sweep(larder, plan.targets, options), plan.skipped),
  };
}

function planGc(larder: Larder, pins: PinWatch, options: GcOptions): GcPlan {
  const rows = readTransaction(larder.db, () => planRows(larder, pins, options));
  const own = filesOf(larder.cache, {
    canonicals: [],
    manifests: rows.manifests.map(({ digest }) => digest),
    layers: rows.layers,
  });
  const strays = options.layersOnly ? { targets: [], skipped: [] } : findStrays(larder, options.grace);
  const targets = inSweepOrder([...own.targets, ...strays.targets]);
  const plan = { ...rows, targets, skipped: [...own.skipped, ...strays.skipped], unaccounted: null };
  const scratch = targets.filter(({ path }) => larder.cache.isScratch(path));
  if (options.sweepUnrecorded || scratch.length === targets.length) return plan;
  const unaccounted = findUnrecorded(larder, options.grace) ?? null;
  return unaccounted === null
    ? plan
    : { ...plan, manifests: [], orphans: [], layers: [], targets: scratch, unaccounted };
}

function planRows(larder: Larder, pins: PinWatch, { layersOnly }: GcOptions) {
  const { db } = larder;
  const { byDigest } = pins.readAll();
  const untagged = layersOnly ? [] : untaggedManifests(db).filter(({ digest }) => !byDigest.has(digest));
  const manifests = untagged.filter(({ digest }) => isDigest(digest));
  const found = orphanLayers(db);
  const orphans = found.filter(({ diffId }) => isDigest(diffId));
  const foundTheirs = layersOnlyOf(
    db,
    manifests.map(({ id }) => id),
  );
  const theirs = foundTheirs.filter(({ diffId }) => isDigest(diffId));
  const unsafe = [
    ...untagged
      .filter(({ digest }) => !isDigest(digest))
      .map(({ digest }) => `manifest ${JSON.stringify(digest.slice(0, 100))}`),
    ...[...found, ...foundTheirs]
      .filter(({ diffId }) => !isDigest(diffId))
      .map(({ diffId }) => `layer ${JSON.stringify(diffId.slice(0, 100))}`),
  ];
  return { manifests, orphans, layers: [...orphans, ...theirs].map(({ diffId }) => diffId), unsafe };
}

// Each transaction asks again: an image may have got a name or a pin since the plan.
async function deleteRows(
  larder: Larder,
  plan: GcPlan,
  pins: PinWatch,
  { stopped }: GcOptions,
): Promise<Pick<GcPlan, "manifests" | "layers">> {
  const { db } = larder;
  const manifests: GcPlan["manifests"] = [];
  const layers: string[] = [];
  for (let i = 0; i < plan.manifests.length && !stopped?.(); i += BATCH) {
    const ids = plan.manifests.slice(i, i + BATCH).map(({ id }) => id);
    writeTransaction(db, () => {
      const { byDigest } = pins.readAll();
      const still = untaggedManifests(db, ids).filter(({ digest }) => !byDigest.has(digest));
      layers.push(
        ...collectManifests(
          db,
          still.map(({ id }) => id),
        ),
      );
      manifests.push(...still);
    });
    await Bun.sleep(0);
  }
  for (let i = 0; i < plan.orphans.length && !stopped?.(); i += 12 * BATCH) {
    const ids = plan.orphans.slice(i, i + 12 * BATCH).map(({ id }) => id);
    layers.push(...writeTransaction(db, () => deleteOrphans(db, ids)));
    await Bun.sleep(0);
  }
  return { manifests, layers };
}

const SWEEP_ORDER: Kind[] = [
  "metadata",
  "vmdk",
  "fsmeta",
  "flat_ref",
  "flat_blob",
  "layer",
  "blob",
  "foreign",
  "staging",
];

function inSweepOrder(targets: Target[]): Target[] {
  return targets.sort((a, b) => SWEEP_ORDER.indexOf(a.kind) - SWEEP_ORDER.indexOf(b.kind));
}

function reportRows({ manifests, layers, unsafe, unaccounted }: GcPlan) {
  // Sorted, since a plan finds layers in another order than the transactions that delete them.
  return { manifests: manifests.map(({ digest }) => digest), layers: layers.toSorted(), unsafe, unaccounted };
}
