import { expect, test } from "bun:test";
import { cpSync, mkdirSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { Mounted, runTool } from "../mount.ts";
import { Store } from "../ops/prune-store.ts";
import { hasTool } from "../tools.ts";

const MIB = 1024 * 1024;

/** A Btrfs of its own, in a file. */
class Btrfs extends TemporaryFolder {
  readonly root = join(this.path, "root");
  private readonly mounted: Mounted;

  constructor() {
    super();
    const image = join(this.path, "image");
    mkdirSync(this.root);
    runTool("truncate", "-s", "256M", image);
    runTool("mkfs.btrfs", "-q", image);
    this.mounted = new Mounted(this.root, "-o", "loop", image);
  }

  override [Symbol.dispose](): void {
    this.mounted[Symbol.dispose]();
    super[Symbol.dispose]();
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
