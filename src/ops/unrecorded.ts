import { hasEntry, isYoung, measure, namesIn } from "../cache/file.ts";
import { manifestNamedBy, readMetadataFile } from "../cache/metadata.ts";
import { type CachePaths, FOLDERS } from "../cache/paths.ts";
import { scanCache } from "../cache/scan.ts";
import { hasAnyLayer } from "../db/layers.ts";
import { hasAnyManifest, hasManifest, listManifestDigests } from "../db/manifests.ts";
import { namePins, type Pins } from "../db/pins.ts";
import { isSystemError } from "../error.ts";
import type { Larder } from "../larder.ts";
import { type Digest, isDigest } from "../oci/digest.ts";

/**
 * A file of an image that something pins and that is not on record, as a sentence; undefined where there is none. msb
 * gets there when putting an image on record fails, which it only warns of (interop §7 #22).
 */
export function findPinnedUnrecorded({ db, cache }: Larder, { byDigest }: Pins): string | undefined {
  for (const [digest, pins] of byDigest) {
    if (!isDigest(digest) || hasManifest(db, digest)) continue;
    const held = [cache.vmdk(digest), cache.fsmeta(digest), cache.flatRef(digest)].find(({ path }) => measure(path));
    if (held) return `${namePins(pins)} needs "${held.path}", whose image is not on record (${PERSIST})`;
  }
  return undefined;
}

const PERSIST = 'put the image on record with "larder persist"';
const PERSIST_OR_SWEEP = `${PERSIST}, or sweep all the same with --sweep-unrecorded`;

/**
 * Why the catalogue does not account for the cache, or undefined: it holds no manifest at all, or a metadata file older
 * than `grace` names a manifest without a row, be it in its first words alone. The database is then lost, fresh or old, or
 * the cache is another home's too, and files without rows may be somebody's images.
 */
export function findUnrecorded(larder: Larder, grace: number): string | undefined {
  if (!hasAnyManifest(larder.db)) return `it has no image on record (${PERSIST_OR_SWEEP})`;
  for (const { path, digest } of eachUnrecorded(larder.cache, (digest) => hasManifest(larder.db, digest))) {
    const stat = measure(path);
    if (stat && !isYoung(stat.mtimeMs, larder.now(), grace))
      return `"${path}" names ${digest}, which is not on record (${PERSIST_OR_SWEEP})`;
  }
  return undefined;
}

/**
 * Why the cache cannot be that of the catalogue, or undefined: it has none of msb's folders, or disks and not one layer of
 * theirs. So looks a disk that is not mounted, or a cache that a lost config.json no longer names: rows that went now would
 * be missed once it is back.
 */
export function findLostCache({ db, cache }: Larder): string | undefined {
  const there = new Set(namesIn(cache.root));
  if (!FOLDERS.some((folder) => there.has(folder.split("/")[0]!)))
    return `there is no cache of msb's at "${cache.root}" (${MOUNT_OR_EVICT})`;
  const [layers, disks] = [cache.folder("layers"), cache.folder("vmdk")];
  if (!hasEntry(layers) && hasEntry(disks) && hasAnyLayer(db))
    return `"${layers}" is empty, and what is in "${disks}" needs layers (${MOUNT_OR_EVICT})`;
  return undefined;
}

const MOUNT_OR_EVICT = "mount it, or evict all the same with --sweep-unrecorded";

/**
 * The layers that images need which msb could boot and which are not on record, by diff ID, with the metadata file that says
 * so. The catalogue is then an old one or a lost one, or the cache another home's too. Whether there is such an image, names
 * tell: to look into every metadata file would take a large cache as long as all the rest of a removal. `leaving` are digests
 * of manifests that go, or whose rows have gone just now: they need nothing any more.
 */
export function layersOfUnrecorded({ db, cache }: Larder, leaving: string[] = []): Map<Digest, string> {
  const layers = new Map<Digest, string>();
  const recorded = new Set([...listManifestDigests(db), ...leaving]);
  const bootable = scanCache(cache, { folders: ["vmdk", "flat/refs"] });
  if (bootable.every(({ digest }) => digest === undefined || recorded.has(digest))) return layers;
  for (const { path } of eachUnrecorded(cache, (digest) => recorded.has(digest)))
    for (const diffId of layersNamedBy(path)) layers.set(diffId, path);
  return layers;
}

/** The metadata files that name a manifest which is not on record, with its digest. */
function* eachUnrecorded(cache: CachePaths, isRecorded: (digest: Digest) => boolean) {
  for (const { kind, path } of scanCache(cache, { folders: ["manifests"] })) {
    const digest = kind === "metadata" ? manifestNamedBy(path) : undefined;
    if (digest && !isRecorded(digest)) yield { path, digest };
  }
}

// One that is cut off names an image, and no layers: msb would not read it either.
function layersNamedBy(path: string): Digest[] {
  try {
    return readMetadataFile(path)?.layers.map(({ diff_id }) => diff_id) ?? [];
  } catch (error) {
    if (isSystemError(error)) throw error;
    return [];
  }
}
