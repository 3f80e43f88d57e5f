import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { findUnrecorded, layersOfUnrecorded } from "../../src/ops/unrecorded.ts";
import { at, digestOf, metadataOf, OLD, Store, YOUNG } from "../store.ts";

const MINUTE = 60_000;
const OTHER = "docker.io/library/other:1";

function makeKept(): Promise<Store> {
  return Store.make({
    kept: {
      references: ["kept=docker.io/library/kept:latest", "Team/kept=docker.io/Team/kept:latest"],
      layers: ["base", "top"],
    },
  });
}

describe("findUnrecorded", () => {
  const grace = 10 * MINUTE;

  test("accepts a sound home, with and without metadata files", async () => {
    using store = await makeKept();
    using larder = store.open();
    expect(findUnrecorded(larder, grace)).toBeUndefined();
    rmSync(larder.cache.folder("manifests"), { recursive: true });
    expect(findUnrecorded(larder, grace)).toBeUndefined();
  });

  test("wants one image on record at least", async () => {
    using store = await makeKept();
    using larder = store.open();
    for (const table of ["image_ref", "config", "manifest_layer", "manifest"]) store.sql(`DELETE FROM ${table}`);
    expect(findUnrecorded(larder, grace)).toStartWith("it has no image on record (");
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
    using store = await makeKept();
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
    using store = await makeKept();
    using larder = store.open();
    for (const path of [`${at.metadata(OTHER)}.part`, at.metadataLock(OTHER), "manifests/other.json"])
      store.write(path, compact);
    expect(findUnrecorded(larder, grace)).toBeUndefined();
  });
});

describe("layersOfUnrecorded", () => {
  const compact = JSON.stringify(metadataOf("elsewhere", ["base", "far"]));

  test.each([
    ["a disk", at.vmdk("elsewhere"), "# Disk DescriptorFile\n"],
    ["a flat root", at.flatRef("elsewhere"), "{}"],
  ])("gives those of an image with %s, whatever its age", async (_, path, content) => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.metadata(OTHER), compact, OLD);
    expect([...layersOfUnrecorded(larder)]).toEqual([]);
    store.write(path, content, OLD);
    const named = join(larder.cache.root, at.metadata(OTHER));
    const expected = new Map([digestOf("base"), digestOf("far")].map((digest) => [digest, named]));
    expect(new Map<string, string>(layersOfUnrecorded(larder))).toEqual(expected);
    store.write(at.metadata(OTHER), compact, YOUNG);
    expect(new Map<string, string>(layersOfUnrecorded(larder))).toEqual(expected);
  });

  test("gives none of what goes, although its rows have gone already", async () => {
    using store = await makeKept();
    using larder = store.open();
    store.write(at.metadata(OTHER), compact, OLD);
    store.write(at.vmdk("elsewhere"), "");
    expect([...layersOfUnrecorded(larder, [digestOf("elsewhere")])]).toEqual([]);
  });

  test("gives none of images on record, nor of a file that is cut off", async () => {
    using store = await makeKept();
    using larder = store.open();
    expect([...layersOfUnrecorded(larder)]).toEqual([]);
    store.write(at.vmdk("elsewhere"), "");
    store.write(at.metadata(OTHER), compact.slice(0, 200));
    expect([...layersOfUnrecorded(larder)]).toEqual([]);
  });
});
