import { measure } from "../../cache/file.ts";
import { manifestNamedBy } from "../../cache/metadata.ts";
import { FOLDERS } from "../../cache/paths.ts";
import { unneededLayers } from "../../db/layers.ts";
import type { Pins } from "../../db/pins.ts";
import type { Larder } from "../../larder.ts";
import { isDigest } from "../../oci/digest.ts";
import { findStrays } from "../strays.ts";
import { findPinnedUnrecorded, findUnrecorded } from "../unrecorded.ts";
import { type Problem, problem, refused } from "./problem.ts";

interface StrayOptions {
  /** Milliseconds. */
  grace: number;
  /** Leave flat blobs alone: some image's may be among them. */
  keepsBlobs: boolean;
  /** Files that will have their rows again. */
  rebuilt: ReadonlySet<string>;
}

/**
 * Names what no row accounts for; a metadata file that can be read is kept, since its name cannot be turned back.
 */
export function* checkStrays(
  larder: Larder,
  pins: Pins,
  { grace, keepsBlobs, rebuilt }: StrayOptions,
): Generator<Problem> {
  const strays = findStrays(larder, grace);
  const targets = strays.targets.filter(({ path }) => !rebuilt.has(path));
  // A folder that is a link is none: msb follows it.
  const folders = new Set(FOLDERS.map((folder) => larder.cache.folder(folder)));
  const skipped = strays.skipped.filter(({ path }) => !rebuilt.has(path) && !folders.has(path));
  // One whose diff ID is no digest is named with the rows: gc leaves it.
  const orphans = unneededLayers(larder.db, []).flatMap(({ diffId }) => (isDigest(diffId) ? [diffId] : []));
  // While the catalogue does not account for its cache only scratch may go.
  const isTouched =
    targets.some(({ path }) => !larder.cache.isScratch(path)) ||
    orphans.some((diffId) => measure(larder.cache.layer(diffId).path) !== undefined);
  const unrecorded = isTouched ? (findPinnedUnrecorded(larder, pins) ?? findUnrecorded(larder, grace)) : undefined;
  const isAccounted = unrecorded === undefined;
  if (unrecorded !== undefined) yield problem("catalogue-unaccounted", "catalogue", unrecorded);
  for (const target of targets) {
    const { kind, path } = target;
    const manifest = kind === "metadata" ? manifestNamedBy(path) : undefined;
    if (manifest)
      yield problem("metadata-unrecorded", path, `it is about ${manifest}, and no reference on record has it`);
    else {
      const isSwept = larder.cache.isScratch(path) || (isAccounted && !(keepsBlobs && kind === "flat_blob"));
      const mend = isSwept ? ({ kind: "sweep", target } as const) : undefined;
      if (kind === "staging") yield problem("staging-stale", path, "scratch that no work is using", mend);
      else yield problem("stray-file", path, "no row accounts for it", mend);
    }
  }
  const young = new Set(strays.young.map(({ path }) => path));
  for (const { kind, path, reason } of skipped) {
    const found = problem(kind === "staging" ? "staging-stale" : "stray-file", path, reason);
    yield young.has(path) ? found : refused(found, "gc leaves it while that is so");
  }
  for (const diffId of orphans) yield problem("layer-orphan", `layer ${diffId}`, "no manifest has it");
}
