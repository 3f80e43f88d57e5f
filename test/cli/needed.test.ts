import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { at, digestOf, Store } from "../store.ts";

// What is needed although the catalogue does not say so, because rows of it were lost: nothing of that may go.

const ONE = "docker.io/library/one:1";
const TWO = "docker.io/library/two:1";

function makePair(): Promise<Store> {
  return Store.make({
    one: { references: [ONE], layers: ["base", "shared"] },
    two: { references: [TWO], layers: ["shared", "own"] },
  });
}

/** Changes rows as a program does that leaves foreign keys off. */
function lose(store: Store, ...statements: string[]): void {
  using db = new Database(store.database);
  for (const statement of statements) db.run(statement);
}

/** Changes a table, and puts the page of an index back as it was: what a torn write leaves. */
function tear(store: Store, index: string, change: string): void {
  const fold = "PRAGMA wal_checkpoint(TRUNCATE)";
  lose(store, fold);
  using db = new Database(store.database, { readonly: true });
  const { rootpage } = db.query("SELECT rootpage FROM sqlite_master WHERE name = ?").get(index) as { rootpage: number };
  const start = (rootpage - 1) * 4096;
  const page = readFileSync(store.database).subarray(start, start + 4096);
  lose(store, change, fold);
  const bytes = readFileSync(store.database);
  bytes.set(page, start);
  writeFileSync(store.database, bytes);
}

describe("an image that something pins and that is not on record", () => {
  test.each([
    ["a sandbox", (store: Store, digest: string) => store.sandbox("web", JSON.stringify({ manifest_digest: digest }))],
    [
      "a snapshot on disk",
      (store: Store, digest: string) => {
        const folder = join(store.path, "snapshots", "a", "b", "c", "d", "e", "f", "s1");
        mkdirSync(folder, { recursive: true });
        // Of two descriptors each counts.
        writeFileSync(join(folder, "snapshot.json"), JSON.stringify({ image: { manifest_digest: digestOf("two") } }));
        writeFileSync(join(folder, "manifest.json"), JSON.stringify({ image: { manifest_digest: digest } }));
      },
    ],
  ])("keeps its files while %s needs it, whatever is asked for", async (_, pin) => {
    using store = await makePair();
    pin(store, digestOf("one"));
    store.sql("DELETE FROM image_ref WHERE reference = ?", ONE);
    store.sql("DELETE FROM manifest WHERE digest = ?", digestOf("one"));
    rmSync(join(store.cache, at.metadata(ONE)));
    const files = store.files();
    for (const args of [
      ["gc"],
      ["gc", "--sweep-unrecorded"],
      ["prune", "--unused", "--sweep-unrecorded"],
      ["check", "--repair"],
    ]) {
      expect([args, (await larder(store.path, ...args)).code]).toEqual([args, 5]);
    }
    expect(store.files()).toEqual(files);
  });
});

describe("an image that lacks a row of a layer", () => {
  test.each([
    ["a junction", "DELETE FROM manifest_layer WHERE position = 0"],
    ["the layer itself", `DELETE FROM layer WHERE diff_id = '${digestOf("base")}'`],
  ])("keeps every file when %s is lost", async (_, loss) => {
    using store = await makePair();
    lose(store, loss);
    const files = store.files();
    for (const args of [["gc"], ["prune", "--unused", "--min-age", "0s"]]) {
      const { code, stderr } = await larder(store.path, ...args);
      expect(code).toBe(5);
      expect(stderr).toContain("lacks a layer of");
    }
    expect(store.files()).toEqual(files);
  });

  // As if the row of the shared layer had been lost or spoilt, and brought back by the second image alone.
  test.each([
    ["is lost", []],
    ["holds no digest", ["INSERT INTO layer (id, diff_id, blob_digest) VALUES (9999, 'nodigest', 'x')"]],
  ])("keeps a shared layer whose row %s from rm of the other image, and can be removed itself", async (_, row) => {
    using store = await makePair();
    const one = `(SELECT id FROM manifest WHERE digest = '${digestOf("one")}')`;
    lose(store, ...row, `UPDATE manifest_layer SET layer_id = 9999 WHERE position = 1 AND manifest_id = ${one}`);
    expect((await larder(store.path, "rm", TWO)).code).toBe(5);
    expect(store.has(at.layer("shared"))).toBe(true);
    expect((await larder(store.path, "rm", ONE)).code).toBe(0);
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
  });
});

