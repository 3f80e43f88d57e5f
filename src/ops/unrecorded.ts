import { measure } from "../cache/file.ts";
import { manifestNamedBy } from "../cache/metadata.ts";
import { scanCache } from "../cache/scan.ts";
import { hasAnyManifest, hasManifest } from "../db/manifests.ts";
import { namePins, type Pins } from "../db/pins.ts";
import type { Larder } from "../larder.ts";
import { isDigest } from "../oci/digest.ts";

/**
 * A file of an image that something pins and that is not on record, as a sentence; undefined where there is none. msb
 * gets there when putting an image on record fails, which it only warns of (interop §7 #22).
 */
export function findPinnedUnrecorded({ db, cache }: Larder, { byDigest }: Pins): string | undefined {
  for (const [digest, pins] of byDigest) {
    if (!isDigest(digest) || hasManifest(db, digest)) continue;
    const held = [cache.vmdk(digest), cache.fsmeta(digest), cache.flatRef(digest)].find(({ path }) => measure(path));
    if (held) return `${namePins(pins)} needs "${held.path}", whose image is not on record`;
  }
  return undefined;
}

/**
 * Why the catalogue does not account for the cache, or undefined: it holds no manifest at all, or a readable metadata
 * file older than `grace` names a manifest without a row. The database is then lost, fresh or old, or the cache is
 * another home's too, and files without rows may be somebody's images.
 */
export function findUnrecorded(larder: Larder, grace: number): string | undefined {
  if (!hasAnyManifest(larder.db)) return "it has no image on record";
  for (const file of scanCache(larder.cache, { folders: ["manifests"] })) {
    if (file.kind !== "metadata") continue;
    const digest = manifestNamedBy(file.path);
    if (!digest || hasManifest(larder.db, digest)) continue;
    const stat = measure(file.path);
    if (stat && larder.now() - stat.mtimeMs >= grace) return `"${file.path}" names ${digest}, which is not on record`;
  }
  return undefined;
}
