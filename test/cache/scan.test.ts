import { describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { CachePaths } from "../../src/cache/paths.ts";
import { Listing, type Scan, scanCache } from "../../src/cache/scan.ts";
import { TemporaryFolder } from "../larder.ts";

const HEX = "a".repeat(64);
const S = `sha256_${HEX}`;

function fill(folder: TemporaryFolder, ...names: string[]): CachePaths {
  for (const name of names) {
    mkdirSync(join(folder.path, dirname(name)), { recursive: true });
    if (name.endsWith("/")) mkdirSync(join(folder.path, name));
    else writeFileSync(join(folder.path, name), "");
  }
  return new CachePaths(folder.path);
}

describe("scanCache", () => {
  test("finds every entry but locks, a metadata file before what it speaks for and a ref before its blob", () => {
    using folder = new TemporaryFolder();
    const cache = fill(
      folder,
      `tmp/${S}.work/`,
      `tmp/${S}.download.lock`,
      `layers/${S}.erofs`,
      `layers/${S}.erofs.lock`,
      `layers/odd`,
      `fsmeta/${S}.erofs`,
      `fsmeta/${S}.erofs.lock`,
      `vmdk/${S}.vmdk`,
      `flat/blobs/${S}.raw`,
      `flat/refs/${S}.json`,
      `flat/locks/${S}.lock`,
      `manifests/${HEX}.json`,
      `manifests/${HEX}.lock`,
      `elsewhere/${S}.erofs`,
      "loose",
    );
    const found = [...scanCache(cache)].map(({ kind, path }) => [kind, path.slice(folder.path.length + 1)]);
    const layers = found.filter(([, path]) => path!.startsWith("layers/"));
    expect(layers.sort()).toEqual([
      ["foreign", "layers/odd"],
      ["layer", `layers/${S}.erofs`],
    ]);
    expect(found.filter(([, path]) => !path!.startsWith("layers/"))).toEqual([
      ["metadata", `manifests/${HEX}.json`],
      ["vmdk", `vmdk/${S}.vmdk`],
      ["fsmeta", `fsmeta/${S}.erofs`],
      ["flat_ref", `flat/refs/${S}.json`],
      ["flat_blob", `flat/blobs/${S}.raw`],
      ["staging", `tmp/${S}.work`],
    ]);
    expect(found.findIndex(([kind]) => kind === "layer")).toBeLessThan(found.findIndex(([kind]) => kind === "staging"));
  });

  test("finds entries of the folders asked for alone", () => {
    using folder = new TemporaryFolder();
    const cache = fill(folder, `manifests/${HEX}.json`, `layers/${S}.erofs`);
    expect([...scanCache(cache, { folders: ["manifests"] })].map(({ kind }) => kind)).toEqual(["metadata"]);
  });

  test("leaves out what is known in its folder", () => {
    using folder = new TemporaryFolder();
    const cache = fill(folder, `layers/${S}.erofs`, `fsmeta/${S}.erofs`, "layers/other");
    const found = [...scanCache(cache, { folders: ["layers", "fsmeta"], known: { layers: new Set([`${S}.erofs`]) } })];
    expect(found.map(({ kind }) => kind)).toEqual(["foreign", "fsmeta"]);
  });

  test("finds what was there when its listing was made", () => {
    using folder = new TemporaryFolder();
    const cache = fill(folder, "layers/one");
    const listing = new Listing(cache);
    const names = (scan: Scan) => Array.from(scanCache(cache, scan), ({ path }) => basename(path));
    expect(names({ listing })).toEqual(["one"]);
    fill(folder, "layers/two", "vmdk/three");
    expect(names({ listing })).toEqual(["one"]);
    expect(names({}).toSorted()).toEqual(["one", "three", "two"]);
  });

  test("finds nothing where there is no cache, or an empty one", () => {
    using folder = new TemporaryFolder();
    expect([...scanCache(new CachePaths(join(folder.path, "missing")))]).toEqual([]);
    expect([...scanCache(fill(folder, "layers/", "tmp/"))]).toEqual([]);
  });

  test("names a link by itself, and does not look behind it", () => {
    using folder = new TemporaryFolder();
    const cache = fill(folder, "layers/", "elsewhere/precious");
    symlinkSync(join(folder.path, "elsewhere"), join(folder.path, "layers", "link"));
    expect([...scanCache(cache)]).toEqual([{ kind: "foreign", path: join(folder.path, "layers", "link") }]);
  });
});
