import { describe, expect, test } from "bun:test";
import type { ImageRow } from "../../src/db/images.ts";
import type { Pin, Pins } from "../../src/db/pins.ts";
import { FileLock } from "../../src/host/flock.ts";
import { cacheKey } from "../../src/oci/reference.ts";
import { planRemoval, remove } from "../../src/ops/remove.ts";
import { DEFAULT_GRACE_MS } from "../../src/ops/sweep.ts";
import { at, digestOf, Store } from "../store.ts";

const web: Pin = { kind: "sandbox", name: "web" };

function row(id: number | null, reference: string | null, manifestId: number, digest: string): ImageRow {
  return {
    id,
    reference,
    manifestId,
    digest,
    mediaType: null,
    architecture: null,
    os: null,
    variant: null,
    layerCount: null,
    sizeBytes: null,
    createdAt: null,
    updatedAt: null,
    damage: [],
  };
}

const a1 = row(1, "a:1", 10, "A");
const a2 = row(2, "a:2", 10, "A");
const b = row(3, "b", 20, "B");
const untagged = row(null, null, 30, "C");

/** What is planned for rows that are asked for by their own names. */
function plan(rows: (ImageRow[] | string)[], pins: Partial<Pins> = {}, flags: { force?: true; ignore?: true } = {}) {
  const asked = rows.map((found) =>
    typeof found === "string"
      ? { text: found, rows: [] }
      : { text: found[0]!.reference ?? found[0]!.digest!, rows: found },
  );
  const names = new Map([
    [10, new Set([1, 2])],
    [20, new Set([3])],
  ]);
  const { drop, collect, untag, refused } = planRemoval(
    asked,
    names,
    { byDigest: new Map(), unreadable: [], ...pins },
    { force: flags.force ?? false, ignoreMissing: flags.ignore ?? false },
  );
  return {
    drop: drop.map(({ id }) => id),
    collect: collect.map(({ id }) => id),
    untag: untag.map(({ digest, pinned_by }) => [digest, pinned_by]),
    refused: refused.map(({ reference, code }) => [reference, code]),
  };
}

describe("planRemoval", () => {
  const inUse = { byDigest: new Map([["A", [web]]]) };
  const unsure = { unreadable: ['sandbox "x" cannot be read'] };
  const nothing = { drop: [], collect: [], untag: [], refused: [] };

  const cases: [what: string, planned: ReturnType<typeof plan>, expected: Partial<ReturnType<typeof plan>>][] = [
    ["drops an alias and collects nothing", plan([[a1]]), { drop: [1] }],
    ["collects with the last name", plan([[b]]), { drop: [3], collect: [20] }],
    ["collects once both names are dropped", plan([[a1], [a2]]), { drop: [1, 2], collect: [10] }],
    ["counts one row once, however often it is meant", plan([[a1], [a1]]), { drop: [1] }],
    ["collects an untagged image", plan([[untagged]]), { collect: [30] }],
    ["refuses what is missing", plan(["x", [a1]]), { drop: [1], refused: [["x", "not_found"]] }],
    ["ignores what is missing", plan(["x", [a1]], {}, { ignore: true }), { drop: [1] }],
    ["refuses what is ambiguous", plan([[a1, b]]), { refused: [["a:1", "ambiguous"]] }],
    [
      "refuses what is ambiguous by force, too",
      plan([[a1, b]], {}, { force: true }),
      { refused: [["a:1", "ambiguous"]] },
    ],
    ["drops an alias of an image in use", plan([[a1]], inUse), { drop: [1] }],
    ["keeps the last name of an image in use", plan([[a1], [a2]], inUse), { drop: [1], refused: [["a:2", "in_use"]] }],
    ["minds the pins of other images not", plan([[b]], inUse), { drop: [3], collect: [20] }],
    ["untags by force", plan([[a1], [a2]], inUse, { force: true }), { drop: [1, 2], untag: [["A", [web]]] }],
    ["collects by force what is not in use", plan([[b]], inUse, { force: true }), { drop: [3], collect: [20] }],
    [
      "never collects an untagged image in use",
      plan([[untagged]], { byDigest: new Map([["C", [web]]]) }, { force: true }),
      { refused: [["C", "in_use"]] },
    ],
    ["keeps the last name while a pin cannot be read", plan([[b]], unsure), { refused: [["b", "damaged"]] }],
    ["drops an alias while a pin cannot be read", plan([[a1]], unsure), { drop: [1] }],
    [
      "untags by force while a pin cannot be read",
      plan([[b]], unsure, { force: true }),
      { drop: [3], untag: [["B", []]] },
    ],
    [
      "refuses an untagged image while a pin cannot be read",
      plan([[untagged]], unsure, { force: true }),
      { refused: [["C", "damaged"]] },
    ],
    [
      "tells in use before unreadable",
      plan([[a1], [a2]], { ...inUse, ...unsure }),
      { drop: [1], refused: [["a:2", "in_use"]] },
    ],
    [
      "keeps trying after a failure",
      plan(["x", [a1, b], [b]]),
      {
        drop: [3],
        collect: [20],
        refused: [
          ["x", "not_found"],
          ["a:1", "ambiguous"],
        ],
      },
    ],
  ];

  test.each(cases)("%s", (_, planned, expected) => {
    expect(planned).toEqual({ ...nothing, ...expected });
  });
});

