import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import type { Pins } from "../../src/db/pins.ts";
import { findStrays } from "../../src/ops/strays.ts";
import { at, digestOf, flatRefOf, Store } from "../store.ts";

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

const NO_PINS: Pins = { byDigest: new Map(), unreadable: [] };

describe("findStrays", () => {
  test("finds none in a home whose references are typed in many ways", async () => {
    using store = await makeTyped();
    using larder = store.open();
    expect(findStrays(larder, NO_PINS, 0)).toEqual({ targets: [], skipped: [], young: [] });
  });

  test("finds none in a cache without folders", async () => {
    using store = await makeTyped();
    using larder = store.open();
    rmSync(store.cache, { recursive: true });
    expect(findStrays(larder, NO_PINS, 0)).toEqual({ targets: [], skipped: [], young: [] });
  });

  test("tells old from young by the clock it was given", async () => {
    using store = await makeTyped();
    using larder = store.open();
    store.write(at.layer("stray"), "junk", 5 * MINUTE);
    const later = { ...larder, now: () => Date.now() + 6 * MINUTE };
    expect(findStrays(larder, NO_PINS, 10 * MINUTE).targets).toEqual([]);
    expect(findStrays(larder, NO_PINS, 10 * MINUTE).skipped).toHaveLength(1);
    expect(findStrays(later, NO_PINS, 10 * MINUTE).targets).toMatchObject([
      { kind: "layer", digest: digestOf("stray") },
    ]);
    expect(findStrays(later, NO_PINS, 10 * MINUTE).skipped).toEqual([]);
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
    const found = findStrays(larder, NO_PINS, 0).targets.map(({ path, lock }) => [inCache(path), inCache(lock)]);
    expect(found.sort()).toEqual(guards.sort());
  });

  test("sees past a reference that no parser takes", async () => {
    using store = await makeTyped();
    using larder = store.open();
    store.sql("UPDATE image_ref SET reference = 'NOT A REFERENCE' WHERE reference = 'kept'");
    expect(findStrays(larder, NO_PINS, 0).targets).toMatchObject([{ kind: "metadata" }]);
  });
});
