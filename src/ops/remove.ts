import { refuseUndeletable } from "../cache/deletable.ts";
import { type DeleteReport, part, partByWork } from "../cache/delete.ts";
import { deleteReferences, findByDigest, findImages, type ImageRow } from "../db/images.ts";
import { refuseLostLayers, refuseUnnamedLayers } from "../db/integrity.ts";
import { type DoomedLayer, deleteOrphans, layersOnlyOf } from "../db/layers.ts";
import { deleteManifests, referencesOf } from "../db/manifests.ts";
import { addIndexes } from "../db/open.ts";
import { namePins, type Pin, type Pins, whyUnknown } from "../db/pins.ts";
import { dataVersion, readTransaction, writeTransaction } from "../db/write.ts";
import { type Code, LarderError } from "../error.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import { type Doomed, filesOf, type Targets, unspelled } from "./doomed.ts";
import { canonicalOf, notFound } from "./images.ts";
import { PinWatch } from "./pins.ts";
import { type DiskReport, reportDeleted, reportPlanned } from "./report.ts";
import { awaitSettled, findObstacles, type Obstacle } from "./settled.ts";
import { whileChecked } from "./soundness.ts";
import { foreseeSoon, type SweepOptions, sweep } from "./sweep.ts";
import { layersOfUnrecorded } from "./unrecorded.ts";

export interface RemoveOptions extends SweepOptions {
  references: string[];
  /** Drop the last name of an image in use, and keep what the pin needs, untagged. */
  force: boolean;
  /** A reference that is not there is no failure. */
  ignoreMissing: boolean;
  dryRun: boolean;
}

/** One reference that stays, and why. */
export interface Refusal {
  reference: string;
  code: Code;
  message: string;
}

/** What a removal does, decided from what was read and before anything changes. */
export interface RemovalPlan {
  drop: { id: number; reference: string; digest: string | null }[];
  /** Manifests that go with their last name. */
  collect: { id: number; digest: string }[];
  /** Manifests that lose their last name and stay, because something pins them. */
  untag: { digest: string; pinned_by: Pin[] }[];
  refused: Refusal[];
}

export interface RemoveReport extends DiskReport {
  removed: { reference: string; digest: string | null }[];
  manifests: string[];
  layers: string[];
  untagged: { digest: string; pinned_by: Pin[] }[];
  /** Rows that are left, because what they hold is no digest. */
  unsafe: string[];
  refused: Refusal[];
}

/**
 * Drops references, in the order given, and with them what nothing else needs: rows in one transaction, then files. One
 * that a pull or load is at work on is refused, and the others go. Throws `interrupted` where it is stopped before.
 */
export async function remove(larder: Larder, options: RemoveOptions): Promise<RemoveReport> {
  const { db } = larder;
  const pins = new PinWatch(larder);
  let obstacles = new Map<string, Obstacle>();
  const decide = () => decideRemoval(larder, options, pins, obstacles);
  let planned = await whileChecked(larder, () => readTransaction(db, decide));
  if (options.dryRun) {
    obstacles = findObstacles(larder, planned.canonicals, options.grace);
    if (obstacles.size > 0) planned = readTransaction(db, decide);
    const found = findFiles(larder, planned, pins.read());
    const soon = foreseeSoon(larder, found.targets, planned.manifests, options.grace);
    const now = partByWork(soon.targets, { ...larder, ...options });
    const left = [...found.skipped, ...soon.skipped, ...now.skipped];
    return { ...reportRows(planned), ...reportPlanned(larder, now.targets, left) };
  }
  // Measured by each look, before the rows go: what msb renames into its place from here on is not what was planned, and
  // stays.
  let files!: Targets;
  const look = () => {
    if (dataVersion(db) !== planned.version) planned = readTransaction(db, decide);
    files = findFiles(larder, planned, pins.read());
    return planned.canonicals;
  };
  for (let tries = 1; ; tries++) {
    const found = await awaitSettled(larder, look, options);
    if (options.stopped?.()) throw new LarderError("interrupted", "the removal was stopped");
    if (found.size > 0) {
      for (const [canonical, obstacle] of found) obstacles.set(canonical, obstacle);
      planned = readTransaction(db, decide);
      continue;
    }
    if (planned.plan.drop.length + planned.plan.collect.length === 0)
      return { ...reportRows(planned), ...reportDeleted(larder, NOTHING_DELETED, []) };
    refuseUndeletable(larder, files.targets, options.grace);
    addIndexes(db);
    const done = writeTransaction(db, () => {
      // Decided before the lock, which is then held for a moment, and again where somebody wrote since: it may have
      // been the very image. Where others write all the time, that is never over.
      const isPlanned = dataVersion(db) === planned.version;
      if (!isPlanned && tries < MOST_TRIES) return undefined;
      const decided = isPlanned ? planned : decide();
      deleteReferences(db, ids(decided.plan.drop));
      deleteManifests(db, ids(decided.plan.collect));
      return { decided, layers: deleteOrphans(db, decided.layerRows) };
    });
    if (!done) continue;
    const removal = { ...done.decided, layers: done.layers };
    const { targets, skipped } = done.decided === planned ? files : findFiles(larder, removal, pins.read());
    return { ...reportRows(removal), ...reportDeleted(larder, await sweep(larder, targets, options), skipped) };
  }
}