describe("remove", () => {
  const options = { force: false, ignoreMissing: false, dryRun: false, grace: DEFAULT_GRACE_MS };
  const ONE = "docker.io/library/one:1";

  test("drops a row whose reference no parser takes, and its image with it", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    store.sql("UPDATE image_ref SET reference = 'NOT A REFERENCE'");
    using larder = store.open();
    const report = await remove(larder, { ...options, references: ["NOT A REFERENCE"] });
    expect(report).toMatchObject({ manifests: [digestOf("one")], layers: [digestOf("base")], refused: [] });
    // Which metadata file was its own cannot be told any more: a stray, for gc.
    expect(store.files()).toEqual([at.metadata(ONE)]);
  });

  test("leaves rows and files that it does not know", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    store.sql("CREATE TABLE larder_notes (id integer, note text)");
    store.sql("INSERT INTO larder_notes VALUES (1, 'x')");
    store.sql("INSERT INTO volume (name) VALUES ('data')");
    store.sandbox("web", "{}");
    store.write("layers/foreign");
    using larder = store.open();
    await remove(larder, { ...options, references: [ONE] });
    const count = (table: string) => larder.db.query(`SELECT count(*) AS n FROM ${table}`).get();
    for (const table of ["larder_notes", "volume", "sandbox"]) expect(count(table)).toEqual({ n: 1n });
    expect(larder.db.query("SELECT count(*) AS n FROM seaql_migrations").get()).toEqual({ n: 6n });
    expect(store.files()).toEqual(["layers/foreign"]);
  });

  test.each([
    ["a name", (store: Store) => store.sql("INSERT INTO image_ref (reference, manifest_id) VALUES ('alias:1', 1)")],
    ["a pin", (store: Store) => store.sandbox("web", JSON.stringify({ manifest_digest: digestOf("one") }))],
  ])("decides again when the image has got %s since it was planned", async (_, change) => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    const files = store.files();
    using larder = store.open();
    // A pull of it, for which the removal waits.
    const lock = FileLock.take(larder.cache.metadata(cacheKey(ONE)).lock!)!;
    const removal = remove(larder, { ...options, references: [ONE] });
    change(store);
    lock.release();
    const report = await removal;
    expect(report.layers).toEqual([]);
    expect(store.files().filter((path) => !path.startsWith("manifests/"))).toEqual(
      files.filter((path) => !path.startsWith("manifests/")),
    );
  });

  test("removes a layer that one image has twice", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base", "base", "top"] } });
    using larder = store.open();
    const report = await remove(larder, { ...options, references: [ONE] });
    expect(report.layers.toSorted()).toEqual([digestOf("base"), digestOf("top")].toSorted());
    expect(store.files()).toEqual([]);
    expect(store.unsound()).toEqual([]);
  });

  test("drops a dangling name, whose image is not on record", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    using larder = store.open();
    larder.db.run("PRAGMA foreign_keys = OFF");
    larder.db.run("INSERT INTO image_ref (reference, manifest_id) VALUES ('dangling', 4711)");
    larder.db.run("PRAGMA foreign_keys = ON");
    const report = await remove(larder, { ...options, references: ["dangling"] });
    expect(report).toMatchObject({ removed: [{ reference: "dangling", digest: null }], manifests: [], files: [] });
    expect(store.unsound()).toEqual([]);
    expect(store.files()).toEqual(store.filesOf("one"));
  });
});
