import { partByWork } from "../cache/delete.ts";
import type { Larder } from "../larder.ts";
import {
  type CollectedRows,
  type CollectionPlan,
  type CollectOptions,
  collectRows,
  hasCollected,
  NOTHING,
  planForDeletion,
  plannedRows,
} from "./collect.ts";
import { PinWatch } from "./pins.ts";
import { type DiskReport, reportDeleted, reportPlanned } from "./report.ts";
import { sweep } from "./sweep.ts";

export interface GcOptions extends CollectOptions {
  dryRun: boolean;
}

export interface GcReport extends DiskReport {
  /** Digests of the untagged manifests that went. */
  manifests: string[];
  /** Diff IDs of the layers that went. */
  layers: string[];
  /** Rows that were left, because what they hold is no digest. */
  unsafe: string[];
  /** Untagged images that stayed, because something had changed since the plan. */
  spared: CollectedRows["spared"];
  /** Why only staging was swept, or null. */
  unaccounted: string | null;
}

/** Collects orphan layers, untagged unpinned manifests and stray files: rows first, in short transactions, then files. */
export async function gc(larder: Larder, options: GcOptions): Promise<GcReport> {
  const pins = new PinWatch(larder);
  const { plan } = await planForDeletion(larder, pins, options, () => NOTHING);
  if (options.dryRun) {
    const { targets, skipped } = partByWork(plan.targets, { ...larder, ...options });
    return {
      ...reportRows(plan, plannedRows(plan)),
      ...reportPlanned(larder, targets, [...plan.skipped, ...skipped]),
    };
  }
  const rows = await collectRows(larder, plan, pins, options);
  const deleted = await sweep(larder, plan.targets, { ...options, isFirstStep: !hasCollected(rows) });
  if (rows.failure !== undefined) throw rows.failure;
  return { ...reportRows(plan, rows), ...reportDeleted(larder, deleted, plan.skipped) };
}

function reportRows({ unsafe, unaccounted }: CollectionPlan, { manifests, layers, spared }: CollectedRows) {
  // Sorted, since a plan finds them in another order than the transactions that delete them.
  return { manifests: manifests.toSorted(), layers: layers.toSorted(), unsafe, spared, unaccounted };
}
