import { describe, expect, test } from "bun:test";
import {
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Unlinker } from "../../src/host/unlink.ts";
import { openIn, run, TemporaryFolder } from "../larder.ts";
import { at, Store } from "../store.ts";
import { hasTool } from "../tools.ts";

function unlink(unlinker: Unlinker, path: string): void {
  using held = unlinker.hold(path);
  held!.unlink();
}

/** How many descriptors a process may have that this one starts. */
function descriptors(): number {
  return Number(Bun.spawnSync(["sh", "-c", "ulimit -n"]).stdout.toString());
}

describe("Unlinker", () => {
  test("takes the name away at once, and lets go of the file later", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "content");
    const unlinker = new Unlinker(folder.path);
    const before = lstatSync(path);
    {
      using held = unlinker.hold(path)!;
      expect(held.stat).toEqual(before);
      held.unlink();
      expect(existsSync(path)).toBe(false);
      expect(openIn(folder.path)).toEqual(["file (deleted)"]);
    }
    await unlinker[Symbol.asyncDispose]();
    expect(openIn(folder.path)).toEqual([]);
  });

  test.if(process.geteuid?.() === 0)(
    "holds folders that are not root's until its end, and none where none is",
    async () => {
      using folder = new TemporaryFolder();
      chownSync(folder.path, 1234, 1234);
      const unlinker = new Unlinker(folder.path);
      expect(unlinker.hold(join(folder.path, "none", "file"))).toBeUndefined();
      expect(unlinker.hold(join(folder.path, "file"))).toBeUndefined();
      expect(openIn(folder.path)).toEqual([""]);
      await unlinker[Symbol.asyncDispose]();
      expect(openIn(folder.path)).toEqual([]);
    },
  );

  test("holds nothing where nothing is, and keeps no descriptor of what stays", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    const unlinker = new Unlinker(folder.path);
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
    const unlinker = new Unlinker(folder.path);
    {
      using held = unlinker.hold(link)!;
      expect(held.stat.isSymbolicLink()).toBe(true);
      held.unlink();
    }
    unlink(unlinker, pipe);
    await unlinker[Symbol.asyncDispose]();
    expect(readdirSync(folder.path)).toEqual(["target"]);
  });

  test("fails as unlink does, and keeps no descriptor then either", () => {
    using folder = new TemporaryFolder();
    const inside = join(folder.path, "folder");
    mkdirSync(inside);
    const unlinker = new Unlinker(folder.path);
    expect(() => unlink(unlinker, inside)).toThrow("EISDIR");
    expect(openIn(folder.path)).toEqual([]);
    expect(statSync(inside).isDirectory()).toBe(true);
  });

  test("leaves the other names of a file", async () => {
    using folder = new TemporaryFolder();
    const [path, other] = [join(folder.path, "file"), join(folder.path, "other")];
    writeFileSync(path, "content");
    linkSync(path, other);
    const unlinker = new Unlinker(folder.path);
    unlink(unlinker, path);
    await unlinker[Symbol.asyncDispose]();
    expect(lstatSync(other).nlink).toBe(1);
  });

  test("is full once as many wait as may, and has room when half of them are let go of", async () => {
    using folder = new TemporaryFolder();
    const unlinker = new Unlinker(folder.path);
    const most = Math.min(512, Math.floor(descriptors() / 8));
    // Nothing is let go of before this yields.
    for (let i = 0; i < most; i++) {
      expect(unlinker.isFull).toBe(false);
      const path = join(folder.path, String(i));
      writeFileSync(path, "");
      unlink(unlinker, path);
    }
    expect(unlinker.isFull).toBe(true);
    await unlinker.room();
    expect(unlinker.isFull).toBe(false);
    expect(openIn(folder.path).length).toBeLessThanOrEqual(most / 2);
    await unlinker[Symbol.asyncDispose]();
    expect(openIn(folder.path)).toEqual([]);
  });

  test("does without a descriptor where none is to be had", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "content");
    const unlinker = new Unlinker(folder.path);
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

/** As many strays that have a lock as have none. */
function makeStrays(store: Store, count: number): void {
  for (let i = 0; i < count; i++) {
    store.write(at.layer(`stray ${i}`));
    store.write(`tmp/leftover-${i}`);
  }
}

describe("what gc deletes", () => {
  test("is let go of under the least of limits on descriptors", async () => {
    using store = await Store.make({});
    makeStrays(store, 300);
    const under = ["bash", "-c", 'ulimit -n 48; exec "$@"', "bash"];
    const { code, stdout, stderr } = await run(
      ["gc", "--grace", "0s", "--sweep-unrecorded", "--format", "json", "--home", store.path],
      { under },
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.not.stringContaining("larder: ") });
    expect(JSON.parse(stdout)).toMatchObject({ failed: [], skipped: [] });
    expect(store.files()).toEqual([]);
  });

  test.if(hasTool("strace"))("is held by what opens nothing, and let go of by other threads", async () => {
    using store = await Store.make({});
    using folder = new TemporaryFolder();
    makeStrays(store, 20);
    const log = join(folder.path, "calls");
    const under = ["strace", "-f", "-y", "-qq", "-o", log, "-e", "trace=openat,unlink,close"];
    const args = ["gc", "--grace", "0s", "--sweep-unrecorded", "--home", store.path];
    const { code, stderr } = await run(args, { under });
    expect(code, stderr).toBe(0);
    const calls = readFileSync(log, "utf8").split("\n");
    const [unlinks, closes, opens] = [
      / unlink\("[^"]*\/cache\//,
      / close\(\d+<[^>]*\/cache\/[^>]*>\(deleted\)/,
      / openat\(.*\/tmp\/leftover-\d+"/,
    ].map((call) => calls.filter((line) => call.test(line))) as [string[], string[], string[]];
    const threadsOf = (lines: string[]) => new Set(lines.map((line) => line.split(" ")[0]));
    expect(threadsOf(unlinks).size).toBe(1);
    expect([unlinks.length, closes.length]).toEqual([40, 40]);
    expect(threadsOf(closes).intersection(threadsOf(unlinks)).size).toBe(0);
    expect(opens).toHaveLength(20);
    expect(opens.filter((line) => !line.includes("O_PATH") || !line.includes("O_NOFOLLOW"))).toEqual([]);
  });
});
