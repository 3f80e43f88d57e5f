import { measure } from "../../cache/file.ts";
import { readMetadataFile } from "../../cache/metadata.ts";
import { type ConfigRow, findConfig } from "../../db/configs.ts";
import { danglingManifest, type ImageRow, listImages, listUntagged } from "../../db/images.ts";
import { type LayerRow, listLayers } from "../../db/layers.ts";
import { manifestIdOf } from "../../db/manifests.ts";
import { asLarderError } from "../../error.ts";
import type { Larder } from "../../larder.ts";
import { type Digest, digestAs, isDigest } from "../../oci/digest.ts";
import { type ImageMetadata, namesSameBlobs, platformOf } from "../../oci/metadata.ts";
import { cacheKey, canonicalReference, isReference } from "../../oci/reference.ts";
import { totalSize } from "../persist.ts";
import { type Mend, type Problem, type ProblemCode, problem } from "./problem.ts";

/** Checks every image: its rows against each other, and against the metadata that msb keeps of it. */
export function* checkImages(larder: Larder, deep: boolean): Generator<Problem> {
  const rows = listImages(larder.db);
  yield* checkConflicts(rows);
  const manifests = new Map<number, { row: ImageRow; metadata: ImageMetadata | undefined }>();
  for (const row of rows) {
    const metadata = yield* checkMetadata(larder, row, rows, deep);
    yield* checkReference(larder, row, metadata);
    if (row.manifestId === null) continue;
    // Of several names the first that still has its metadata speaks for the image.
    const known = manifests.get(row.manifestId);
    if (!known || (!known.metadata && metadata)) manifests.set(row.manifestId, { row, metadata });
  }
  for (const { row, metadata } of manifests.values()) yield* checkManifest(larder, row, metadata);
  for (const row of listUntagged(larder.db)) {
    const digest = String(row.digest);
    yield problem("untagged-manifest", digest, "no reference names it");
    yield* checkManifest(larder, row, undefined);
  }
}

function* checkConflicts(rows: ImageRow[]): Generator<Problem> {
  const named = rows.filter(({ reference }) => reference !== null && isReference(reference));
  for (const [canonical, same] of Map.groupBy(named, ({ reference }) => canonicalReference(reference!))) {
    if (new Set(same.map(({ digest }) => digest)).size > 1) {
      yield problem(
        "reference-conflict",
        canonical,
        `${same.map(({ reference }) => reference).join(" and ")} mean it, and name different images`,
      );
    }
  }
}

function* checkReference(larder: Larder, row: ImageRow, metadata: ImageMetadata | undefined): Generator<Problem> {
  const reference = row.reference ?? `image_ref row ${row.id}`;
  if (row.reference === null || !isReference(row.reference))
    yield problem("reference-invalid", reference, "it is not an image reference");
  for (const what of row.damage) {
    if (isTime(what)) continue;
    const mend = REBUILT.test(what) ? rebuildBy(row, metadata, recordedLayers(larder, row, metadata)) : undefined;
    yield problem(what.startsWith("manifest") ? "foreign-key" : "column-unreadable", reference, what, mend);
  }
}

// What a rebuild writes anew, of what a reader may find unreadable.
const REBUILT = /^(?:manifest|architecture|os|variant|layer_count|size_bytes) /;

// Times are checked by the table, so that one row is reported once.
function isTime(what: string): boolean {
  return /^(?:created|updated|last_used)_at /.test(what);
}

