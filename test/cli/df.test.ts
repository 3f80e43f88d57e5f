import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { allocatedIn, DAY, Store } from "../ops/prune-store.ts";

/** What the program writes on a terminal of 200 columns. */
async function inTerminal(...args: string[]): Promise<string> {
  let written = "";
  const decoder = new TextDecoder();
  const child = Bun.spawn([EXECUTABLE, ...args], {
    env: { TZ: "UTC", TERM: "xterm" },
    terminal: {
      cols: 200,
      rows: 50,
      data: (_, bytes) => {
        written += decoder.decode(bytes, { stream: true });
      },
    },
  });
  await child.exited;
  child.terminal!.close();
  return written.replaceAll("\r\n", "\n");
}

function fill(store: Store): void {
  const a = store.image({ names: ["acme/a:1"], layers: { base: 409_600, a: 8192 }, used: 3 * DAY });
  store.alias(a, "acme/a:stable", 5 * DAY);
  const b = store.image({ names: ["acme/b:1"], layers: { base: 409_600 }, used: 2 * DAY });
  store.pinBySandbox("web-1", b);
  store.pinBySnapshot("golden", b);
  store.image({ seed: "untagged", used: DAY });
  store.file(join(store.cache, "layers", "stray"), 4096);
}

describe("larder df", () => {
  test("prints a row a kind, the total and the file system, and no bar where no terminal is", async () => {
    using store = new Store();
    fill(store);
    const { code, stdout, stderr } = await larder(store.home, "df");
    expect([code, stderr]).toEqual([0, ""]);
    const lines = stdout.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^KIND +FILES +LENGTH +ON DISK +RECLAIMABLE$/);
    expect(lines.slice(1, 11).map((line) => line.split(/ {2,}/)[0])).toEqual([
      "layer",
      "fsmeta",
      "vmdk",
      "flat ref",
      "flat blob",
      "metadata",
      "staging",
      "lock",
      "stray",
      "total",
    ]);
    expect(lines.find((line) => line.startsWith("layer"))).toMatch(/^layer +3 +416\.0 KiB +416\.0 KiB +8\.0 KiB$/);
    expect(lines.find((line) => line.startsWith("stray"))).toMatch(/^stray +1 +4\.0 KiB +4\.0 KiB +4\.0 KiB$/);
    expect(lines.at(-1)).toMatch(/^file system {2}\S+ .iB, \S+ .iB used \(\d+%\), \S+ .iB free$/);
    expect(stdout).not.toMatch(/[█░]/);
  });

  test("shows with -v every image with its own and its shared bytes, last use and pins", async () => {
    using store = new Store();
    fill(store);
    const { stdout } = await larder(store.home, "df", "-v");
    const rows = stdout.split("\n").map((line) => line.split(/ {2,}/));
    expect(rows.find(([name]) => name === "IMAGE")).toEqual([
      "IMAGE",
      "DIGEST",
      "OWN",
      "SHARED",
      "LAST USED",
      "IN USE BY",
    ]);
    // Own: a layer of 8 KiB, and metadata twice, fsmeta and vmdk of a block each.
    const a = rows.find(([name]) => name === "acme/a:1 (+1)")!;
    expect(a.slice(2)).toEqual(["24.0 KiB", "400.0 KiB", "3 days ago", ""]);
    const b = rows.find(([name]) => name === "acme/b:1")!;
    expect(b.slice(2)).toEqual(["12.0 KiB", "400.0 KiB", "2 days ago", "web-1,golden"]);
    expect(rows.find(([name]) => name === "(untagged)")!.slice(2)).toEqual(["16.0 KiB", "0 B", "1 day ago", ""]);
    expect(stdout).toContain("own 52.0 KiB + shared, counted once, 400.0 KiB + without an image 4.0 KiB\n");
  });

  test("prints everything as one JSON document, with sums that are the disk's", async () => {
    using store = new Store();
    fill(store);
    const report = await larderJson(store.home, ["df"]);
    expect(Object.keys(report)).toEqual([
      "database",
      "cache",
      "kinds",
      "total",
      "refused",
      "attribution",
      "file_system",
      "images",
    ]);
    expect([report.database, report.cache]).toEqual([join(store.home, "db", "msb.db"), store.cache]);
    const { own_bytes, shared_bytes, unattributed_bytes } = report.attribution;
    expect(own_bytes + shared_bytes + unattributed_bytes).toBe(allocatedIn(store.cache));
    expect(report.total.allocated_bytes).toBe(allocatedIn(store.cache));
    const b = report.images.find(({ references }: { references: string[] }) => references[0] === "acme/b:1");
    expect(b.pinned_by).toEqual([
      { kind: "sandbox", name: "web-1" },
      { kind: "snapshot", name: "golden" },
    ]);
    expect(new Date(b.last_used_at).getTime()).toBeCloseTo(Date.now() - 2 * DAY, -6);
    expect(b.last_used_at).toEndWith("+00:00");
  });

  test("gives a terminal a bar a row", async () => {
    using store = new Store();
    fill(store);
    const out = await inTerminal("df", "--home", store.home);
    const bars = out.match(/[█░]+/g)!;
    expect(bars).toHaveLength(10);
    for (const bar of bars) expect(bar).toHaveLength(10);
    const report = await larderJson(store.home, ["df"]);
    const [layer] = report.kinds;
    const filled = Math.round((10 * layer.allocated_bytes) / report.total.allocated_bytes);
    expect(bars[0]).toBe("█".repeat(filled) + "░".repeat(10 - filled));
    expect(bars.at(-1)).toBe("█".repeat(10));
    expect(bars.at(-2)).toBe("░".repeat(10));
  });

  test("changes nothing, and needs no room to write", async () => {
    using store = new Store();
    fill(store);
    const before = store.picture();
    await larder(store.home, "df", "-v");
    expect(store.picture()).toBe(before);
  });

  test("counts what the cache holds where there is no catalogue, and says so", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "cache", "layers"), { recursive: true });
    writeFileSync(join(folder.path, "cache", "layers", "lost"), "x".repeat(4096));
    const { code, stdout, stderr } = await larder(folder.path, "df");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^stray +1 +4\.0 KiB +4\.0 KiB +0 B$/m);
    expect(existsSync(join(folder.path, "db"))).toBe(false);
    expect(stderr).toContain(`no catalogue at "${join(folder.path, "db", "msb.db")}"`);
  });

  test("does not let a stored reference drive the terminal", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.db.run("UPDATE image_ref SET reference = 'evil' || char(27) || '[2J'");
    const { code, stdout } = await larder(store.home, "df", "-v");
    expect(code).toBe(0);
    expect(stdout).toContain("evil\\u001b[2J");
    expect(stdout).not.toContain("\u001b");
  });

  test.each([
    [["df", "extra"], 'df takes no argument, and "extra" is one too many'],
    [["df", "--bogus"], "unknown flag --bogus"],
  ])("refuses %p", async (args, message) => {
    using folder = new TemporaryFolder();
    const { code, stdout, stderr } = await larder(folder.path, ...args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(message);
  });
});
