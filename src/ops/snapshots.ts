import { manifestNamedBy } from "../cache/metadata.ts";
import type { CacheFile } from "../cache/paths.ts";
import { type Pins, whyUnknown } from "../db/pins.ts";

/**
 * Tells of a metadata file why it stays although no reference has it, or undefined: msb boots a snapshot by a metadata file of
 * its image, and by no other of its files (interop §7 #31). A snapshot that cannot be read may be of any image.
 */
export function bootedBy(pins: Pins): (file: CacheFile) => string | undefined {
  const unknown = whyUnknown(pins);
  if (unknown !== undefined) return ({ kind }) => (kind === "metadata" ? unknown : undefined);
  const snapshots = new Map<string, string>();
  for (const [digest, pinnedBy] of pins.byDigest)
    for (const { kind, name } of pinnedBy) if (kind === "snapshot") snapshots.set(digest, name);
  return ({ kind, path }) => {
    const manifest = kind === "metadata" && snapshots.size > 0 ? manifestNamedBy(path) : undefined;
    const name = manifest && snapshots.get(manifest);
    return name === undefined ? undefined : `snapshot ${JSON.stringify(name)} needs it`;
  };
}
