import { basename } from "node:path";
import {
  type ArtifactFault,
  type Extent,
  examineErofs,
  examineErofsDeep,
  examineKind,
  isRejected,
  readExtents,
} from "../../cache/artifact.ts";
import { measure } from "../../cache/file.ts";
import { readFlatRef } from "../../cache/flat.ts";
import { hashFile } from "../../cache/hash.ts";
import type { CacheFile, CachePaths } from "../../cache/paths.ts";
import { listErofsSizes } from "../../db/layers.ts";
import type { Pins } from "../../db/pins.ts";
import { listUsage, type ManifestUsage } from "../../db/usage.ts";
import { isSystemError } from "../../error.ts";
import type { Larder } from "../../larder.ts";
import { type Digest, isDigest } from "../../oci/digest.ts";
import { FLAT, type Problem, problem, withUnreadable } from "./problem.ts";

/** Told how many of the layers and images were looked at. */
export type Progress = (done: number, total: number) => void;

/**
 * Checks the files that rows need: layers, merged trees, disks and flat roots. Between two of them it yields undefined,
 * for whoever wants to do something else for a moment, or to stop.
 */
export function* checkArtifacts(
  larder: Larder,
  pins: Pins,
  deep: boolean,
  progress?: Progress,
): Generator<Problem | undefined> {
  const { cache, db } = larder;
  const recorded = listUsage(db).manifests;
  const manifests = recorded.filter(({ digest }) => isDigest(digest));
  // An untagged image that nothing pins is only waiting for gc.
  const pulled = manifests.filter(({ names, digest }) => names.length > 0 || pins.byDigest.has(digest));
  const pinned = pinnedFiles(cache, recorded, pins);
  const layers = new Set(manifests.flatMap(({ layers }) => layers.map(({ diffId }) => diffId)).filter(isDigest));
  const faulty = new Set<string>();
  let done = 0;
  for (const diffId of layers) {
    const file = cache.layer(diffId);
    const subject = `layer ${diffId}`;
    for (const found of withUnreadable(subject, checkErofs(file, subject, deep, pinned))) {
      faulty.add(file.path);
      yield found;
    }
    progress?.(++done, layers.size + pulled.length);
    yield undefined;
  }
  yield* withUnreadable("cache", checkSizes(larder, faulty));
  for (const manifest of pulled) {
    yield* checkManifestFiles(larder, manifest, deep, pinned);
    progress?.(++done, layers.size + pulled.length);
    yield undefined;
  }
}

/** The files of these that a pinned image needs. They are left to msb: a running VM may have them open. */
export function pinnedFiles(
  cache: CachePaths,
  manifests: ManifestUsage[],
  { byDigest, unreadable }: Pins,
): ReadonlySet<string> {
  const pinned = manifests.filter(({ digest }) => byDigest.has(digest) || unreadable.length > 0);
  const files = pinned.flatMap(({ digest, layers }) => [
    ...(isDigest(digest) ? [cache.vmdk(digest), cache.fsmeta(digest)] : []),
    ...layers.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId) : [])),
  ]);
  return new Set(files.map(({ path }) => path));
}

function* checkErofs(file: CacheFile, subject: string, deep: boolean, pinned: ReadonlySet<string>): Generator<Problem> {
  const fault = deep ? examineErofsDeep(file.path) : examineErofs(file.path);
  if (fault) yield faultOf(file, subject, fault, pinned);
}

function faultOf(file: CacheFile, subject: string, fault: ArtifactFault, pinned: ReadonlySet<string>): Problem {
  return problem(
    `artifact-${fault}`,
    subject,
    `"${file.path}" ${FAULTS[fault]}`,
    isRejected(fault) && !pinned.has(file.path) ? { kind: "discard", file } : undefined,
  );
}

const FAULTS: Record<ArtifactFault, string> = {
  missing: "does not exist",
  empty: "is empty",
  misaligned: "is no whole number of 4 KiB blocks",
  "not-erofs": "is not an EROFS image with a root folder",
  truncated: "is shorter than its superblock says",
  "is-folder": "is a folder",
  "is-link": "is a link",
  "not-a-file": "is not a regular file",
  "bad-checksum": "has a superblock whose checksum does not hold",
};

