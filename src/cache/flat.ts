import * as v from "valibot";
import { isSystemError } from "../error.ts";
import { type Digest, isDigest } from "../oci/digest.ts";
import { namesIn, readRegular } from "./file.ts";
import type { CachePaths } from "./paths.ts";

const digest = v.custom<Digest>(isDigest);
// The fields that larder needs of a flat ref; msb writes more (interop §3).
const FlatRef = v.object({
  schema: v.literal(1),
  manifest_digest: digest,
  derivation_digest: digest,
  artifact_digest: digest,
  virtual_size_bytes: v.number(),
});

export type FlatRef = v.InferOutput<typeof FlatRef>;

/** Reads one flat ref; undefined where it is gone or msb would ignore it. Throws where the system cannot read it. */
export function readFlatRef(path: string): FlatRef | undefined {
  try {
    return v.parse(FlatRef, JSON.parse(readRegular(path) ?? ""));
  } catch (error) {
    // Taken for a ref that names nothing, it would set free the blob that it names.
    if (isSystemError(error)) throw error;
    return undefined;
  }
}

/** The blobs that some flat ref names, but for the refs of `leaving` manifests; other blobs belong to nobody. */
export function flatBlobsInUse(cache: CachePaths, leaving: ReadonlySet<Digest> = new Set()): Set<Digest> {
  const used = new Set<Digest>();
  for (const name of namesIn(cache.folder("flat/refs"))) {
    const file = cache.classify("flat/refs", name);
    const ref = file.kind === "flat_ref" && !leaving.has(file.digest!) ? readFlatRef(file.path) : undefined;
    if (ref) used.add(ref.artifact_digest);
  }
  return used;
}
