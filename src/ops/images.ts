import { readSnapshots } from "../cache/snapshots.ts";
import {
  eachImage,
  findByDigest,
  findImages,
  type ImageRow,
  listLabels,
  listUntagged,
  type Place,
  placeOf,
} from "../db/images.ts";
import { findUnknownPins, type Pin, type Pins, readPins, whyUnknown } from "../db/pins.ts";
import { isStringMap } from "../db/row.ts";
import { readTransaction } from "../db/write.ts";
import { LarderError } from "../error.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import { matchGlob } from "../oci/glob.ts";
import { canonicalOrNull, isReference } from "../oci/reference.ts";

/** One image by one of its names: first the fields that msb prints too, then larder's own. Sizes in bytes. */
export interface Handle {
  architecture: string | null;
  created_at: string | null;
  digest: string | null;
  layer_count: number | null;
  os: string | null;
  /** As typed; null for an untagged manifest. */
  reference: string | null;
  size_bytes: number | bigint | null;
  canonical: string | null;
  last_used_at: string | null;
  media_type: string | null;
  pinned_by: Pin[];
  variant: string | null;
  /** What of it could not be read; empty for a sound image. */
  damage: string[];
}

/** Which images to list. Conditions of one key are alternatives; those of different keys must all hold. */
export interface Filter {
  /** Globs on the reference, as typed or canonical. */
  reference?: string[];
  labels?: { key: string; value?: string }[];
  pinned?: boolean;
  untagged?: boolean;
  /** Created at least this many milliseconds ago. */
  until?: number;
  /** Prefixes of the digest, with or without its algorithm. */
  digest?: string[];
}

/**
 * What `use` makes of the rows, newest first; `all` shows untagged manifests too, after the names. It is given them one by
 * one, and inside one view of the catalogue: of a long list only its text need be kept. And what is known to be in use.
 * Throws `damaged` where the filter asks for pins, and some of them cannot be read.
 */
export function list<T>(
  larder: Larder,
  filter: Filter,
  all: boolean,
  use: (rows: Iterable<ImageRow>, pins: Pins) => T,
): T {
  return readTransaction(larder.db, () => {
    const pins = readKnownPins(larder);
    return use(eachRow(larder, filter, all, pins), pins);
  });
}

/** A part of the same list, and where the next part begins: null at its end. */
export interface Page {
  handles: Handle[];
  next: Position | null;
}

/** A place in the list: the row that was shown last. */
export interface Position extends Place {
  isUntagged: boolean;
}

/**
 * At most `limit` handles of the list, from behind `after` on, each with what of the pins could not be read. A row that went
 * since does not lose the place.
 */
export function listPage(larder: Larder, filter: Filter, all: boolean, limit: number, after?: Position): Page {
  return readTransaction(larder.db, () => {
    const pins = readKnownPins(larder);
    const rows: ImageRow[] = [];
    for (const row of eachRow(larder, filter, all, pins, after, limit + 1)) if (rows.push(row) > limit) break;
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      handles: page.map((row) => toHandle(row, pins)),
      next: last && rows.length > limit ? positionOf(last) : null,
    };
  });
}

function positionOf(row: ImageRow): Position {
  return { isUntagged: row.reference === null && row.id === null, ...placeOf(row) };
}

function* eachRow(
  larder: Larder,
  filter: Filter,
  all: boolean,
  pins: Pins,
  after?: Position,
  most = Number.POSITIVE_INFINITY,
): Generator<ImageRow> {
  const { db } = larder;
  const isShown = compileFilter(larder, filter, pins);
  // Where nothing is filtered out, no more has to be sorted than is shown.
  const enough = Number.isFinite(most) && Object.keys(filter).length === 0 ? most : undefined;
  if (filter.untagged !== true && !after?.isUntagged)
    for (const row of eachImage(db, after, enough)) if (isShown(row)) yield row;
  if (filter.untagged === true || all)
    for (const row of listUntagged(db, after?.isUntagged ? after : undefined, enough)) if (isShown(row)) yield row;
}

/** The handle that `reference` means; throws `not_found`. */
export function get(larder: Larder, reference: string): Handle {
  return readTransaction(larder.db, () => toHandle(findOne(larder, reference), readKnownPins(larder)));
}

/**
 * The row that `reference` means to a reader, to whom several spellings of one are no trouble: the canonical one, else
 * the newest, answers. Throws `not_found`.
 */
export function findOne(larder: Larder, reference: string): ImageRow {
  const named = findImages(larder.db, reference);
  const rows = named.length > 0 ? named : findByDigest(larder.db, reference);
  const row = rows.find((row) => row.reference !== null && row.reference === canonicalOf(row)) ?? rows[0];
  if (!row) throw notFound(reference);
  return row;
}

