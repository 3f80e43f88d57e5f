import { describe, expect, test } from "bun:test";
import {
  chownSync,
  closeSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { adopt, HeldFolder, makeFolder } from "../../src/host/ownership.ts";
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

  test("adopt gives an open file to the folder's owner", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "open");
    const fd = openSync(path, "wx");
    chownSync(folder.path, 1234, 2345);
    using held = HeldFolder.open(folder.path);
    adopt(fd, held);
    closeSync(fd);
    expect(owner(path)).toEqual([1234, 2345]);
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

  test("a folder of the user's is worked in wherever its path leads by now", () => {
    using place = new TemporaryFolder();
    const { home, elsewhere } = homeBeside(place.path);
    const folder = join(home, "folder");
    mkdirSync(folder);
    chownSync(folder, 1234, 2345);
    using held = HeldFolder.open(folder);
    renameSync(folder, join(home, "moved"));
    symlinkSync(elsewhere, folder);
    held.in("file", (path) => writeFileSync(path, ""));
    expect(readdirSync(elsewhere)).toEqual([]);
    expect(readdirSync(join(home, "moved"))).toEqual(["file"]);
    expect(() => held.in("none", unlinkSync)).toThrow(expect.objectContaining({ path: join(folder, "none") }));
  });

  test("a folder of root's is worked in where it lies in the home, or root's own link leads to it", () => {
    using place = new TemporaryFolder();
    const { home, elsewhere } = homeBeside(place.path);
    mkdirSync(join(home, "made", "by", "root"), { recursive: true });
    symlinkSync(home, join(place.path, "link"));
    for (const path of [
      join(home, "made", "by", "root"),
      join(place.path, "link", "made", "by", "root"),
      elsewhere,
      place.path,
    ]) {
      using held = HeldFolder.open(path);
      expect(held.stat.ino).toBe(statSync(path).ino);
    }
  });

  test("no link of the user's leads root to a folder that is not the user's", () => {
    using place = new TemporaryFolder();
    const { home, elsewhere } = homeBeside(place.path);
    mkdirSync(join(elsewhere, "tmp"));
    symlinkSync(elsewhere, join(home, "cache"));
    lchownSync(join(home, "cache"), 1234, 2345);
    symlinkSync(home, join(place.path, "link"));
    for (const path of [join(home, "cache"), join(home, "cache", "tmp"), join(place.path, "link", "cache")]) {
      expect(() => HeldFolder.open(path)).toThrow("user 1234 has it lead to what is another's");
      expect(() => makeFolder(join(path, "new"))).toThrow("user 1234 has it lead to what is another's");
      expect(() => FileLock.take(join(path, "x.lock"))).toThrow("user 1234 has it lead to what is another's");
    }
    chownSync(join(elsewhere, "tmp"), 4321, 4321);
    expect(() => HeldFolder.open(join(home, "cache", "tmp"))).toThrow();
    chownSync(join(elsewhere, "tmp"), 1234, 2345);
    using held = HeldFolder.open(join(home, "cache", "tmp"));
    expect(held.stat.uid).toBe(1234);
  });

  test("no link leads root to whoever owns what the home lies in", () => {
    using place = new TemporaryFolder();
    chownSync(place.path, 4321, 4321);
    const { home, elsewhere } = homeBeside(place.path);
    chownSync(elsewhere, 4321, 4321);
    symlinkSync(elsewhere, join(home, "cache"));
    expect(() => HeldFolder.open(join(home, "cache"))).toThrow("user 1234 has it lead to what is another's");
    for (const path of [home, elsewhere]) {
      using held = HeldFolder.open(path);
      expect(held.stat.ino).toBe(statSync(path).ino);
    }
  });
});

/** A home of a user's, and a folder of root's beside it. */
function homeBeside(place: string): { home: string; elsewhere: string } {
  const [home, elsewhere] = [join(place, "home"), join(place, "elsewhere")];
  mkdirSync(home);
  mkdirSync(elsewhere);
  chownSync(home, 1234, 2345);
  return { home, elsewhere };
}
