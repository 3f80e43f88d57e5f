import { describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { LarderError } from "../../src/error.ts";
import { FileLock, isLocked } from "../../src/host/flock.ts";
import { TemporaryFolder } from "../larder.ts";
import { hasTool } from "../tools.ts";
import { LockHolder } from "./holder.ts";

describe("FileLock.take", () => {
  test("creates an empty file that only its owner reads, and missing folders", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "a", "b", "x.lock");
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
    expect([statSync(path).size, statSync(path).mode & 0o777]).toEqual([0, 0o600]);
  });

  test("holds the lock until it is released, and leaves the file", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    const lock = FileLock.take(path)!;
    expect(isLocked(path)).toBe(true);
    expect(FileLock.take(path)).toBeUndefined();
    lock.release();
    expect(isLocked(path)).toBe(false);
    expect(existsSync(path)).toBe(true);
    {
      using again = FileLock.take(path);
      expect(again).toBeDefined();
    }
    expect(isLocked(path)).toBe(false);
  });

  test("does not truncate what is there", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    writeFileSync(path, "content");
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
    expect(readFileSync(path, "utf8")).toBe("content");
  });

  test("gives nothing while another process holds it", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    {
      await using _ = await LockHolder.hold(path);
      expect(FileLock.take(path)).toBeUndefined();
    }
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
  });

  test("locks the file that the path names, not one that was unlinked while it was held", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    await using _ = await LockHolder.hold(path);
    unlinkSync(path);
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
    expect(existsSync(path)).toBe(true);
    expect(isLocked(path)).toBe(true);
  });

  test.if(hasTool("strace"))("notices that the file was unlinked between its opening and its locking", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    const code = `
      const { FileLock } = await import(${JSON.stringify(import.meta.resolve("../../src/host/flock.ts"))});
      const lock = FileLock.take(${JSON.stringify(path)});
      console.log(lock !== undefined);
      await Bun.stdin.text();`;
    // The first flock(2) starts two seconds after the file was opened; by then its name stands for another file.
    const slowly = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=flock:delay_enter=2s:when=1"];
    const taker = Bun.spawn([...slowly, process.execPath, "-e", code], { stdin: "pipe", stderr: "inherit" });
    while (!existsSync(path)) await Bun.sleep(5);
    unlinkSync(path);
    writeFileSync(path, "");
    const { value } = await taker.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("true\n");
    expect(isLocked(path)).toBe(true);
    await taker.stdin.end();
    await taker.exited;
  });

  test("does not follow a link, and makes nothing where one points", () => {
    using folder = new TemporaryFolder();
    const target = join(folder.path, "target");
    const path = join(folder.path, "x.lock");
    symlinkSync(target, path);
    expect(() => FileLock.take(path)).toThrow("ELOOP");
    expect(existsSync(target)).toBe(false);
    writeFileSync(target, "");
    expect(() => FileLock.take(path)).toThrow("ELOOP");
    expect(isLocked(target)).toBe(false);
  });

  test("fails on a folder", () => {
    using folder = new TemporaryFolder();
    expect(() => FileLock.take(folder.path)).toThrow();
  });
});

describe("FileLock.wait", () => {
  test("takes a lock that is free", () => {
    using folder = new TemporaryFolder();
    using lock = FileLock.wait(join(folder.path, "x.lock"), 0);
    expect(lock).toBeDefined();
  });

  test("takes it once the holder is done", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    const holder = await LockHolder.hold(path);
    const released = Bun.sleep(100).then(() => holder[Symbol.asyncDispose]());
    // In a process of its own: waiting blocks, and the holder is let go by this one.
    const code = `
      const { FileLock } = await import(${JSON.stringify(import.meta.resolve("../../src/host/flock.ts"))});
      FileLock.wait(${JSON.stringify(path)}, 20000).release();`;
    const waiter = Bun.spawn([process.execPath, "-e", code], { stderr: "inherit" });
    await released;
    expect(await waiter.exited).toBe(0);
  });

  test("is busy after its time, and names the lock", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    await using _ = await LockHolder.hold(path);
    let thrown: unknown;
    try {
      FileLock.wait(path, 50);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(LarderError);
    expect((thrown as LarderError).code).toBe("busy");
    expect((thrown as LarderError).message).toBe(`another process holds the lock "${path}"; try again`);
  });
});

describe("isLocked", () => {
  test("sees another process's lock, and takes none itself", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    {
      await using _ = await LockHolder.hold(path);
      expect([isLocked(path), isLocked(path)]).toEqual([true, true]);
    }
    expect([isLocked(path), isLocked(path)]).toEqual([false, false]);
    using lock = FileLock.take(path);
    expect(lock).toBeDefined();
  });

  test("is false for a missing file, and creates nothing", () => {
    using folder = new TemporaryFolder();
    expect(isLocked(join(folder.path, "x.lock"))).toBe(false);
    expect(isLocked(join(folder.path, "missing", "x.lock"))).toBe(false);
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test("does not follow a link to a lock that is held", async () => {
    using folder = new TemporaryFolder();
    const held = join(folder.path, "held.lock");
    const link = join(folder.path, "link.lock");
    symlinkSync(held, link);
    await using _ = await LockHolder.hold(held);
    expect(isLocked(link)).toBe(false);
  });

  test("is false once the path names another file than the one held", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "x.lock");
    await using _ = await LockHolder.hold(path);
    rmSync(path);
    writeFileSync(path, "");
    expect(isLocked(path)).toBe(false);
  });

  test("is false for a folder, and does not wait for a pipe", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "folder.lock");
    mkdirSync(path);
    expect(isLocked(path)).toBe(false);
    const pipe = join(folder.path, "pipe.lock");
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    const code = `
      const { isLocked } = await import(${JSON.stringify(import.meta.resolve("../../src/host/flock.ts"))});
      process.exit(isLocked(${JSON.stringify(pipe)}) ? 1 : 0);`;
    // Stopped from outside where it waits: nothing inside the process could.
    expect(Bun.spawnSync([process.execPath, "-e", code], { timeout: 30_000, killSignal: "SIGKILL" }).exitCode).toBe(0);
  });
});
