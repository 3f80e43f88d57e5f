import * as v from "valibot";
import { isSystemError } from "../error.ts";
import type { Digest } from "../oci/digest.ts";
import { DigestSchema } from "../oci/metadata.ts";
import { namesIn, readRegular } from "./file.ts";
import type { CachePaths } from "./paths.ts";

// The fields that larder needs of a flat ref; msb writes more (interop §3).
const FlatRef = v.object({
  schema: v.literal(1),
  manifest_digest: DigestSchema,
  derivation_digest: DigestSchema,
  artifact_digest: DigestSchema,
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

/** Which blobs some flat ref names. A ref that cannot be read may name any, and so all are needed then. */
export class FlatBlobs {
  private readonly named = new Set<Digest>();
  private isComplete = true;

  /** Those that the refs in the cache name, but for the refs of `leaving` manifests. */
  static of(cache: CachePaths, leaving: ReadonlySet<Digest> = new Set()): FlatBlobs {
    const blobs = new FlatBlobs();
    for (const name of namesIn(cache.folder("flat/refs"))) {
      const file = cache.classify("flat/refs", name);
      if (file.kind === "flat_ref" && !leaving.has(file.digest!)) blobs.add(file.path);
    }
    return blobs;
  }

  /** Adds the blob that the ref at `path` names. */
  add(path: string): void {
    const ref = readFlatRef(path);
    if (ref) this.named.add(ref.artifact_digest);
    else this.isComplete = false;
  }

  needs(blob: Digest): boolean {
    return !this.isComplete || this.named.has(blob);
  }
}
