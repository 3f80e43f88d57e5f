import { describe, expect, test } from "bun:test";
import { linkSync, lstatSync, mkdirSync, rmSync, symlinkSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { type DfReport, df } from "../../src/ops/df.ts";
import { gc } from "../../src/ops/gc.ts";
import { allocatedIn, DAY, MINUTE, Store, stem } from "./prune-store.ts";

const GC = { grace: 10 * MINUTE, sweepUnrecorded: false, dryRun: false };

function account(store: Store): DfReport {
  using home = store.open();
  return df(home.larder);
}

function kind(report: DfReport, name: string) {
  return report.kinds.find(({ kind }) => kind === name)!;
}

function blocks(path: string): number {
  return lstatSync(path).blocks * 512;
}

/** That the parts are the total, and the total is what lies on the disk. */
function expectEveryByteOnce(store: Store, report: DfReport): void {
  const { own_bytes, shared_bytes, unattributed_bytes } = report.attribution;
  const onDisk = allocatedIn(store.cache);
  expect(report.total.allocated_bytes).toBe(onDisk);
  expect(own_bytes + shared_bytes + unattributed_bytes).toBe(onDisk);
  const add = (field: "files" | "bytes" | "allocated_bytes" | "reclaimable_bytes") =>
    report.kinds.reduce((sum, row) => sum + row[field], 0);
  expect(report.total).toEqual({
    files: add("files"),
    bytes: add("bytes"),
    allocated_bytes: add("allocated_bytes"),
    reclaimable_bytes: add("reclaimable_bytes"),
  });
  // What images say they own is what the account says one image owns.
  expect(report.images.reduce((sum, image) => sum + image.own_bytes, 0)).toBe(own_bytes);
}

/** That a gc frees, by the disk's own word, what the account called reclaimable. */
async function expectReclaimed(store: Store, report: DfReport): Promise<number> {
  const before = allocatedIn(store.cache);
  using home = store.open();
  await gc(home.larder, GC);
  const freed = before - allocatedIn(store.cache);
  expect(report.total.reclaimable_bytes).toBe(freed);
  expect(account(store).total.reclaimable_bytes).toBe(0);
  return freed;
}

describe("df", () => {
  test("accounts for nothing in an empty home", () => {
    using store = new Store();
    const report = account(store);
    expect(report.total).toEqual({ files: 0, bytes: 0, allocated_bytes: 0, reclaimable_bytes: 0 });
    expect(report.images).toEqual([]);
    expect(report.kinds.map(({ kind }) => kind)).toEqual([
      "layer",
      "fsmeta",
      "vmdk",
      "flat_ref",
      "flat_blob",
      "metadata",
      "staging",
      "lock",
      "stray",
    ]);
    expect(report.file_system.total_bytes).toBeGreaterThan(0);
    expect(report.file_system.used_bytes).toBe(report.file_system.total_bytes - report.file_system.free_bytes);
  });

  test("counts each kind of file by its own blocks and length", () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], layers: { base: 8192, top: 100_000 } });
    const report = account(store);
    const files = {
      layer: [store.layerPath("base"), store.layerPath("top")],
      fsmeta: [store.fsmetaPath(digest)],
      vmdk: [store.vmdkPath(digest)],
      metadata: [store.metadataPath("acme/a:1")],
    };
    for (const [name, paths] of Object.entries(files)) {
      expect(kind(report, name)).toEqual({
        kind: name as keyof typeof files,
        files: paths.length,
        bytes: paths.reduce((sum, path) => sum + lstatSync(path).size, 0),
        allocated_bytes: paths.reduce((sum, path) => sum + blocks(path), 0),
        reclaimable_bytes: 0,
      });
    }
    expectEveryByteOnce(store, report);
  });

  test("tells what an image owns from what it shares, and counts a shared byte once in the sums", () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { base: 40_960, "a-top": 8192 } });
    const b = store.image({ names: ["acme/b:1", "acme/b:2"], layers: { base: 40_960, middle: 12_288, "b-top": 4096 } });
    const c = store.image({ names: ["acme/c:1"], layers: { base: 40_960, middle: 12_288 } });
    const report = account(store);
    const ownFiles = (digest: string, ...names: string[]) =>
      [store.fsmetaPath(digest), store.vmdkPath(digest), ...names.map((name) => store.metadataPath(name))].reduce(
        (sum, path) => sum + blocks(path),
        0,
      );
    const [base, middle] = [blocks(store.layerPath("base")), blocks(store.layerPath("middle"))];
    const found = Object.fromEntries(report.images.map((image) => [image.digest, image]));
    expect([found[a]!.own_bytes, found[a]!.shared_bytes]).toEqual([
      ownFiles(a, "acme/a:1") + blocks(store.layerPath("a-top")),
      base,
    ]);
    expect([found[b]!.own_bytes, found[b]!.shared_bytes]).toEqual([
      ownFiles(b, "acme/b:1", "acme/b:2") + blocks(store.layerPath("b-top")),
      base + middle,
    ]);
    expect([found[c]!.own_bytes, found[c]!.shared_bytes]).toEqual([ownFiles(c, "acme/c:1"), base + middle]);
    expect(report.attribution.shared_bytes).toBe(base + middle);
    expect(report.attribution.unattributed_bytes).toBe(0);
    expect(found[b]!.references).toEqual(["acme/b:1", "acme/b:2"]);
    expectEveryByteOnce(store, report);
  });

  test("counts a layer that one image has twice as its own, once", () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], layers: { base: 8192 } });
    store.db.run(
      `INSERT INTO manifest_layer (manifest_id, layer_id, position)
       SELECT manifest_id, layer_id, 1 FROM manifest_layer`,
    );
    const report = account(store);
    expect(report.images.map(({ digest, shared_bytes }) => [digest, shared_bytes])).toEqual([[digest, 0]]);
    expectEveryByteOnce(store, report);
  });

  test("measures a sparse flat blob by what it takes, and shares it between its refs", () => {
    using store = new Store();
    const [a, b] = [store.image({ names: ["acme/a:1"] }), store.image({ names: ["acme/b:1"] })];
    const c = store.image({ names: ["acme/c:1"] });
    const shared = store.flat("one", [a, b]);
    const own = store.flat("two", [c]);
    const report = account(store);
    expect(kind(report, "flat_blob")).toEqual({
      kind: "flat_blob",
      files: 2,
      bytes: 512 * 1024 * 1024,
      allocated_bytes: blocks(shared) + blocks(own),
      reclaimable_bytes: 0,
    });
    expect(blocks(shared)).toBeLessThan(1024 * 1024);
    expect(kind(report, "flat_ref").files).toBe(3);
    const found = Object.fromEntries(report.images.map((image) => [image.digest, image]));
    expect([found[a]!.shared_bytes, found[b]!.shared_bytes]).toEqual([blocks(shared), blocks(shared)]);
    expect(found[c]!.shared_bytes).toBe(0);
    expect(report.attribution.shared_bytes).toBe(blocks(shared));
    expectEveryByteOnce(store, report);
  });

  test("counts hard links once, whichever files they join", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 40_960 } });
    linkSync(store.layerPath("base"), join(store.cache, "layers", "a-copy-of-base"));
    linkSync(store.layerPath("base"), store.layerPath("another-name"));
    const report = account(store);
    expect(report.total.files).toBe(6);
    expectEveryByteOnce(store, report);
  });

  test("calls only those hard links reclaimable whose removal frees the blocks", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 40_960 } });
    // One link beside a layer that stays, and two that both go.
    linkSync(store.layerPath("base"), join(store.cache, "layers", "a-copy-of-base"));
    const stray = store.file(join(store.cache, "layers", "stray"), 12_288);
    linkSync(stray, join(store.cache, "vmdk", "stray-too"));
    const report = account(store);
    expectEveryByteOnce(store, report);
    expect(await expectReclaimed(store, report)).toBe(12_288);
  });

  test("calls nothing reclaimable where the row of a layer is lost, and a gc refuses", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 40_960 } });
    store.file(join(store.cache, "layers", "stray"), 12_288);
    expect(account(store)).toMatchObject({ total: { reclaimable_bytes: 12_288 }, refused: null });
    store.db.run("PRAGMA foreign_keys = OFF");
    store.db.run("DELETE FROM layer");
    const { total, refused } = account(store);
    expect(total.reclaimable_bytes).toBe(0);
    expect(refused).toMatch(/^the row of a layer of sha256:[0-9a-f]{64} is lost$/);
  });

  test("counts what lies beside msb's folders, which nothing sweeps", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.file(join(store.cache, "notes.txt"), 8192);
    store.file(join(store.cache, "flat", "work", "deep", "a"), 40_960);
    store.file(join(store.cache, "elsewhere", "b"), 4096);
    const report = account(store);
    expect(kind(report, "stray")).toMatchObject({ files: 3, reclaimable_bytes: 0 });
    expect(report.total.allocated_bytes).toBeGreaterThan(8192 + 40_960 + 4096);
  });

  test("counts hard links inside a staging folder once", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const work = join(store.cache, "tmp", "some.flat.work");
    const file = store.file(join(work, "deep", "file"), 20_480);
    linkSync(file, join(work, "deep", "again"));
    linkSync(file, join(work, "again"));
    expectEveryByteOnce(store, account(store));
  });

  test("never follows a link out of the cache", () => {
    using store = new Store();
    const outside = store.file(join(store.home, "outside", "big"), 1024 * 1024);
    mkdirSync(join(store.cache, "layers"), { recursive: true });
    mkdirSync(join(store.cache, "tmp"), { recursive: true });
    symlinkSync(outside, join(store.cache, "layers", "link"));
    symlinkSync(join(store.home, "outside"), join(store.cache, "tmp", "x.work"));
    const report = account(store);
    expect(report.total.allocated_bytes).toBeLessThan(64 * 1024);
    expectEveryByteOnce(store, report);
  });

  test("sorts strays, staging, locks and downloads by kind, and says what a gc frees of them", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"] });
    const { cache } = store;
    store.file(store.layerPath("nobody"), 16_384);
    store.file(store.layerPath("young"), 16_384, MINUTE);
    store.file(join(cache, "layers", `${stem(digest)}.tar.gz`), 5000);
    store.file(join(cache, "layers", "notes.txt"), 10);
    store.file(join(cache, "layers", `${stem(digest)}.erofs.lock`), 0);
    store.file(join(cache, "flat", "locks", `${stem(digest)}.lock`), 0);
    store.file(join(cache, "flat", "refs", `${"f".repeat(64)}.json.part`), 100);
    store.file(join(cache, "tmp", "load-1-2-3.blob"), 20_000);
    store.file(join(cache, "tmp", `${stem(digest)}.work`, "inside", "file"), 9000);
    store.file(join(cache, "tmp", `${stem(digest)}.download.lock`), 0);
    store.flat("nobody's", []);
    // A folder's time is the last to settle.
    utimesSync(join(cache, "tmp", `${stem(digest)}.work`), 1e9, 1e9);
    const report = account(store);
    const files = Object.fromEntries(report.kinds.map(({ kind, files }) => [kind, files]));
    expect(files).toEqual({
      layer: 1,
      fsmeta: 1,
      vmdk: 1,
      flat_ref: 0,
      flat_blob: 0,
      metadata: 1,
      staging: 3,
      lock: 3,
      stray: 5,
    });
    expectEveryByteOnce(store, report);
    const young = blocks(store.layerPath("young"));
    expect(kind(report, "stray").reclaimable_bytes).toBe(kind(report, "stray").allocated_bytes - young);
    expect(kind(report, "staging").reclaimable_bytes).toBe(kind(report, "staging").allocated_bytes);
    expect(await expectReclaimed(store, report)).toBeGreaterThan(16_384);
  });

  test("counts untagged images and orphan layers as reclaimable, and pinned ones not", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { base: 40_960 } });
    store.image({ seed: "free", layers: { base: 40_960, "only-free": 24_576 } });
    const pinned = store.image({ seed: "pinned", layers: { base: 40_960, "only-pinned": 28_672 } });
    store.pinBySandbox("web", pinned);
    store.image({ seed: "gone", layers: { orphan: 32_768 } });
    store.db.run("DELETE FROM manifest_layer WHERE layer_id = (SELECT max(id) FROM layer)");
    // The image counts one layer less now: one that it still counted could not be nobody's.
    store.db.run("UPDATE manifest SET layer_count = layer_count - 1 WHERE id = (SELECT max(id) FROM manifest)");
    const report = account(store);
    expectEveryByteOnce(store, report);
    const only = report.images.find(({ digest }) => digest === pinned)!;
    expect(only.pinned_by).toEqual([{ kind: "sandbox", name: "web" }]);
    expect(only.references).toEqual([]);
    const freed = await expectReclaimed(store, report);
    expect(freed).toBeGreaterThanOrEqual(24_576 + 32_768);
    expect(blocks(store.layerPath("only-pinned"))).toBe(28_672);
  });

  test("calls only staging reclaimable while the catalogue does not account for its cache", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.file(store.layerPath("nobody"), 16_384);
    store.file(join(store.cache, "tmp", "old.spool"), 8192);
    store.db.run("DELETE FROM image_ref");
    store.db.run("DELETE FROM config");
    store.db.run("DELETE FROM manifest_layer");
    store.db.run("DELETE FROM manifest");
    const report = account(store);
    expectEveryByteOnce(store, report);
    expect(report.refused).toStartWith("the catalogue does not account for its cache: it has no image on record (");
    expect(await expectReclaimed(store, report)).toBe(8192);
  });

  test("calls nothing reclaimable while what is in use cannot be told", () => {
    using store = new Store();
    store.image({ seed: "untagged" });
    store.file(join(store.cache, "tmp", "old.spool"), 8192);
    store.db.run("INSERT INTO sandbox (name, config, status) VALUES ('broken', '{not json', 'running')");
    const report = account(store);
    expect(report.total.reclaimable_bytes).toBe(0);
    expect(report.refused).toContain('what is in use cannot be told: sandbox "broken"');
    expectEveryByteOnce(store, report);
  });

  test("survives rows that hold no digest and names that are no reference", () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"] });
    store.db.run("UPDATE layer SET diff_id = '../../etc/passwd'");
    store.db.run("INSERT INTO manifest (digest) VALUES ('a/../b:x')");
    store.db.run("INSERT INTO image_ref (reference, manifest_id) SELECT 'Not A Reference', id FROM manifest LIMIT 1");
    const report = account(store);
    expect(report.images.map(({ digest }) => digest)).toEqual([digest, "a/../b:x"]);
    expectEveryByteOnce(store, report);
  });

  test("accounts for files that lie in a folder alone when the other folders are not there", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    rmSync(join(store.cache, "fsmeta"), { recursive: true });
    const report = account(store);
    expect(kind(report, "fsmeta").files).toBe(0);
    expectEveryByteOnce(store, report);
  });

  test("adds up over a hundred images with random shares", () => {
    using store = new Store();
    let state = 7;
    const below = (n: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % n;
    };
    for (let i = 0; i < 100; i++) {
      const layers = Object.fromEntries(Array.from({ length: 1 + below(5) }, () => [`l${below(60)}`, 0]));
      for (const name of Object.keys(layers)) layers[name] = 4096 * (1 + (Number(name.slice(1)) % 7));
      const names = below(8) === 0 ? [] : [`acme/i${i}:1`];
      store.image({ seed: `i${i}`, names, layers, used: below(50) * DAY });
    }
    expectEveryByteOnce(store, account(store));
  });
});
