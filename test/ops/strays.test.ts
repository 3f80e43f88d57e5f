import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { findStrays, findUnrecorded } from "../../src/ops/strays.ts";
import { at, digestOf, flatRefOf, metadataOf, OLD, Store, YOUNG } from "../store.ts";

const MINUTE = 60_000;
const OTHER = "docker.io/library/other:1";

/** Every image row is typed in another way than its metadata file is keyed. */
function makeTyped(): Promise<Store> {
  return Store.make({
    kept: {
      references: [
        "kept=docker.io/library/kept:latest",
        "index.docker.io/team/kept:2=docker.io/team/kept:2",
        "localhost:5000=docker.io/library/localhost:5000",
        "Team/kept=docker.io/Team/kept:latest",
      ],
      layers: ["base", "top", "base"],
      flat: "root",
    },
  });
}

describe("findStrays", () => {
  test("finds none in a home whose references are typed in many ways", async () => {
    using store = await makeTyped();
    using larder = store.open();
    expect(findStrays(larder, 0)).toEqual({ targets: [], skipped: [] });
  });

  test("finds none in a cache without folders", async () => {
    using store = await makeTyped();
    using larder = store.open();
    rmSync(store.cache, { recursive: true });
    expect(findStrays(larder, 0)).toEqual({ targets: [], skipped: [] });
  });

  test("tells old from young by the clock it was given", async () => {
    using store = await makeTyped();
    using larder = store.open();
    store.write(at.layer("stray"), "junk", 5 * MINUTE);
    const later = { ...larder, now: () => Date.now() + 6 * MINUTE };
    expect(findStrays(larder, 10 * MINUTE).targets).toEqual([]);
    expect(findStrays(larder, 10 * MINUTE).skipped).toHaveLength(1);
    expect(findStrays(later, 10 * MINUTE).targets).toMatchObject([{ kind: "layer", digest: digestOf("stray") }]);
    expect(findStrays(later, 10 * MINUTE).skipped).toEqual([]);
  });

  test("names the lock that guards each file", async () => {
    using store = await makeTyped();
    using larder = store.open();
    const guards: [path: string, lock: string | undefined][] = [
      [at.metadata(OTHER), at.metadataLock(OTHER)],
      [`${at.metadata(OTHER)}.part`, at.metadataLock(OTHER)],
      [at.layer("stray"), at.layerLock("stray")],
      [at.layer("stray").replace(".erofs", ".tar.gz"), at.downloadLock("stray")],
      [at.fsmeta("stray"), at.fsmetaLock("stray")],
      [at.vmdk("stray"), at.fsmetaLock("stray")],
      [at.flatRef("stray"), at.flatLock("stray root")],
      [at.flatBlob("stray root"), undefined],
      [at.downloadLock("stray").replace(".download.lock", ".part"), at.downloadLock("stray")],
      [at.downloadLock("stray").replace(".download.lock", ".work"), at.fsmetaLock("stray")],
      [at.downloadLock("stray").replace(".download.lock", ".spool"), at.layerLock("stray")],
      [`tmp/${digestOf("stray")}.erofs.part`, at.layerLock("stray")],
      [`tmp/${digestOf("derivation of stray root")}.flat.work`, at.flatLock("stray root")],
      ["tmp/load-0-1-2.blob", undefined],
      ["layers/foreign", undefined],
    ];
    for (const [path] of guards)
      store.write(path, path.includes("refs") ? JSON.stringify(flatRefOf("stray", "stray root")) : "junk");
    const inCache = (path: string | undefined) => path?.slice(store.cache.length + 1);
    const found = findStrays(larder, 0).targets.map(({ path, lock }) => [inCache(path), inCache(lock)]);
    expect(found.sort()).toEqual(guards.sort());
  });

  test("sees past a reference that no parser takes", async () => {
    using store = await makeTyped();
    using larder = store.open();
    store.sql("UPDATE image_ref SET reference = 'NOT A REFERENCE' WHERE reference = 'kept'");
    expect(findStrays(larder, 0).targets).toMatchObject([{ kind: "metadata" }]);
  });
});

describe("findUnrecorded", () => {
  const grace = 10 * MINUTE;

  test("accepts a sound home, with and without metadata files", async () => {
    using store = await makeTyped();
    using larder = store.open();
    expect(findUnrecorded(larder, grace)).toBeUndefined();
    rmSync(larder.cache.folder("manifests"), { recursive: true });
    expect(findUnrecorded(larder, grace)).toBeUndefined();
  });

  test("wants one image on record at least", async () => {
    using store = await makeTyped();
    using larder = store.open();
    for (const table of ["image_ref", "config", "manifest_layer", "manifest"]) store.sql(`DELETE FROM ${table}`);
    expect(findUnrecorded(larder, grace)).toBe("it has no image on record");
  });

  const compact = JSON.stringify(metadataOf("elsewhere", ["far"]));
  const { raw_manifest_json: _m, raw_config_json: _c, ...early } = metadataOf("elsewhere", ["far"]);
  const { manifest_digest, ...rest } = metadataOf("elsewhere", ["far"]);
  const cases: [what: string, content: string, age: number, unrecorded: boolean][] = [
    ["as msb writes it", compact, OLD, true],
    ["as msb 0.4.4 writes it", JSON.stringify(early), OLD, true],
    ["pretty-printed", JSON.stringify(metadataOf("elsewhere", ["far"]), null, 2), OLD, true],
    ["with its keys in another order", JSON.stringify({ ...rest, manifest_digest }), OLD, true],
    ["cut off after its digest", compact.slice(0, 200), OLD, true],
    ["cut off in its digest", compact.slice(0, 60), OLD, false],
    ["that is young", compact, YOUNG, false],
    ["of the future", compact, -OLD, false],
    ["about an image on record", JSON.stringify(metadataOf("kept", ["base"])), OLD, false],
    ["with a digest in uppercase", compact.replace(/sha256:\w+/, (digest) => digest.toUpperCase()), OLD, false],
    ["that is empty", "", OLD, false],
    ["that is no object", "[]", OLD, false],
  ];

  test.each(cases)("judges a metadata file %s", async (_, content, age, unrecorded) => {
    using store = await makeTyped();
    using larder = store.open();
    store.write(at.metadata(OTHER), content, age);
    const reason = findUnrecorded(larder, grace);
    if (!unrecorded) expect(reason).toBeUndefined();
    else {
      expect(reason).toContain(at.metadata(OTHER));
      expect(reason).toContain(digestOf("elsewhere"));
    }
  });

  test("does not take a part file, a lock or a foreign file for metadata", async () => {
    using store = await makeTyped();
    using larder = store.open();
    for (const path of [`${at.metadata(OTHER)}.part`, at.metadataLock(OTHER), "manifests/other.json"])
      store.write(path, compact);
    expect(findUnrecorded(larder, grace)).toBeUndefined();
  });
});
