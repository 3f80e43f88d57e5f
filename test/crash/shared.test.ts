import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, cpSync, lstatSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import type { ImageSpec, LayerSpec } from "../interop/archive.ts";
import { age, filesOf, plant, problems, readFiles, readRows, rowsOf } from "../interop/home.ts";
import { load, MSB, msb } from "../interop/msb.ts";
import { larder, TemporaryFolder } from "../larder.ts";
import { printFigures } from "./random.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(120_000);

const BASE: LayerSpec = { files: { base: "1" } };
const ONE: ImageSpec = { tags: ["one:1"], layers: [BASE, { files: { one: "1" } }] };
const TWO: ImageSpec = { tags: ["two:1"], layers: [BASE, { files: { two: "1" } }] };
const THREE: ImageSpec = { tags: ["three:1"], layers: [{ files: { three: "1" } }] };

const SWEEPS = [
  ["gc"],
  ["gc", "--grace", "0s"],
  ["gc", "--layers-only"],
  ["prune", "--unused", "--min-age", "0s"],
  ["prune", "--older-than", "1s", "--min-age", "0s", "--grace", "0s"],
  ["prune", "--max-size", "0", "--min-age", "0s"],
];

let sweeps = 0;
afterAll(() => printFigures("shared", { sweeps }));

/** Runs every sweep, and fails for a file that any of them takes out of the cache, but for scratch. */
async function expectUnswept(home: string, expected: number, cache = home): Promise<void> {
  plant(cache, "tmp/old.part");
  age(cache);
  const before = readFiles(cache).filter((path) => !path.startsWith("tmp/"));
  const rows = readRows(home);
  for (const args of SWEEPS) {
    sweeps++;
    const { code, stderr } = await larder(home, ...args);
    // Orphan layers alone, and there are none: nothing to refuse.
    if (code !== (args.includes("--layers-only") ? 0 : expected))
      throw new Error(`${args} exited with ${code}: ${stderr}`);
    if (code === 5) expect(stderr).toContain("does not account for its cache");
    expect(readFiles(cache).filter((path) => !path.startsWith("tmp/"))).toEqual(before);
    expect(readRows(home)).toEqual(rows);
  }
  expect(readFiles(cache).filter((path) => path.startsWith("tmp/"))).toEqual([]);
}

/** Loads images, and restores the catalogue to what it was before the later ones. */
async function restoreAfter(home: string, images: ImageSpec[], later: ImageSpec[]): Promise<void> {
  await load(home, images);
  cpSync(join(home, "db"), join(home, "backup"), { recursive: true });
  await load(home, later);
  rmSync(join(home, "db"), { recursive: true });
  cpSync(join(home, "backup"), join(home, "db"), { recursive: true });
}

describe("a catalogue that was lost", () => {
  test("and made anew by msb empties no cache, and is whole again when its images are persisted", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO]);
    rmSync(join(home, "db"), { recursive: true });
    expect((await msb(home, "image", "ls")).code).toBe(0);
    await expectUnswept(home, 5);
    expect((await larder(home, "persist", "one:1", "two:1")).code).toBe(0);
    expect(readRows(home)).toEqual(rowsOf([ONE, TWO]));
    expect((await larder(home, "gc", "--grace", "0s")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([ONE, TWO]));
  });

  test("and holds other images by now empties no cache either", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO]);
    rmSync(join(home, "db"), { recursive: true });
    await load(home, [THREE]);
    await expectUnswept(home, 5);
    expect(problems(home)).toEqual([]);
  });

  test("altogether is not made anew by a sweep, which takes nothing", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO]);
    rmSync(join(home, "db"), { recursive: true });
    age(home);
    const before = readFiles(home);
    for (const args of SWEEPS) {
      sweeps++;
      expect([0, 5]).toContain((await larder(home, ...args)).code);
      expect(readFiles(home)).toEqual(before);
    }
    expect(readdirSync(home)).not.toContain("db");
  });

  test("is emptied when that is asked for in so many words", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO]);
    rmSync(join(home, "db"), { recursive: true });
    expect((await msb(home, "image", "ls")).code).toBe(0);
    age(home);
    expect((await larder(home, "gc", "--sweep-unrecorded")).code).toBe(0);
    expect(readFiles(home)).toEqual([]);
  });
});

describe("a catalogue restored from last week", () => {
  test("keeps the images that came since, and has them again when they are persisted", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await restoreAfter(home, [ONE], [TWO, THREE]);
    // While they are young, nothing is old enough to go; after that the metadata files speak for them.
    expect((await larder(home, "gc")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([ONE, TWO, THREE]));
    await expectUnswept(home, 5);
    expect((await larder(home, "persist", "two:1", "three:1")).code).toBe(0);
    expect((await larder(home, "gc", "--grace", "0s")).code).toBe(0);
    expect(readRows(home)).toEqual(rowsOf([ONE, TWO, THREE]));
    expect(readFiles(home)).toEqual(filesOf([ONE, TWO, THREE]));
  });

  test("keeps what those need of an image that is removed, and says so", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await restoreAfter(home, [ONE], [TWO]);
    age(home);
    const plan = await larder(home, "rm", "--dry-run", "--format", "json", "one:1");
    const done = await larder(home, "rm", "--format", "json", "one:1");
    expect([plan.code, done.code]).toEqual([0, 0]);
    const [planned, removed] = [plan, done].map(({ stdout }) => JSON.parse(stdout));
    expect(removed.skipped).toMatchObject([
      { kind: "layer", reason: expect.stringContaining("an image that is not on record needs it") },
    ]);
    expect({ ...planned, dry_run: false }).toEqual(removed);
    expect(readFiles(home)).toEqual(filesOf([TWO]));
    expect((await larder(home, "persist", "two:1")).code).toBe(0);
    expect(problems(home)).toEqual([]);
  });
});

