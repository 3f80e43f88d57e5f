import { readFlatRef } from "../../cache/flat.ts";
import { manifestNamedBy } from "../../cache/metadata.ts";
import { FOLDERS } from "../../cache/paths.ts";
import { unneededLayers } from "../../db/layers.ts";
import type { Pins } from "../../db/pins.ts";
import type { Larder } from "../../larder.ts";
import { isDigest } from "../../oci/digest.ts";
import { filesOf } from "../doomed.ts";
import { findStrays } from "../strays.ts";
import { findPinnedUnrecorded, findUnrecorded } from "../unrecorded.ts";
import { type Problem, problem, refused } from "./problem.ts";

interface StrayOptions {
  /** Milliseconds. */
  grace: number;
  /** Leave flat blobs alone: some image's may be among them. */
  keepsBlobs: boolean;
  /** What is wrong with the rows: files whose rows can be rebuilt are no strays. */
  images: Problem[];
  /** The manifests that gc collects; see `unusedManifests`. */
  unused: { digest: string }[];
}

/**
 * Names what no row accounts for; a metadata file that can be read is kept, since its name cannot be turned back.
 */
export function* checkStrays(
  larder: Larder,
  pins: Pins,
  { grace, keepsBlobs, images, unused }: StrayOptions,
): Generator<Problem> {
  const rebuilt = filesRebuilt(larder, images);
  const strays = findStrays(larder, pins, grace);
  const targets = strays.targets.filter(({ path }) => !rebuilt.has(path));
  // A folder that is a link is none: msb follows it.
  const folders = new Set(FOLDERS.map((folder) => larder.cache.folder(folder)));
  const skipped = strays.skipped.filter(({ path }) => !rebuilt.has(path) && !folders.has(path));
  // One whose diff ID is no digest is named with the rows: gc leaves it.
  const orphans = unneededLayers(larder.db, []).flatMap(({ diffId }) => (isDigest(diffId) ? [diffId] : []));
  // While the catalogue does not account for its cache only scratch may go.
  const isTouched =
    targets.some(({ path }) => !larder.cache.isScratch(path)) || hasDoomedFiles(larder, pins, unused, orphans);
  const pinned = isTouched ? findPinnedUnrecorded(larder, pins) : undefined;
  // A metadata file that is young yet may be about to get its rows, and is no damage; but what it speaks for stays.
  const isAccounted = !isTouched || (pinned ?? findUnrecorded(larder, 0)) === undefined;
  const unrecorded = isAccounted ? undefined : (pinned ?? findUnrecorded(larder, grace));
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

// Whether gc would take files of rows, too: those of orphan layers, or of untagged images.
function hasDoomedFiles({ cache }: Larder, pins: Pins, unused: { digest: string }[], orphans: string[]): boolean {
  const manifests = unused.map(({ digest }) => digest);
  const doomed = { canonicals: [], manifests, layers: orphans };
  return filesOf(cache, doomed, pins).targets.length > 0;
}

// The files of rows that are gone and can be rebuilt: no strays, whatever becomes of the rebuilding.
function filesRebuilt({ cache }: Larder, problems: Problem[]): ReadonlySet<string> {
  const files = new Set<string>();
  for (const { mend } of problems) {
    if (mend?.kind !== "rebuild") continue;
    const { manifest_digest, layers } = mend.metadata;
    const ref = cache.flatRef(manifest_digest);
    const blob = readFlatRef(ref.path)?.artifact_digest;
    for (const { path } of [
      ref,
      ...(blob ? [cache.flatBlob(blob)] : []),
      cache.fsmeta(manifest_digest),
      cache.vmdk(manifest_digest),
      ...layers.map(({ diff_id }) => cache.layer(diff_id)),
    ])
      files.add(path);
  }
  return files;
}
