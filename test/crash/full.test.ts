import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { larder, TemporaryFolder } from "../larder.ts";
import { Mounted, mountingRefused, runTool } from "../mount.ts";
import { at, Store, vmdkOf } from "../store.ts";
import { IS_LONG, PATIENCE } from "./bench.ts";
import { expectNothingLost, expectRecovery, readState, rowsOf, textOf } from "./invariants.ts";
import { SCENARIOS, Stand } from "./scenario.ts";

const KIB = 1024;
const DISK = 8 * KIB * KIB;
/** What is left free, in KiB: a page cache page is the least step. */
const LEVELS = IS_LONG ? Array.from({ length: 256 }, (_, i) => 4 * i) : [0, 4, 16, 36, 56, 68, 80, 100, 160, 260, 400];

let stand: Stand;
let runs = 0;

// Repair writes in many steps, and each that finds no room is reported by itself.
const COMMANDS = SCENARIOS.filter(({ name }) => !name.startsWith("check"));
const REFUSAL = mountingRefused();

describe.skipIf(REFUSAL !== undefined)(`full disk${REFUSAL ? ` (${REFUSAL})` : ""}`, () => {
  beforeAll(async () => {
    stand = await Stand.build();
  });
  afterAll(() => {
    stand[Symbol.dispose]();
    console.log(`${runs} runs on a full disk`);
  });

  test.each(COMMANDS)(
    "$name does its work with 1 MiB free",
    async ({ home, args, code }) => {
      using disk = new SmallDisk(stand, home, KIB);
      const before = disk.free();
      const ended = await larder(stand.home, ...args(stand.input));
      expect(ended.stderr).not.toContain("larder:");
      expect(ended.code).toBe(code);
      if (!args("")[0]!.startsWith("persist")) expect(disk.free()).toBeGreaterThan(before);
      await expectRecovery(stand);
      runs++;
    },
    PATIENCE,
  );

  test.each(COMMANDS)(
    "$name does its work, or says how much it needs, with less",
    async ({ name, home, args, code }) => {
      const collects = name === "gc" || name === "prune";
      for (const level of LEVELS) {
        using disk = new SmallDisk(stand, home, level);
        const before = readState(stand);
        const ended = await larder(stand.home, ...args(stand.input));
        const now = readState(stand);
        const what = { level, code: ended.code, stderr: ended.stderr };
        expectNothingLost(stand, before, now, false);
        if (ended.code === code) {
          expect({ ...what, changed: rowsOf(now) !== rowsOf(before) }).toEqual({ ...what, changed: true });
        } else {
          // A collection commits more than once: what it had committed is swept before it fails.
          if (rowsOf(now) === rowsOf(before)) expect(textOf(now)).toBe(textOf(before));
          else expect(collects && now.files.size < before.files.size).toBe(true);
          expect(what).toEqual({ ...what, code: 1 });
          expect(ended.stderr).toMatch(/^larder: .*no space is left.* needs?.* about 1 MiB/m);
          expect(ended.stderr).toContain(stand.home);
          expect(ended.stderr).not.toMatch(/^\s+at /m);
        }
        disk.empty();
        await expectRecovery(stand);
        runs++;
      }
    },
    PATIENCE,
  );
});

test.skipIf(REFUSAL !== undefined)(
  `check --repair leaves a disk as it was where a new one finds no room${REFUSAL ? ` (${REFUSAL})` : ""}`,
  async () => {
    const layers = Array.from({ length: 60 }, (_, i) => `layer-${i}`);
    using store = await Store.make({ one: { references: ["ghcr.io/acme/one:1"], layers } });
    using small = new TemporaryFolder();
    using _ = new Mounted(small.path, "-t", "tmpfs", "-o", "size=4m", "tmpfs");
    cpSync(store.cache, small.path, { recursive: true, preserveTimestamps: true });
    writeFileSync(join(store.path, "config.json"), JSON.stringify({ paths: { cache: small.path } }));
    // Longer than the one page that is left for it.
    const text = vmdkOf([at.fsmeta("one"), ...layers.map(at.layer)].map((path) => `/elsewhere/cache/${path}`));
    const vmdk = join(small.path, at.vmdk("one"));
    writeFileSync(vmdk, text);
    const { bavail, bsize } = statfsSync(small.path);
    runTool("fallocate", "-l", String((bavail - 1) * bsize), join(small.path, "ballast"));
    const { code, stdout } = await larder(store.path, "check", "--repair", "--format", "json");
    const [problem] = JSON.parse(stdout).problems.filter(({ code }: { code: string }) => code === "vmdk-mislocated");
    expect({ code, repair: problem.repair, left: problem.left }).toEqual({
      code: 5,
      repair: "left",
      left: expect.stringContaining("no space is left"),
    });
    expect(readFileSync(vmdk, "utf8")).toBe(text);
    expect(readdirSync(join(small.path, "tmp"))).toEqual([]);
  },
  PATIENCE,
);

test.skipIf(REFUSAL !== undefined)(
  `what only looks does so on a disk without a free block${REFUSAL ? ` (${REFUSAL})` : ""}`,
  async () => {
    using store = await Store.make({ one: { references: ["ghcr.io/acme/one:1"], layers: ["base"] } });
    using small = new TemporaryFolder();
    using _ = new Mounted(small.path, "-t", "tmpfs", "-o", "size=4m", "tmpfs");
    // With its log folded in, as the last to leave does it.
    cpSync(join(store.path, "db"), join(small.path, "db"), { recursive: true });
    cpSync(store.cache, join(small.path, "cache"), { recursive: true, preserveTimestamps: true });
    const { bavail, bsize } = statfsSync(small.path);
    runTool("fallocate", "-l", String(bavail * bsize), join(small.path, "ballast"));
    for (const args of [["list"], ["get", "ghcr.io/acme/one:1"], ["df"], ["check"], ["prune", "--unused", "-n"]]) {
      const { code, stderr } = await larder(small.path, ...args);
      expect([args, code, stderr.includes("larder:")]).toEqual([args, args[0] === "check" ? 5 : 0, false]);
    }
  },
  PATIENCE,
);

/** A home on a file system of its own, on which `free` KiB are left. */
class SmallDisk implements Disposable {
  private readonly mounted: Mounted;
  private readonly ballast: string;

  constructor(
    private readonly stand: Stand,
    home: "store" | "none",
    free: number,
  ) {
    rmSync(stand.home, { recursive: true, force: true });
    mkdirSync(stand.home);
    this.mounted = new Mounted(stand.home, "-t", "tmpfs", "-o", `size=${DISK}`, "tmpfs");
    if (home === "store") stand.restore();
    this.ballast = join(stand.home, "ballast");
    runTool("fallocate", "-l", String(this.free() - free * KIB), this.ballast);
  }

  free(): number {
    const { bavail, bsize } = statfsSync(this.stand.home);
    return bavail * bsize;
  }

  /** Makes room again. */
  empty(): void {
    unlinkSync(this.ballast);
  }

  [Symbol.dispose](): void {
    this.mounted[Symbol.dispose]();
  }
}
