import { describe, expect, test } from "bun:test";
import {
  deleteOrphans,
  hasLayer,
  layersOnlyOf,
  listDiffIds,
  listLayers,
  saturate,
  setJunctions,
  unneededLayers,
  upsertLayer,
} from "../../src/db/layers.ts";
import type { Digest } from "../../src/oci/digest.ts";
import type { LayerMetadata } from "../../src/oci/metadata.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const [A, B, C, D] = ["a", "b", "c", "d"].map(digest) as [Digest, Digest, Digest, Digest];

function metadata(diffId: Digest, more: Partial<LayerMetadata> = {}): LayerMetadata {
  return { digest: D, media_type: null, size_bytes: null, diff_id: diffId, ...more };
}

describe("saturate", () => {
  test.each([
    [0n, 0n],
    [2n ** 63n - 1n, 2n ** 63n - 1n],
    [2n ** 63n, 2n ** 63n - 1n],
    [2n ** 64n - 1n, 2n ** 63n - 1n],
    [2n ** 70n, 2n ** 63n - 1n],
  ])("stores %p as %p", (bytes, stored) => {
    expect(saturate(bytes)).toBe(stored);
  });
});

describe("upsertLayer", () => {
  const FIRST = "1970-01-01 00:00:01.000000000";
  const SECOND = "1970-01-01 00:00:02.000000000";

  test("adds a layer with all it knows", () => {
    using catalogue = new TemporaryCatalogue();
    const id = upsertLayer(catalogue.db, metadata(A, { media_type: "x/y", size_bytes: 123n }), 4096, 1000, true);
    expect(catalogue.rows("SELECT * FROM layer")).toEqual([
      {
        id,
        diff_id: A,
        blob_digest: D,
        media_type: "x/y",
        compressed_size_bytes: 123,
        erofs_size_bytes: 4096,
        created_at: FIRST,
        last_used_at: FIRST,
      },
    ]);
  });

  test("keeps what is on record but its last use", () => {
    using catalogue = new TemporaryCatalogue();
    const id = upsertLayer(catalogue.db, metadata(A, { media_type: "x/y", size_bytes: 123n }), 4096, 1000, true);
    const again = upsertLayer(
      catalogue.db,
      metadata(A, { digest: C, media_type: "z", size_bytes: 9n }),
      undefined,
      2000,
      true,
    );
    expect(again).toBe(id);
    expect(catalogue.rows("SELECT * FROM layer")).toEqual([
      {
        id,
        diff_id: A,
        blob_digest: D,
        media_type: "x/y",
        compressed_size_bytes: 123,
        erofs_size_bytes: 4096,
        created_at: FIRST,
        last_used_at: SECOND,
      },
    ]);
  });

  test("leaves the last use of a layer on record where this is none", () => {
    using catalogue = new TemporaryCatalogue();
    upsertLayer(catalogue.db, metadata(A), undefined, 1000, false);
    upsertLayer(catalogue.db, metadata(A), 4096, 2000, false);
    expect(catalogue.rows("SELECT last_used_at, erofs_size_bytes FROM layer")).toEqual([
      { last_used_at: FIRST, erofs_size_bytes: 4096 },
    ]);
  });

  test("fills in the artifact's size once it is known", () => {
    using catalogue = new TemporaryCatalogue();
    upsertLayer(catalogue.db, metadata(A), undefined, 0, true);
    upsertLayer(catalogue.db, metadata(A), 8192, 0, true);
    expect(catalogue.rows("SELECT erofs_size_bytes, compressed_size_bytes FROM layer")).toEqual([
      { erofs_size_bytes: 8192, compressed_size_bytes: null },
    ]);
  });

  test("stores 2^64-1 bytes as 2^63-1", () => {
    using catalogue = new TemporaryCatalogue();
    upsertLayer(catalogue.db, metadata(A, { size_bytes: 2n ** 64n - 1n }), undefined, 0, true);
    expect(catalogue.rows("SELECT CAST(compressed_size_bytes AS TEXT) AS size FROM layer")).toEqual([
      { size: "9223372036854775807" },
    ]);
  });
});

