import type { Database } from "bun:sqlite";
import { measure } from "../../cache/file.ts";
import { hasManifest } from "../../db/manifests.ts";
import { namePins, type Pins } from "../../db/pins.ts";
import type { Larder } from "../../larder.ts";
import { isDigest } from "../../oci/digest.ts";
import { type Problem, problem } from "./problem.ts";

/**
 * Names the images that a sandbox or a snapshot needs and that are gone, rows and files: msb's `rm` takes one from under a
 * snapshot, or a sandbox that has not booted yet (interop §7 #29). What has files left is named with the strays, and what is
 * wrong with a row in `images`.
 */
export function* checkPinned({ db, cache }: Larder, { byDigest }: Pins, images: Problem[]): Generator<Problem> {
  const rebuilt = new Set<string>(
    images.flatMap(({ mend }) => (mend?.kind === "rebuild" ? mend.metadata.manifest_digest : [])),
  );
  const ofSandboxes = imagesOfSandboxes(db);
  for (const [digest, pins] of byDigest) {
    if (!isDigest(digest) || hasManifest(db, digest) || rebuilt.has(digest)) continue;
    // Any other digest in a sandbox's configuration may be a layer's, a config's or that of an index of platforms.
    if (!ofSandboxes.has(digest) && !pins.some(({ kind }) => kind === "snapshot")) continue;
    if ([cache.vmdk(digest), cache.fsmeta(digest), cache.flatRef(digest)].some(({ path }) => measure(path))) continue;
    yield problem("image-missing", digest, `${namePins(pins)} needs it, and it is neither on record nor in the cache`);
  }
}

// What msb made each sandbox of, which it keeps in the configuration by this name. One that cannot be read is named with
// the pins.
function imagesOfSandboxes(db: Database): ReadonlySet<unknown> {
  const images = new Set<unknown>();
  const collect = (key: string, value: unknown) => {
    if (key === "manifest_digest") images.add(value);
    return value;
  };
  for (const { config, active_config } of db.query<Record<string, unknown>, []>("SELECT * FROM sandbox").all()) {
    for (const text of [config, active_config]) {
      try {
        JSON.parse(String(text), collect);
      } catch {}
    }
  }
  return images;
}
