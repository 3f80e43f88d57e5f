import { describe, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readSnapshots } from "../../src/cache/snapshots.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { digest } from "../db/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";

const A = digest("a") as Digest;
const B = digest("b") as Digest;

function put(folder: TemporaryFolder, name: string, content: unknown): string {
  const path = join(folder.path, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

describe("readSnapshots", () => {
  test("finds none where there is no folder, or an empty one", () => {
    using folder = new TemporaryFolder();
    expect(readSnapshots(join(folder.path, "missing"))).toEqual([]);
    expect(readSnapshots(folder.path)).toEqual([]);
  });

  test("reads the descriptors of every msb, by name", () => {
    using folder = new TemporaryFolder();
    put(folder, "new/manifest.json", { image: { reference: "tool", manifest_digest: B } });
    put(folder, "base/snapshot.json", { image: { manifest_digest: A }, size: 1 });
    put(folder, "loose.json", { image: { manifest_digest: A } });
    put(folder, "empty/disk.raw", "x");
    expect(readSnapshots(folder.path)).toEqual([
      { name: "base", digest: A },
      { name: "new", digest: B },
    ]);
  });

  test("reads snapshots inside groups, however deep", () => {
    using folder = new TemporaryFolder();
    const descriptor = { image: { manifest_digest: A } };
    put(folder, "group/one/snapshot.json", descriptor);
    put(folder, "group/sub/two/manifest.json", descriptor);
    put(folder, "a/b/c/d/five/manifest.json", descriptor);
    put(folder, "a/b/c/d/e/six/manifest.json", descriptor);
    expect(readSnapshots(folder.path).map(({ name }) => name)).toEqual([
      "a/b/c/d/e/six",
      "a/b/c/d/five",
      "group/one",
      "group/sub/two",
    ]);
  });

  test.each<[string, unknown]>([
    ["{}", {}],
    ["null", "null"],
    ["a list", []],
    ["an image that is text", { image: "tool" }],
    ["no digest", { image: {} }],
    ["a digest that is none", { image: { manifest_digest: "sha256:short" } }],
    ["a hostile digest", { image: { manifest_digest: "a/../b:x" } }],
    ["a digest in upper case", { image: { manifest_digest: A.toUpperCase() } }],
  ])("names a snapshot whose descriptor is %s", (_, content) => {
    using folder = new TemporaryFolder();
    const path = put(folder, "torn/snapshot.json", content);
    expect(readSnapshots(folder.path)).toEqual([{ name: "torn", trouble: `"${path}" names no image.manifest_digest` }]);
  });

  test.each(["", "{", '\ufeff{"image":{}}'])("names a snapshot whose descriptor is no JSON: %p", (content) => {
    using folder = new TemporaryFolder();
    put(folder, "torn/manifest.json", content);
    put(folder, "sound/manifest.json", { image: { manifest_digest: A } });
    const found = readSnapshots(folder.path);
    expect(found).toEqual([
      { name: "sound", digest: A },
      { name: "torn", trouble: expect.stringContaining("JSON") },
    ]);
  });

  test("names a snapshot whose descriptor is a link or a folder, and follows neither", () => {
    using folder = new TemporaryFolder();
    using elsewhere = new TemporaryFolder();
    const target = put(elsewhere, "target.json", { image: { manifest_digest: A } });
    mkdirSync(join(folder.path, "link"));
    symlinkSync(target, join(folder.path, "link", "snapshot.json"));
    mkdirSync(join(folder.path, "odd", "manifest.json"), { recursive: true });
    expect(readSnapshots(folder.path)).toEqual([
      { name: "link", trouble: expect.stringContaining("is a link") },
      { name: "odd", trouble: expect.stringContaining("is not a regular file") },
    ]);
  });
});
