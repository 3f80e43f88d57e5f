import { describe, expect, test } from "bun:test";
import { renameSync, rmSync, utimesSync } from "node:fs";
import { join } from "node:path";
import type { Target } from "../../src/cache/delete.ts";
import type { CacheFile, CachePaths } from "../../src/cache/paths.ts";
import { FileLock } from "../../src/host/flock.ts";
import type { Larder } from "../../src/larder.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { filesOf, measureTargets } from "../../src/ops/doomed.ts";
import { DEFAULT_GRACE_MS, sweep } from "../../src/ops/sweep.ts";
import { at, digestOf, fillWithLocks, flatRefOf, MANY, metadataOf, Store, YOUNG } from "../store.ts";

const KEPT = "docker.io/library/kept:1";
const options = { grace: DEFAULT_GRACE_MS };

function makeKept(): Promise<Store> {
  return Store.make({ kept: { references: [KEPT], layers: ["base"] } });
}

async function makeCrowded(locks: number): Promise<Store> {
  const store = await makeKept();
  fillWithLocks(join(store.cache, "manifests"), locks);
  return store;
}

function keyOf(canonical: string): string {
  return at.metadata(canonical).slice("manifests/".length, -".json".length);
}

function layer({ cache }: Larder, name: string): CacheFile {
  return cache.layer(digestOf(name) as Digest);
}

function plan(...files: CacheFile[]): Target[] {
  const { targets } = measureTargets(files);
  if (targets.length !== files.length) throw new Error("a planned file is missing");
  return targets;
}

/** The same target, with something that happens each time that it is compared with its file. */
function meanwhileAt(target: Target, happen: () => void): Target {
  return {
    ...target,
    get inode() {
      happen();
      return target.inode;
    },
  };
}

/** Gives a file one certain time, the same whenever it is asked for. */
function dated(path: string): string {
  utimesSync(path, 1_700_000_000, 1_700_000_000);
  return path;
}