/** Checks the metadata file of a name, and returns it where it speaks for the image on record. */
function* checkMetadata(
  larder: Larder,
  row: ImageRow,
  rows: ImageRow[],
  deep: boolean,
): Generator<Problem, ImageMetadata | undefined> {
  if (row.reference === null || !isReference(row.reference)) return undefined;
  const { path } = larder.cache.metadata(cacheKey(row.reference));
  let metadata: ImageMetadata | undefined;
  try {
    metadata = readMetadataFile(path);
  } catch (error) {
    yield problem("metadata-unreadable", row.reference, asLarderError(error).message);
    return undefined;
  }
  if (!metadata) {
    const code = isMadeBySnapshot(larder, row, rows) ? "metadata-absent" : "metadata-missing";
    yield problem(code, row.reference, `there is no "${path}"`);
    return undefined;
  }
  // A reference whose manifest row is gone has nothing but its metadata to go by.
  if (row.digest !== null && metadata.manifest_digest !== row.digest) {
    yield problem(
      "metadata-mismatch",
      row.reference,
      `"${path}" is about ${metadata.manifest_digest}, and ${row.digest} is on record`,
    );
    return undefined;
  }
  if (metadata.raw_manifest_json === undefined || metadata.raw_config_json === undefined) {
    yield problem("metadata-old-shape", row.reference, `"${path}" is of msb 0.4.4's shape`);
  } else if (deep) {
    yield* checkRaw(row.reference, metadata, metadata.raw_manifest_json, metadata.raw_config_json);
  }
  return metadata;
}

// When msb 0.6.6 and later boot a snapshot, they put its image on record by digest, under no tag and without metadata.
function isMadeBySnapshot({ cache }: Larder, { reference, manifestId }: ImageRow, rows: ImageRow[]): boolean {
  const hasMetadata = ({ reference: other }: ImageRow) =>
    other !== null && isReference(other) && measure(cache.metadata(cacheKey(other)).path) !== undefined;
  return reference?.includes("@") === true && rows.some((row) => row.manifestId === manifestId && hasMetadata(row));
}

function* checkRaw(reference: string, metadata: ImageMetadata, manifest: string, config: string): Generator<Problem> {
  const { manifest_digest, config_digest } = metadata;
  const report = (name: string, text: string, digest: Digest, more = "") =>
    problem(
      "raw-digest-mismatch",
      reference,
      `its raw ${name} has the digest ${digestAs(digest, text)}, and claims ${digest}${more}`,
    );
  // A pull keeps the manifest as msb writes it, and not as it came (interop §5): then what it names has to do.
  if (digestAs(manifest_digest, manifest) !== manifest_digest && !namesSameBlobs(metadata, manifest))
    yield report("manifest", manifest, manifest_digest, "; nor does it name the same config and layers");
  if (digestAs(config_digest, config) !== config_digest) yield report("config", config, config_digest);
}

function* checkManifest(larder: Larder, row: ImageRow, metadata: ImageMetadata | undefined): Generator<Problem> {
  const { manifestId, digest } = row;
  const subject = row.reference ?? digest ?? `manifest row ${manifestId}`;
  const layers = listLayers(larder.db, manifestId!);
  const mend = rebuildBy(row, metadata, layers);
  if (digest !== null && !isDigest(digest))
    yield problem("digest-invalid", subject, `${JSON.stringify(digest.slice(0, 100))} is not a digest`);
  yield* checkLayers(row, layers, metadata, subject, mend);
  const config = findConfig(larder.db, manifestId!);
  if (!config) yield problem("config-missing", subject, "its manifest has no config row", mend);
  else yield* checkConfig(config, metadata, subject, mend);
  const platform = metadata && platformOf(metadata);
  if (
    platform &&
    (platform.architecture !== row.architecture || platform.os !== row.os || platform.variant !== row.variant)
  ) {
    yield problem(
      "platform-outdated",
      subject,
      `its config says ${writePlatform(platform)}, and ${writePlatform(row)} is on record`,
      mend,
    );
  }
}

