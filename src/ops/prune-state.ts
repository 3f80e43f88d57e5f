import type { Target } from "../cache/delete.ts";
import { isYoung, measure } from "../cache/file.ts";
import { type CachePaths, FOLDERS } from "../cache/paths.ts";
import { findRunningScratch } from "../cache/work.ts";
import type { Pins } from "../db/pins.ts";
import { LarderError } from "../error.ts";
import { type FileSystem, isOneFileSystem, settledFileSystemOf } from "../host/disk.ts";
import { mayBeLocked } from "../host/flock.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import { canonicalKey } from "../oci/reference.ts";
import {
  asksForFreeSpace,
  freeWanted,
  hasBudget,
  type PruneImage,
  type PrunePolicy,
  type PruneState,
} from "./prune-plan.ts";
import { metadataGrace } from "./settled.ts";
import { bootedBy } from "./snapshots.ts";
import type { Usage, UsedFile, UsedImage } from "./usage.ts";

/** What the state is read for, and what of the moment is known already. Milliseconds. */
interface Asked {
  policy: PrunePolicy;
  pins: Pins;
  /** What shows that a pull or load runs, or undefined. */
  work: string | undefined;
  now: number;
  grace: number;
}

/** The state that a plan is made from, and what of a plan is missed where files stay. */
export interface ReadState {
  state: PruneState;
  /** Of the bytes that the plan counts on with these files, those of what has not gone; `gone` are paths. */
  bytesLeft(planned: Target[], gone: ReadonlySet<string>): number;
}

/**
 * Reads which images a policy may take, and which bytes go with the last of a file's images. Where free space is missing those
 * are the blocks that become free on the file system of the layers: none for a file elsewhere, or one that has a name outside
 * of the cache. Where the cache is too large those are the blocks that leave it.
 */
export function readState(
  { cache }: Larder,
  { files, images, catalogue, index }: Usage,
  used: UsedImage[],
  strays: Target[],
  { policy, pins, work, now, grace }: Asked,
): ReadState {
  const isLoading = work !== undefined && findRunningScratch(cache, now, grace) !== undefined;
  const orphans = catalogue.layers.filter(({ manifests, isHeldElsewhere }) => manifests === 0 && !isHeldElsewhere);
  const orphaned = orphans.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId).path : []));
  const garbage = new Set([...strays.map(({ path }) => path), ...orphaned]);
  const unsettled = findUnsettled(used, files, now, grace);
  const asksForSpace = asksForFreeSpace(policy);
  const space = asksForSpace ? measureSpace(cache) : NO_SPACE;
  const disk = { totalBytes: space.total_bytes, freeBytes: space.free_bytes };
  const isForSpace = freeWanted(policy, disk) > disk.freeBytes || (asksForSpace && policy.maxSize === undefined);
  const { units, bytes } = unitsOf(files, isForSpace);
  // What an image needs that no policy may take stays, as does a file that is nobody's and no garbage either, a layer of a
  // manifest that is not there, a folder in an artifact's place, and metadata by which msb boots a snapshot.
  const staying = [
    ...images.filter(({ manifest }) => !isDigest(manifest.digest)).flatMap(({ files }) => files),
    ...catalogue.layers
      .filter(({ isHeldElsewhere }) => isHeldElsewhere)
      .flatMap(({ diffId }) => index.find("layer", diffId) ?? []),
  ];
  const isKept = ({ path }: UsedFile) => !garbage.has(path);
  // Read for a budget alone, which counts its bytes. What a reference has names another image where `persist` moved that on.
  const booted = hasBudget(policy) ? bootedBy(pins) : () => undefined;
  for (const [i, file] of files.entries())
    if (
      (file.images === 0 ? isKept(file) : booted(file) !== undefined) ||
      (file.isFolder && !cache.isScratch(file.path))
    )
      staying.push(i);
  const elsewhere = isForSpace ? foldersElsewhere(cache) : [];
  if (elsewhere.length > 0)
    for (const [i, { path }] of files.entries())
      if (elsewhere.some((folder) => path.startsWith(folder))) staying.push(i);
  for (const file of staying) bytes[units[file]!] = 0;
  const kept = new Set(units.filter((_, i) => isKept(files[i]!)));
  const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);
  const state: PruneState = {
    images: used.map((image) => {
      const about = toPruneImage(cache, image, files, { work, isLoading, unsettled, now, grace });
      const metadata = metadataByName(image, index);
      const unitOf = (file: number) => units[file]!;
      if (metadata.length === 0) return { ...about, files: [...new Set(image.files.map(unitOf))] };
      const common = image.files.filter((file) => !metadata.includes(file));
      const names = about.names.map((name, i) =>
        metadata[i] === undefined ? name : { ...name, metadata: unitOf(metadata[i]) },
      );
      return { ...about, names, files: [...new Set(common.map(unitOf))] };
    }),
    files: bytes,
    ...(work !== undefined && { work }),
    disk: {
      cacheBytes: sum(files.map(({ allocated }) => allocated)),
      garbageBytes: sum(bytes.filter((_, unit) => !kept.has(unit))),
      ...disk,
    },
  };
  return {
    state,
    bytesLeft: (planned, gone) => sum(unitsLeft(files, units, planned, gone).map((unit) => bytes[unit]!)),
  };
}