/** The error for a reference that no row has; `database` where there is not even a catalogue to look into. */
export function notFound(reference: string, database?: string): LarderError {
  const hint = database === undefined ? hintOf(reference) : ` (there is no catalogue at "${database}")`;
  return new LarderError("not_found", `image not found: ${JSON.stringify(reference.slice(0, 200))}${hint}`);
}

// What is typed for a reference and is none, or looks like one only to the parser.
function hintOf(text: string): string {
  if (/^sha(?:256|384|512):[0-9a-f]+$/i.test(text) && !isDigest(text))
    return " (a digest is given whole, and in lower case: `larder list -a --filter digest=...` finds it)";
  if (/[*?]/.test(text))
    return " (no pattern is taken here: `larder list -q --filter reference=...` names what matches one)";
  return isReference(text) ? "" : " (it is not a valid reference either)";
}

/** What the catalogue and the snapshots on disk pin, to show it: what deletes asks a `PinWatch`. */
export function readKnownPins(larder: Larder): Pins {
  return readPins(larder.db, readSnapshots(...larder.home.snapshots));
}

/** A row as it is shown. */
export function toHandle(row: ImageRow, pins: Pins): Handle {
  return {
    architecture: row.architecture,
    created_at: row.createdAt?.rfc3339 ?? null,
    digest: row.digest,
    layer_count: row.layerCount,
    os: row.os,
    reference: row.reference,
    size_bytes: row.sizeBytes,
    canonical: canonicalOf(row),
    last_used_at: row.updatedAt?.rfc3339 ?? null,
    media_type: row.mediaType,
    pinned_by: pinsOf(row, pins),
    variant: row.variant,
    damage: [...damageOf(row), ...unreadableOf(pins)],
  };
}

/** Who uses the image of a row, as far as that is known. */
export function pinsOf({ digest }: ImageRow, { byDigest }: Pins): Pin[] {
  return (digest !== null && byDigest.get(digest)) || [];
}

/** What of a row could not be read, or is not what it should be. */
export function damageOf({ damage, digest }: ImageRow): string[] {
  return digest !== null && !isDigest(digest) ? [...damage, "digest is not a digest"] : damage;
}

// The image may be in use by what could not be read, and a program that reads standard output alone must not take it for
// unused. The first of them: there may be one a sandbox, and `larder check` names them all.
function unreadableOf({ unreadable }: Pins): string[] {
  if (unreadable.length === 0) return [];
  const [trouble, ...others] = unreadable;
  const more = others.length > 0 ? `, and ${others.length} more` : "";
  return [`pinned_by may lack something: ${trouble}${more}`];
}

/** Its reference in canonical form; null where it has none, or one that is no reference. */
export function canonicalOf(row: ImageRow): string | null {
  return row.reference === null ? null : canonicalOrNull(row.reference);
}

function compileFilter(larder: Larder, filter: Filter, pins: Pins): (row: ImageRow) => boolean {
  const { reference, labels, pinned, untagged, until, digest } = filter;
  if (pinned !== undefined) refuseUnknownPins(larder, pins);
  const labelsOf = labels ? readLabels(larder) : undefined;
  const now = larder.now();
  return (row) =>
    (!reference ||
      reference.some((glob) =>
        [row.reference, canonicalOf(row)].some((name) => name !== null && matchGlob(glob, name)),
      )) &&
    (!labels || labels.some(({ key, value }) => hasLabel(labelsOf?.get(row.manifestId ?? -1), key, value))) &&
    (pinned === undefined || pinned === (row.digest !== null && pins.byDigest.has(row.digest))) &&
    (untagged === undefined || untagged === (row.id === null)) &&
    (until === undefined || (row.createdAt !== null && now - row.createdAt.ms >= until)) &&
    (!digest ||
      digest.some((prefix) => row.digest?.startsWith(prefix) || row.digest?.split(":")[1]?.startsWith(prefix)));
}

// Who asks for what is not in use may be about to remove it, so here a newer msb's table counts, as for what deletes.
function refuseUnknownPins({ db }: Larder, pins: Pins): void {
  const unknown = whyUnknown({ ...pins, unreadable: [...pins.unreadable, ...findUnknownPins(db)] });
  if (unknown !== undefined) throw new LarderError("damaged", unknown);
}

function hasLabel(labels: Record<string, string> | undefined, key: string, value: string | undefined): boolean {
  return labels !== undefined && Object.hasOwn(labels, key) && (value === undefined || labels[key] === value);
}

function readLabels(larder: Larder): Map<number, Record<string, string>> {
  const byManifest = new Map<number, Record<string, string>>();
  for (const { manifestId, labels } of listLabels(larder.db)) {
    try {
      const value: unknown = JSON.parse(String(labels));
      if (isStringMap(value)) byManifest.set(manifestId, value);
    } catch {}
  }
  return byManifest;
}
