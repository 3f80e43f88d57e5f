import { expect, test } from "bun:test";
import { cpSync, mkdirSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { isOneFileSystem } from "../../src/host/disk.ts";
import { mountsIn } from "../../src/host/mounts.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { Mounted, runTool } from "../mount.ts";
import { Store } from "../ops/prune-store.ts";
import { hasTool } from "../tools.ts";

const MIB = 1024 * 1024;

/** A Btrfs of its own, in a file. */
class Btrfs implements Disposable {
  readonly root: string;
  private readonly parts: DisposableStack;

  constructor() {
    // What was made is gone again also where the next part is refused.
    using parts = new DisposableStack();
    const folder = parts.use(new TemporaryFolder()).path;
    this.root = join(folder, "root");
    mkdirSync(this.root);
    runTool("truncate", "-s", "256M", join(folder, "image"));
    runTool("mkfs.btrfs", "-q", join(folder, "image"));
    parts.use(new Mounted(this.root, "-o", "loop", join(folder, "image")));
    this.parts = parts.move();
  }

  [Symbol.dispose](): void {
    this.parts.dispose();
  }
}

function refused(): string | undefined {
  if (!hasTool("mkfs.btrfs")) return "mkfs.btrfs is missing";
  try {
    using _ = new Btrfs();
    return undefined;
  } catch (error) {
    return String(error).trim();
  }
}

const REFUSAL = refused();

test.skipIf(REFUSAL !== undefined)(
  `settledFileSystemOf sees what has just been freed on Btrfs, so that a budget asked for again takes no more${REFUSAL ? ` (${REFUSAL})` : ""}`,
  async () => {
    using disk = new Btrfs();
    using store = new Store();
    for (const name of ["a", "b", "c", "d"]) store.image({ names: [`acme/${name}:1`], layers: { [name]: 16 * MIB } });
    const home = join(disk.root, "home");
    cpSync(store.home, home, { recursive: true, preserveTimestamps: true });
    runTool("sync", "-f", home);
    const { bavail, bsize } = statfsSync(home);
    const prune = ["prune", "--min-age", "0s", "--min-free", String(bavail * bsize + 24 * MIB)];
    expect((await larderJson(home, prune)).references).toHaveLength(2);
    expect((await larderJson(home, prune)).references).toEqual([]);
    expect((await larder(home, "list", "-q")).stdout.split("\n")).toHaveLength(3);
  },
);

test.skipIf(REFUSAL !== undefined)(
  `isOneFileSystem knows the subvolumes of a Btrfs, and two of one size apart${REFUSAL ? ` (${REFUSAL})` : ""}`,
  () => {
    using disk = new Btrfs();
    using other = new Btrfs();
    const [sub, apart] = ["sub", "apart"].map((name) => join(disk.root, name));
    for (const path of [sub!, apart!]) runTool("btrfs", "subvolume", "create", path);
    mkdirSync(join(disk.root, "at"));
    using mounted = new Mounted(join(disk.root, "at"), "-o", "subvol=apart", sourceOf(disk.root));
    for (const path of [sub!, mounted.path, join(disk.root, "not", "made")])
      expect([path, isOneFileSystem(disk.root, path)]).toEqual([path, true]);
    expect(isOneFileSystem(disk.root, other.root)).toBe(false);
    // A subvolume is a whole, and a folder of one is not.
    expect(mountsIn(mounted.path)).toMatchObject([{ path: mounted.path, isPart: false }]);
    mkdirSync(join(disk.root, "folder"));
    mkdirSync(join(disk.root, "bound"));
    using bound = new Mounted(join(disk.root, "bound"), "--bind", join(disk.root, "folder"));
    expect(mountsIn(bound.path)).toMatchObject([{ path: bound.path, isPart: true }]);
  },
);

function sourceOf(path: string): string {
  return Bun.spawnSync(["findmnt", "-n", "-o", "SOURCE", path]).stdout.toString().trim();
}

test("mountsIn finds nothing in a folder that is gone", () => {
  expect(mountsIn("/nowhere/at/all")).toEqual([]);
});