// Of the only name of an image it goes with the others of the image's files.
function metadataByName({ canonicals }: UsedImage, index: Usage["index"]): (number | undefined)[] {
  if (canonicals.length < 2) return [];
  return canonicals.map((canonical) =>
    canonical === null ? undefined : index.find("metadata", canonicalKey(canonical)),
  );
}

// Those all of whose names were to go, and one of them has not.
function unitsLeft(files: UsedFile[], units: number[], planned: Target[], gone: ReadonlySet<string>): number[] {
  // Nearly always so, and then nothing need be looked for.
  if (planned.every(({ path }) => gone.has(path))) return [];
  const wanted = new Set(planned.map(({ path }) => path));
  const kept = new Set(units.filter((_, i) => !wanted.has(files[i]!.path)));
  return [...new Set(units.filter((unit, i) => !gone.has(files[i]!.path) && !kept.has(unit)))];
}

/** The file system that a budget of free space is about: that of the layers. Throws `failed` where it tells no size. */
export function measureSpace(cache: CachePaths): FileSystem {
  const folder = cache.folder("layers");
  const disk = settledFileSystemOf(folder);
  if (disk.total_bytes > 0) return disk;
  throw new LarderError(
    "failed",
    `the file system of "${folder}" tells neither its size nor what is free: no budget of free space can be kept (use --max-size)`,
  );
}

const NO_SPACE: FileSystem = { total_bytes: 0, free_bytes: 0 };

// With a slash at the end.
function foldersElsewhere(cache: CachePaths): string[] {
  const layers = cache.folder("layers");
  const others = FOLDERS.map((folder) => cache.folder(folder)).filter((folder) => !isOneFileSystem(folder, layers));
  return others.map((folder) => `${folder}/`);
}

// Names of one file are one unit, that of the first of them: all of them have to go. Where one lies outside of the cache, its
// blocks are never free.
function unitsOf(files: UsedFile[], isForSpace: boolean): { units: number[]; bytes: number[] } {
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
  if (isForSpace) for (const { unit, elsewhere } of linked.values()) if (elsewhere > 0) bytes[unit] = 0;
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
    Math.floor(mtimeMs) > latest && Math.abs(now - mtimeMs) < metadataGrace(grace);
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
  const layers = manifest.layers.flatMap(({ diffId }) => (isDigest(diffId) ? cache.layer(diffId).lock : []));
  const fsmeta = isDigest(manifest.digest) ? [cache.fsmeta(manifest.digest).lock] : [];
  const held = [...metadata.map(({ lock }) => lock), ...fsmeta, ...layers].find(mayBeLocked);
  if (held !== undefined || !isLoading) return held;
  return metadata.find(({ path }) => isYoung(measure(path)?.mtimeMs ?? 0, now, grace))?.path;
}
