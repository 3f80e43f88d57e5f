import { describe, expect, test } from "bun:test";
import { type CacheFile, CachePaths, FOLDERS, type Folder, isWorkScratch, WORK_LOCKS } from "../../src/cache/paths.ts";
import type { Digest } from "../../src/oci/digest.ts";

const HEX = "0123456789abcdef".repeat(4);
const D = `sha256:${HEX}` as Digest;
const S = `sha256_${HEX}`;
const S512 = `sha512_${HEX}${HEX}`;
const D512 = `sha512:${HEX}${HEX}` as Digest;

const cache = new CachePaths("/c");

describe("CachePaths", () => {
  test.each<[string, CacheFile, CacheFile]>([
    [
      "metadata",
      cache.metadata(HEX),
      { kind: "metadata", path: `/c/manifests/${HEX}.json`, key: HEX, lock: `/c/manifests/${HEX}.lock` },
    ],
    [
      "layer",
      cache.layer(D),
      { kind: "layer", path: `/c/layers/${S}.erofs`, digest: D, lock: `/c/layers/${S}.erofs.lock` },
    ],
    [
      "fsmeta",
      cache.fsmeta(D),
      { kind: "fsmeta", path: `/c/fsmeta/${S}.erofs`, digest: D, lock: `/c/fsmeta/${S}.erofs.lock` },
    ],
    ["vmdk", cache.vmdk(D), { kind: "vmdk", path: `/c/vmdk/${S}.vmdk`, digest: D, lock: `/c/fsmeta/${S}.erofs.lock` }],
    ["flatRef", cache.flatRef(D), { kind: "flat_ref", path: `/c/flat/refs/${S}.json`, digest: D }],
    ["flatBlob", cache.flatBlob(D512), { kind: "flat_blob", path: `/c/flat/blobs/${S512}.raw`, digest: D512 }],
  ])("%s is where msb has it, with its lock", (_, file, expected) => {
    expect(file).toEqual(expected);
  });

  test("names folders, and a flat root's lock", () => {
    expect(cache.folder("layers")).toBe("/c/layers");
    expect(cache.folder("flat/locks")).toBe("/c/flat/locks");
    expect(cache.flatLock(D)).toBe(`/c/flat/locks/${S}.lock`);
  });

  test("tells scratch from the rest", () => {
    expect(cache.isScratch("/c/tmp/x")).toBe(true);
    expect(cache.isScratch("/c/tmp")).toBe(false);
    expect(cache.isScratch("/c/tmpx/x")).toBe(false);
    expect(cache.isScratch("/c/layers/tmp/x")).toBe(false);
  });
});