describe("listLayers", () => {
  test("reads a manifest's layers bottom to top, a layer twice where it lies twice", () => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    const [a, b] = [catalogue.layer(A), catalogue.layer(B)];
    setJunctions(catalogue.db, manifest, [b, a, b]);
    const layers = listLayers(catalogue.db, manifest);
    expect(layers.map(({ diffId, position }) => [diffId, position])).toEqual([
      [B, 0],
      [A, 1],
      [B, 2],
    ]);
    expect(listLayers(catalogue.db, 99)).toEqual([]);
  });

  test("reads sizes as exact integers, and dates", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.layer(A, catalogue.manifest(digest("1")));
    catalogue.run(
      `UPDATE layer SET media_type = 'x/y', compressed_size_bytes = 9007199254740993, erofs_size_bytes = 4096,
                        created_at = '2026-01-01 00:00:00', last_used_at = '2026-01-02 00:00:00.5'`,
    );
    expect(listLayers(catalogue.db, 1)).toEqual([
      {
        diffId: A,
        blobDigest: "sha256:blob",
        mediaType: "x/y",
        compressedSizeBytes: 9_007_199_254_740_993n,
        erofsSizeBytes: 4096,
        createdAt: { ms: 1_767_225_600_000, rfc3339: "2026-01-01T00:00:00+00:00" },
        lastUsedAt: { ms: 1_767_312_000_500, rfc3339: "2026-01-02T00:00:00.500+00:00" },
        position: 0,
        damage: [],
      },
    ]);
  });

  test.each<[string, string | number | Uint8Array, string]>([
    ["diff_id", Buffer.from("x"), "diff_id is not text"],
    ["blob_digest", Buffer.from("x"), "blob_digest is not text"],
    ["media_type", Buffer.from("x"), "media_type is not text"],
    ["compressed_size_bytes", "big", "compressed_size_bytes is not an integer"],
    ["erofs_size_bytes", 1.5, "erofs_size_bytes is not an integer"],
    ["created_at", "today", 'created_at is not a time that msb can read: "today"'],
    ["last_used_at", Buffer.from("x"), "last_used_at is not text"],
  ])("shows a layer with a wrong %s as damaged, and the rest", (column, value, damage) => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    catalogue.layer(A, manifest);
    catalogue.layer(B, manifest);
    catalogue.run(`UPDATE layer SET ${column} = ? WHERE id = 1`, value);
    const [damaged, sound] = listLayers(catalogue.db, manifest);
    expect(damaged?.damage).toEqual([damage]);
    expect(sound).toMatchObject({ diffId: B, position: 1, damage: [] });
  });
});

describe("setJunctions", () => {
  const junctions = "SELECT id, layer_id, position FROM manifest_layer ORDER BY position";

  test("leaves rows that say so already", () => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    const ids = [catalogue.layer(A), catalogue.layer(B)];
    setJunctions(catalogue.db, manifest, ids);
    const before = catalogue.rows(junctions);
    setJunctions(catalogue.db, manifest, ids);
    expect(catalogue.rows(junctions)).toEqual(before);
    expect(before).toEqual([
      { id: 1, layer_id: ids[0], position: 0 },
      { id: 2, layer_id: ids[1], position: 1 },
    ]);
  });

  test.each<[string, number[]]>([
    ["another order", [2, 1]],
    ["one more", [1, 2, 1]],
    ["one less", [1]],
    ["none", []],
    ["others", [3, 3]],
  ])("makes them exactly what is asked: %s", (_, ids) => {
    using catalogue = new TemporaryCatalogue();
    const [manifest, other] = [catalogue.manifest(digest("1")), catalogue.manifest(digest("2"))];
    for (const diffId of [A, B, C]) catalogue.layer(diffId);
    setJunctions(catalogue.db, manifest, [1, 2]);
    setJunctions(catalogue.db, other, [3, 1]);
    setJunctions(catalogue.db, manifest, ids);
    expect(
      catalogue.rows(`SELECT layer_id, position FROM manifest_layer WHERE manifest_id = ${manifest} ORDER BY 2`),
    ).toEqual(ids.map((layer_id, position) => ({ layer_id, position })));
    expect(listLayers(catalogue.db, other).map(({ diffId }) => diffId)).toEqual([C, A]);
  });

  test("mends positions that have a gap", () => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    catalogue.layer(A, manifest);
    catalogue.run("UPDATE manifest_layer SET position = 5");
    setJunctions(catalogue.db, manifest, [1]);
    expect(catalogue.rows("SELECT position FROM manifest_layer")).toEqual([{ position: 0 }]);
  });

  test("loses nothing with rows that name a layer by what is no id", () => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    for (const diffId of [A, B, C]) catalogue.layer(diffId);
    catalogue.run("PRAGMA foreign_keys = OFF");
    for (const [i, id] of ["damage", "2", Buffer.from([3])].entries())
      catalogue.run("INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (?, ?, ?)", manifest, id, i);
    // Text that is a number becomes one in a column of integers.
    expect(setJunctions(catalogue.db, manifest, [1])).toEqual([B]);
  });
});

