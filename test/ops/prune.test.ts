import { describe, expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import type { Larder } from "../../src/larder.ts";
import {
  type CollectionPlan,
  type CollectOptions,
  collectRows,
  type Leaving,
  planCollection,
} from "../../src/ops/collect.ts";
import { PinWatch } from "../../src/ops/pins.ts";
import { type PruneReport, prune } from "../../src/ops/prune.ts";
import type { PrunePolicy } from "../../src/ops/prune-plan.ts";
import { sweep } from "../../src/ops/sweep.ts";
import { allocatedIn, DAY, layerDigest, MINUTE, Store } from "./prune-store.ts";

const OPTIONS: CollectOptions = { grace: 10 * MINUTE, sweepUnrecorded: false };

async function pruneStore(store: Store, policy: Partial<PrunePolicy>, dryRun = false): Promise<PruneReport> {
  using home = store.open();
  return await prune(home.larder, { ...OPTIONS, dryRun, policy: { keep: [], minAge: 10 * MINUTE, ...policy } });
}

/** The rows of every named image, as a prune hands them on when it takes them all. */
function everyName(store: Store): Leaving[] {
  const rows = store.db
    .query<{ id: number; digest: string; name: number; reference: string; updatedAt: string }, []>(
      `SELECT m.id AS id, m.digest AS digest, r.id AS name, r.reference AS reference, r.updated_at AS updatedAt
       FROM manifest AS m
       JOIN image_ref AS r ON r.manifest_id = m.id
       ORDER BY m.id, r.id`,
    )
    .all();
  return [...Map.groupBy(rows, ({ id }) => id)].map(([id, names]) => ({
    id,
    digest: names[0]!.digest,
    drop: names.map(({ name, reference, updatedAt }) => ({ id: name, reference, updatedAt })),
  }));
}

/** Plans to evict all, lets `meanwhile` happen as another process would, then applies the plan to rows and files. */
async function applyAfter(store: Store, meanwhile: () => void) {
  using home = store.open();
  const { larder } = home;
  const pins = new PinWatch(larder);
  const plan = planCollection(larder, pins, OPTIONS, { evicted: everyName(store), spare: new Set() });
  meanwhile();
  const rows = await collectRows(larder, plan, pins, OPTIONS);
  return { plan, rows, files: await sweep(larder, plan.targets, OPTIONS) };
}

describe("collectRows", () => {
  test.each<[string, string, (store: Store, digest: string) => void]>([
    ["sandbox that has booted", 'sandbox "web"', (store, digest) => store.pinBySandbox("web", digest)],
    ["sandbox that is about to boot", 'sandbox "web"', (store, digest) => store.pinByConfig("web", digest)],
    ["snapshot", 'snapshot "web"', (store, digest) => store.pinBySnapshot("web", digest)],
  ])("leaves an image that a %s has got since the plan, with all its files", async (_, pin, add) => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1", "acme/a:2"], layers: { base: 8192, a: 4096 } });
    store.image({ names: ["acme/b:1"], layers: { base: 8192, b: 4096 } });
    const { plan, rows, files } = await applyAfter(store, () => add(store, a));
    expect(plan.manifests).toHaveLength(2);
    expect(rows.spared).toEqual([{ digest: a, reason: `in use by ${pin} since the plan was made` }]);
    expect(rows.references).toEqual(["acme/b:1"]);
    expect(store.references()).toEqual(["acme/a:1", "acme/a:2"]);
    const kept = [
      ...[store.layerPath("base"), store.layerPath("a"), store.fsmetaPath(a), store.vmdkPath(a)],
      ...[store.metadataPath("acme/a:1"), store.metadataPath("acme/a:2")],
    ];
    for (const path of kept) expect([path, existsSync(path)]).toEqual([path, true]);
    expect(files.skipped.map(({ path }) => path).sort()).toEqual(kept.sort());
    expect(existsSync(store.layerPath("b"))).toBe(false);
  });

  test("leaves an image whose name was used again since the plan, and says so", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    store.image({ names: ["acme/b:1"], layers: { b: 4096 } });
    const { rows } = await applyAfter(store, () => {
      store.db.query("UPDATE image_ref SET updated_at = ? WHERE reference = 'acme/a:1'").run(store.ago(0));
    });
    expect(rows.spared).toEqual([{ digest: a, reason: "used since the plan was made" }]);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("a"))).toBe(true);
  });

  test("leaves both names of an image when one of them was used again", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1", "acme/a:2"], layers: { a: 4096 } });
    await applyAfter(store, () => {
      store.db.query("UPDATE image_ref SET updated_at = ? WHERE reference = 'acme/a:2'").run(store.ago(0));
    });
    expect(store.references()).toEqual(["acme/a:1", "acme/a:2"]);
  });

  test("does not drop a name that has moved to another image since the plan", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    const { rows } = await applyAfter(store, () => {
      store.image({ seed: "new", layers: { n: 4096 }, used: 0 });
      store.db.run("UPDATE image_ref SET manifest_id = 2");
    });
    expect(rows.references).toEqual([]);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(store.metadataPath("acme/a:1"))).toBe(true);
    // What it named before is free, and goes.
    expect(existsSync(store.layerPath("a"))).toBe(false);
    expect(existsSync(store.layerPath("n"))).toBe(true);
  });

  test("keeps an image that has got another name since the plan", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    const { rows } = await applyAfter(store, () => store.alias(a, "acme/a:new", 0));
    expect(rows.manifests).toEqual([]);
    expect(store.references()).toEqual(["acme/a:new"]);
    for (const path of [store.layerPath("a"), store.vmdkPath(a), store.metadataPath("acme/a:new")]) {
      expect(existsSync(path)).toBe(true);
    }
  });

  test("keeps the layers that a new image has claimed since the plan", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 8192, a: 4096 } });
    const { rows } = await applyAfter(store, () => {
      store.image({ names: ["acme/b:1"], layers: { base: 8192, b: 4096 }, filesAge: 0 });
    });
    expect(rows.references).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("base"))).toBe(true);
    expect(existsSync(store.layerPath("a"))).toBe(false);
    expect(store.count("layer")).toBe(2);
  });

  test("refuses to go on when what is in use can no longer be told", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const applied = applyAfter(store, () => {
      store.db.run("INSERT INTO sandbox (name, config, status) VALUES ('broken', '{', 'running')");
    });
    await expect(applied).rejects.toMatchObject({ code: "damaged" });
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test("notices a pin that comes between two of its transactions", async () => {
    using store = new Store();
    const digests = Array.from({ length: 1501 }, (_, i) =>
      store.image({ names: [`acme/i${i}:1`], layers: { base: 4096 }, bare: true }),
    );
    using home = store.open();
    const { larder } = home;
    const pins = new PinWatch(larder);
    const plan = planCollection(larder, pins, OPTIONS, { evicted: everyName(store), spare: new Set() });
    const applied = collectRows(larder, plan, pins, OPTIONS);
    // The first transaction is done by now, and the next waits for the event loop.
    expect(store.count("manifest")).toBeLessThan(1501);
    store.pinByConfig("web", digests.at(-1)!);
    const rows = await applied;
    expect(rows.spared.map(({ digest }) => digest)).toEqual([digests.at(-1)!]);
    expect(store.references()).toEqual(["acme/i1500:1"]);
    expect(store.count("layer")).toBe(1);
  });

  test("stops between two transactions when it is told to", async () => {
    using store = new Store();
    for (let i = 0; i < 1501; i++) store.image({ names: [`acme/i${i}:1`], layers: { base: 4096 }, bare: true });
    using home = store.open();
    const { larder } = home;
    const pins = new PinWatch(larder);
    const plan: CollectionPlan = planCollection(larder, pins, OPTIONS, { evicted: everyName(store), spare: new Set() });
    let asked = 0;
    const rows = await collectRows(larder, plan, pins, { ...OPTIONS, stopped: () => asked++ > 0 });
    expect([rows.references.length, store.count("manifest")]).toEqual([
      1501 - store.count("image_ref"),
      1501 - rows.manifests.length,
    ]);
    expect(store.count("image_ref")).toBeGreaterThan(0);
    expect(rows.references.length).toBeGreaterThan(0);
  });

  test("gives the first of two failures", async () => {
    using store = new Store();
    for (let i = 1; i <= 501; i++)
      store.image({ names: [`acme/i${i}:1`], layers: i === 1 ? { own: 4096 } : {}, bare: true });
    // The first transaction takes 500, and the layer of the first image goes after all of them.
    store.db.run(
      "CREATE TRIGGER first BEFORE DELETE ON manifest WHEN old.id = 501 BEGIN SELECT raise(ABORT, 'the first'); END",
    );
    store.db.run("CREATE TRIGGER second BEFORE DELETE ON layer BEGIN SELECT raise(ABORT, 'the second'); END");
    const { rows } = await applyAfter(store, () => {});
    expect([rows.references.length, store.count("layer")]).toEqual([500, 1]);
    expect(rows.failure).toMatchObject({ message: "the first" });
  });
});