describe("a row whose id is no safe integer", () => {
  // As JavaScript's numbers, the second and the first are one.
  const shift = (table: string, column: string) =>
    `UPDATE ${table} SET ${column} = ${column} + ${Number.MAX_SAFE_INTEGER} WHERE ${column} IS NOT NULL`;

  test.each([
    [
      "a manifest",
      [["manifest", "id"], ...["config", "manifest_layer", "image_ref"].map((table) => [table, "manifest_id"])],
    ],
    ["a reference", [["image_ref", "id"]]],
    [
      "a layer",
      [
        ["layer", "id"],
        ["manifest_layer", "layer_id"],
      ],
    ],
  ])("is not taken for another, be it of %s", async (_, columns) => {
    using store = await makePair();
    store.sandbox("web", JSON.stringify({ manifest_digest: digestOf("one") }));
    lose(store, ...columns.map(([table, column]) => shift(table!, column!)));
    expect(store.unsound()).toEqual([]);
    const [rows, files] = [store.rows(), store.files()];
    for (const args of [["rm", TWO], ["rm", "-n", TWO], ["gc"], ["prune", "--unused", "--min-age", "0s"]]) {
      const { code, stderr } = await larder(store.path, ...args);
      expect([args, code]).toEqual([args, 5]);
      expect(stderr).toContain("beyond 2^53");
    }
    // The row of a reference it finds by its text.
    const { code: persisted } = await larder(store.path, "persist", TWO);
    expect(persisted).toBe(columns[0]![0] === "image_ref" ? 0 : 5);
    const { code, stdout } = await larder(store.path, "check", "--repair");
    expect([code, stdout.match(/^damage .*/gm)?.length]).toEqual([5, 1]);
    expect(stdout).toContain("beyond 2^53");
    expect([store.rows(), store.files()]).toEqual([rows, files]);
  });
});

describe("an image that has a layer by a diff ID that is no digest", () => {
  const spoil = (id: string) => `UPDATE layer SET diff_id = ${id} WHERE diff_id = '${digestOf("base")}'`;

  test.each([
    ["another text", "'nodigest'"],
    ["upper case", "'sha256:' || upper(substr(diff_id, 8))"],
    ["a digit less", "substr(diff_id, 1, 70)"],
    ["a NUL behind it", "diff_id || char(0)"],
    ["a NUL for its last digit", "substr(diff_id, 1, 70) || char(0)"],
    ["another algorithm", "'sha512:' || substr(diff_id, 8)"],
    ["the same as a blob", "CAST(diff_id AS BLOB)"],
  ])("keeps every file where it is %s, until check --repair has rebuilt its row", async (_, id) => {
    using store = await makePair();
    const files = store.files();
    lose(store, spoil(id));
    expect((await larderJson(store.path, ["df"])).refused).toContain("no digest");
    for (const args of [["gc"], ["gc", "--dry-run"], ["prune", "--keep-last", "1", "--keep", ONE]]) {
      const { code, stderr } = await larder(store.path, ...args);
      expect([args, code]).toEqual([args, 5]);
      expect(stderr).toContain(`has a layer of ${digestOf("one")} by a diff ID that is no digest`);
    }
    expect(store.files()).toEqual(files);
    // The row that held none stays, and is named as what it is.
    expect((await larder(store.path, "check", "--repair")).code).toBe(5);
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(files);
  });

  test("can be evicted and removed itself", async () => {
    using store = await makePair();
    lose(store, spoil("'nodigest'"));
    const { unsafe, references } = await larderJson(store.path, [
      "prune",
      "--unused",
      "--min-age",
      "0s",
      "--keep",
      TWO,
    ]);
    expect(references).toEqual([ONE]);
    expect(unsafe).toEqual(['layer "nodigest"']);
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("two"));
  });
});

test("persist does not take away a write-ahead log that has lost its database", async () => {
  using folder = new TemporaryFolder();
  mkdirSync(join(folder.path, "db"));
  const wal = join(folder.path, "db", "msb.db-wal");
  writeFileSync(wal, "x".repeat(8192));
  const metadata = join(folder.path, "image.json");
  const { layers: _, ...rest } = { layers: [], manifest_digest: digestOf("m"), config_digest: digestOf("c") };
  const config = { env: [], exposed_ports: [], volumes: [], labels: {} };
  writeFileSync(metadata, JSON.stringify({ ...rest, config, layers: [] }));
  const { code, stderr } = await larder(folder.path, "persist", "--metadata", metadata, "one:1");
  expect(code).toBe(5);
  expect(stderr).toContain(wal);
  expect(readFileSync(wal, "utf8")).toBe("x".repeat(8192));
});

test("a reader that has gone away does not hide how a command ended", async () => {
  using store = await makePair();
  rmSync(join(store.cache, at.vmdk("one")));
  expect((await larderJson(store.path, ["check"], 5)).damage).toBeGreaterThan(0);
  const { exitCode } = await Bun.$`bash -c 'set -o pipefail; ${EXECUTABLE} check --home ${store.path} | true'`
    .quiet()
    .nothrow();
  expect(exitCode).toBe(5);
});

