import { describe, expect, test } from "bun:test";
import { findUnknownPins, namePins, type Pin, type Pins, readPins } from "../../src/db/pins.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const A = digest("a");
const B = digest("b");

function sandbox(catalogue: TemporaryCatalogue, name: string, config: string | Uint8Array = "{}"): void {
  catalogue.run("INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'stopped')", name, config);
}

function snapshot(catalogue: TemporaryCatalogue, name: string | null, image: string | Uint8Array): void {
  catalogue.run(
    `INSERT INTO snapshot_index (digest, name, image_ref, image_manifest_digest, format, fstype, artifact_path, created_at, indexed_at)
     VALUES ('sha256:snapshot', ?, 'tool', ?, 'raw', 'ext4', '/x', '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
    name,
    image,
  );
}

function read(catalogue: TemporaryCatalogue, ...snapshots: Parameters<typeof readPins>[1]) {
  const { byDigest, unreadable }: Pins = readPins(catalogue.db, snapshots);
  return { pins: Object.fromEntries(byDigest), unreadable };
}

/** JSON text in which every character of strings is written as an escape. */
function escaped(text: string): string {
  return Array.from(text, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`).join("");
}

describe("readPins", () => {
  test("finds none in an empty catalogue", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.manifest(A, "tool:1");
    expect(read(catalogue)).toEqual({ pins: {}, unreadable: [] });
  });

  test("finds a booted sandbox by its rootfs row", () => {
    using catalogue = new TemporaryCatalogue();
    const [a, b] = [catalogue.manifest(A), catalogue.manifest(B)];
    for (const name of ["web-1", "web-2", "empty"]) sandbox(catalogue, name);
    catalogue.run(
      "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) VALUES (1, ?1, 'oci'), (2, ?1, 'oci'), (3, NULL, 'bind')",
      a,
    );
    catalogue.run("PRAGMA foreign_keys = OFF");
    catalogue.run("INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) VALUES (77, ?, 'oci')", b);
    expect(read(catalogue)).toEqual({
      pins: {
        [A]: [
          { kind: "sandbox", name: "web-1" },
          { kind: "sandbox", name: "web-2" },
        ],
        [B]: [{ kind: "sandbox", name: "row 77" }],
      },
      unreadable: [],
    });
  });

  test("finds a snapshot by its row, named by its digest where it has no name", () => {
    using catalogue = new TemporaryCatalogue();
    snapshot(catalogue, "base", A);
    expect(read(catalogue).pins).toEqual({ [A]: [{ kind: "snapshot", name: "base" }] });
    catalogue.run("UPDATE snapshot_index SET name = NULL");
    expect(read(catalogue).pins).toEqual({ [A]: [{ kind: "snapshot", name: "sha256:snapshot" }] });
  });

  test.each([
    ["a value", `{"image":"${A}"}`],
    ["a reference", `{"image":{"Oci":"docker.io/library/tool:1@${A}"}}`],
    ["deep inside", `[{"a":[[{"b":"x ${A} y"}]]}]`],
    ["a key", `{"${A}":null}`],
    ["a document that is a string", `"${A}"`],
    ["escaped throughout", `{"image":"${escaped(A)}"}`],
    ["one escaped character", `{"image":"${A.replace(":", "\\u003a")}"}`],
    ["after a line break", `{"image":"tool\\n${A}"}`],
    ["after a tab", `{"image":"\\t${A}"}`],
    ["after a control character", `{"image":"\\u001f${A}"}`],
    ["after a quotation mark", `{"image":"\\"${A}\\""}`],
    ["after a backslash", `{"image":"\\\\${A}"}`],
    ["a JSON text inside", JSON.stringify({ raw: JSON.stringify({ raw: JSON.stringify({ digest: A }) }) })],
  ])("finds a sandbox that has not booted by its configuration: %s", (_, config) => {
    using catalogue = new TemporaryCatalogue();
    sandbox(catalogue, "new", config);
    expect(read(catalogue)).toEqual({ pins: { [A]: [{ kind: "sandbox", name: "new" }] }, unreadable: [] });
  });

  test("finds every digest of a configuration, and names a sandbox once", () => {
    using catalogue = new TemporaryCatalogue();
    const a = catalogue.manifest(A);
    sandbox(catalogue, "web", JSON.stringify([A, B, A]));
    catalogue.run("INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) VALUES (1, ?, 'oci')", a);
    const web: Pin[] = [{ kind: "sandbox", name: "web" }];
    expect(read(catalogue)).toEqual({ pins: { [A]: web, [B]: web }, unreadable: [] });
  });

  test("reads the active configuration of a newer msb too", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.run("ALTER TABLE sandbox ADD COLUMN active_config text");
    for (const name of ["idle", "live", "odd"]) sandbox(catalogue, name);
    catalogue.run("UPDATE sandbox SET active_config = ? WHERE name = 'live'", `{"digest":"${escaped(B)}"}`);
    catalogue.run("UPDATE sandbox SET active_config = '{' WHERE name = 'odd'");
    expect(read(catalogue)).toEqual({
      pins: { [B]: [{ kind: "sandbox", name: "live" }] },
      unreadable: ['sandbox "odd" cannot be read: its active_config is not JSON'],
    });
  });

  test.each<[string, string | Uint8Array]>([
    ["empty", ""],
    ["cut", `{"image":"${A}`],
    ["no JSON", "image = tool"],
    ["no text", Buffer.from("{}")],
    ["nested too deep to read", "[".repeat(100_000)],
  ])("names a sandbox whose configuration cannot be read: %s", (_, config) => {
    using catalogue = new TemporaryCatalogue();
    sandbox(catalogue, "web", config);
    sandbox(catalogue, "sound", `"${B}"`);
    expect(read(catalogue)).toEqual({
      pins: { [B]: [{ kind: "sandbox", name: "sound" }] },
      unreadable: ['sandbox "web" cannot be read: its config is not JSON'],
    });
  });

  test.each<string | Uint8Array>(["", "sha256:short", A.toUpperCase(), "tool:1", Buffer.from(A)])(
    "names a snapshot whose image digest is %p",
    (image) => {
      using catalogue = new TemporaryCatalogue();
      snapshot(catalogue, "base", image);
      expect(read(catalogue)).toEqual({
        pins: {},
        unreadable: ['snapshot "base" cannot be read: its image digest is not a digest'],
      });
    },
  );

  test("adds the snapshots on disk, and names one known from its row once", () => {
    using catalogue = new TemporaryCatalogue();
    snapshot(catalogue, "base", A);
    const onDisk = [
      { name: "base", digest: A as Digest },
      { name: "other", digest: B as Digest },
      { name: "torn", trouble: "it is cut" },
    ];
    expect(read(catalogue, ...onDisk)).toEqual({
      pins: { [A]: [{ kind: "snapshot", name: "base" }], [B]: [{ kind: "snapshot", name: "other" }] },
      unreadable: ['snapshot "torn" cannot be read: it is cut'],
    });
  });
});

describe("findUnknownPins", () => {
  test.each(["manifest", "layer", "MANIFEST"])(
    "names a table that it does not know with a foreign key to %s",
    (parent) => {
      using catalogue = new TemporaryCatalogue();
      expect(findUnknownPins(catalogue.db)).toEqual([]);
      catalogue.run(`CREATE TABLE flat_rootfs (id integer, owner integer REFERENCES ${parent} (id))`);
      catalogue.run("CREATE TABLE harmless (id integer REFERENCES sandbox (id))");
      expect(findUnknownPins(catalogue.db)).toEqual([
        'table "flat_rootfs" of a newer msb may need any image, and larder does not know it',
      ]);
    },
  );
});

describe("namePins", () => {
  test("writes them as a sentence does", () => {
    expect(namePins([])).toBe("");
    expect(
      namePins([
        { kind: "sandbox", name: "web-1" },
        { kind: "snapshot", name: 'odd"\n' },
      ]),
    ).toBe('sandbox "web-1", snapshot "odd\\"\\n"');
  });
});
