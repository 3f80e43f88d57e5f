import { describe, expect, test } from "bun:test";
import { chownSync, closeSync, lstatSync, mkdirSync, openSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { adopt, makeFolder } from "../../src/host/ownership.ts";
import { TemporaryFolder } from "../larder.ts";

const ROOT = process.geteuid?.() === 0;

function owner(path: string): [uid: number, gid: number] {
  const { uid, gid } = lstatSync(path);
  return [uid, gid];
}

describe("makeFolder", () => {
  test("makes missing parents, and leaves what is there", () => {
    using folder = new TemporaryFolder();
    const deep = join(folder.path, "a", "b", "c");
    makeFolder(deep);
    expect(statSync(deep).isDirectory()).toBe(true);
    expect(statSync(deep).mode & 0o777).toBe(0o755 & ~process.umask());
    writeFileSync(join(deep, "file"), "x");
    makeFolder(deep);
    expect(statSync(join(deep, "file")).size).toBe(1);
  });

  test("fails where a file stands in the way", () => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "file"), "");
    expect(() => makeFolder(join(folder.path, "file", "x"))).toThrow();
  });
});

describe.if(ROOT)("run by root in a user's home", () => {
  test("makeFolder gives every folder that it makes to the owner of the first", () => {
    using folder = new TemporaryFolder();
    chownSync(folder.path, 1234, 2345);
    makeFolder(join(folder.path, "a", "b"));
    expect(owner(join(folder.path, "a"))).toEqual([1234, 2345]);
    expect(owner(join(folder.path, "a", "b"))).toEqual([1234, 2345]);
  });

  test("makeFolder changes nothing that was there", () => {
    using folder = new TemporaryFolder();
    const there = join(folder.path, "there");
    mkdirSync(there);
    chownSync(folder.path, 1234, 2345);
    makeFolder(there);
    expect(owner(there)).toEqual([0, 0]);
    makeFolder(join(there, "new"));
    expect(owner(join(there, "new"))).toEqual([0, 0]);
  });

  test("adopt gives a path or an open file to the folder's owner", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "path");
    const open = join(folder.path, "open");
    writeFileSync(path, "");
    const fd = openSync(open, "wx");
    chownSync(folder.path, 1234, 2345);
    adopt(path, folder.path);
    adopt(fd, folder.path);
    closeSync(fd);
    expect([owner(path), owner(open)]).toEqual([
      [1234, 2345],
      [1234, 2345],
    ]);
  });

  test("a lock file is its folder's owner's from the start", () => {
    using folder = new TemporaryFolder();
    chownSync(folder.path, 1234, 2345);
    const path = join(folder.path, "manifests", "x.lock");
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
    expect(owner(path)).toEqual([1234, 2345]);
    expect(owner(join(folder.path, "manifests"))).toEqual([1234, 2345]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("a lock file that was there keeps its owner", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    writeFileSync(path, "");
    chownSync(path, 4321, 4321);
    chownSync(folder.path, 1234, 2345);
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
    expect(owner(path)).toEqual([4321, 4321]);
  });

  test("adopt does not reach through a link", () => {
    using folder = new TemporaryFolder();
    const elsewhere = join(folder.path, "elsewhere");
    const home = join(folder.path, "home");
    writeFileSync(elsewhere, "");
    mkdirSync(home);
    chownSync(home, 1234, 2345);
    symlinkSync(elsewhere, join(home, "link"));
    adopt(join(home, "link"), home);
    expect(owner(elsewhere)).toEqual([0, 0]);
  });
});