describe("a table and an index that do not agree", () => {
  // A first write has made larder's indexes.
  async function makeIndexed(): Promise<Store> {
    const store = await makePair();
    await larder(store.path, "gc");
    return store;
  }
  const layerId = (name: string) => `(SELECT id FROM layer WHERE diff_id = '${digestOf(name)}')`;
  const base = `UPDATE manifest_layer SET layer_id = ${layerId("shared")} WHERE layer_id = ${layerId("base")}`;
  const own = `UPDATE manifest_layer SET layer_id = ${layerId("base")} WHERE layer_id = ${layerId("own")}`;

  test.each([
    ["its index alone still names", [base]],
    [
      "the table alone names",
      [
        own,
        `UPDATE manifest_layer SET layer_id = ${layerId("own")} WHERE layer_id = ${layerId("base")} AND manifest_id = 2`,
      ],
    ],
  ])("keep a layer that %s", async (_, changes) => {
    using store = await makeIndexed();
    const files = store.files();
    // The index follows all changes but the last.
    lose(store, ...changes.slice(0, -1));
    tear(store, "idx_manifest_layer_layer", changes.at(-1)!);
    for (const args of [["gc"], ["prune", "--older-than", "30d"]])
      expect((await larder(store.path, ...args, "--grace", "0s")).code).toBe(0);
    expect(store.files()).toEqual(files);
  });

  const ALIAS = "docker.io/library/alias:1";
  const move = (manifest: number) => `UPDATE image_ref SET manifest_id = ${manifest} WHERE reference = '${ALIAS}'`;

  test.each([
    ["its index alone gives", [move(2)]],
    ["the table alone gives", [move(2), move(1)]],
  ])("keep an image from rm for another name that %s it", async (_, changes) => {
    using store = await makeIndexed();
    lose(store, `INSERT INTO image_ref (reference, manifest_id) VALUES ('${ALIAS}', 1)`, ...changes.slice(0, -1));
    tear(store, "idx_image_ref_manifest", changes.at(-1)!);
    const files = store.files();
    const { code } = await larder(store.path, "rm", ONE);
    expect(code).toBe(5);
    expect(store.files()).toEqual(files);
  });

  test.each(["gc", "rm"])("keep a layer from %s that a second row has, which the index let in", async (command) => {
    using store = await makeIndexed();
    const wrong = digestOf("wrong");
    lose(store, `UPDATE layer SET diff_id = '${wrong}' WHERE diff_id = '${digestOf("base")}'`);
    tear(
      store,
      "sqlite_autoindex_layer_1",
      `UPDATE layer SET diff_id = '${digestOf("base")}' WHERE diff_id = '${wrong}'`,
    );
    lose(
      store,
      `INSERT INTO layer (diff_id, blob_digest) VALUES ('${digestOf("base")}', 'b')`,
      "INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT 2, max(id), 2 FROM layer",
    );
    const args = { gc: ["gc", "--grace", "0s"], rm: ["rm", TWO] }[command]!;
    if (command === "gc") lose(store, `DELETE FROM image_ref WHERE reference = '${TWO}'`);
    const { code } = await larder(store.path, ...args);
    expect(code).toBe(0);
    expect(store.files()).not.toContain(at.layer("own"));
    expect(store.files()).toContain(at.layer("base"));
  });

  test.each(["gc", "prune", "rm"])("keep the database from %s as it is, without larder's indexes", async (command) => {
    using store = await makePair();
    const own = ["idx_manifest_layer_layer", "idx_image_ref_manifest", "idx_sandbox_rootfs_manifest"];
    lose(store, ...own.map((index) => `DROP INDEX ${index}`));
    tear(store, "sqlite_autoindex_image_ref_1", `UPDATE image_ref SET reference = 'x:1' WHERE reference = '${ONE}'`);
    const before = readFileSync(store.database);
    const rest = { gc: [], prune: ["--unused", "--min-age", "0s"], rm: [TWO] }[command]!;
    expect((await larder(store.path, command, ...rest)).code).toBe(5);
    expect(readFileSync(store.database).equals(before)).toBe(true);
    expect(statSync(`${store.database}-wal`, { throwIfNoEntry: false })?.size ?? 0).toBe(0);
  });

  const lost = ["idx_manifest_layer_layer", "idx_manifest_layers_manifest_position"].flatMap((index) =>
    ["gc", "prune", "rm"].map((command): [string, string] => [command, index]),
  );

  test.each(lost)("keep all from %s where %s has lost an entry", async (command, index) => {
    using store = await makeIndexed();
    const files = store.files();
    tear(store, index, `INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (1, ${layerId("own")}, 2)`);
    const rest = { gc: [], prune: ["--unused", "--min-age", "0s"], rm: [TWO] }[command]!;
    const { code, stderr } = await larder(store.path, command, ...rest);
    expect(code).toBe(5);
    expect(stderr).toContain(index);
    expect(store.files()).toEqual(files);
  });
});
