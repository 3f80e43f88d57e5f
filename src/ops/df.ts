import type { Target } from "../cache/delete.ts";
import { groupLinks } from "../cache/file.ts";
import type { Kind } from "../cache/paths.ts";
import { scanEverything } from "../cache/scan.ts";
import { findLostLayer, findUnnamedLayer } from "../db/integrity.ts";
import { whyUnwritable } from "../db/open.ts";
import { type Pin, whyUnknown } from "../db/pins.ts";
import { toRfc3339 } from "../db/timestamp.ts";
import { unneededOf } from "../db/usage.ts";
import { type FileSystem, fileSystemOf } from "../host/disk.ts";
import type { Larder } from "../larder.ts";
import { NOTHING, planCollection } from "./collect.ts";
import { PinWatch } from "./pins.ts";
import type { Strays } from "./strays.ts";
import { DEFAULT_GRACE_MS } from "./sweep.ts";
import { stockOf, takeStock, type Usage, type UsedFile } from "./usage.ts";

/** A row of the account: a kind of file of the cache, or `stray` for what no row accounts for. */
export type DfKind = Exclude<Kind, "blob" | "foreign"> | "stray";

/** Sizes in bytes: lengths, blocks on the disk, and what a gc would free now. */
export interface DfRow {
  files: number;
  bytes: number;
  allocated_bytes: number;
  reclaimable_bytes: number;
}

/** Allocated bytes of one image: what only it needs, and what it shares with others. */
export interface DfImage {
  digest: string;
  references: string[];
  own_bytes: number;
  shared_bytes: number;
  last_used_at: string | null;
  pinned_by: Pin[];
}

export interface DfReport {
  database: string;
  cache: string;
  kinds: ({ kind: DfKind } & DfRow)[];
  total: DfRow;
  /** Why a gc would refuse, so that nothing is reclaimable, or sweep no more than `tmp/`; or null. */
  refused: string | null;
  /** Every allocated byte once: needed by one image, by several, or by none. Their sum is the total. */
  attribution: { own_bytes: number; shared_bytes: number; unattributed_bytes: number };
  file_system: FileSystem & { used_bytes: number };
  images: DfImage[];
}

const KINDS: DfKind[] = ["layer", "fsmeta", "vmdk", "flat_ref", "flat_blob", "metadata", "staging", "lock", "stray"];

/** Accounts for the cache, file by file, each byte once. Where a gc would refuse, at most scratch is reclaimable. */
export function df(larder: Larder): DfReport {
  const pins = new PinWatch(larder);
  const { usage, strays } = takeStock(larder, pins, DEFAULT_GRACE_MS, scanEverything);
  const unaccounted = new Set([...strays.targets, ...strays.skipped].map(({ path }) => path));
  const { refused, targets } = foresee(larder, pins, strays, usage);
  const reclaimable = withoutLinked(usage.files, new Set(targets.map(({ path }) => path)));
  const byKind = Map.groupBy(usage.files, (file) => kindOf(file, unaccounted));
  const { total_bytes, free_bytes } = fileSystemOf(larder.cache.folder("layers"));
  return {
    database: larder.home.database,
    cache: larder.cache.root,
    kinds: KINDS.map((kind) => ({ kind, ...sum(byKind.get(kind) ?? [], reclaimable) })),
    total: sum(usage.files, reclaimable),
    refused,
    attribution: attribute(usage.files),
    file_system: { total_bytes, used_bytes: total_bytes - free_bytes, free_bytes },
    images: usage.images.map((image) => toImage(image, usage)),
  };
}

// What a gc would take, and why it would refuse: where there is no catalogue, and where it cannot tell what is in use, or
// who needs a layer. An unaccounted cache it sweeps of scratch alone.
function foresee(
  larder: Larder,
  pins: PinWatch,
  strays: Strays,
  usage: Usage,
): Pick<DfReport, "refused"> & { targets: Target[] } {
  const { db, home, isMissing } = larder;
  const refuse = (refused: string) => ({ refused, targets: [] });
  if (isMissing) return refuse(`there is no catalogue at "${home.database}"`);
  const why = whyUnwritable(db, home.database) ?? whyUnknown(pins.read());
  if (why !== undefined) return refuse(why);
  const lost = findLostLayer(db);
  if (lost !== undefined) return refuse(`the row of a layer of ${lost} is lost`);
  const options = { grace: DEFAULT_GRACE_MS, sweepUnrecorded: false };
  const plan = planCollection(larder, pins, options, {
    ...NOTHING,
    strays,
    stock: stockOf(usage),
    unneeded: (going) => unneededOf(usage.catalogue, going),
  });
  const unnamed = findUnnamedLayer(db, plan.going);
  if (unnamed !== undefined) return refuse(`a layer of ${unnamed} has a diff ID that is no digest`);
  const { unaccounted, targets } = plan;
  return { refused: unaccounted && `the catalogue does not account for its cache: ${unaccounted}`, targets };
}

// The blocks of a file with several links are free once the last of them goes.
function withoutLinked(files: UsedFile[], going: ReadonlySet<string>): ReadonlySet<string> {
  const isGoing = ({ path }: UsedFile) => going.has(path);
  const staying = groupLinks(files)
    .filter((names) => names.filter(isGoing).length < names[0]!.link!.of)
    .flat();
  return going.difference(new Set(staying.map(({ path }) => path)));
}

function kindOf({ kind, path }: UsedFile, unaccounted: ReadonlySet<string>): DfKind {
  if (kind === "blob" || kind === "foreign") return "stray";
  return kind !== "staging" && kind !== "lock" && unaccounted.has(path) ? "stray" : kind;
}

function sum(files: UsedFile[], reclaimable: ReadonlySet<string>): DfRow {
  const row: DfRow = { files: files.length, bytes: 0, allocated_bytes: 0, reclaimable_bytes: 0 };
  for (const { path, bytes, allocated } of files) {
    row.bytes += bytes;
    row.allocated_bytes += allocated;
    if (reclaimable.has(path)) row.reclaimable_bytes += allocated;
  }
  return row;
}

function attribute(files: UsedFile[]): DfReport["attribution"] {
  const total = (some: UsedFile[]) => some.reduce((sum, { allocated }) => sum + allocated, 0);
  return {
    own_bytes: total(files.filter(({ images }) => images === 1)),
    shared_bytes: total(files.filter(({ images }) => images > 1)),
    unattributed_bytes: total(files.filter(({ images }) => images === 0)),
  };
}

function toImage({ manifest, files: needed, lastUsed, pinnedBy }: Usage["images"][number], { files }: Usage): DfImage {
  const bytes = (shared: boolean) =>
    needed.reduce((sum, file) => sum + (files[file]!.images > 1 === shared ? files[file]!.allocated : 0), 0);
  return {
    digest: manifest.digest,
    references: manifest.names.map(({ reference }) => reference),
    own_bytes: bytes(false),
    shared_bytes: bytes(true),
    last_used_at: lastUsed === null ? null : toRfc3339(lastUsed),
    pinned_by: pinnedBy,
  };
}