describe("a tag that was moved since the backup", () => {
  test("keeps the file that tells of its newer image when it is removed, and so that image from gc", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await restoreAfter(home, [ONE, THREE], [{ ...TWO, tags: ONE.tags }]);
    age(home);
    expect((await larder(home, "rm", "one:1")).code).toBe(0);
    expect((await larder(home, "gc")).code).toBe(5);
    expect((await larder(home, "persist", "one:1")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([{ ...TWO, tags: ONE.tags }, THREE]));
    expect(problems(home)).toEqual([]);
  });
});

describe("two homes on one cache", () => {
  test("lose nothing to each other's sweeps", async () => {
    using first = new TemporaryFolder();
    using second = new TemporaryFolder();
    writeFileSync(join(second.path, "config.json"), JSON.stringify({ paths: { cache: join(first.path, "cache") } }));
    await load(first.path, [ONE, TWO]);
    await load(second.path, [THREE]);
    await expectUnswept(first.path, 5);
    await expectUnswept(second.path, 5, first.path);
    for (const home of [first.path, second.path]) expect((await msb(home, "image", "ls")).code).toBe(0);
  });

  test("lose nothing of the other's when one removes its own image", async () => {
    using first = new TemporaryFolder();
    using second = new TemporaryFolder();
    writeFileSync(join(second.path, "config.json"), JSON.stringify({ paths: { cache: join(first.path, "cache") } }));
    await load(first.path, [ONE]);
    await load(second.path, [THREE]);
    age(first.path);
    expect((await larder(second.path, "rm", "three:1")).code).toBe(0);
    expect(readFiles(first.path)).toEqual(filesOf([ONE]));
    await load(second.path, [TWO]);
    age(first.path);
    expect((await larder(second.path, "rm", "two:1")).code).toBe(0);
    expect(readFiles(first.path)).toEqual(filesOf([ONE]));
    expect(problems(first.path)).toEqual([]);
  });
});

// Changing owners takes root.
describe.skipIf(process.geteuid?.() !== 0)("a home of another user (needs root)", () => {
  const USER = 12_345;

  function give(path: string): void {
    chownSync(path, USER, USER);
    for (const name of readdirSync(path, { recursive: true, encoding: "utf8" }))
      chownSync(join(path, name), USER, USER);
  }

  function owners(path: string): string[] {
    const names = readdirSync(path, { recursive: true, encoding: "utf8" });
    return names.filter((name) => lstatSync(join(path, name)).uid !== USER);
  }

  async function asUser(home: string, ...command: string[]): Promise<{ code: number; stderr: string }> {
    const child = Bun.spawn(["setpriv", `--reuid=${USER}`, `--regid=${USER}`, "--clear-groups", ...command], {
      env: { MSB_HOME: home, HOME: home, PATH: process.env.PATH },
      stdio: ["ignore", "ignore", "pipe"],
    });
    const [code, stderr] = await Promise.all([child.exited, child.stderr.text()]);
    return { code, stderr };
  }

  test("stays that user's whatever root's larder does, and msb goes on with it", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO, THREE]);
    rmSync(join(home, "db"), { recursive: true });
    give(home);
    for (const args of [
      ["persist", "one:1", "two:1", "three:1"],
      ["rm", "three:1"],
      ["gc", "--grace", "0s"],
      ["check", "--repair"],
      ["prune", "--keep-last", "1", "--min-age", "0s", "--keep", "one:1"],
    ]) {
      sweeps++;
      expect((await larder(home, ...args)).code).toBe(0);
      expect(owners(home)).toEqual([]);
    }
    expect(await asUser(home, MSB, "image", "ls")).toMatchObject({ code: 0 });
    expect(await asUser(home, MSB, "rmi", "one:1")).toMatchObject({ code: 0 });
  });

  test("whose cache is root's costs rm no more than a sentence", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO]);
    give(join(home, "db"));
    chmodSync(home, 0o755);
    age(home);
    const before = readFiles(home);
    const { code, stderr } = await asUser(home, EXECUTABLE, "rm", "one:1", "--home", home);
    expect(code).toBe(1);
    expect(stderr).toContain("permission denied");
    expect(readFiles(home)).toEqual(before);
    expect(problems(home)).toEqual([]);
    expect((await larder(home, "rm", "one:1")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([TWO]));
    expect(problems(home)).toEqual([]);
  });
});
