import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { whileChecked } from "../../src/ops/soundness.ts";
import { larder } from "../larder.ts";
import { Store } from "../store.ts";

const DYING = fileURLToPath(new URL("dying-worker.ts", import.meta.url));

/** A home of two images; the database of a large one is checked in a thread. */
async function makeStore(size: "small" | "large"): Promise<Store> {
  const store = await Store.make({
    web: { references: ["docker.io/library/web:1"], layers: ["base", "web"] },
    job: { references: ["docker.io/library/job:1"], layers: ["base", "job"] },
  });
  if (size === "large") store.sql(`CREATE TABLE ballast AS SELECT zeroblob(${10 * 1024 * 1024}) AS data`);
  return store;
}

/** Says of an index's first page that it has no cells. */
function emptyPage(store: Store, index: string): void {
  store.sql("PRAGMA wal_checkpoint(TRUNCATE)");
  const bytes = readFileSync(store.database);
  bytes.writeUInt16BE(0, offsetOf(store, index) + 3);
  writeFileSync(store.database, bytes);
}

// A bit of a key: the page stays in order, and its rows are as many as before.
function changeKey(store: Store, index: string, key: string): void {
  store.sql("PRAGMA wal_checkpoint(TRUNCATE)");
  const bytes = readFileSync(store.database);
  const start = offsetOf(store, index);
  const at = bytes.indexOf(key, start);
  if (at < 0 || at > start + 4096) throw new Error(`${index} has no ${key}`);
  bytes[at + key.length - 1]! ^= 1;
  writeFileSync(store.database, bytes);
}

function offsetOf(store: Store, index: string): number {
  using db = new Database(store.database, { readonly: true });
  const row = db.query<{ rootpage: number }, [string]>("SELECT rootpage FROM sqlite_master WHERE name = ?").get(index);
  return (row!.rootpage - 1) * 4096;
}

function fail(): never {
  throw new Error("the work failed");
}

const DAMAGE: [name: string, spoil: (store: Store) => void][] = [
  ["a page", (store) => emptyPage(store, "idx_manifest_layers_manifest_position")],
  [
    "an entry of the index of references",
    (store) => changeKey(store, "sqlite_autoindex_image_ref_1", "docker.io/library/web:1"),
  ],
];

describe.each(["small", "large"] as const)("the check of a %s database", (size) => {
  test.each(DAMAGE)("keeps all that deletes from doing so where %s is damaged", async (_, spoil) => {
    using store = await makeStore(size);
    spoil(store);
    const files = store.files();
    const bytes = Bun.hash(readFileSync(store.database));
    for (const command of [["rm", "job:1"], ["gc"], ["prune", "--unused", "--min-age", "0s"]])
      for (const flags of [[], ["--dry-run"]]) {
        const { code, stdout, stderr } = await larder(store.path, ...command, ...flags);
        expect([...command, code, stdout]).toEqual([...command, 5, ""]);
        expect(stderr).toContain(`nothing was deleted, because the database "${store.database}" is damaged: `);
      }
    expect(store.files()).toEqual(files);
    expect(Bun.hash(readFileSync(store.database))).toBe(bytes);
  });

  test("lets a sound one be, and leaves no log behind", async () => {
    using store = await makeStore(size);
    expect((await larder(store.path, "rm", "nothing:1")).code).toBe(3);
    expect((await larder(store.path, "rm", "job:1")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("web"));
    expect(existsSync(`${store.database}-wal`)).toBe(false);
    expect((await larder(store.path, "prune", "--unused", "--min-age", "0s")).code).toBe(0);
    expect(store.files()).toEqual([]);
  });

  test("gives what the work gives, or its error", async () => {
    using store = await makeStore(size);
    using larder = store.open();
    expect(await whileChecked(larder, () => "done")).toBe("done");
    await expect(whileChecked(larder, fail)).rejects.toThrow("the work failed");
  });

  test.each(DAMAGE)("puts %s that is damaged before whatever the work makes of it", async (_, spoil) => {
    using store = await makeStore(size);
    spoil(store);
    using larder = store.open();
    await expect(whileChecked(larder, fail)).rejects.toMatchObject({
      code: "damaged",
      message: expect.stringContaining("is damaged"),
    });
  });
});

describe("whileChecked", () => {
  test("fails where the thread that checks dies", async () => {
    using store = await makeStore("large");
    using larder = store.open();
    await expect(whileChecked(larder, () => "done", DYING)).rejects.toThrow("died");
  });
});