function* checkSizes({ db, cache }: Larder, faulty: ReadonlySet<string>): Generator<Problem> {
  for (const { diffId, erofsSize } of listErofsSizes(db)) {
    if (!isDigest(diffId)) continue;
    const { path } = cache.layer(diffId);
    const stat = faulty.has(path) ? undefined : measure(path);
    if (!stat?.isFile() || erofsSize === BigInt(stat.size)) continue;
    const mend = { kind: "size", diffId, bytes: stat.size } as const;
    const subject = `layer ${diffId}`;
    if (erofsSize === null)
      yield problem("erofs-size-unrecorded", subject, `its artifact has ${stat.size} bytes`, mend);
    else
      yield problem(
        "erofs-size-mismatch",
        subject,
        `${erofsSize} bytes are on record, and its artifact has ${stat.size}`,
        mend,
      );
  }
}

function* checkManifestFiles(
  larder: Larder,
  { digest, names, layers }: ManifestUsage,
  deep: boolean,
  pinned: ReadonlySet<string>,
): Generator<Problem> {
  const { cache } = larder;
  const subject = names[0]?.reference ?? digest;
  const ref = cache.flatRef(digest as Digest);
  const isFlat = exists(ref);
  const fsmeta = cache.fsmeta(digest as Digest);
  // An image that was materialized flat needs no merged tree and no disk.
  if (!isFlat || exists(fsmeta)) yield* withUnreadable(subject, checkErofs(fsmeta, subject, deep, pinned));
  const parts = [fsmeta, ...layers.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId) : []))];
  const disk = checkVmdk(larder, cache.vmdk(digest as Digest), subject, isFlat, pinned, parts);
  yield* withUnreadable(subject, disk);
  if (isFlat) yield* withUnreadable(subject, checkFlat(larder, ref, subject, deep));
}

// What cannot even be asked for is there for all that is known.
function exists({ path }: CacheFile): boolean {
  try {
    return measure(path) !== undefined;
  } catch (error) {
    if (isSystemError(error)) return true;
    throw error;
  }
}

function* checkVmdk(
  larder: Larder,
  file: CacheFile,
  subject: string,
  isFlat: boolean,
  pinned: ReadonlySet<string>,
  parts: CacheFile[],
): Generator<Problem> {
  const fault = examineKind(measure(file.path));
  if (fault) {
    if (!(fault === "missing" && isFlat)) yield faultOf(file, subject, fault, pinned);
    return;
  }
  const extents = readExtents(file.path);
  if (extents.length === 0) {
    const mend = pinned.has(file.path) ? undefined : ({ kind: "discard", file } as const);
    yield problem("vmdk-unreadable", subject, `"${file.path}" names no extent`, mend);
    return;
  }
  const missing = extents.find(({ path }) => !measure(path)?.isFile());
  const strange = extents.find(({ path }) => !larder.cache.isInPlace(path));
  if (strange) {
    const mend = canRelocate(larder, extents) ? ({ kind: "relocate", file } as const) : undefined;
    yield problem("vmdk-mislocated", subject, `"${file.path}" names "${strange.path}"`, mend);
  } else if (missing) {
    yield problem("vmdk-extent-missing", subject, `"${file.path}" names "${missing.path}", which does not exist`);
  } else {
    const named = new Set(extents.map(({ path }) => basename(path)));
    const left = parts.find(({ path }) => !named.has(basename(path)));
    if (left) yield problem("vmdk-incomplete", subject, `"${file.path}" does not name "${left.path}"`);
  }
}

/** Whether every file that a disk joins lies in this cache now, as long as the disk says at least. */
export function canRelocate({ cache }: Larder, extents: Extent[]): boolean {
  return extents.every(({ path, sectors }) => {
    const now = cache.relocated(path);
    const stat = now === undefined ? undefined : measure(now);
    return stat?.isFile() && stat.size >= sectors * SECTOR;
  });
}

const SECTOR = 512;

function* checkFlat({ cache }: Larder, file: CacheFile, subject: string, deep: boolean): Generator<Problem> {
  const ref = readFlatRef(file.path);
  if (ref?.manifest_digest !== file.digest || !ref) {
    yield problem("flat-ref-unreadable", subject, `"${file.path}" cannot be used`);
    return;
  }
  const blob = cache.flatBlob(ref.artifact_digest);
  const stat = measure(blob.path);
  const fault = examineKind(stat);
  if (fault) {
    const found = problem(`artifact-${fault}`, subject, `"${blob.path}" ${FAULTS[fault]}`);
    yield fault === "missing" ? { ...found, advice: FLAT } : found;
  } else if (stat!.size !== ref.virtual_size_bytes)
    yield problem(
      "flat-blob-size",
      subject,
      `"${blob.path}" has ${stat!.size} bytes, and ${ref.virtual_size_bytes} belong there`,
    );
  else if (deep && hashFile(blob.path, ref.artifact_digest) !== ref.artifact_digest)
    yield problem("flat-blob-digest", subject, `"${blob.path}" does not have the digest in its name`);
}