describe("prune", () => {
  test("leaves an image that is pinned while it measures the disk", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    store.image({ names: ["acme/b:1"], layers: { b: 4096 } });
    using home = store.open();
    let asked = 0;
    // The clock is asked between the reading of rows and their change: another process acts at that moment.
    const now = () => {
      if (asked++ === 1) store.pinByConfig("web", a);
      return Date.now();
    };
    const larder: Larder = { ...home.larder, now };
    const policy = { keep: [], minAge: 10 * MINUTE, unused: true };
    const report = await prune(larder, { ...OPTIONS, dryRun: false, policy });
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("a"))).toBe(true);
    expect(report.references).toEqual(["acme/b:1"]);
    expect(report.spared).toEqual([{ digest: a, reason: 'in use by sandbox "web" since the plan was made' }]);
  });

  test.each<[string, (store: Store, digest: string) => string]>([
    ["a layer", (store) => `${store.layerPath("own")}.lock`],
    ["the fsmeta file", (store, digest) => `${store.fsmetaPath(digest)}.lock`],
    ["the metadata file", (store) => store.metadataPath("acme/a:1").replace(/json$/, "lock")],
  ])("keeps an image while a pull holds the lock of %s", async (_, lockOf) => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { own: 4096 } });
    store.image({ names: ["acme/b:1"], layers: { b: 4096 } });
    // A pull holds its metadata lock from start to end, whichever other lock it takes.
    using _pull = FileLock.take(store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0))!;
    const path = lockOf(store, a);
    using _lock = FileLock.take(store.file(path, 0))!;
    const report = await pruneStore(store, { unused: true });
    const [first, second] = report.decisions;
    expect([first!.action, first!.cause, first!.reason]).toEqual([
      "keep",
      "locked",
      `a pull or load may be at work on "${path}"`,
    ]);
    expect([second!.action, second!.cause]).toEqual(["evict", "unused"]);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("own"))).toBe(true);
    // Its rows are gone, and its artifacts wait for the pull to end.
    expect(existsSync(store.layerPath("b"))).toBe(true);
    expect(report.skipped.map(({ path }) => path)).toContain(store.layerPath("b"));
  });

  test("takes an image whose metadata file is of the future, which no load has just written", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const tomorrow = Date.now() / 1000 + 86_400;
    utimesSync(store.metadataPath("acme/a:1"), tomorrow, tomorrow);
    expect((await pruneStore(store, { unused: true })).references).toEqual(["acme/a:1"]);
  });

  test("keeps an image whose metadata file a running load may just have written", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    const now = Date.now() / 1000;
    utimesSync(store.metadataPath("acme/a:1"), now, now);
    utimesSync(store.file(join(store.cache, "tmp", "load-0-1-0.blob"), 0), now, now);
    const report = await pruneStore(store, { unused: true });
    expect(report.decisions[0]!.cause).toBe("locked");
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test.each([
    ["keeps an image whose metadata file is newer than its row", "locked", 5 * MINUTE],
    ["takes an image that was put on record after its metadata file was written", "unused", 2 * MINUTE],
  ])("%s: a load of what is cached takes no lock", async (_, cause, used) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used, filesAge: 3 * MINUTE });
    const report = await pruneStore(store, { unused: true, minAge: 0 });
    expect(report.decisions[0]!.cause).toBe(cause as "locked");
    expect(existsSync(store.metadataPath("acme/a:1"))).toBe(cause === "locked");
  });

  test("takes an image whose lock files nobody holds", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    const locks = [`${store.layerPath("a")}.lock`, `${store.fsmetaPath(a)}.lock`];
    for (const lock of locks) store.file(lock, 0);
    await pruneStore(store, { unused: true });
    expect(store.references()).toEqual([]);
    expect(existsSync(store.layerPath("a"))).toBe(false);
    // Lock files are never unlinked.
    for (const lock of locks) expect(existsSync(lock)).toBe(true);
  });

  test("calls no image evicted that it did not come to before it was stopped", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    using home = store.open();
    const policy = { keep: [], minAge: 0, unused: true };
    const report = await prune(home.larder, { ...OPTIONS, dryRun: false, policy, stopped: () => true });
    expect(report.decisions).toMatchObject([
      { action: "keep", cause: "changed", reason: "the work was stopped before it came to this", bytes: 0 },
    ]);
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test("calls no image evicted whose name has moved on meanwhile", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    using home = store.open();
    let asked = 0;
    const now = () => {
      if (asked++ === 1) {
        store.image({ seed: "new" });
        store.db.run("UPDATE image_ref SET manifest_id = 2");
      }
      return Date.now();
    };
    const policy = { keep: [], minAge: 0, unused: true };
    const report = await prune({ ...home.larder, now }, { ...OPTIONS, dryRun: false, policy });
    expect(report.decisions).toMatchObject([
      { action: "keep", reason: "it was changed since the plan was made", bytes: 0 },
    ]);
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test("tells what it has evicted although it fails then", async () => {
    using store = new Store();
    for (let i = 0; i < 600; i++) store.image({ names: [`acme/i${i}:1`], layers: {}, bare: true });
    // The first transaction takes 500.
    store.db.run(
      "CREATE TRIGGER broken BEFORE DELETE ON manifest WHEN old.id = 501 BEGIN SELECT raise(ABORT, 'broken'); END",
    );
    using home = store.open();
    const evicted: (string | null)[] = [];
    const options = { ...OPTIONS, dryRun: false, policy: { keep: [], minAge: 0, unused: true } };
    const work = prune(home.larder, { ...options, evicted: ({ reference }) => evicted.push(reference) });
    await expect(work).rejects.toThrow("broken");
    expect(evicted).toHaveLength(500);
    expect(store.references()).toHaveLength(100);
    expect(store.references().filter((reference) => evicted.includes(reference))).toEqual([]);
  });

  test("tells what it has evicted although no file can be swept then", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    using home = store.open();
    const evicted: (string | null)[] = [];
    const options = { ...OPTIONS, dryRun: false, policy: { keep: [], minAge: 0, unused: true } };
    const tell = ({ reference }: { reference: string | null }) => {
      evicted.push(reference);
      // Where the sweep's own connection looks.
      mkdirSync(join(store.home, "db", "self-downgrade", "one"), { recursive: true });
      writeFileSync(join(store.home, "db", "self-downgrade", "one", "journal.json"), "{}");
    };
    await expect(prune(home.larder, { ...options, evicted: tell })).rejects.toThrow("an msb downgrade is not finished");
    expect(evicted).toEqual(["acme/a:1"]);
  });

  test("leaves the files of an image that msb loads again once its rows have gone, be the grace none at all", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], layers: { a: 8192 } });
    using home = store.open();
    const evicted = () => {
      const path = store.metadataPath("acme/a:1");
      copyFileSync(path, `${path}.part`);
      renameSync(`${path}.part`, path);
    };
    const policy = { keep: [], minAge: 0, unused: true };
    const { skipped } = await prune(home.larder, { ...OPTIONS, grace: 0, dryRun: false, policy, evicted });
    const files = [store.layerPath("a"), store.fsmetaPath(digest), store.vmdkPath(digest)];
    for (const file of files) expect(existsSync(file)).toBe(true);
    expect(skipped.map(({ path }) => path).sort()).toEqual([store.metadataPath("acme/a:1"), ...files].sort());
  });

  test("tells how much of a budget's plan was left because a pull runs", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 8 * 4096 } });
    using _pull = FileLock.take(store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0))!;
    const { target, skipped, decisions } = await pruneStore(store, { unused: true, maxSize: 0 });
    expect(decisions[0]!.action).toBe("evict");
    const files = [store.layerPath("a"), store.fsmetaPath(a), store.vmdkPath(a)];
    expect(skipped.map(({ path }) => path).sort()).toEqual(files.sort());
    const left = files.reduce((sum, path) => sum + lstatSync(path).blocks * 512, 0);
    expect(target).toMatchObject({ missing: 0, left });
  });

  describe("where two names are one file", () => {
    const MIB = 1024 * 1024;

    /** Two images, the layer of the older one linked to another place. */
    function linked(place: (store: Store) => string): Store {
      const store = new Store();
      store.image({ names: ["acme/a:1"], used: 40 * DAY, layers: { a: MIB } });
      store.image({ names: ["acme/b:1"], used: 30 * DAY, layers: { b: MIB } });
      rmSync(place(store), { force: true });
      linkSync(store.layerPath("a"), place(store));
      return store;
    }

    const inOther = (store: Store) => store.layerPath("b");
    const inBackup = (store: Store) => join(store.home, "backup");

    test.each<[string, (store: Store) => string, string[]]>([
      ["that of the other image", inOther, []],
      ["one outside of the cache", inBackup, ["acme/b:1"]],
    ])("takes out of the cache what a budget of its size asks for: %s", async (_, place, kept) => {
      using store = linked(place);
      const before = allocatedIn(store.cache);
      const { target } = await pruneStore(store, { maxSize: before - MIB });
      expect(target).toMatchObject({ needed: MIB, missing: 0, left: 0 });
      expect(store.references()).toEqual(kept);
      expect(before - allocatedIn(store.cache)).toBe(target!.planned);
      expect((await pruneStore(store, { maxSize: before - MIB })).references).toEqual([]);
    });

    test("counts for a budget of free space no blocks that would not be free", async () => {
      using store = linked(inBackup);
      // All of the disk, so that what others write there counts for nothing.
      const { decisions } = await pruneStore(store, { minFree: { percent: 100 } }, true);
      const frees = decisions.map(({ reference, bytes }) => [reference, bytes >= MIB]);
      expect(frees).toEqual([
        ["acme/a:1", false],
        ["acme/b:1", true],
      ]);
    });

    test("counts them for a budget of the cache's size, be there one of free space that holds", async () => {
      using store = linked(inBackup);
      const maxSize = allocatedIn(store.cache) - MIB;
      const { references, target } = await pruneStore(store, { maxSize, minFree: { bytes: 1 } });
      expect(references).toEqual(["acme/a:1"]);
      expect(target).toMatchObject({ missing: 0, left: 0, lacking: 0 });
    });

    test.each([
      ["both names are left", inOther, MIB],
      ["there is a name outside of the cache", inBackup, 2 * MIB],
    ])("counts its blocks once where a pull keeps it: %s", async (_, place, layers) => {
      using store = linked(place);
      using _pull = FileLock.take(store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0))!;
      const { target } = await pruneStore(store, { unused: true, maxSize: 0 });
      // And the small files of both.
      expect(target!.left).toBe(layers + 4 * 4096);
    });

    test("plans what it then frees", async () => {
      using store = linked((store) => store.layerPath("b"));
      using home = store.open();
      const policy = { keep: [], minAge: 0, unused: true };
      const plan = await prune(home.larder, { ...OPTIONS, dryRun: true, policy });
      const report = await prune(home.larder, { ...OPTIONS, dryRun: false, policy });
      expect(plan.files).toEqual(report.files);
      expect(plan.bytes_reclaimed).toBe(report.bytes_reclaimed);
      expect(allocatedIn(store.cache)).toBe(0);
    });
  });

  test("does not count on a folder in an artifact's place, which stays", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 4096 } });
    rmSync(store.layerPath("a"));
    store.file(join(store.layerPath("a"), "inside"), 40_960);
    const before = allocatedIn(store.cache);
    const { target } = await pruneStore(store, { maxSize: 0 });
    expect(before - target!.needed).toBe(0);
    expect(target!.missing).toBe(allocatedIn(store.cache));
  });

  test("does not count on a layer that an image which no policy may take has, too", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 40 * DAY, layers: { base: 40_960 } });
    store.image({ names: ["acme/bad:1"], used: 30 * DAY, layers: { base: 40_960 }, bare: true });
    store.db.run("UPDATE manifest SET digest = 'no digest' WHERE id = 2");
    const report = await pruneStore(store, { maxSize: 0 });
    expect(report.target!.planned).toBe(report.bytes_reclaimed);
    expect(report.target!.missing).toBeGreaterThanOrEqual(40_960);
    expect(existsSync(store.layerPath("base"))).toBe(true);
  });

  test("does not count on a layer that a row has for an image which is not there", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 40_960 } });
    store.db.run("PRAGMA foreign_keys = OFF");
    store.db.run("INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (77, 1, 0)");
    const report = await pruneStore(store, { maxSize: 0 });
    expect(report.target!.planned).toBe(report.bytes_reclaimed);
    expect(report.target!.missing).toBeGreaterThanOrEqual(40_960);
    expect(existsSync(store.layerPath("base"))).toBe(true);
  });

  test("says when each image was last used", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 3 * DAY });
    const report = await pruneStore(store, { olderThan: 30 * DAY });
    const { last_used_at } = report.decisions[0]!;
    expect(Date.now() - Date.parse(last_used_at!)).toBeCloseTo(3 * DAY, -5);
    expect(last_used_at).toEndWith("+00:00");
  });

  test("counts the blocks of a sparse flat blob for a budget, and not its length", async () => {
    using store = new Store();
    store.flat("one", [store.image({ names: ["acme/a:1"] })]);
    const report = await pruneStore(store, { maxSize: 1024 * 1024 });
    expect(report.target).toEqual({ needed: 0, planned: 0, missing: 0, left: 0, lacking: 0, waits_for: null });
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test("tells how much of a budget's plan was left because an image is about to follow that needs it", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 8 * 4096 } });
    const metadata = readFileSync(store.metadataPath("acme/a:1"), "utf8").replace(a, layerDigest("another manifest"));
    const coming = store.file(store.metadataPath("acme/coming:1"), metadata, MINUTE);
    for (const dryRun of [true, false]) {
      const { target, skipped, decisions } = await pruneStore(store, { unused: true, maxSize: 0 }, dryRun);
      expect(decisions[0]!.action).toBe("evict");
      const files = [store.layerPath("a"), coming];
      expect(skipped.map(({ path }) => path).sort()).toEqual(files.sort());
      const left = files.reduce((sum, path) => sum + lstatSync(path).blocks * 512, 0);
      expect(target).toMatchObject({ missing: 0, left });
    }
  });

  test("waits a moment for a pull to end before a budget evicts", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    using home = store.open();
    const lock = FileLock.take(store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0))!;
    let asked = 0;
    // Asked before each look for a pull, the tenth of them after half a second.
    const stopped = () => {
      if (++asked === 10) lock.release();
      return false;
    };
    const policy = { keep: [], minAge: 0, maxSize: 0 };
    const { references, target } = await prune(home.larder, { ...OPTIONS, dryRun: false, policy, stopped });
    expect(references).toEqual(["acme/a:1"]);
    expect(target).toMatchObject({ missing: 0, left: 0, waits_for: null });
    expect(allocatedIn(store.cache)).toBe(0);
  });
});