describe("CachePaths.classify", () => {
  const KNOWN: [folder: Folder, name: string, expected: Omit<CacheFile, "path">][] = [
    ["manifests", `${HEX}.json`, { kind: "metadata", key: HEX, lock: `/c/manifests/${HEX}.lock` }],
    ["manifests", `${HEX}.json.part`, { kind: "staging", lock: `/c/manifests/${HEX}.lock` }],
    ["manifests", `${HEX}.lock`, { kind: "lock" }],
    ["layers", `${S}.erofs`, { kind: "layer", digest: D, lock: `/c/layers/${S}.erofs.lock` }],
    ["layers", `${S512}.erofs`, { kind: "layer", digest: D512, lock: `/c/layers/${S512}.erofs.lock` }],
    ["layers", `${S}.erofs.lock`, { kind: "lock" }],
    ["layers", `${S}.tar.gz`, { kind: "blob", digest: D, lock: `/c/tmp/${S}.download.lock` }],
    ["fsmeta", `${S}.erofs`, { kind: "fsmeta", digest: D, lock: `/c/fsmeta/${S}.erofs.lock` }],
    ["fsmeta", `${S}.erofs.lock`, { kind: "lock" }],
    ["vmdk", `${S}.vmdk`, { kind: "vmdk", digest: D, lock: `/c/fsmeta/${S}.erofs.lock` }],
    ["vmdk", `${S}.vmdk.lock`, { kind: "lock" }],
    ["flat/refs", `${S}.json`, { kind: "flat_ref", digest: D }],
    ["flat/refs", `${S}.json.part`, { kind: "staging" }],
    ["flat/blobs", `${S}.raw`, { kind: "flat_blob", digest: D }],
    ["tmp", `${S}.part`, { kind: "staging", folder: true, lock: `/c/tmp/${S}.download.lock` }],
    ["tmp", `${S}.download.lock`, { kind: "lock" }],
    ["tmp", `${S}.work`, { kind: "staging", folder: true, lock: `/c/fsmeta/${S}.erofs.lock` }],
    ["tmp", `${S}.flat.work`, { kind: "staging", folder: true, lock: `/c/flat/locks/${S}.lock` }],
    ["tmp", `${S}.spool`, { kind: "staging", folder: true, lock: `/c/layers/${S}.erofs.lock` }],
    ["tmp", `${S}.erofs.part`, { kind: "staging", folder: true, lock: `/c/layers/${S}.erofs.lock` }],
    // As 0.4.4 writes them.
    ["tmp", `${D}.spool`, { kind: "staging", folder: true, lock: `/c/layers/${S}.erofs.lock` }],
    ["tmp", `${D}.erofs.part`, { kind: "staging", folder: true, lock: `/c/layers/${S}.erofs.lock` }],
    ["tmp", `${D512}.spool`, { kind: "staging", folder: true, lock: `/c/layers/${S512}.erofs.lock` }],
    ["tmp", "load-1-4242-0.blob", { kind: "staging", folder: true }],
    ["tmp", "save-4242-0.layer.tar", { kind: "staging", folder: true }],
    // Not msb's, but in its scratch folder.
    ["tmp", "notes.txt", { kind: "staging", folder: true }],
    ["tmp", `${S}`, { kind: "staging", folder: true }],
    ["tmp", `${S}.other`, { kind: "staging", folder: true }],
  ];

  test.each(KNOWN)("knows %s/%s", (folder, name, expected) => {
    expect(cache.classify(folder, name)).toEqual({ ...expected, path: `/c/${folder}/${name}` });
  });

  test.each<[Folder, string]>([
    ["manifests", `${HEX}.JSON`],
    ["manifests", `${HEX.toUpperCase()}.json`],
    ["manifests", `${HEX}0.json`],
    ["manifests", `${HEX.slice(1)}.json`],
    ["manifests", `${S}.json`],
    ["manifests", `${HEX}.json\n`],
    ["manifests", ".json"],
    ["manifests", "index.json"],
    ["layers", `${S}`],
    ["layers", `${S}.EROFS`],
    ["layers", `${S}.erofs.bak`],
    ["layers", `${S}.vmdk`],
    ["layers", `${HEX}.erofs`],
    ["layers", `sha256_${HEX.toUpperCase()}.erofs`],
    ["layers", `sha1_${HEX}.erofs`],
    ["layers", `sha512_${HEX}.erofs`],
    ["layers", `sha256_${HEX}0.erofs`],
    ["layers", `sha256__${HEX}.erofs`],
    ["layers", ` ${S}.erofs`],
    ["layers", ".."],
    ["layers", "..erofs"],
    ["layers", "a_..%2f..%2fetc.erofs"],
    // What msb writes with an underscore, and would never look for under this name.
    ["layers", `${D}.erofs`],
    ["layers", `${D}.tar.gz`],
    ["fsmeta", `${D}.erofs`],
    ["vmdk", `${D}.vmdk`],
    ["flat/refs", `${D}.json`],
    ["flat/blobs", `${D}.raw`],
    ["fsmeta", `${S}.vmdk`],
    ["fsmeta", `${S}.tar.gz`],
    ["vmdk", `${S}.erofs`],
    ["vmdk", `${S}.vmdk~`],
    ["flat/refs", `${S}.raw`],
    ["flat/blobs", `${S}.json`],
    ["flat/blobs", "lost+found"],
  ])("calls %s/%p foreign", (folder, name) => {
    expect(cache.classify(folder, name)).toMatchObject({ kind: "foreign" });
    expect(cache.classify(folder, name)).not.toHaveProperty("digest");
  });

  test("answers with the path that it was asked about, whatever the name", () => {
    const names = [...KNOWN.map(([, name]) => name), `${D}.erofs`, `${D}.json`, "x.lock", "x.part", "é.erofs"];
    for (const folder of FOLDERS) {
      for (const name of names) expect(cache.classify(folder, name).path).toBe(`/c/${folder}/${name}`);
    }
  });

  test("calls everything that ends in .lock a lock, in every folder", () => {
    for (const folder of FOLDERS) {
      for (const name of [".lock", "x.lock", `${D}.lock`]) expect(cache.classify(folder, name).kind).toBe("lock");
    }
  });
});

describe("WORK_LOCKS", () => {
  test("are those of pulls, downloads, stitches and flat roots, and not a layer's", () => {
    const isWork = (path: string) =>
      WORK_LOCKS.some(([folder, ending]) => path.startsWith(`${folder}/`) && path.endsWith(ending));
    expect(
      [`manifests/${HEX}.lock`, `tmp/${S}.download.lock`, `fsmeta/${S}.erofs.lock`, `flat/locks/${S}.lock`].map(isWork),
    ).toEqual([true, true, true, true]);
    expect(isWork(`layers/${S}.erofs.lock`)).toBe(false);
  });
});

describe("isWorkScratch", () => {
  test.each([
    ["load-1-4242-0.blob", true],
    [`${S}.work`, true],
    [`${S}.flat.work`, true],
    ["save-4242-0.layer.tar", false],
    [`${S}.part`, false],
    [`${D}.spool`, false],
    ["workload-1", false],
  ])("of %s is %p", (name, expected) => {
    expect(isWorkScratch(name)).toBe(expected);
  });
});
