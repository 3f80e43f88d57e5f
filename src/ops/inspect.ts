import { measure } from "../cache/file.ts";
import { readMetadataFile } from "../cache/metadata.ts";
import { findConfig } from "../db/configs.ts";
import type { ImageRow } from "../db/images.ts";
import { type LayerRow, listLayers } from "../db/layers.ts";
import { readTransaction } from "../db/write.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";
import type { ImageMetadata } from "../oci/metadata.ts";
import { cacheKey, isReference } from "../oci/reference.ts";
import { findOne, type Handle, readKnownPins, toHandle } from "./images.ts";

/** A handle with its config and its layers, bottom to top. */
export interface Detail extends Handle {
  config: ConfigDetail | null;
  layers: LayerDetail[];
}

export interface ConfigDetail {
  cmd: string[] | null;
  digest: string | null;
  entrypoint: string[] | null;
  env: string[];
  labels: Record<string, string> | null;
  stop_signal: string | null;
  user: string | null;
  working_dir: string | null;
  /** From the metadata file, for which the catalogue has no column; null where there is no such file. */
  exposed_ports: string[] | null;
  volumes: string[] | null;
}

export interface LayerDetail {
  blob_digest: string | null;
  compressed_size_bytes: number | bigint | null;
  diff_id: string | null;
  erofs_size_bytes: number | bigint | null;
  media_type: string | null;
  position: number | null;
  created_at: string | null;
  last_used_at: string | null;
}

/** The detail that `reference` means; throws `not_found`. */
export function inspect(larder: Larder, reference: string): Detail {
  return readTransaction(larder.db, () => {
    const row = findOne(larder, reference);
    const handle = toHandle(row, readKnownPins(larder));
    const metadata = findMetadata(larder, row);
    const layers = row.manifestId === null ? [] : listLayers(larder.db, row.manifestId);
    for (const { position, damage, diffId } of layers) {
      const found = diffId !== null && !isDigest(diffId) ? [...damage, "diff_id is not a digest"] : damage;
      handle.damage.push(...found.map((what) => `layer ${position}: ${what}`));
    }
    return {
      ...handle,
      // msb counts the rows here, and in the list the manifest's own figure (interop §6).
      layer_count: layers.length,
      config: detailConfig(larder, row, metadata, handle.damage),
      layers: detailLayers(larder, layers, metadata),
    };
  });
}

// A metadata file speaks for the image only if it is about the same manifest: a later pull may have moved the name.
function findMetadata(larder: Larder, row: ImageRow): ImageMetadata | undefined {
  if (row.reference === null || !isReference(row.reference)) return undefined;
  try {
    const metadata = readMetadataFile(larder.cache.metadata(cacheKey(row.reference)).path);
    return metadata?.manifest_digest === row.digest ? metadata : undefined;
  } catch {
    return undefined;
  }
}

function detailConfig(
  larder: Larder,
  row: ImageRow,
  metadata: ImageMetadata | undefined,
  damage: string[],
): ConfigDetail | null {
  const config = row.manifestId === null ? undefined : findConfig(larder.db, row.manifestId);
  if (!config) return null;
  damage.push(...config.damage.map((what) => `config: ${what}`));
  return {
    cmd: config.cmd,
    digest: config.digest,
    entrypoint: config.entrypoint,
    env: config.env,
    labels: config.labels,
    // msb never stores it (interop §7 #8).
    stop_signal: config.stopSignal ?? metadata?.config.stop_signal ?? null,
    user: config.user,
    working_dir: config.workingDir,
    exposed_ports: metadata?.config.exposed_ports ?? null,
    volumes: metadata?.config.volumes ?? null,
  };
}

// A layer row holds the blob of whichever image brought it first; this image's own is in its metadata (interop §7 #10).
function detailLayers(larder: Larder, rows: LayerRow[], metadata: ImageMetadata | undefined): LayerDetail[] {
  return rows.map((row) => {
    const own = row.position === null ? undefined : metadata?.layers[row.position];
    const blob = own && own.diff_id === row.diffId ? own : undefined;
    return {
      blob_digest: blob?.digest ?? row.blobDigest,
      compressed_size_bytes: blob?.size_bytes ?? row.compressedSizeBytes,
      diff_id: row.diffId,
      erofs_size_bytes: row.erofsSizeBytes ?? artifactSize(larder, row.diffId),
      media_type: blob?.media_type ?? row.mediaType,
      position: row.position,
      created_at: row.createdAt?.rfc3339 ?? null,
      last_used_at: row.lastUsedAt?.rfc3339 ?? null,
    };
  });
}

function artifactSize(larder: Larder, diffId: string | null): number | null {
  const stat = isDigest(diffId) ? measure(larder.cache.layer(diffId).path) : undefined;
  return stat?.isFile() ? stat.size : null;
}
