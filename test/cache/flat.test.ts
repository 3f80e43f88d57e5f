import { describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { FlatBlobs, readFlatRef } from "../../src/cache/flat.ts";
import { CachePaths } from "../../src/cache/paths.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { digest } from "../db/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";

const [M1, M2, BLOB1, BLOB2, DERIVATION] = ["1", "2", "a", "b", "d"].map(digest) as [
  Digest,
  Digest,
  Digest,
  Digest,
  Digest,
];

function ref(more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    schema: 1,
    abi: 2,
    manifest_digest: M1,
    derivation_digest: DERIVATION,
    artifact_digest: BLOB1,
    virtual_size_bytes: 268_435_456,
    ...more,
  };
}

function put(cache: CachePaths, manifest: Digest, text: string): string {
  const { path } = cache.flatRef(manifest);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
}

describe("readFlatRef", () => {
  test("reads the fields that larder needs", () => {
    using folder = new TemporaryFolder();
    const path = put(new CachePaths(folder.path), M1, JSON.stringify(ref()));
    expect(readFlatRef(path)).toEqual({
      schema: 1,
      manifest_digest: M1,
      derivation_digest: DERIVATION,
      artifact_digest: BLOB1,
      virtual_size_bytes: 268_435_456,
    });
  });

  test.each<[string, string]>([
    ["empty", ""],
    ["cut", JSON.stringify(ref()).slice(0, -1)],
    ["null", "null"],
    ["another schema", JSON.stringify(ref({ schema: 2 }))],
    ["a schema as text", JSON.stringify(ref({ schema: "1" }))],
    ["no manifest", JSON.stringify(ref({ manifest_digest: undefined }))],
    ["a hostile artifact", JSON.stringify(ref({ artifact_digest: "a/../b:x" }))],
    ["a hostile derivation", JSON.stringify(ref({ derivation_digest: "../../etc" }))],
    ["no size", JSON.stringify(ref({ virtual_size_bytes: null }))],
  ])("ignores one that is %s, as msb does", (_, text) => {
    using folder = new TemporaryFolder();
    expect(readFlatRef(put(new CachePaths(folder.path), M1, text))).toBeUndefined();
  });

  test("ignores a missing file, a folder, and a link", () => {
    using folder = new TemporaryFolder();
    const path = put(new CachePaths(folder.path), M1, JSON.stringify(ref()));
    symlinkSync(path, join(folder.path, "link"));
    for (const odd of ["missing", "", "link"]) expect(readFlatRef(join(folder.path, odd))).toBeUndefined();
  });
});

describe("FlatBlobs", () => {
  const needed = (blobs: FlatBlobs) => [BLOB1, BLOB2, DERIVATION].filter((blob) => blobs.needs(blob));

  test("needs the blobs of every ref but those that leave", () => {
    using folder = new TemporaryFolder();
    const cache = new CachePaths(folder.path);
    put(cache, M1, JSON.stringify(ref()));
    put(cache, M2, JSON.stringify(ref({ manifest_digest: M2, artifact_digest: BLOB2 })));
    writeFileSync(
      join(folder.path, "flat", "refs", "other.json"),
      JSON.stringify(ref({ artifact_digest: DERIVATION })),
    );
    expect(needed(FlatBlobs.of(cache))).toEqual([BLOB1, BLOB2]);
    expect(needed(FlatBlobs.of(cache, new Set([M1])))).toEqual([BLOB2]);
    expect(needed(FlatBlobs.of(cache, new Set([M1, M2])))).toEqual([]);
  });

  test("needs a blob that one of two refs leaves", () => {
    using folder = new TemporaryFolder();
    const cache = new CachePaths(folder.path);
    put(cache, M1, JSON.stringify(ref()));
    put(cache, M2, JSON.stringify(ref({ manifest_digest: M2 })));
    expect(needed(FlatBlobs.of(cache, new Set([M1])))).toEqual([BLOB1]);
  });

  test("needs every blob while a ref cannot be read, as one of a newer msb", () => {
    using folder = new TemporaryFolder();
    const cache = new CachePaths(folder.path);
    put(cache, M1, JSON.stringify(ref({ schema: 2 })));
    expect(needed(FlatBlobs.of(cache))).toEqual([BLOB1, BLOB2, DERIVATION]);
    expect(needed(FlatBlobs.of(cache, new Set([M1])))).toEqual([]);
  });

  test("needs none where there are no refs", () => {
    expect(needed(FlatBlobs.of(new CachePaths("/nowhere/at/all")))).toEqual([]);
  });
});
