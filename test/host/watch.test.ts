import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FolderWatch } from "../../src/host/watch.ts";

/** A folder on tmpfs, whose changes the kernel tells on every host, and a file beside it. */
class Stage {
  readonly path = mkdtempSync("/dev/shm/larder-watch-");
  readonly folder = join(this.path, "watched");

  constructor() {
    mkdirSync(this.folder);
    for (const name of ["a", "b"]) writeFileSync(join(this.folder, name), "");
    writeFileSync(join(this.path, "outside"), "");
  }

  in(name: string): string {
    return join(this.folder, name);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

describe("FolderWatch", () => {
  test.each<[string, (stage: Stage) => void, string[]]>([
    ["nothing", () => {}, []],
    ["a file that was made", (stage) => writeFileSync(stage.in("new"), ""), ["new"]],
    ["one that was renamed into it", (stage) => renameSync(join(stage.path, "outside"), stage.in("new")), ["new"]],
    ["one that was renamed over another", (stage) => renameSync(join(stage.path, "outside"), stage.in("a")), ["a"]],
    ["one that was renamed within it", (stage) => renameSync(stage.in("a"), stage.in("new")), ["a", "new"]],
    ["one that was linked into it", (stage) => linkSync(join(stage.path, "outside"), stage.in("new")), ["new"]],
    ["one that was written where it lay", (stage) => appendFileSync(stage.in("a"), "text"), ["a"]],
    ["one that went", (stage) => unlinkSync(stage.in("a")), ["a"]],
    ["one that was renamed out of it", (stage) => renameSync(stage.in("b"), join(stage.path, "b")), ["b"]],
    ["a folder", (stage) => mkdirSync(stage.in("folder")), ["folder"]],
    ["no file that was only read", (stage) => readFileSync(stage.in("a")), []],
    ["no file beside it", (stage) => writeFileSync(join(stage.path, "beside"), ""), []],
    ["a name of many bytes", (stage) => writeFileSync(stage.in("ü".repeat(127)), ""), ["ü".repeat(127)]],
  ])("tells of %s", (_, change, expected) => {
    using stage = new Stage();
    using watch = FolderWatch.start(stage.folder)!;
    change(stage);
    expect([...watch.changes()!].sort()).toEqual(expected);
    expect(watch.changes()!.size).toBe(0);
  });

  test("tells of thousands at once, and only of what came after its start", () => {
    using stage = new Stage();
    using watch = FolderWatch.start(stage.folder)!;
    const names = Array.from({ length: 3000 }, (_, i) => `${i}-${"0".repeat(i % 200)}`);
    for (const name of names) writeFileSync(stage.in(name), "");
    expect([...watch.changes()!].sort()).toEqual(names.sort());
  });

  test("looks through a link, for as long as that leads to it", () => {
    using stage = new Stage();
    symlinkSync(stage.folder, join(stage.path, "link"));
    using watch = FolderWatch.start(join(stage.path, "link"))!;
    writeFileSync(stage.in("new"), "");
    expect([...watch.changes()!]).toEqual(["new"]);
    unlinkSync(join(stage.path, "link"));
    symlinkSync(stage.path, join(stage.path, "link"));
    expect(watch.changes()).toBeUndefined();
  });

  /** Removes the folder, and makes another at its path. */
  function replace(stage: Stage): void {
    rmSync(stage.folder, { recursive: true });
    mkdirSync(stage.folder);
  }

  test.each<[string, (stage: Stage) => void]>([
    ["the folder has moved", (stage) => renameSync(stage.folder, join(stage.path, "elsewhere"))],
    ["the folder is no more", (stage) => rmSync(stage.folder, { recursive: true })],
    ["another folder is in its place", replace],
    [
      "another is in its place, and somebody has it open yet",
      (stage) => {
        const fd = openSync(stage.folder, "r");
        replace(stage);
        setImmediate(() => closeSync(fd));
      },
    ],
    [
      "another is in its parent's place",
      (stage) => {
        renameSync(stage.path, `${stage.path}-away`);
        mkdirSync(stage.folder, { recursive: true });
        rmSync(`${stage.path}-away`, { recursive: true });
      },
    ],
    [
      "more changed than the kernel keeps",
      (stage) => {
        const most = Number(readFileSync("/proc/sys/fs/inotify/max_queued_events", "utf8"));
        // Three a file, of which no two that follow each other are the same.
        for (let i = 0; i <= most / 3; i++) {
          writeFileSync(stage.in("new"), "");
          unlinkSync(stage.in("new"));
        }
      },
    ],
  ])("knows no more from when %s on", (_, change) => {
    using stage = new Stage();
    using watch = FolderWatch.start(stage.folder)!;
    change(stage);
    expect(watch.changes()).toBeUndefined();
    mkdirSync(stage.folder, { recursive: true });
    writeFileSync(stage.in("later"), "");
    expect(watch.changes()).toBeUndefined();
  });

  test.each([
    ["a file system that is no disk", "/proc/self"],
    ["a file", "/dev/shm/larder-watch-file"],
    ["no folder", "/dev/shm/larder-watch-none"],
  ])("does not start on %s", (_, path) => {
    if (path.endsWith("file")) writeFileSync(path, "");
    expect(FolderWatch.start(path)).toBeUndefined();
    if (path.endsWith("file")) unlinkSync(path);
  });
});
