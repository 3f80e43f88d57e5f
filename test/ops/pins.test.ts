import { describe, expect, test } from "bun:test";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LarderError } from "../../src/error.ts";
import { PinWatch } from "../../src/ops/pins.ts";
import { digestOf, Store } from "../store.ts";

function makeOne(): Promise<Store> {
  return Store.make({ one: { references: ["docker.io/library/one:1"], layers: ["base"] } });
}

const digest = digestOf("one");
const snapshot = JSON.stringify({ image: { manifest_digest: digest } });

function damageOf(watch: PinWatch): LarderError {
  try {
    watch.readAll();
  } catch (error) {
    if (error instanceof LarderError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("PinWatch", () => {
  test("finds no pin in a home without sandboxes and snapshots", async () => {
    using store = await makeOne();
    using larder = store.open();
    expect(new PinWatch(larder).readAll()).toEqual({ byDigest: new Map(), unreadable: [] });
  });

  test("gathers the pins of one image from every place, each name once", async () => {
    using store = await makeOne();
    using larder = store.open();
    store.sandbox("web", JSON.stringify({ image: digest, again: [digest] }), "one");
    store.sandbox("job", `{"x":"docker.io/library/one@${digest}"}`);
    store.snapshotRow("base", digest);
    store.snapshotOnDisk("base", snapshot);
    store.snapshotOnDisk("other", snapshot);
    expect(new PinWatch(larder).readAll().byDigest).toEqual(
      new Map([
        [
          digest,
          [
            { kind: "sandbox", name: "web" },
            { kind: "sandbox", name: "job" },
            { kind: "snapshot", name: "base" },
            { kind: "snapshot", name: "other" },
          ],
        ],
      ]),
    );
  });

  test.each([
    ["a longer hex number", `sha256:${"0".repeat(65)}`],
    ["another algorithm", `md5:${"0".repeat(32)}`],
  ])("takes %s in a sandbox's config for no digest", async (_, text) => {
    using store = await makeOne();
    using larder = store.open();
    store.sandbox("web", JSON.stringify({ image: text }));
    expect(new PinWatch(larder).readAll().byDigest.size).toBe(0);
  });

  test("takes an uppercase digest, as a reference may carry it, for the image that it means", async () => {
    using store = await makeOne();
    using larder = store.open();
    store.sandbox("web", JSON.stringify({ image: `alpine@${digest.replace(/[a-f]/g, (hex) => hex.toUpperCase())}` }));
    expect(new PinWatch(larder).readAll().byDigest.get(digest)).toEqual([{ kind: "sandbox", name: "web" }]);
  });

  test("reads the catalogue again once another process has committed", async () => {
    using store = await makeOne();
    using larder = store.open();
    const watch = new PinWatch(larder);
    expect(watch.readAll().byDigest.size).toBe(0);
    store.sandbox("web", "{}", "one");
    expect(watch.readAll().byDigest.get(digest)).toEqual([{ kind: "sandbox", name: "web" }]);
    store.sql("DELETE FROM sandbox");
    expect(watch.readAll().byDigest.size).toBe(0);
  });

  test("throws damaged, and names everything that cannot be read", async () => {
    using store = await makeOne();
    using larder = store.open();
    store.sandbox("web", "{");
    store.snapshotRow("base", "no digest");
    store.snapshotOnDisk("other", "{}");
    store.sql("CREATE TABLE hot (manifest_id integer REFERENCES manifest (id))");
    const watch = new PinWatch(larder);
    expect(watch.read().unreadable).toHaveLength(4);
    const { code, message } = damageOf(watch);
    expect(code).toBe("damaged");
    for (const name of ['sandbox "web"', 'snapshot "base"', 'snapshot "other"', 'table "hot"'])
      expect(message).toContain(name);
  });

  test("knows the tables of msb that refer to manifests and layers", async () => {
    using store = await makeOne();
    using larder = store.open();
    store.sql("CREATE TABLE other (sandbox_id integer REFERENCES sandbox (id), manifest_id integer)");
    expect(new PinWatch(larder).readAll().unreadable).toEqual([]);
  });

  const descriptors: [what: string, place: (store: Store) => void][] = [
    ["a folder", (store) => store.snapshotOnDisk("base", snapshot)],
    ["a folder in the newer form", (store) => store.snapshotOnDisk("base", snapshot, "manifest.json")],
    ["groups", (store) => store.snapshotOnDisk("a/b/c/base", snapshot)],
    [
      "a folder that is a link",
      (store) => {
        store.snapshotOnDisk("base", snapshot);
        renameSync(join(store.path, "snapshots/base"), join(store.path, "disk"));
        symlinkSync("../disk", join(store.path, "snapshots/base"));
      },
    ],
    [
      "a snapshots folder that is a link",
      (store) => {
        store.snapshotOnDisk("base", snapshot);
        renameSync(join(store.path, "snapshots"), join(store.path, "disk"));
        symlinkSync("disk", join(store.path, "snapshots"));
      },
    ],
    [
      "the default folder, where msb looks if it finds config.json wrong",
      (store) => {
        store.snapshotOnDisk("base", snapshot);
        writeFileSync(join(store.path, "config.json"), '{"paths":{"snapshots":"/elsewhere"},"metrics":{"new":"loud"}}');
      },
    ],
    [
      "the folder that config.json names",
      (store) => {
        store.snapshotOnDisk("base", snapshot);
        renameSync(join(store.path, "snapshots"), join(store.path, "disk"));
        writeFileSync(
          join(store.path, "config.json"),
          JSON.stringify({ paths: { snapshots: join(store.path, "disk") } }),
        );
      },
    ],
  ];

  test.each(descriptors)("finds a snapshot on disk in %s", async (_, place) => {
    using store = await makeOne();
    place(store);
    using larder = store.open();
    const [pin] = new PinWatch(larder).readAll().byDigest.get(digest) ?? [];
    expect(pin).toEqual({ kind: "snapshot", name: expect.stringMatching(/base$/) });
  });

  const troubles: [what: string, descriptor: (path: string) => void][] = [
    ["empty", (path) => writeFileSync(path, "")],
    ["null", (path) => writeFileSync(path, "null")],
    ["a number", (path) => writeFileSync(path, "7")],
    ["not UTF-8", (path) => writeFileSync(path, new Uint8Array([0x22, 0xff, 0x22]))],
    ["a folder", (path) => mkdirSync(path)],
    ["a link", (path) => symlinkSync("/etc/hostname", path)],
    ["a pipe", (path) => Bun.spawnSync(["mkfifo", path])],
    ["about a digest of another form", (path) => writeFileSync(path, '{"image":{"manifest_digest":"md5:00"}}')],
    ["about a list of digests", (path) => writeFileSync(path, `{"image":{"manifest_digest":["${digest}"]}}`)],
  ];

  test.each(troubles)("refuses where a snapshot's descriptor is %s", async (_, write) => {
    using store = await makeOne();
    store.snapshotOnDisk("base", "{}");
    const path = join(store.path, "snapshots/base/snapshot.json");
    rmSync(path);
    write(path);
    using larder = store.open();
    const { code, message } = damageOf(new PinWatch(larder));
    expect([code, message]).toEqual(["damaged", expect.stringContaining('snapshot "base" cannot be read')]);
  });

  test("passes over folders without a descriptor, and files beside snapshots", async () => {
    using store = await makeOne();
    mkdirSync(join(store.path, "snapshots/empty/deep"), { recursive: true });
    writeFileSync(join(store.path, "snapshots/notes.txt"), "{");
    symlinkSync("nowhere", join(store.path, "snapshots/dangling"));
    symlinkSync("loop", join(store.path, "snapshots/loop"));
    symlinkSync(".", join(store.path, "snapshots/self"));
    using larder = store.open();
    expect(new PinWatch(larder).readAll()).toEqual({ byDigest: new Map(), unreadable: [] });
  });
});