const MOST_TRIES = 5;
const NOTHING_DELETED: DeleteReport = { deleted: [], skipped: [], failed: [] };

/** A removal with everything that goes with it. */
interface Removal extends Doomed {
  /** Of the catalogue that it was decided from. */
  version: bigint;
  plan: RemovalPlan;
  layerRows: DoomedLayer[];
  unsafe: string[];
}

function decideRemoval(
  larder: Larder,
  options: RemoveOptions,
  pins: PinWatch,
  obstacles: ReadonlyMap<string, Obstacle>,
): Removal {
  const { db } = larder;
  const asked = findAsked(larder, options.references);
  const plan = planRemoval(asked, countNames(larder, asked), pins.read(), options, obstacles);
  const layers = plan.collect.length === 0 ? [] : layersOnlyOf(db, ids(plan.collect));
  // A layer that only the images to go have a row of may be one that another has lost the row of.
  if (layers.length > 0) {
    refuseLostLayers(db, larder.home.database, ids(plan.collect));
    refuseUnnamedLayers(db, larder.home.database, ids(plan.collect));
  }
  const sound = layers.filter(({ diffId }) => isDigest(diffId));
  return {
    version: dataVersion(db),
    plan,
    canonicals: unspelled(larder, plan.drop),
    manifests: plan.collect.map(({ digest }) => digest),
    layers: sound.map(({ diffId }) => diffId),
    layerRows: sound,
    unsafe: layers.filter(({ diffId }) => !isDigest(diffId)).map(({ diffId }) => `layer ${quote(diffId)}`),
  };
}

function ids(rows: { id: number }[]): number[] {
  return rows.map(({ id }) => id);
}

// Of a cache that the catalogue does not account for, gc and prune take nothing; a removal takes what no image needs that is
// not on record.
function findFiles(larder: Larder, removal: Removal, pins: Pins): Targets {
  const found = filesOf(larder.cache, removal, pins);
  if (found.targets.length === 0) return found;
  const needed = layersOfUnrecorded(larder, removal.manifests);
  const telling = new Set(needed.values());
  const { targets, skipped } = part(found.targets, (file) => {
    const metadata = file.kind === "layer" ? needed.get(file.digest!) : undefined;
    if (metadata !== undefined) return `an image that is not on record needs it, as "${metadata}" says`;
    // Without it nothing would tell of that image, and the next gc would take it.
    return telling.has(file.path) ? "it names an image that is not on record" : undefined;
  });
  return { targets, skipped: [...found.skipped, ...skipped] };
}

/** What was asked for, and the rows that it means. */
interface Asked {
  text: string;
  rows: ImageRow[];
  /** The references of the image, where the text is its digest: they are what can be dropped. Null for what is no text. */
  named: (string | null)[];
}

/**
 * Decides a removal: pure. `names` are the image_ref ids of each manifest that was asked for, `obstacles` what stands in the
 * way of a canonical reference. Arguments count in order, so removing every alias of an image in use fails at the last one
 * only.
 */