describe("sweep", () => {
  test("tells as a failure that metadata whose rows are gone stays because of a snapshot that cannot be read", async () => {
    using store = await makeKept();
    using larder = store.open();
    const targets = plan(larder.cache.metadata(keyOf(KEPT)));
    store.sql("DELETE FROM image_ref");
    store.snapshotOnDisk("base", "{");
    const { deleted, skipped, failed } = await sweep(larder, targets, options);
    expect([deleted, skipped]).toEqual([[], []]);
    const why = /^it was left, because what is in use cannot be told: snapshot "base"/;
    expect(failed).toMatchObject([{ kind: "metadata", reason: expect.stringMatching(why) }]);
  });

  test("deletes in the order given, and reports kind, path and bytes", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.layer("one"), new Uint8Array(5000));
    store.write(at.layer("two"), new Uint8Array(1));
    const report = await sweep(larder, plan(layer(larder, "two"), layer(larder, "one")), options);
    expect(report).toEqual({
      deleted: [
        { kind: "layer", path: join(store.cache, at.layer("two")), bytes: 4096 },
        { kind: "layer", path: join(store.cache, at.layer("one")), bytes: 8192 },
      ],
      skipped: [],
      failed: [],
    });
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  const meanwhile: [what: string, change: (store: Store, path: string) => void][] = [
    ["was written anew", (store, path) => void store.write(path, "new", YOUNG)],
    [
      "was replaced by another of the same age",
      (store, path) => renameSync(dated(store.write("tmp/new")), join(store.cache, path)),
    ],
    [
      "went and came again, of the same age and perhaps with its inode",
      (store, path) => {
        rmSync(join(store.cache, path));
        dated(store.write(path));
      },
    ],
    [
      "became a folder of the same age, perhaps with its inode",
      (store, path) => {
        rmSync(join(store.cache, path));
        store.write(`${path}/file`);
        dated(join(store.cache, path));
      },
    ],
  ];

  test.each(meanwhile)("leaves a file that %s between plan and delete", async (_, change) => {
    using store = await makeKept();
    using larder = store.open();
    dated(store.write(at.layer("stray")));
    const targets = plan(layer(larder, "stray"));
    change(store, at.layer("stray"));
    const { deleted, skipped, failed } = await sweep(larder, targets, options);
    expect([deleted, failed]).toEqual([[], []]);
    expect(skipped).toMatchObject([{ kind: "layer", reason: "it changed meanwhile" }]);
    expect(store.has(at.layer("stray"))).toBe(true);
  });

  test("has nothing against a file that went by itself", async () => {
    using store = await makeKept();
    using larder = store.open();
    const targets = plan({ ...layer(larder, "stray"), path: store.write(at.layer("stray")) });
    rmSync(join(store.cache, at.layer("stray")));
    expect(await sweep(larder, targets, options)).toMatchObject({ skipped: [], failed: [] });
  });

  test("leaves what a row came to want between plan and delete", async () => {
    using store = await makeKept();
    using larder = store.open();
    const manifest = digestOf("new") as Digest;
    store.write(at.layer("new layer"));
    store.write(at.fsmeta("new"));
    store.write(at.vmdk("new"));
    store.write(at.flatRef("new"), JSON.stringify(flatRefOf("new", "root")));
    store.write(at.flatBlob("root"));
    store.write(at.metadata("docker.io/library/new:latest"), "{}");
    const { cache } = larder;
    const targets = plan(
      cache.metadata(keyOf("docker.io/library/new:latest")),
      cache.vmdk(manifest),
      cache.fsmeta(manifest),
      cache.flatRef(manifest),
      cache.flatBlob(digestOf("root") as Digest),
      layer(larder, "new layer"),
    );
    const before = store.files();
    // The row holds the reference as typed, and the file name its canonical form.
    await store.persist([{ reference: "new", metadata: metadataOf("new", ["new layer"]) }]);
    const { deleted, skipped } = await sweep(larder, targets, options);
    expect(deleted).toEqual([]);
    expect(skipped.map(({ kind, reason }) => [kind, reason])).toEqual([
      ["metadata", "a reference needs it"],
      ["vmdk", "a row needs it"],
      ["fsmeta", "a row needs it"],
      ["flat_ref", "a row needs it"],
      ["flat_blob", "a flat ref needs it"],
      ["layer", "a row needs it"],
    ]);
    expect(store.files()).toEqual(before);
  });

  test("leaves a metadata file whose canonical reference another spelling has", async () => {
    using store = await Store.make({
      kept: { references: ["index.docker.io/kept=docker.io/library/kept:latest"], layers: ["base"] },
    });
    using larder = store.open();
    const canonical = "docker.io/library/kept:latest";
    const file = larder.cache.metadata(keyOf(canonical));
    for (const target of [file, { ...file, canonical }]) {
      const { skipped } = await sweep(larder, plan(target), options);
      expect(skipped).toMatchObject([{ reason: "a reference needs it" }]);
    }
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("leaves everything when the catalogue is gone", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.layer("stray"));
    const targets = plan(layer(larder, "stray"));
    rmSync(store.database);
    const { deleted, skipped } = await sweep(larder, targets, options);
    expect(deleted).toEqual([]);
    expect(skipped).toMatchObject([{ reason: "the catalogue is gone, or busy" }]);
    expect(store.has(at.layer("stray"))).toBe(true);
  });

  test("opens no catalogue where there is nothing to delete", async () => {
    using store = await makeKept();
    using larder = store.open();
    const nowhere = { ...larder, home: { ...larder.home, database: join(store.path, "not a database") } };
    await Bun.write(nowhere.home.database, "not a database");
    expect(await sweep(nowhere, [], options)).toEqual({ deleted: [], skipped: [], failed: [] });
  });

  test("stops before the next batch when it is asked to", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.layer("stray"));
    const report = await sweep(larder, plan(layer(larder, "stray")), { ...options, stopped: () => true });
    expect(report).toEqual({ deleted: [], skipped: [], failed: [] });
    expect(store.has(at.layer("stray"))).toBe(true);
  });

  /** The same targets, each so slow to compare with its file that it takes a batch of its own. */
  function slowly(targets: Target[]): Target[] {
    return targets.map((target) => meanwhileAt(target, () => Bun.sleepSync(60)));
  }

  test("goes on batch after batch", async () => {
    using store = await makeKept();
    using larder = store.open();
    const names = ["one", "two", "three", "four"];
    for (const name of names) store.write(at.layer(name));
    const { deleted } = await sweep(larder, slowly(plan(...names.map((name) => layer(larder, name)))), options);
    expect(deleted).toHaveLength(4);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("lets writers in between two batches, and asks the rows anew in each", async () => {
    using store = await makeKept();
    using larder = store.open();
    const names = ["one", "two", "three"];
    for (const name of names) store.write(at.layer(name));
    let batches = 0;
    const { deleted, skipped } = await sweep(larder, slowly(plan(...names.map((name) => layer(larder, name)))), {
      ...options,
      stopped() {
        if (batches++ === 1) store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("two"));
        return false;
      },
    });
    expect(deleted.map(({ path }) => path)).toEqual(
      [at.layer("one"), at.layer("three")].map((p) => join(store.cache, p)),
    );
    expect(skipped).toMatchObject([{ path: join(store.cache, at.layer("two")), reason: "a row needs it" }]);
  });

  // A folder of many is watched, where the kernel tells of every change; one of few is read again.
  describe.each([1, MANY])("beside %d locks in the folder of metadata", (locks) => {
    test("heeds a metadata file that is written between two batches", async () => {
      using store = await makeCrowded(locks);
      using larder = store.open();
      const names = ["one", "two", "three"];
      for (const name of names) store.write(at.layer(name));
      let batches = 0;
      const { skipped } = await sweep(larder, slowly(plan(...names.map((name) => layer(larder, name)))), {
        ...options,
        stopped() {
          const other = at.metadata("docker.io/library/other:1");
          if (batches++ === 1) store.write(other, JSON.stringify(metadataOf("coming", ["two"])), YOUNG);
          return false;
        },
      });
      expect(skipped.map(({ path }) => path)).toEqual([join(store.cache, at.layer("two"))]);
      expect(store.has(at.layer("two"))).toBe(true);
    });

    test("heeds a metadata file that comes while others are deleted", async () => {
      using store = await makeCrowded(locks);
      using larder = store.open();
      const coming = JSON.stringify(metadataOf("coming", ["two"]));
      for (const name of ["gone:1", "gone:2"]) store.write(at.metadata(`docker.io/library/${name}`), "{}");
      store.write(at.layer("two"));
      const keys = ["gone:1", "gone:2"].map((name) => keyOf(`docker.io/library/${name}`));
      const targets = plan(...keys.map((key) => larder.cache.metadata(key)), layer(larder, "two"));
      // Written just before larder deletes the first one, in the same transaction.
      const first = meanwhileAt(targets[0]!, () =>
        store.write(at.metadata("docker.io/library/other:1"), coming, YOUNG),
      );
      const { deleted, skipped } = await sweep(larder, [first, ...targets.slice(1)], options);
      expect(deleted).toHaveLength(2);
      expect(skipped.map(({ path }) => path)).toEqual([join(store.cache, at.layer("two"))]);
    });

    test("heeds a metadata file that comes with another folder, in the place of theirs", async () => {
      using store = await makeCrowded(locks);
      using larder = store.open();
      for (const name of ["one", "two"]) store.write(at.layer(name));
      const [one, two] = plan(layer(larder, "one"), layer(larder, "two"));
      const first = meanwhileAt(one!, () => {
        renameSync(join(store.cache, "manifests"), join(store.cache, "manifests.away"));
        store.write(at.metadata("docker.io/library/other:1"), JSON.stringify(metadataOf("coming", ["two"])), YOUNG);
      });
      const { skipped } = await sweep(larder, [first, two!], options);
      expect(skipped.map(({ path }) => path)).toEqual([join(store.cache, at.layer("two"))]);
    });

    test("heeds a metadata file that comes between two layers of one transaction", async () => {
      using store = await makeCrowded(locks);
      using larder = store.open();
      const coming = JSON.stringify(metadataOf("coming", ["two"]));
      for (const name of ["one", "two"]) store.write(at.layer(name));
      const [one, two] = plan(layer(larder, "one"), layer(larder, "two"));
      const first = meanwhileAt(one!, () => store.write(at.metadata("docker.io/library/other:1"), coming, YOUNG));
      const { deleted, skipped } = await sweep(larder, [first, two!], options);
      expect(deleted.map(({ path }) => path)).toEqual([join(store.cache, at.layer("one"))]);
      expect(skipped.map(({ path }) => path)).toEqual([join(store.cache, at.layer("two"))]);
    });
  });

  test("fails a layer, and deletes what else there is, where a young metadata file cannot be read", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.layer("one"));
    store.write("tmp/old.part");
    store.write(at.metadata("docker.io/library/other:1"), "{}", YOUNG);
    const targets = plan(layer(larder, "one"), larder.cache.classify("tmp", "old.part"));
    const [one, scratch] = targets;
    const classify = (folder: "manifests", name: string) => {
      const file = larder.cache.classify(folder, name);
      return folder === "manifests" ? { ...file, path: "x".repeat(5000) } : file;
    };
    const cache: CachePaths = Object.create(larder.cache, { classify: { value: classify } });
    const { deleted, failed } = await sweep({ ...larder, cache }, targets, options);
    expect(failed).toMatchObject([{ path: one!.path, reason: expect.stringContaining("ENAMETOOLONG") }]);
    expect(deleted).toMatchObject([{ path: scratch!.path }]);
  });

  test("lets go of the catalogue afterwards", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.layer("stray"));
    await sweep(larder, plan(layer(larder, "stray")), options);
    store.sql("BEGIN IMMEDIATE");
    expect(store.unsound()).toEqual([]);
  });

  test.each<[string, string, (store: Store) => void]>([
    ["sandbox", 'sandbox "web"', (store) => store.sandbox("web", `{"image":"${digestOf("new")}"}`)],
    ["snapshot", 'snapshot "web"', (store) => store.snapshotRow("web", digestOf("new"))],
  ])("leaves what a %s came to need between plan and delete, whose image is not on record", async (_, pin, add) => {
    using store = await makeKept();
    using larder = store.open();
    const manifest = digestOf("new") as Digest;
    store.write(at.fsmeta("new"));
    store.write(at.vmdk("new"));
    store.write(at.flatRef("new"), JSON.stringify(flatRefOf("new", "root")));
    const { cache } = larder;
    const targets = plan(cache.vmdk(manifest), cache.fsmeta(manifest), cache.flatRef(manifest));
    const before = store.files();
    add(store);
    const { deleted, skipped } = await sweep(larder, targets, options);
    expect(deleted).toEqual([]);
    expect(skipped.map(({ kind, reason }) => [kind, reason])).toEqual([
      ["vmdk", `in use by ${pin}`],
      ["fsmeta", `in use by ${pin}`],
      ["flat_ref", `in use by ${pin}`],
    ]);
    expect(store.files()).toEqual(before);
  });

  test("leaves a flat ref, and a blob whose ref has gone, that a flattening locks meanwhile", async () => {
    using store = await makeKept();
    using larder = store.open();
    const names = ["one", "two", "three"];
    for (const name of names) {
      store.write(at.flatRef(name), JSON.stringify(flatRefOf(name, `root of ${name}`)));
      store.write(at.flatBlob(`root of ${name}`));
    }
    // As a removal of the three images has it: their refs, and then their blobs.
    const pins = { byDigest: new Map(), unreadable: [] };
    const { targets } = filesOf(larder.cache, { canonicals: [], manifests: names.map(digestOf), layers: [] }, pins);
    using locks = new DisposableStack();
    const lock = (name: string) => locks.use(FileLock.take(join(store.cache, at.flatLock(`root of ${name}`)))!);
    const [one, two, three, ...blobs] = targets;
    // Just before larder deletes the first ref, and the last: the look for running work is over.
    const first = meanwhileAt(one!, () => lock("two"));
    const last = meanwhileAt(three!, () => lock("one"));
    await sweep(larder, [first, two!, last, ...blobs], options);
    const files = [at.flatRef("one"), at.flatBlob("root of one"), at.flatRef("two"), at.flatBlob("root of two")];
    expect(files.map((path) => store.has(path))).toEqual([false, true, true, true]);
  });
});
