import type { Database } from "bun:sqlite";
import { isImmutable, refuseUndeletable } from "../cache/deletable.ts";
import type { Skipped, Target } from "../cache/delete.ts";
import { manifestNamedBy } from "../cache/metadata.ts";
import type { Kind } from "../cache/paths.ts";
import { deleteReferences } from "../db/images.ts";
import { refuseLostLayers, refuseUnnamedLayers } from "../db/integrity.ts";
import { type DoomedLayer, deleteOrphans, unneededLayers } from "../db/layers.ts";
import { deleteManifests, referencesOf, untaggedAmong } from "../db/manifests.ts";
import { addIndexes } from "../db/open.ts";
import { namePins } from "../db/pins.ts";
import { BatchSize, keepPages, readTransaction } from "../db/write.ts";
import type { Larder } from "../larder.ts";
import { type Digest, isDigest } from "../oci/digest.ts";
import { canonicalOrNull } from "../oci/reference.ts";
import { filesOf, type Stock, unspelled } from "./doomed.ts";
import { type PinWatch, unusedManifests } from "./pins.ts";
import { whyImmutable } from "./settled.ts";
import { whileChecked } from "./soundness.ts";
import { findStrays, type Strays } from "./strays.ts";
import { foreseeSoon, type SweepOptions } from "./sweep.ts";
import { findLostCache, findPinnedUnrecorded, findUnrecorded } from "./unrecorded.ts";

export interface CollectOptions extends SweepOptions {
  /** Orphan layers alone. */
  layersOnly?: boolean;
  /** Sweep although the catalogue does not account for the cache. */
  sweepUnrecorded: boolean;
}

/** A manifest to collect, with the names that go before it; one that keeps other names stays. */
export interface Leaving {
  id: number;
  digest: string;
  drop: { id: number; reference: string; updatedAt: unknown }[];
}

/** What a policy adds to a collection, and what it takes out. */
export interface Selection {
  /** Images to go although they have names. */
  evicted: Leaving[];
  /** Digests of untagged manifests to stay. */
  spare: ReadonlySet<string>;
  /** The stray files, where they are known already. */
  strays?: Strays;
  /** The cache's files, where they are measured already. */
  stock?: Stock;
  /** `unneededLayers`, where all that it reads is read already. */
  unneeded?: (going: number[]) => DoomedLayer[];
}

/** No policy: what a gc takes, and no more. */
export const NOTHING: Selection = { evicted: [], spare: new Set() };

/** What a collection is going to do. */
export interface CollectionPlan {
  leaving: Leaving[];
  /** Rows of layers that nothing needs once those have gone. */
  layerRows: DoomedLayer[];
  /** Row ids of the manifests that go: those of `leaving` that keep no name. */
  going: number[];
  /** Their digests. */
  manifests: string[];
  /** Diff IDs of those layers. */
  layers: string[];
  /** Rows that are left, because what they hold is no digest. */
  unsafe: string[];
  targets: Target[];
  /** Of those, what has to go where the rows do. */
  owned: Target[];
  skipped: Skipped[];
  /** Of those that were skipped, what a later collection takes unless rows follow. */
  later: Target[];
  /** Why only staging is swept, or null. */
  unaccounted: string | null;
}

/** What it did to the catalogue. */
export interface CollectedRows {
  manifests: string[];
  layers: string[];
  references: string[];
  /** Images that were to go, and stayed because something had changed. */
  spared: { digest: string; reason: string }[];
  /**
   * What ended the work after some of it was committed, to be thrown once the files of that are swept: on a full disk
   * they make room for the next attempt.
   */
  failure?: unknown;
}

/**
 * Plans a collection: what is selected, untagged unpinned manifests, orphan layers and stray files. Throws `damaged`
 * while what is in use cannot be told.
 */
export function planCollection(
  larder: Larder,
  pins: PinWatch,
  options: CollectOptions,
  selection: Selection,
): CollectionPlan {
  const { strays, stock } = selection;
  const rows = readTransaction(larder.db, () => planRows(larder, pins, options, selection));
  if (!options.sweepUnrecorded && rows.leaving.length + rows.layerRows.length > 0) {
    const lost = findLostCache(larder);
    if (lost !== undefined)
      return { ...rows, ...LEFT, targets: [], owned: [], skipped: [], later: [], unaccounted: lost };
  }
  const others = options.layersOnly
    ? { targets: [], skipped: [] }
    : (strays ?? findStrays(larder, pins.read(), options.grace));
  const strayRefs = others.targets.flatMap(({ kind, digest }) => (kind === "flat_ref" ? digest! : []));
  const own = filesOf(larder.cache, rows, pins.read(), strayRefs, stock);
  const files = inSweepOrder([...own.targets, ...others.targets]);
  const { targets, later, skipped } = foreseeSoon(larder, files, rows.manifests, options.grace);
  const plan: CollectionPlan = {
    ...rows,
    targets,
    owned: [...own.targets, ...othersAbout(others.targets, rows.manifests)],
    skipped: [...own.skipped, ...others.skipped, ...skipped],
    later,
    unaccounted: null,
  };
  const scratch = plan.targets.filter(({ path }) => larder.cache.isScratch(path));
  // What is left for now shows a lost catalogue no less.
  if (scratch.length === files.length) return plan;
  const unaccounted =
    findPinnedUnrecorded(larder, pins.read()) ??
    (options.sweepUnrecorded ? null : (findUnrecorded(larder, options.grace) ?? null));
  return unaccounted === null ? plan : { ...plan, ...LEFT, targets: scratch, unaccounted };
}

