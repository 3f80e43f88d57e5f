import { describe, expect, test } from "bun:test";
import {
  deleteReferences,
  findImages,
  type ImageRow,
  idsSpelling,
  listImages,
  listLabels,
  listReferences,
  listUntagged,
  upsertReference,
} from "../../src/db/images.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const A = digest("a");
const B = digest("b");
const C = digest("c");

function references(rows: ImageRow[]): (string | null)[] {
  return rows.map(({ reference }) => reference);
}

describe("listImages", () => {
  test("reads every column of a reference and its manifest", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.run(
      `INSERT INTO manifest (id, digest, media_type, config_digest, architecture, os, variant, layer_count, total_size_bytes, created_at)
       VALUES (7, ?, 'application/x', 'sha256:c', 'arm64', 'linux', 'v8', 3, 9223372036854775807, '2026-01-01 00:00:00')`,
      A,
    );
    catalogue.run(
      `INSERT INTO image_ref (id, reference, manifest_id, created_at, updated_at)
       VALUES (9, 'tool:1', 7, '2026-01-02 03:04:05.123456789', '2026-01-03 00:00:00')`,
    );
    expect(listImages(catalogue.db)).toEqual([
      {
        id: 9,
        reference: "tool:1",
        manifestId: 7,
        digest: A,
        mediaType: "application/x",
        architecture: "arm64",
        os: "linux",
        variant: "v8",
        layerCount: 3,
        sizeBytes: 9_223_372_036_854_775_807n,
        createdAt: { ms: 1_767_323_045_123.4568, rfc3339: "2026-01-02T03:04:05.123456789+00:00" },
        storedCreatedAt: "2026-01-02 03:04:05.123456789",
        updatedAt: { ms: 1_767_398_400_000, rfc3339: "2026-01-03T00:00:00+00:00" },
        damage: [],
      },
    ]);
  });

  test("orders newest first, undated last, and ties by row id", () => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(A);
    for (const [reference, created] of [
      ["undated", null],
      ["old", "2026-01-01 00:00:00.000000000"],
      ["tie-1", "2026-01-02 00:00:00.000000000"],
      ["new", "2026-01-02 00:00:00.000000001"],
      ["tie-2", "2026-01-02 00:00:00.000000000"],
      ["undated-2", null],
    ] as const) {
      catalogue.run(
        "INSERT INTO image_ref (reference, manifest_id, created_at) VALUES (?, ?, ?)",
        reference,
        manifest,
        created,
      );
    }
    expect(references(listImages(catalogue.db))).toEqual(["new", "tie-1", "tie-2", "old", "undated", "undated-2"]);
  });

  const WRONG: [table: string, column: string, value: string | number | Uint8Array, damage: string][] = [
    ["manifest", "media_type", Buffer.from("x"), "media_type is not text"],
    ["manifest", "architecture", Buffer.from("x"), "architecture is not text"],
    ["manifest", "os", Buffer.from("x"), "os is not text"],
    ["manifest", "variant", Buffer.from("x"), "variant is not text"],
    ["manifest", "layer_count", "many", "layer_count is not an integer"],
    ["manifest", "layer_count", 1.5, "layer_count is not an integer"],
    ["manifest", "total_size_bytes", "big", "size_bytes is not an integer"],
    ["manifest", "total_size_bytes", Buffer.from("x"), "size_bytes is not an integer"],
    ["image_ref", "reference", Buffer.from("x"), "reference is not text"],
    ["image_ref", "created_at", Buffer.from("x"), "created_at is not text"],
    ["image_ref", "created_at", "yesterday", 'created_at is not a time that msb can read: "yesterday"'],
    ["image_ref", "created_at", 1_767_323_045, 'created_at is not a time that msb can read: "1767323045"'],
    ["image_ref", "updated_at", "", 'updated_at is not a time that msb can read: ""'],
    ["image_ref", "updated_at", "0000-01-01 00:00:00", "updated_at is not a time that msb can read:"],
  ];

  test.each(WRONG)("shows a row with a wrong %s.%s (%p) as damaged, and the rest", (table, column, value, damage) => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "damaged:1");
    catalogue.manifest(B, "sound:1");
    catalogue.run(`UPDATE ${table} SET ${column} = ? WHERE id = 1`, value);
    const rows = listImages(catalogue.db);
    const damaged = rows.find(({ digest }) => digest === A);
    const sound = rows.find(({ digest }) => digest === B);
    expect(damaged?.damage).toEqual([expect.stringContaining(damage)]);
    expect(sound).toMatchObject({ reference: "sound:1", damage: [] });
  });

  test("shows a digest that is no text as damaged", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(Buffer.from("x"), "damaged:1");
    const [row] = listImages(catalogue.db);
    expect(row).toMatchObject({ reference: "damaged:1", digest: null, manifestId: 1 });
    expect(row?.damage[0]).toBe("digest is not text");
  });

  test("shows a reference without its manifest as damaged", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.run("PRAGMA foreign_keys = OFF");
    catalogue.run("INSERT INTO image_ref (reference, manifest_id) VALUES ('lost:1', 99)");
    expect(listImages(catalogue.db)).toEqual([
      expect.objectContaining({ reference: "lost:1", manifestId: null, digest: null, damage: ["manifest is missing"] }),
    ]);
  });
});

