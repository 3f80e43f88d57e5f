import { describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Unlinker } from "../../src/host/unlink.ts";
import { openIn, TemporaryFolder } from "../larder.ts";

function unlink(unlinker: Unlinker, path: string): void {
  using held = unlinker.hold(path);
  held!.unlink();
}

describe("Unlinker", () => {
  test("takes the name away at once, and lets go of the file later", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "content");
    const unlinker = new Unlinker();
    const before = lstatSync(path);
    {
      using held = unlinker.hold(path)!;
      expect(held.stat).toEqual(before);
      held.unlink();
      expect(existsSync(path)).toBe(false);
      expect(openIn(folder.path)).toEqual(["file (deleted)"]);
    }
    await unlinker.settled();
    expect(openIn(folder.path)).toEqual([]);
  });

  test("holds nothing where nothing is, and keeps no descriptor of what stays", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    const unlinker = new Unlinker();
    expect(unlinker.hold(path)).toBeUndefined();
    writeFileSync(path, "content");
    {
      using _ = unlinker.hold(path);
      expect(openIn(folder.path)).toEqual(["file"]);
    }
    expect(openIn(folder.path)).toEqual([]);
    expect(existsSync(path)).toBe(true);
  });

  test("holds a link and no file behind it, and waits for no pipe", async () => {
    using folder = new TemporaryFolder();
    const [target, link, pipe] = ["target", "link", "pipe"].map((name) => join(folder.path, name)) as [
      string,
      string,
      string,
    ];
    writeFileSync(target, "content");
    symlinkSync(target, link);
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    const unlinker = new Unlinker();
    {
      using held = unlinker.hold(link)!;
      expect(held.stat.isSymbolicLink()).toBe(true);
      held.unlink();
    }
    unlink(unlinker, pipe);
    await unlinker.settled();
    expect(readdirSync(folder.path)).toEqual(["target"]);
  });

  test("fails as unlink does, and keeps no descriptor then either", () => {
    using folder = new TemporaryFolder();
    const inside = join(folder.path, "folder");
    mkdirSync(inside);
    const unlinker = new Unlinker();
    expect(() => unlink(unlinker, inside)).toThrow("EISDIR");
    expect(openIn(folder.path)).toEqual([]);
    expect(statSync(inside).isDirectory()).toBe(true);
  });

  test("leaves the other names of a file", async () => {
    using folder = new TemporaryFolder();
    const [path, other] = [join(folder.path, "file"), join(folder.path, "other")];
    writeFileSync(path, "content");
    linkSync(path, other);
    const unlinker = new Unlinker();
    unlink(unlinker, path);
    await unlinker.settled();
    expect(lstatSync(other).nlink).toBe(1);
  });

  test("is full once as many wait as may, and has room when half of them are let go of", async () => {
    using folder = new TemporaryFolder();
    const unlinker = new Unlinker();
    // Nothing is let go of before this yields.
    for (let i = 0; i < 512; i++) {
      expect(unlinker.isFull).toBe(false);
      const path = join(folder.path, String(i));
      writeFileSync(path, "");
      unlink(unlinker, path);
    }
    expect(unlinker.isFull).toBe(true);
    await unlinker.room();
    expect(unlinker.isFull).toBe(false);
    expect(openIn(folder.path).length).toBeLessThanOrEqual(256);
    await unlinker.settled();
    expect(openIn(folder.path)).toEqual([]);
  });

  test("does without a descriptor where none is to be had", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "content");
    const unlinker = new Unlinker();
    // Every one that this process may have.
    const taken: number[] = [];
    try {
      for (;;) taken.push(openSync("/dev/null", "r"));
    } catch {}
    try {
      using held = unlinker.hold(path)!;
      held.unlink();
    } finally {
      for (const fd of taken) closeSync(fd);
    }
    expect(existsSync(path)).toBe(false);
    expect(unlinker.hold(path)).toBeUndefined();
  });
});