// Metadata files beside those of an image's own names, which would stay behind without its rows, too.
function othersAbout(strays: Target[], manifests: string[]): Target[] {
  const going = new Set(manifests);
  if (going.size === 0) return [];
  return strays.filter(({ kind, path }) => kind === "metadata" && going.has(manifestNamedBy(path) ?? ""));
}

const LEFT = { leaving: [], going: [], layerRows: [], manifests: [], layers: [] };

/**
 * Plans a collection that is going to be applied, and gives with it what `select` made: throws `damaged` for a damaged
 * database, which is looked at while `select` reads what it needs, and looks again before it takes a catalogue for lost.
 * Another larder has its rows gone a moment before its metadata files.
 */
export async function planForDeletion<S extends Selection>(
  larder: Larder,
  pins: PinWatch,
  options: CollectOptions,
  select: () => S,
): Promise<{ selection: S; plan: CollectionPlan }> {
  const planSafely = (selection: Selection) => {
    refuseLostLayers(larder.db, larder.home.database);
    const plan = planCollection(larder, pins, options, selection);
    refuseUnnamedLayers(larder.db, larder.home.database, plan.going);
    return plan;
  };
  const made = await whileChecked(larder, () => {
    const selection = select();
    return { selection, plan: planSafely(selection) };
  });
  const { evicted, spare } = made.selection;
  for (let look = 0; made.plan.unaccounted !== null && look < 3; look++) {
    await Bun.sleep(100);
    made.plan = planSafely({ evicted, spare });
  }
  return made;
}

function planRows(
  larder: Larder,
  pins: PinWatch,
  { layersOnly }: CollectOptions,
  { evicted, spare, unneeded }: Selection,
) {
  const { db } = larder;
  const known = pins.readAll();
  const untagged = layersOnly ? [] : unusedManifests(db, known).filter(({ digest }) => !spare.has(digest));
  const leaving = [...evicted, ...untagged.map((manifest): Leaving => ({ ...manifest, drop: [] }))].filter(
    ({ digest }) => isDigest(digest),
  );
  const dropped = leaving.flatMap(({ drop }) => drop);
  const gone = withoutNames(larder, leaving, dropped);
  const going = gone.map(({ id }) => id);
  const layers = unneeded?.(going) ?? unneededLayers(db, going);
  const layerRows = layers.filter(({ diffId }) => isDigest(diffId));
  return {
    leaving,
    going,
    layerRows,
    layers: layerRows.map(({ diffId }) => diffId),
    manifests: gone.map(({ digest }) => digest),
    canonicals: unspelled(larder, dropped),
    unsafe: [
      ...untagged
        .filter(({ digest }) => !isDigest(digest))
        .map(({ digest }) => `manifest ${JSON.stringify(digest.slice(0, 100))}`),
      ...layers
        .filter(({ diffId }) => !isDigest(diffId))
        .map(({ diffId }) => `layer ${JSON.stringify(diffId.slice(0, 100))}`),
    ],
  };
}

// Those that have no name left once `dropped` are gone.
function withoutNames({ db }: Larder, leaving: Leaving[], dropped: { id: number }[]): Leaving[] {
  const ids = new Set(dropped.map(({ id }) => id));
  const names = referencesOf(
    db,
    leaving.map(({ id }) => id),
  );
  const named = new Set(names.filter(({ id }) => !ids.has(id)).map(({ manifestId }) => manifestId));
  return leaving.filter(({ id }) => !named.has(id));
}

/**
 * Applies a plan to the catalogue, in short transactions. Each asks again: an image that has got a pin or a new use
 * since stays, and is reported. Throws `failed` before any goes whose files could not, and `damaged` where an image that
 * stays has a layer that nothing names.
 */
export async function collectRows(
  larder: Larder,
  plan: CollectionPlan,
  pins: PinWatch,
  { stopped, grace }: SweepOptions,
): Promise<CollectedRows> {
  const { db } = larder;
  if (plan.leaving.length + plan.layerRows.length > 0) {
    refuseUndeletable(larder, plan.owned, grace);
    addIndexes(db);
  }
  keepPages(db);
  // What a statement needs to undo itself is a half of all that a delete writes, and would go to a temporary file.
  db.run("PRAGMA temp_store = MEMORY");
  const { leaving, spared } = withoutImmutable(plan);
  const rows: CollectedRows = { references: [], manifests: [], layers: [], spared };
  const manifests = new BatchSize(FIRST_MANIFESTS, MOST_ROWS);
  try {
    const collect = (batch: Leaving[]) => collectBatch(larder, batch, pins);
    for await (const done of inBatches(db, leaving, manifests, stopped, collect)) {
      rows.references.push(...done.references);
      rows.manifests.push(...done.manifests);
      rows.spared.push(...done.spared);
    }
  } catch (failure) {
    if (!hasCollected(rows)) throw failure;
    rows.failure = failure;
  }
  try {
    // After a failure too: the files that make room are those of layers.
    const size = new BatchSize(LAYERS_A_MANIFEST * manifests.size, MOST_ROWS);
    const drop = (batch: DoomedLayer[]) => deleteOrphans(db, batch);
    for await (const diffIds of inBatches(db, plan.layerRows, size, stopped, drop)) rows.layers.push(...diffIds);
  } catch (failure) {
    if (!hasCollected(rows)) throw failure;
    rows.failure ??= failure;
  }
  // An image that stays although it was to go needs its layers, which the plan did not count on.
  if (rows.spared.length > 0) refuseUnnamedLayers(db, larder.home.database);
  return rows;
}