export function planRemoval(
  asked: Asked[],
  names: Map<number, Set<number>>,
  pins: Pins,
  options: Pick<RemoveOptions, "force" | "ignoreMissing">,
  obstacles: ReadonlyMap<string, Obstacle> = new Map(),
): RemovalPlan {
  const plan: RemovalPlan = { drop: [], collect: [], untag: [], refused: [] };
  for (const { text, rows, named } of asked) {
    const refuse = (code: Code, message: string) => plan.refused.push({ reference: text, code, message });
    const [row] = rows;
    const canonical = row ? canonicalOf(row) : null;
    const obstacle = canonical === null ? undefined : obstacles.get(canonical);
    const readable = named.filter((name) => name !== null);
    if (readable.length > 0) {
      refuse(
        "ambiguous",
        `cannot remove ${quote(text)}: it is the digest of an image with names (remove ${readable.map(quote).join(" and ")})`,
      );
    } else if (named.length > 0) {
      refuse(
        "damaged",
        `cannot remove ${quote(text)}: it has a name on record that is no text (larder check tells which)`,
      );
    } else if (!row) {
      if (!options.ignoreMissing) refuse("not_found", notFound(text).message);
    } else if (rows.length > 1) {
      refuse(
        "ambiguous",
        `cannot remove ${quote(text)}: it could be ${rows.map((row) => quote(row.reference ?? "")).join(" or ")} (name one exactly)`,
      );
    } else if (obstacle) {
      refuse(obstacle.code, `cannot remove ${quote(text)}: ${obstacle.message}`);
    } else if (!plan.drop.some(({ id }) => id === row.id)) {
      planRow(plan, text, row, names, pins, options.force, refuse);
    }
  }
  return plan;
}

function planRow(
  plan: RemovalPlan,
  text: string,
  row: ImageRow,
  names: Map<number, Set<number>>,
  pins: Pins,
  force: boolean,
  refuse: (code: Code, message: string) => void,
): void {
  const { id, reference, manifestId, digest } = row;
  const rest = new Set(names.get(manifestId ?? -1));
  if (id !== null) rest.delete(id);
  if (rest.size === 0 && manifestId !== null && digest !== null) {
    const pinnedBy = pins.byDigest.get(digest) ?? [];
    const obstacle = describeObstacle(pinnedBy, pins);
    // A name can always be dropped; an untagged image has nothing to give up but its data.
    if (obstacle && !(force && reference !== null)) {
      const hint = reference === null ? "" : " (--force drops the name and keeps its data)";
      refuse(obstacle.code, `cannot remove ${quote(text)}: ${obstacle.message}${hint}`);
      return;
    }
    if (obstacle) plan.untag.push({ digest, pinned_by: pinnedBy });
    else plan.collect.push({ id: manifestId, digest });
  }
  if (manifestId !== null) names.set(manifestId, rest);
  if (id !== null && reference !== null) plan.drop.push({ id, reference, digest });
}

// What stands between an image that loses its last name and the deletion of its data.
function describeObstacle(pinnedBy: Pin[], pins: Pins): Obstacle | undefined {
  if (pinnedBy.length > 0) return { code: "in_use", message: `in use by ${namePins(pinnedBy)}` };
  const unknown = whyUnknown(pins);
  return unknown === undefined ? undefined : { code: "damaged", message: unknown };
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}

function findAsked(larder: Larder, references: string[]): Asked[] {
  return [...new Set(references)].map((text) => {
    const rows = findImages(larder.db, text);
    const tagged = rows.length > 0 ? [] : findByDigest(larder.db, text);
    return { text, rows, named: tagged.map(({ reference }) => reference) };
  });
}

function countNames({ db }: Larder, asked: Asked[]): Map<number, Set<number>> {
  const manifests = asked.flatMap(({ rows }) => rows.flatMap(({ manifestId }) => manifestId ?? []));
  const names = new Map<number, Set<number>>();
  for (const { id, manifestId } of referencesOf(db, manifests)) {
    const ids = names.get(manifestId) ?? new Set();
    names.set(manifestId, ids.add(id));
  }
  return names;
}

function reportRows({ plan, manifests, layers, unsafe }: Removal) {
  const removed = plan.drop.map(({ reference, digest }) => ({ reference, digest }));
  return { removed, manifests, layers, untagged: plan.untag, unsafe, refused: plan.refused };
}
