import { describe, expect, test } from "bun:test";
import { readlinkSync, statfsSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { namesHeldBeside, parseLocks } from "../../src/host/held.ts";
import { TemporaryFolder } from "../larder.ts";
import { LockHolder } from "./holder.ts";

// A container, or a file system that the list does not show: there larder must know that it cannot tell.
function canTell(folder: string): boolean {
  const isFirst = readlinkSync("/proc/self/ns/pid") === "pid:[4026531836]";
  return isFirst && [0xef53, 0x58465342, 0x01021994].includes(statfsSync(folder).type);
}

describe("namesHeldBeside", () => {
  test("names what another process and this one hold, in whatever folder, and no longer than they do", async () => {
    using folder = new TemporaryFolder();
    const before = namesHeldBeside(folder.path);
    if (!canTell(folder.path)) {
      expect(before).toBeUndefined();
      return;
    }
    expect(before).not.toContain("theirs-1.lock");
    {
      await using _ = await LockHolder.hold(join(folder.path, "theirs-1.lock"));
      using own = FileLock.take(join(folder.path, "deeper", "own-1.lock"));
      expect(own).toBeDefined();
      expect(namesHeldBeside(folder.path)).toEqual(expect.arrayContaining(["theirs-1.lock", "own-1.lock"]));
    }
    expect(namesHeldBeside(folder.path)).not.toContain("theirs-1.lock");
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