// An image whose metadata file cannot go stays: without its rows that file would make the catalogue look lost.
function withoutImmutable({ leaving, owned }: CollectionPlan): Pick<CollectedRows, "spared"> & { leaving: Leaving[] } {
  const stuck = owned.filter(({ kind, path }) => kind === "metadata" && isImmutable(path));
  if (stuck.length === 0) return { leaving, spared: [] };
  const byDigest = new Map(stuck.map(({ path }) => [manifestNamedBy(path), path]));
  const byName = new Map(stuck.map(({ canonical, path }) => [canonical, path]));
  const fileOf = ({ digest, drop }: Leaving) =>
    byDigest.get(digest as Digest) ??
    drop.map(({ reference }) => byName.get(canonicalOrNull(reference) ?? "")).find((path) => path !== undefined);
  const spared: CollectedRows["spared"] = [];
  const others = leaving.filter((image) => {
    const path = fileOf(image);
    if (path !== undefined) spared.push({ digest: image.digest, reason: whyImmutable(path) });
    return path === undefined;
  });
  return { leaving: others, spared };
}

/** Runs a change on a few items after the other, a transaction each, and yields what it made of them once committed. */
async function* inBatches<T, R>(
  db: Database,
  items: T[],
  batches: BatchSize,
  stopped: SweepOptions["stopped"],
  change: (batch: T[]) => R,
): AsyncGenerator<R> {
  for (let i = 0; i < items.length && !stopped?.(); ) {
    const batch = items.slice(i, i + batches.size);
    i += batch.length;
    yield batches.run(db, batch.length, () => change(batch));
    // Between two transactions: signals are heard here.
    await Bun.sleep(0);
  }
}

// What a slow disk gets done in BATCH_MS, so that the first transaction of all is not the longest.
const FIRST_MANIFESTS = 500;
// How many rows of layers take about the time of a manifest: how fast the disk is, the manifests have told by then.
const LAYERS_A_MANIFEST = 5;
const MOST_ROWS = 10_000;

function collectBatch(
  larder: Larder,
  batch: Leaving[],
  pins: PinWatch,
): Pick<CollectedRows, "references" | "manifests" | "spared"> {
  const { db } = larder;
  const { byDigest } = pins.readAll("no more was deleted");
  const spared: CollectedRows["spared"] = [];
  const known = new Map(
    referencesOf(
      db,
      batch.map(({ id }) => id),
    ).map((name) => [name.id, name]),
  );
  const leaving = batch.filter(({ id, digest, drop }) => {
    const pinnedBy = byDigest.get(digest);
    const isUsed = drop.some((name) => {
      const now = known.get(name.id);
      return now !== undefined && now.manifestId === id && now.updatedAt !== name.updatedAt;
    });
    if (pinnedBy) spared.push({ digest, reason: `in use by ${namePins(pinnedBy)} since the plan was made` });
    else if (isUsed) spared.push({ digest, reason: "used since the plan was made" });
    return !pinnedBy && !isUsed;
  });
  const dropped = leaving.flatMap(({ id, drop }) => drop.filter((name) => known.get(name.id)?.manifestId === id));
  deleteReferences(
    db,
    dropped.map(({ id }) => id),
  );
  const gone = untaggedAmong(
    db,
    leaving.map(({ id }) => id),
  );
  deleteManifests(
    db,
    gone.map(({ id }) => id),
  );
  return {
    references: dropped.map(({ reference }) => reference),
    manifests: gone.map(({ digest }) => digest),
    spared,
  };
}

/** The rows of a plan, as a dry run reports them. */
export function plannedRows({ manifests, layers, leaving }: CollectionPlan): CollectedRows {
  const references = leaving.flatMap(({ drop }) => drop.map(({ reference }) => reference));
  return { references, manifests, layers, spared: [] };
}

/** Whether any row went. */
export function hasCollected({ references, manifests, layers }: CollectedRows): boolean {
  return references.length + manifests.length + layers.length > 0;
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

/** Sorts targets in place so that each comes before what it speaks for: metadata first, flat refs before their blobs. */
export function inSweepOrder(targets: Target[]): Target[] {
  return targets.sort((a, b) => SWEEP_ORDER.indexOf(a.kind) - SWEEP_ORDER.indexOf(b.kind));
}
