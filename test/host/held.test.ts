import { describe, expect, test } from "bun:test";
import { linkSync, readFileSync, readlinkSync, statfsSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FileLock } from "../../src/host/flock.ts";
import { keepListAtHand, namesHeldBeside, parseLocks } from "../../src/host/held.ts";
import { TemporaryFolder } from "../larder.ts";
import { LockHolder } from "./holder.ts";

// A container, a file system that the list does not show, or too many locks of others: there larder must know that it
// cannot tell.
const CAN_TELL =
  readFileSync("/proc/locks").length < 1024 &&
  readlinkSync("/proc/self/ns/pid") === "pid:[4026531836]" &&
  [0xef53, 0x58465342, 0x01021994].includes(statfsSync(tmpdir()).type);

describe("namesHeldBeside", () => {
  const names = "names what another process and this one hold, in whatever folder, and no longer than they do";
  test.skipIf(!CAN_TELL)(names, async () => {
    using folder = new TemporaryFolder();
    expect(namesHeldBeside(folder.path)).not.toContain("theirs-1.lock");
    {
      await using _ = await LockHolder.hold(join(folder.path, "theirs-1.lock"));
      using own = FileLock.take(join(folder.path, "deeper", "own-1.lock"));
      expect(own).toBeDefined();
      expect(namesHeldBeside(folder.path)).toEqual(expect.arrayContaining(["theirs-1.lock", "own-1.lock"]));
    }
    expect(namesHeldBeside(folder.path)).not.toContain("theirs-1.lock");
  });

  test("cannot tell where the folder's own lock is held, which is what it knows a true list by", async () => {
    using folder = new TemporaryFolder();
    using _ = FileLock.takeExisting(folder.path);
    expect(namesHeldBeside(folder.path)).toBeUndefined();
  });

  test("cannot tell where what is held has a second name", async () => {
    using folder = new TemporaryFolder();
    await using _ = await LockHolder.hold(join(folder.path, "one-3.lock"));
    linkSync(join(folder.path, "one-3.lock"), join(folder.path, "two-3.lock"));
    expect(namesHeldBeside(folder.path)).toBeUndefined();
  });

  test("cannot tell while more is held than half a page of the list shows", () => {
    using folder = new TemporaryFolder();
    const held = Array.from({ length: 60 }, (_, i) => FileLock.take(join(folder.path, `${i}-4.lock`)));
    expect(namesHeldBeside(folder.path)).toBeUndefined();
    for (const lock of held) lock?.release();
  });

  test("leaves nothing open where no lock can be taken", () => {
    using folder = new TemporaryFolder();
    const module = fileURLToPath(new URL("../../src/host/held.ts", import.meta.url));
    const ask = `const { namesHeldBeside } = require("${module}");
      console.log(namesHeldBeside("${folder.path}"));
      console.log(require("fs").readdirSync("/proc/self/fd").some((fd) => {
        try { return require("fs").readlinkSync("/proc/self/fd/" + fd) === "${folder.path}" } catch {}
      }))`;
    // The C library is called by way of a compiler.
    const { stdout } = Bun.spawnSync([process.execPath, "-e", ask], { env: { ...process.env, BUN_JSC_useJIT: "0" } });
    expect(stdout.toString()).toBe("undefined\nfalse\n");
  });

  const masked = "cannot tell where the list is hidden";
  test.skipIf(process.getuid?.() !== 0 || !CAN_TELL)(masked, async () => {
    using folder = new TemporaryFolder();
    const module = fileURLToPath(new URL("../../src/host/held.ts", import.meta.url));
    const ask = `console.log(require("${module}").namesHeldBeside("${folder.path}"))`;
    const mask = 'mount --bind /dev/null /proc/locks && exec "$0" -e "$1"';
    const { stdout } = Bun.spawnSync(["unshare", "-m", "sh", "-c", mask, process.execPath, ask]);
    expect(stdout.toString().trim()).toBe("undefined");
  });

  test("names none that is only there, and a link by what it leads to", async () => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "free-2.lock"), "");
    symlinkSync(join(folder.path, "held-2.lock"), join(folder.path, "link-2.lock"));
    await using _ = await LockHolder.hold(join(folder.path, "held-2.lock"));
    const names = (namesHeldBeside(folder.path) ?? ["held-2.lock"]).filter((name) => name.endsWith("-2.lock"));
    expect(names).toEqual(["held-2.lock"]);
  });

  test("cannot tell of a file system that keeps locks of its own, nor where no folder is", () => {
    expect(namesHeldBeside("/proc")).toBeUndefined();
    expect(namesHeldBeside("/nowhere/at/all")).toBeUndefined();
  });
});

describe("keepListAtHand", () => {
  const reads = () => Number(/^syscr: (\d+)/m.exec(readFileSync("/proc/self/io", "latin1"))![1]);
  /** How many reads there are while it is called for so many milliseconds. */
  const readsIn = (ms: number): number => {
    const before = reads();
    for (const end = performance.now() + ms; performance.now() < end; ) keepListAtHand();
    return reads() - before;
  };
  const idle = () => {
    const before = reads();
    return reads() - before;
  };

  // Other threads of the process may read something meanwhile, but not each time.
  const readsNothing = () => Array.from({ length: 50 }).some(() => readsIn(20) <= idle());

  test.skipIf(!CAN_TELL)(
    "reads the list again after a look that it was of use to, and not once that is long ago",
    () => {
      using folder = new TemporaryFolder();
      // A machine that stands still for a moment makes it miss its time.
      const isKept = Array.from({ length: 50 }).some(() => namesHeldBeside(folder.path) && readsIn(20) > idle());
      expect(isKept).toBe(true);
      Bun.sleepSync(30);
      expect(readsNothing()).toBe(true);
    },
  );

  test("reads nothing after a look that it was of no use to", () => {
    Bun.sleepSync(30);
    expect(namesHeldBeside("/nowhere/at/all")).toBeUndefined();
    expect(readsNothing()).toBe(true);
  });

  test.skipIf(!CAN_TELL)("makes no list of an earlier moment do for the next look", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "held-5.lock");
    namesHeldBeside(folder.path);
    readsIn(20);
    await using _ = await LockHolder.hold(path);
    readsIn(20);
    expect(namesHeldBeside(folder.path) ?? ["held-5.lock"]).toContain("held-5.lock");
  });
});

describe("parseLocks", () => {
  test("takes whole-file locks held exclusively, and leaves the rest out", () => {
    const list = [
      "1: FLOCK  ADVISORY  WRITE 708 fe:00:2417106 0 EOF",
      "1: -> FLOCK  ADVISORY  WRITE 709 fe:00:2417106 0 EOF",
      "2: FLOCK  ADVISORY  READ 710 fe:00:17 0 EOF",
      "3: POSIX  ADVISORY  WRITE 711 00:2e:18 1073741824 1073742335",
      "4: OFDLCK ADVISORY  WRITE -1 08:01:19 0 EOF",
      "5: FLOCK  ADVISORY  WRITE 712 103:1a:9007199254740991 0 EOF",
      "",
    ].join("\n");
    expect(parseLocks(list)).toEqual([
      { pid: 708, device: "fe:00", inode: 2417106 },
      { pid: 712, device: "103:1a", inode: 9007199254740991 },
    ]);
    expect(parseLocks("")).toEqual([]);
  });
});