function* checkLayers(
  row: ImageRow,
  layers: LayerRow[],
  metadata: ImageMetadata | undefined,
  subject: string,
  mend: Mend | undefined,
): Generator<Problem> {
  const report = (code: ProblemCode, message: string) => problem(code, subject, message, mend);
  // An image without layers is legitimate; it says so itself.
  const expected = metadata?.layers.length ?? row.layerCount;
  if (layers.length === 0 && expected !== 0) yield report("layers-missing", "its manifest has no layers on record");
  else if (row.layerCount !== layers.length)
    yield report("layer-count-mismatch", `layer_count is ${row.layerCount}, and ${layers.length} are on record`);
  if (layers.some(({ position }, i) => position !== i))
    yield report("position-gap", "its layers' positions do not count from 0 without a gap");
  if (metadata && (row.sizeBytes === null || BigInt(row.sizeBytes) !== totalSize(metadata))) {
    yield report("size-mismatch", `total_size_bytes is ${row.sizeBytes}, and its layers have ${totalSize(metadata)}`);
  }
  if (
    metadata &&
    layers.length > 0 &&
    layers.map(({ diffId }) => diffId).join() !== metadata.layers.map(({ diff_id }) => diff_id).join()
  ) {
    yield report("layers-missing", "the layers on record are not those that its metadata names");
  }
  for (const layer of layers) {
    const name = layer.diffId === null ? `${subject}, layer ${layer.position}` : `layer ${layer.diffId}`;
    for (const what of layer.damage) if (!isTime(what)) yield problem("column-unreadable", name, what);
    if (layer.diffId !== null && !isDigest(layer.diffId))
      yield problem(
        "digest-invalid",
        subject,
        `the diff ID ${JSON.stringify(layer.diffId.slice(0, 100))} of a layer is not a digest`,
      );
  }
}

function* checkConfig(
  config: ConfigRow,
  metadata: ImageMetadata | undefined,
  subject: string,
  mend: Mend | undefined,
): Generator<Problem> {
  for (const what of config.damage)
    yield problem(what.includes("JSON") ? "json-unreadable" : "column-unreadable", subject, `config: ${what}`, mend);
  if (config.digest !== null && !isDigest(config.digest)) {
    const text = JSON.stringify(config.digest.slice(0, 100));
    yield problem("digest-invalid", subject, `the digest ${text} of its config is not a digest`, mend);
  }
  if (!metadata) return;
  const missing = [];
  if (Object.keys(metadata.config.labels).length > 0 && config.labels === null) missing.push("labels");
  if (metadata.config.stop_signal !== null && config.stopSignal === null) missing.push("stop signal");
  if (missing.length > 0)
    yield problem("config-outdated", subject, `the catalogue lacks its ${missing.join(" and ")}`, mend);
}

// `recorded` are the layers of the manifest row that a rebuild writes anew.
function rebuildBy(
  { reference, manifestId, digest }: ImageRow,
  metadata: ImageMetadata | undefined,
  recorded: LayerRow[],
): Mend | undefined {
  if (reference === null || !metadata) return undefined;
  // A manifest row whose digest cannot be read may be any image's.
  if (manifestId !== null && digest === null) return undefined;
  // It would take a layer off the record that the image may need.
  const named = new Set<unknown>(metadata.layers.map(({ diff_id }) => diff_id));
  if (recorded.some(({ diffId }) => isDigest(diffId) && !named.has(diffId))) return undefined;
  return { kind: "rebuild", reference, manifestId, metadata };
}

// Where a reference's manifest row is gone, a rebuild writes that which has the digest by now, or makes the old one again.
function recordedLayers({ db }: Larder, { reference, manifestId }: ImageRow, metadata?: ImageMetadata): LayerRow[] {
  if (reference === null || !metadata) return [];
  const id = manifestId ?? manifestIdOf(db, metadata.manifest_digest) ?? danglingManifest(db, reference);
  return id === null ? [] : listLayers(db, id);
}

function writePlatform({ os, architecture, variant }: Pick<ImageRow, "os" | "architecture" | "variant">): string {
  return [os, architecture, variant].filter((part) => part !== null).join("/") || "nothing";
}
