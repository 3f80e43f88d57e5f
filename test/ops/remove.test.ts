import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { writeTimestamp } from "../../src/db/timestamp.ts";
import { FileLock } from "../../src/host/flock.ts";
import { cacheKey } from "../../src/oci/reference.ts";
import { remove } from "../../src/ops/remove.ts";
import { DEFAULT_GRACE_MS } from "../../src/ops/sweep.ts";
import { at, digestOf, Store } from "../store.ts";

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

  test("takes along what a pull has written that it waited for", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    using larder = store.open();
    const lock = FileLock.take(larder.cache.metadata(cacheKey(ONE)).lock!)!;
    const removal = remove(larder, { ...options, references: [ONE] });
    await Bun.sleep(200);
    store.write(at.metadata(ONE), readFileSync(join(store.cache, at.metadata(ONE))), 0);
    store.sql(`UPDATE image_ref SET updated_at = '${writeTimestamp(Date.now())}'`);
    lock.release();
    expect((await removal).skipped).toEqual([]);
    expect(store.files()).toEqual([]);
  });

  describe("beside a load of what the cache has, which takes no lock", () => {
    const load = (store: Store) => store.write(at.metadata(ONE), readFileSync(join(store.cache, at.metadata(ONE))), 0);
    const commit = (store: Store) => store.sql(`UPDATE image_ref SET updated_at = '${writeTimestamp(Date.now())}'`);

    test("waits for the rows of a metadata file that was written just now", async () => {
      using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
      store.sql("UPDATE image_ref SET updated_at = '2026-01-01 00:00:00.000000000'");
      using larder = store.open();
      load(store);
      let isDone = false;
      const removal = remove(larder, { ...options, references: [ONE] }).finally(() => {
        isDone = true;
      });
      await Bun.sleep(300);
      expect(isDone).toBe(false);
      expect(store.rows().references).toEqual([ONE]);
      commit(store);
      await Promise.race([removal, Bun.sleep(5000)]);
      expect(isDone).toBe(true);
      expect(store.files()).toEqual([]);
    });

    test("waits for the rows of one image although another that goes too was put on record since", async () => {
      const TWO = "docker.io/library/two:1";
      using store = await Store.make({
        one: { references: [ONE], layers: ["base"] },
        two: { references: [TWO], layers: ["top"] },
      });
      store.sql("UPDATE image_ref SET updated_at = '2026-01-01 00:00:00.000000000'");
      using larder = store.open();
      load(store);
      store.sql(`UPDATE image_ref SET updated_at = '${writeTimestamp(Date.now() + 20)}' WHERE reference = '${TWO}'`);
      const removal = remove(larder, { ...options, references: [ONE, TWO] });
      await Bun.sleep(200);
      expect(store.rows().references).toEqual([ONE, TWO]);
      commit(store);
      await removal;
      expect(store.files()).toEqual([]);
    });

    test("does not wait where the rows would have followed long ago", async () => {
      using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
      store.sql("UPDATE image_ref SET updated_at = '2026-01-01 00:00:00.000000000'");
      using larder = store.open();
      store.age(at.metadata(ONE), 10_000);
      await remove(larder, { ...options, references: [ONE] });
      expect(store.files()).toEqual([]);
    });

    test("leaves all files where the metadata file is written once it has looked", async () => {
      using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
      store.sql("UPDATE image_ref SET updated_at = '2026-01-01 00:00:00.000000000'");
      const opened = store.open();
      using _ = opened;
      let asked = 0;
      // The clock is asked once more after the file was found to be old: another process acts at that moment.
      const now = () => {
        if (asked++ === 1) load(store);
        return Date.now();
      };
      const report = await remove({ ...opened, now }, { ...options, references: [ONE] });
      expect(report.removed).toHaveLength(1);
      expect(store.files()).toEqual(store.filesOf("one"));
    });
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

  test("decides anew inside its transaction where others write all the time", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"] } });
    const before = store.rows();
    using larder = store.open();
    let tries = 0;
    // Asked between the look and the transaction of each try: another process writes at that moment, and at the last try
    // it pins the image. To try for ever would keep this process from any timeout.
    const stopped = () => {
      store.sandbox(`web-${++tries}`, tries < 5 ? "{}" : JSON.stringify({ manifest_digest: digestOf("one") }));
      return tries > 20;
    };
    const report = await remove(larder, { ...options, references: [ONE], stopped });
    expect(report).toMatchObject({ removed: [], refused: [{ code: "in_use" }], files: [] });
    expect([store.rows(), store.files()]).toEqual([before, store.filesOf("one")]);
  });
});