describe("listUntagged", () => {
  test("finds manifests without a reference, newest first", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "tool:1");
    catalogue.manifest(B);
    catalogue.manifest(C);
    catalogue.run("UPDATE manifest SET created_at = '2026-01-01 00:00:00' WHERE digest = ?", C);
    const rows = listUntagged(catalogue.db);
    expect(rows.map(({ digest }) => digest)).toEqual([C, B]);
    expect(rows[0]).toMatchObject({ id: null, reference: null, manifestId: 3, updatedAt: null, damage: [] });
  });
});

describe("findImages", () => {
  test("takes the text exactly as typed before any other spelling", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "docker.io/library/tool:latest");
    catalogue.manifest(B, "tool");
    expect(references(findImages(catalogue.db, "tool"))).toEqual(["tool"]);
  });

  test.each(["tool", "library/tool", "docker.io/tool:latest", "index.docker.io/library/tool"])(
    "finds docker.io/library/tool:latest as %s",
    (typed) => {
      using catalogue = new TemporaryCatalogue();
      catalogue.manifest(A, "docker.io/library/tool:latest");
      catalogue.manifest(B, "docker.io/library/tool:1");
      catalogue.manifest(C, "quay.io/library/tool:latest");
      expect(references(findImages(catalogue.db, typed))).toEqual(["docker.io/library/tool:latest"]);
    },
  );

  test("finds every row of the same canonical form", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "docker.io/tool");
    catalogue.manifest(B, "library/tool:latest");
    expect(references(findImages(catalogue.db, "tool")).sort()).toEqual(["docker.io/tool", "library/tool:latest"]);
  });

  test("finds a row whose reference is none, but only as typed", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "NO reference");
    expect(references(findImages(catalogue.db, "NO reference"))).toEqual(["NO reference"]);
    expect(findImages(catalogue.db, "no reference")).toEqual([]);
  });

  test("finds an untagged manifest by its digest, and a tagged one only by name", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "tool:1");
    catalogue.manifest(B);
    expect(findImages(catalogue.db, B)).toEqual([expect.objectContaining({ reference: null, digest: B })]);
    expect(findImages(catalogue.db, A)).toEqual([]);
  });

  test.each(["", "%", "_ool:1", "*", "tool:1' OR '1'='1"])("takes %p for no pattern and no SQL", (text) => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "tool:1");
    expect(findImages(catalogue.db, text)).toEqual([]);
  });
});

describe("upsertReference", () => {
  test("adds a reference, and moves it keeping its id and first date", () => {
    using catalogue = new TemporaryCatalogue();
    const [a, b] = [catalogue.manifest(A), catalogue.manifest(B)];
    const rows = () => catalogue.rows("SELECT * FROM image_ref");
    upsertReference(catalogue.db, "tool:1", a, 0);
    const first = "1970-01-01 00:00:00.000000000";
    expect(rows()).toEqual([{ id: 1, reference: "tool:1", manifest_id: a, created_at: first, updated_at: first }]);
    upsertReference(catalogue.db, "tool:1", b, 1500);
    const second = "1970-01-01 00:00:01.500000000";
    expect(rows()).toEqual([{ id: 1, reference: "tool:1", manifest_id: b, created_at: first, updated_at: second }]);
  });

  test("keeps the text as typed", () => {
    using catalogue = new TemporaryCatalogue();
    const id = catalogue.manifest(A);
    for (const typed of ["tool", "Tool", "docker.io/tool"]) upsertReference(catalogue.db, typed, id, 0);
    expect(listReferences(catalogue.db).sort()).toEqual(["Tool", "docker.io/tool", "tool"]);
  });
});

describe("deleteReferences", () => {
  test("drops these rows and no others, and leaves the manifests", () => {
    using catalogue = new TemporaryCatalogue();
    for (const hex of ["a", "b", "c"]) catalogue.manifest(digest(hex), `${hex}:1`);
    deleteReferences(catalogue.db, [1, 3, 99]);
    expect(listReferences(catalogue.db)).toEqual(["b:1"]);
    expect(catalogue.rows("SELECT id FROM manifest")).toHaveLength(3);
    deleteReferences(catalogue.db, []);
    expect(listReferences(catalogue.db)).toEqual(["b:1"]);
  });
});

describe("idsSpelling", () => {
  test("finds the rows of one canonical form", () => {
    using catalogue = new TemporaryCatalogue();
    for (const [i, typed] of ["tool", "docker.io/library/tool:latest", "tool:1", "quay.io/tool"].entries())
      catalogue.manifest(digest(String(i)), typed);
    expect(idsSpelling(catalogue.db, "docker.io/library/tool:latest").sort()).toEqual([1, 2]);
    expect(idsSpelling(catalogue.db, "docker.io/library/other:latest")).toEqual([]);
  });
});

describe("listLabels", () => {
  test("gives the labels as stored, of images that have some", () => {
    using catalogue = new TemporaryCatalogue();
    for (const hex of ["a", "b", "c"]) catalogue.manifest(digest(hex));
    catalogue.run(
      `INSERT INTO config (manifest_id, digest, labels) VALUES (1, 'x', '{"k":"v"}'), (2, 'x', NULL), (3, 'x', 'no JSON')`,
    );
    expect(listLabels(catalogue.db)).toEqual([
      { manifestId: 1, labels: '{"k":"v"}' },
      { manifestId: 3, labels: "no JSON" },
    ]);
  });
});
