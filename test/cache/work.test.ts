import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { CachePaths } from "../../src/cache/paths.ts";
import { findRunningWork } from "../../src/cache/work.ts";
import { LockHolder } from "../host/holder.ts";
import { TemporaryFolder } from "../larder.ts";

const HEX = "a".repeat(64);
const S = `sha256_${HEX}`;
const GRACE = 600_000;

function make(path: string, age = 0): string {
  mkdirSync(dirname(path), { recursive: true });
  if (path.endsWith(".work")) mkdirSync(path);
  else writeFileSync(path, "");
  const time = (Date.now() - age) / 1000;
  utimesSync(path, time, time);
  return path;
}

describe("findRunningWork", () => {
  test("finds none in an empty or missing cache", () => {
    using folder = new TemporaryFolder();
    expect(findRunningWork(new CachePaths(join(folder.path, "missing")), Date.now(), GRACE)).toBeUndefined();
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeUndefined();
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test.each([`manifests/${HEX}.lock`, `tmp/${S}.download.lock`, `fsmeta/${S}.erofs.lock`, `flat/locks/${S}.lock`])(
    "sees that %s is held, and that it is not",
    async (name) => {
      using folder = new TemporaryFolder();
      const cache = new CachePaths(folder.path);
      const path = make(join(folder.path, name), 0);
      make(join(dirname(path), "other.download.lock"));
      expect(findRunningWork(cache, Date.now(), GRACE)).toBeUndefined();
      await using _ = await LockHolder.hold(path);
      expect(findRunningWork(cache, Date.now(), GRACE)).toBe(path);
    },
  );

  test("finds the one that is held among thousands, in whichever folder", async () => {
    using folder = new TemporaryFolder();
    const cache = new CachePaths(folder.path);
    for (const parent of ["manifests", "fsmeta"]) {
      mkdirSync(join(folder.path, parent));
      for (let i = 0; i < 7000; i++)
        writeFileSync(join(folder.path, parent, `sha256_${String(i).padStart(64, "0")}.erofs.lock`), "");
    }
    expect(findRunningWork(cache, Date.now(), GRACE)).toBeUndefined();
    for (const name of [`manifests/${HEX}.lock`, `fsmeta/${S}.erofs.lock`]) {
      const path = join(folder.path, name);
      await using _ = await LockHolder.hold(path);
      expect(findRunningWork(cache, Date.now(), GRACE)).toBe(path);
    }
    // It is in the kernel's list too, and is no sign of work there either.
    await using _ = await LockHolder.hold(make(join(folder.path, "layers", `${S}.erofs.lock`)));
    expect(findRunningWork(cache, Date.now(), GRACE)).toBeUndefined();
  });

  test("takes no notice of a layer's own lock: its delete asks for that one", async () => {
    using folder = new TemporaryFolder();
    await using _ = await LockHolder.hold(make(join(folder.path, "layers", `${S}.erofs.lock`)));
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeUndefined();
  });

  test("does not follow a link to a lock that is held", async () => {
    using folder = new TemporaryFolder();
    const held = make(join(folder.path, "elsewhere.lock"));
    mkdirSync(join(folder.path, "manifests"));
    symlinkSync(held, join(folder.path, "manifests", `${HEX}.lock`));
    await using _ = await LockHolder.hold(held);
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeUndefined();
  });

  test.each(["load-1-4242-0.blob", `${S}.work`, `${S}.flat.work`])("sees young scratch: %s", (name) => {
    using folder = new TemporaryFolder();
    const path = make(join(folder.path, "tmp", name), GRACE - 60_000);
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBe(path);
  });

  test.each(["load-1-4242-0.blob", `${S}.work`])("takes no notice of scratch older than grace: %s", (name) => {
    using folder = new TemporaryFolder();
    make(join(folder.path, "tmp", name), GRACE + 60_000);
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeUndefined();
  });

  test("counts scratch from the future as young", () => {
    using folder = new TemporaryFolder();
    make(join(folder.path, "tmp", "load-1-1-1.blob"), -3_600_000);
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeDefined();
  });

  test.each([`${S}.part`, `${S}.spool`, "save-1-1.layer.tar", "notes"])("takes no notice of %s", (name) => {
    using folder = new TemporaryFolder();
    make(join(folder.path, "tmp", name));
    expect(findRunningWork(new CachePaths(folder.path), Date.now(), GRACE)).toBeUndefined();
  });
});