describe("layersOnlyOf", () => {
  test("finds what no other manifest has, each once", () => {
    using catalogue = new TemporaryCatalogue();
    const [one, two, three] = ["1", "2", "3"].map((hex) => catalogue.manifest(digest(hex))) as [number, number, number];
    catalogue.layer(A, one, two, three);
    catalogue.layer(B, one, two);
    catalogue.layer(C, one, one);
    catalogue.layer(D);
    const found = (...ids: number[]) => layersOnlyOf(catalogue.db, ids).map(({ diffId }) => diffId);
    expect(found(one)).toEqual([C]);
    expect(found(one, two)).toEqual([B, C]);
    expect(found(one, two, three)).toEqual([A, B, C]);
    expect(found(two)).toEqual([]);
    expect(found()).toEqual([]);
    expect(found(99)).toEqual([]);
  });
});

describe("unneededLayers and deleteOrphans", () => {
  test("find and delete what no manifest has, and nothing else even when asked to", () => {
    using catalogue = new TemporaryCatalogue();
    const used = catalogue.layer(A, catalogue.manifest(digest("1")));
    const [b, c] = [catalogue.layer(B), catalogue.layer(C)];
    expect(unneededLayers(catalogue.db, [])).toEqual([
      { id: b, diffId: B },
      { id: c, diffId: C },
    ]);
    const asked = [
      { id: used, diffId: A },
      { id: b, diffId: B },
    ];
    expect(deleteOrphans(catalogue.db, asked)).toEqual([B]);
    expect(deleteOrphans(catalogue.db, asked)).toEqual([]);
    expect(listDiffIds(catalogue.db).sort()).toEqual([A, C]);
    expect(deleteOrphans(catalogue.db, [])).toEqual([]);
  });

  test("find what only those have that are about to go", () => {
    using catalogue = new TemporaryCatalogue();
    const [one, two] = ["1", "2"].map((hex) => catalogue.manifest(digest(hex))) as [number, number];
    catalogue.layer(A, one, two);
    const b = catalogue.layer(B, one);
    const c = catalogue.layer(C);
    expect(unneededLayers(catalogue.db, [one])).toEqual([
      { id: b, diffId: B },
      { id: c, diffId: C },
    ]);
    expect(unneededLayers(catalogue.db, [one, two, 99])).toHaveLength(3);
  });

  test("take a diff ID of any type as it is", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.layer("../../x");
    catalogue.layer(Buffer.from("x"));
    expect(unneededLayers(catalogue.db, [])).toHaveLength(2);
    expect(listDiffIds(catalogue.db)).toContain("../../x");
  });
});

describe("hasLayer", () => {
  test("asks for the exact diff ID", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.layer(A);
    expect(hasLayer(catalogue.db, A)).toBe(true);
    expect(hasLayer(catalogue.db, A.toUpperCase())).toBe(false);
    expect(hasLayer(catalogue.db, B)).toBe(false);
  });
});
