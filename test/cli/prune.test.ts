import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { Mounted, mountingRefused } from "../mount.ts";
import { allocatedIn, DAY, HOUR, MINUTE, Store } from "../ops/prune-store.ts";
import { at, digestOf, Store as OtherStore } from "../store.ts";
import { onTerminal } from "./pty.ts";

interface Decision {
  action: string;
  reference: string | null;
  digest: string;
  cause: string;
  reason: string;
  bytes: number;
}

/** What became of each image, by reference. */
function outcome(report: { decisions: Decision[] }): Record<string, string> {
  return Object.fromEntries(
    report.decisions.map(({ action, reference, cause }) => [reference ?? "(untagged)", `${action} ${cause}`]),
  );
}

describe("larder prune: usage", () => {
  test.each<[string[], ...string[]]>([
    [
      [],
      "needs a rule (--unused, --older-than, --keep-last, --untagged)",
      "(--max-size, --min-free, --high with --low)",
    ],
    [["--keep", "a:1", "--min-age", "1h"], "prune needs a rule"],
    [["--dry-run"], "prune needs a rule"],
    [["--high", "85%"], "--high and --low go together"],
    [["--low", "70%"], "--high and --low go together"],
    [["--high", "70%", "--low", "85%"], "--low is above --high"],
    [["--unused", "extra"], 'prune takes no argument, and "extra" is one too many'],
    [["--unused", "--unused"], "--unused is given twice"],
    [["--unsued"], "unknown flag --unsued"],
    [["--older-than"], "--older-than needs a value"],
    [["--unused", "--log-format", "xml"], "must be one of: text, json"],
    [["--keep-last", "-1"], "--keep-last needs a value"],
    [["--keep-last=-1"], '--keep-last is "-1", and must be a whole number'],
    [["--keep-last", "2.5"], '--keep-last is "2.5", and must be a whole number'],
    [["--keep-last", "0x10"], "must be a whole number"],
  ])("refuses %j", async (args, ...messages) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const before = store.picture();
    const { code, stdout, stderr } = await larder(store.home, "prune", ...args);
    expect([code, stdout]).toEqual([2, ""]);
    for (const message of messages) expect(stderr).toContain(message);
    expect(store.picture()).toBe(before);
  });

  const BAD_DURATIONS = ["14", "14D", "1w", "1.5h", "1h30m", " 1h", "h", "1 h", "∞", "1e3s", "9999999999d", "+1h"];
  test.each(["--older-than", "--min-age", "--grace"].flatMap((flag) => BAD_DURATIONS.map((bad) => [flag, bad])))(
    "refuses %s %j, and names what is accepted",
    async (flag, bad) => {
      using folder = new TemporaryFolder();
      const { code, stdout, stderr } = await larder(folder.path, "prune", "--unused", `${flag}=${bad}`);
      expect([code, stdout]).toEqual([2, ""]);
      expect(stderr).toContain(`${JSON.stringify(bad)} is not a duration`);
      expect(stderr).toContain("90s, 15m, 12h, 14d");
    },
  );

  test.each([
    "20G",
    "20gib",
    "20 GiB",
    "1.5GiB",
    "GiB",
    "-1",
    "1e9",
    "1_000",
    "0x10",
    "20GiB ",
    "9007199254740993",
    "9999TiB9",
  ])("refuses --max-size %j, and names what is accepted", async (bad) => {
    using folder = new TemporaryFolder();
    const { code, stderr } = await larder(folder.path, "prune", `--max-size=${bad}`);
    expect(code).toBe(2);
    expect(stderr).toContain(`${JSON.stringify(bad)} is not a size`);
    expect(stderr).toContain("500MB, 20GiB");
  });

  test.each(
    ["--high", "--low"].flatMap((flag) =>
      ["85", "101%", "-1%", "100.001%", "%", "8 5%", "85 %", "1e1%"].map((bad) => [flag, bad]),
    ),
  )("refuses %s %j, and names what is accepted", async (flag, bad) => {
    using folder = new TemporaryFolder();
    const other = flag === "--high" ? "--low=1%" : "--high=99%";
    const { code, stderr } = await larder(folder.path, "prune", `${flag}=${bad}`, other);
    expect(code).toBe(2);
    expect(stderr).toContain(`${JSON.stringify(bad)} is not a percentage`);
    expect(stderr).toContain("from 0 to 100 with %: 15%");
  });

  test.each(["lots", "10G", "%", "101%", "1.5GiB"])(
    "refuses --min-free %j, and names sizes and percentages",
    async (bad) => {
      using folder = new TemporaryFolder();
      const { code, stderr } = await larder(folder.path, "prune", `--min-free=${bad}`);
      expect(code).toBe(2);
      expect(stderr).toContain(JSON.stringify(bad));
      expect(stderr).toContain("20GiB");
      expect(stderr).toContain("15%");
    },
  );

  test.each<[string[]]>([
    [["--older-than=90s"]],
    [["--older-than=15m"]],
    [["--older-than=12h"]],
    [["--older-than=14d"]],
    [["--older-than=0s"]],
    [["--max-size=1048576"]],
    [["--max-size=500MB"]],
    [["--max-size=20GiB"]],
    [["--max-size=0"]],
    [["--min-free=1TiB"]],
    [["--min-free=15%"]],
    [["--min-free=12.5%"]],
    [["--min-free=0%"]],
    [["--high=100%", "--low=0%"]],
    [["--high=85%", "--low=85%"]],
    [["--keep-last=1"]],
  ])("accepts %j", async (args) => {
    using folder = new TemporaryFolder();
    const { code, stdout, stderr } = await larder(folder.path, "prune", ...args, "--format", "json");
    // The disk of this machine may be too full for what is asked.
    expect(code).toBeOneOf([0, 6]);
    expect(JSON.parse(stdout)).toMatchObject({ decisions: [], files: [] });
    expect(stderr).toContain("Nothing to prune (there is no catalogue at");
    expect(readdirSync(folder.path)).toEqual([]);
  });
});

describe("larder prune: what it keeps", () => {
  test("reads references and globs from --keep-from, without comments and empty lines", async () => {
    using store = new Store();
    for (const name of ["python:3.12", "acme/a:1", "acme/b:2", "acme/c:1", "node:22", "ghcr.io/x/y:1"]) {
      store.image({ names: [name] });
    }
    const list = join(store.home, "keep.txt");
    writeFileSync(
      list,
      "# what every job needs\n\ndocker.io/library/python:3.12   # by its long name\r\n\t acme/?:1 \n#node:22\nghcr.io/*",
    );
    const report = await larderJson(store.home, ["prune", "--unused", "--keep-from", list]);
    expect(outcome(report)).toEqual({
      "python:3.12": "keep keep",
      "acme/a:1": "keep keep",
      "acme/b:2": "evict unused",
      "acme/c:1": "keep keep",
      "node:22": "evict unused",
      "ghcr.io/x/y:1": "keep keep",
    });
    expect(store.references()).toEqual(["acme/a:1", "acme/c:1", "ghcr.io/x/y:1", "python:3.12"]);
  });

  test("adds up --keep and --keep-from, each as often as they are given", async () => {
    using store = new Store();
    for (const name of ["acme/a:1", "acme/b:1", "acme/c:1", "acme/d:1", "acme/e:1"]) store.image({ names: [name] });
    const lists = ["one", "two"].map((name) => join(store.home, name));
    writeFileSync(lists[0]!, "acme/a:1\n");
    writeFileSync(lists[1]!, "acme/b:1\n");
    const flags = ["--keep-from", lists[0]!, "--keep", "acme/c:*", "--keep-from", lists[1]!, "--keep", "acme/d:1"];
    await larderJson(store.home, ["prune", "--unused", ...flags]);
    expect(store.references()).toEqual(["acme/a:1", "acme/b:1", "acme/c:1", "acme/d:1"]);
  });

  test("keeps what a list with a byte order mark names in its first line", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const list = join(store.home, "keep.txt");
    writeFileSync(list, "\ufeffacme/a:1\n");
    await larderJson(store.home, ["prune", "--unused", "--keep-from", list]);
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test.each<[string, (path: string) => void]>([
    ["is not there", () => {}],
    ["is a folder", (path) => mkdirSync(path)],
    ["is empty", (path) => writeFileSync(path, "")],
    ["is UTF-16", (path) => writeFileSync(path, Buffer.from("\ufeffacme/a:1\n", "utf16le"))],
    ["is no text", (path) => writeFileSync(path, Buffer.from([0x61, 0xff, 0xfe, 0x0a]))],
  ])("evicts nothing when --keep-from %s", async (_, make) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.image({ seed: "untagged" });
    const list = join(store.home, "keep.txt");
    make(list);
    const before = store.picture();
    for (const extra of [[], ["--dry-run"]]) {
      const { code, stdout, stderr } = await larder(store.home, "prune", "--unused", "--keep-from", list, ...extra);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toContain(list);
    }
    expect(store.picture()).toBe(before);
  });

  test("takes a list of comments for an empty one", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    const list = join(store.home, "keep.txt");
    writeFileSync(list, "\n# nothing\n");
    const { code, stderr } = await larder(store.home, "prune", "--unused", "--keep-from", list);
    expect(code).toBe(0);
    expect(stderr).toContain(`the list "${list}" names nothing to keep\n`);
    expect(store.references()).toEqual([]);
  });

  test("says what kept all images where none was evicted, and the dry run of each", async () => {
    using store = new Store();
    store.pinBySandbox("web", store.image({ names: ["acme/a:1"] }));
    store.image({ names: ["acme/b:1", "acme/b:2"], used: 60_000 });
    const said = "nothing was evicted: 1 pinned, 2 min-age (--dry-run gives every reason)\n";
    expect((await larder(store.home, "prune", "--unused", "--min-age", "1h")).stderr).toContain(said);
    expect((await larder(store.home, "prune", "--unused", "--min-age", "1h", "-n")).stderr).not.toContain(
      "nothing was",
    );
    expect((await larder(store.home, "prune", "--unused", "--min-age", "0s")).stderr).not.toContain("nothing was");
  });

  test("says of a budget out of reach whether anything is left that it might have taken", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"] });
    const prune = ["prune", "--min-free", "100%", "--min-age", "0s", "-n"];
    expect(await larder(store.home, ...prune)).toMatchObject({
      code: 6,
      stderr: expect.stringContaining("bytes), and no image is left\n"),
    });
    store.pinBySandbox("web", digest);
    expect(await larder(store.home, ...prune)).toMatchObject({
      code: 6,
      stderr: expect.stringContaining("bytes), and what is left is in use, kept or too young\n"),
    });
  });

  test("keeps what sandboxes and snapshots need, and says so", async () => {
    using store = new Store();
    store.pinBySandbox("booted", store.image({ names: ["acme/a:1"], layers: { base: 8192, a: 4096 } }));
    store.pinByConfig("booting", store.image({ names: ["acme/b:1"], layers: { base: 8192, b: 4096 } }));
    store.pinBySnapshot("golden", store.image({ names: ["acme/c:1"], layers: { base: 8192, c: 4096 } }));
    store.image({ names: ["acme/d:1"], layers: { base: 8192, d: 4096 } });
    const report = await larderJson(store.home, ["prune", "--unused"]);
    expect(report.decisions.map(({ reason }: Decision) => reason)).toEqual([
      'in use by sandbox "booted"',
      'in use by sandbox "booting"',
      'in use by snapshot "golden"',
      "nothing needs it",
    ]);
    expect(store.references()).toEqual(["acme/a:1", "acme/b:1", "acme/c:1"]);
    for (const layer of ["base", "a", "b", "c"]) expect(existsSync(store.layerPath(layer))).toBe(true);
    expect(existsSync(store.layerPath("d"))).toBe(false);
  });

  test("protects for ten minutes unless --min-age says otherwise", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 5 * MINUTE });
    store.image({ names: ["acme/b:1"], used: 15 * MINUTE });
    expect(outcome(await larderJson(store.home, ["prune", "--unused", "-n"]))).toEqual({
      "acme/a:1": "keep min-age",
      "acme/b:1": "evict unused",
    });
    expect(outcome(await larderJson(store.home, ["prune", "--unused", "-n", "--min-age", "0s"]))).toEqual({
      "acme/a:1": "evict unused",
      "acme/b:1": "evict unused",
    });
    expect(outcome(await larderJson(store.home, ["prune", "--unused", "-n", "--min-age", "1h"]))).toEqual({
      "acme/a:1": "keep min-age",
      "acme/b:1": "keep min-age",
    });
  });
});

/** A store with something of everything that a policy can say about an image. */
function fill(store: Store): void {
  const a = store.image({ names: ["acme/app:1", "acme/app:old"], layers: { base: 40_960, a: 8192 }, used: 40 * DAY });
  store.image({ names: ["acme/app:2"], layers: { base: 40_960, b: 12_288 }, used: 20 * DAY });
  const c = store.image({ names: ["acme/app:3"], layers: { base: 40_960, c: 16_384 }, used: 2 * DAY });
  store.image({ names: ["acme/db:1"], layers: { d: 20_480 }, used: 30 * DAY });
  store.pinBySandbox(
    "web",
    store.image({ names: ["acme/web:1"], layers: { base: 40_960, e: 24_576 }, used: 35 * DAY }),
  );
  store.image({ seed: "untagged", layers: { f: 28_672 }, used: 3 * DAY });
  store.image({ seed: "young", layers: { g: 28_672 }, used: MINUTE });
  store.flat("shared", [a, c]);
  store.file(store.layerPath("stray"), 4096);
  store.file(join(store.cache, "tmp", "old.spool"), 4096);
}

describe("larder prune: plan and application", () => {
  test.each([
    [["--unused"]],
    [["--unused", "--keep", "acme/app:*"]],
    [["--older-than", "25d"]],
    [["--keep-last", "1"]],
    [["--untagged"]],
    [["--max-size", "120000"]],
    [["--max-size", "120000", "--older-than", "38d"]],
    [["--min-free", "0%"]],
    [["--keep-last", "2", "--older-than", "1h", "--min-age", "0s"]],
  ])("does with %j exactly what --dry-run says, which changes nothing", async (args) => {
    using store = new Store();
    fill(store);
    const before = store.picture();
    const plan = await larderJson(store.home, ["prune", ...args, "--dry-run"]);
    expect(store.picture()).toBe(before);
    const onDisk = allocatedIn(store.cache);
    const done = await larderJson(store.home, ["prune", ...args]);
    expect([plan.dry_run, done.dry_run]).toEqual([true, false]);
    // Where nobody else is at work, the disk's figures may still move by a block between two runs; these do not.
    for (const key of ["decisions", "files", "skipped", "bytes_reclaimed", "spared", "unsafe", "failed"]) {
      expect([key, done[key]]).toEqual([key, plan[key]]);
    }
    for (const key of ["references", "manifests", "layers"]) {
      expect([key, [...done[key]].sort()]).toEqual([key, [...plan[key]].sort()]);
    }
    for (const { path } of plan.files) expect([path, existsSync(path)]).toEqual([path, false]);
    expect(onDisk - allocatedIn(store.cache)).toBe(plan.bytes_reclaimed);
    const again = await larderJson(store.home, ["prune", ...args]);
    expect([again.files, again.references, again.manifests]).toEqual([[], [], []]);
  });

  test("shows every decision with its reason in the table of a dry run, and what went in that of a run", async () => {
    using store = new Store();
    fill(store);
    const args = ["prune", "--older-than", "38d", "--keep", "acme/db:*"];
    const plan = await larder(store.home, ...args, "--dry-run");
    expect(plan.code).toBe(0);
    const rows = plan.stdout.split("\n").map((line) => line.split(/ {2,}/));
    const find = (name: string) => rows.find((row) => row[1] === name)!;
    expect(rows[0]!.slice(-4)).toEqual(["IMAGE", "DIGEST", "FREES", "WHY"]);
    expect([find("acme/app:1")[0], find("acme/app:1").at(-1)]).toEqual(["evict", "not used for 40d"]);
    expect([find("acme/app:2")[0], find("acme/app:2").at(-1)]).toEqual(["keep", "used 20d ago, less than 38d"]);
    expect([find("acme/db:1")[0], find("acme/db:1").at(-1)]).toEqual(["keep", 'kept by "acme/db:*"']);
    expect([find("acme/web:1")[0], find("acme/web:1").at(-1)]).toEqual(["keep", 'in use by sandbox "web"']);
    expect(plan.stdout).toMatch(/\nwould reclaim {2}\S+ KiB in \d+ files\n$/);
    expect(plan.stderr).toBe(`database ${join(store.home, "db", "msb.db")}, cache ${store.cache}\n`);
    const done = await larder(store.home, ...args);
    expect(done.stdout).not.toContain("keep ");
    expect(done.stdout).toContain("acme/app:1");
    expect(done.stdout).toMatch(/\nreclaimed {2}\S+ KiB in \d+ files\n$/);
  });

  test("logs an eviction a line on standard error, as text", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], layers: { a: 1024 * 1024 } });
    store.image({ names: ["acme/b:1"], used: HOUR });
    const free = store.image({ seed: "free", layers: { f: 8192 } });
    const { stderr } = await larder(store.home, "prune", "--older-than", "14d");
    // A layer, and metadata, fsmeta and vmdk of a block each.
    expect(stderr.split("\n").slice(0, 2)).toEqual([
      `evicted acme/a:1 ${a} 1.0 MiB: not used for 30d`,
      `evicted (untagged) ${free} 16.0 KiB: no reference names it`,
    ]);
    expect(stderr).not.toContain("acme/b:1");
  });

  test("logs no eviction where its table is shown on a terminal, unless a log is asked for", async () => {
    using store = new Store();
    const log = join(store.home, "log");
    for (const [flags, wiring, isLogged] of [
      [[], "", false],
      [[], `2>${log}`, true],
      [["--log-format", "text"], "", true],
      [["--format", "json"], "", true],
    ] as const) {
      store.image({ names: ["acme/a:1"] });
      const { screen } = await onTerminal(["prune", "--unused", "--home", store.home, ...flags], { wiring });
      expect(screen).toContain("acme/a:1");
      const said = wiring === "" ? screen : readFileSync(log, "utf8");
      expect(/^evicted acme\/a:1 sha256:/m.test(said)).toBe(isLogged);
    }
  });

  test("logs with --log-format json a document an eviction, and nothing in a dry run", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1", "acme/a:2"], layers: { a: 8192 } });
    const dry = await larder(store.home, "prune", "--unused", "--log-format", "json", "--dry-run");
    expect(dry.stderr).not.toContain("evicted");
    const { stderr } = await larder(store.home, "prune", "--unused", "--log-format", "json");
    const lines = stderr.split("\n").filter((line) => line.startsWith("{"));
    const common = { event: "evicted", digest: a, cause: "unused", reason: "nothing needs it" };
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { ...common, reference: "acme/a:1", bytes: 0 },
      { ...common, reference: "acme/a:2", bytes: 8192 + 4 * 4096 },
    ]);
  });

  test("logs many evictions whole and in order, beyond what a pipe takes at once, and one that is longer than that", async () => {
    using store = new Store();
    for (let i = 1; i <= 100; i++) store.image({ seed: `${i}`, names: [`acme/a:${i}`] });
    const longest = `acme/${"ü".repeat(5000)}`;
    store.db.run("UPDATE image_ref SET reference = ? WHERE reference = 'acme/a:50'", [longest]);
    const { stderr } = await larder(store.home, "prune", "--unused");
    const logged = stderr
      .split("\n")
      .flatMap((line) => /^evicted (\S+) sha256:[0-9a-f]{64} \S+ \S+: nothing needs it$/.exec(line)?.[1] ?? []);
    const names = Array.from({ length: 100 }, (_, i) => (i === 49 ? longest : `acme/a:${i + 1}`));
    expect(logged).toEqual(names);
  });

  test("does not let a stored reference break a log line", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.db.run("UPDATE image_ref SET reference = 'evil' || char(10) || 'evicted all' || char(27) || '[2J'");
    const { stderr, stdout } = await larder(store.home, "prune", "--unused");
    expect(stderr).toContain("evicted evil\\u000aevicted all\\u001b[2J ");
    expect(stderr + stdout).not.toContain("\u001b");
  });

  test("exits 6 with the missing bytes where the target is out of reach, having taken what helps", async () => {
    using store = new Store();
    store.pinBySandbox("web", store.image({ names: ["acme/a:1"], layers: { a: 40_960 } }));
    store.image({ names: ["acme/b:1"], layers: { b: 8192 } });
    const left = 40_960 + 3 * 4096;
    const { code, stdout, stderr } = await larder(store.home, "prune", "--max-size", "1000", "--format", "json");
    expect(code).toBe(6);
    expect(JSON.parse(stdout).target).toEqual({
      needed: 8192 + left + 3 * 4096 - 1000,
      planned: 20_480,
      missing: left - 1000,
      left: 0,
      lacking: 0,
      waits_for: null,
    });
    expect(stderr).toContain(`(${left - 1000} bytes)`);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(allocatedIn(store.cache)).toBe(left);
    const dry = await larder(store.home, "prune", "--max-size", "1000", "--dry-run");
    expect(dry.code).toBe(6);
    expect(dry.stderr).toContain(`(${left - 1000} bytes)`);
  });

  test("exits 75, and evicts nothing for a budget, while a pull or load runs, in whose way no file may go", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 40_960 } });
    const lock = store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0);
    {
      using _pull = FileLock.take(lock)!;
      for (const extra of [["-n"], []]) {
        const args = ["prune", "--max-size", "1000", "--format", "json", ...extra];
        const { code, stdout, stderr } = await larder(store.home, ...args);
        expect(code).toBe(75);
        const { target, decisions } = JSON.parse(stdout);
        expect(decisions).toMatchObject([{ action: "keep", cause: "locked" }]);
        const short = allocatedIn(store.cache) - 1000;
        expect(target).toEqual({ needed: short, planned: 0, missing: 0, left: 0, lacking: 0, waits_for: lock });
        expect(stderr).toContain(`(${short} bytes), and a pull or load is running ("${lock}")`);
      }
    }
    expect(store.references()).toEqual(["acme/a:1"]);
    // What a load that was killed has left is no reason to evict either, but for the time of grace.
    store.file(join(store.cache, "tmp", "load-0-1-0.blob"), 81_920, MINUTE);
    const args = ["prune", "--max-size", "90000"];
    expect((await larder(store.home, ...args)).code).toBe(75);
    expect((await larder(store.home, ...args, "--grace", "30s")).code).toBe(0);
    expect(store.references()).toEqual(["acme/a:1"]);
  });

  test("plans and does the same by rules while a pull runs", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 40_960 } });
    using _pull = FileLock.take(store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0))!;
    const args = ["prune", "--unused", "--max-size", "0", "--format", "json"];
    const plan = JSON.parse((await larder(store.home, ...args, "-n")).stdout);
    expect(plan.target.left).toBeGreaterThan(40_960);
    expect(JSON.parse((await larder(store.home, ...args)).stdout)).toEqual({ ...plan, dry_run: false });
  });

  test("says of a target out of reach what was left besides", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 40_960 } });
    store.pinBySandbox("web", store.image({ names: ["acme/web:1"], layers: { web: 8192 } }));
    // As a pull that begins after the plan would.
    using _ = FileLock.take(store.file(`${store.layerPath("a")}.lock`, 0))!;
    const { code, stdout, stderr } = await larder(store.home, "prune", "--max-size", "1000", "--format", "json");
    expect(code).toBe(6);
    const { target } = JSON.parse(stdout);
    expect(target.missing + target.left).toBe(allocatedIn(store.cache) - 1000);
    expect(stderr).toContain(`(${target.missing} bytes), and what is left is in use, kept or too young; `);
    expect(stderr).toContain(` more (${target.left} bytes) are in files that were left\n`);
  });

  test.each([
    ["evicts nothing for what a crash has just left, which a later gc takes", MINUTE, false, 75, ["acme/a:1"]],
    ["evicts nothing for what a pull that runs has just written", MINUTE, true, 75, ["acme/a:1"]],
    ["evicts for a stray whose time lies in the future, and which may stay for ever", -HOUR, false, 0, []],
  ])("%s", async (_, age, isPulled, expected, references) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 40_960 } });
    store.file(store.layerPath("stray"), 40_960, age);
    const lock = store.file(store.metadataPath("acme/pulled:1").replace(/json$/, "lock"), 0);
    using _pull = isPulled ? FileLock.take(lock) : undefined;
    const args = ["prune", "--max-size", "60000", "--format", "json"];
    const plan = await larder(store.home, ...args, "--dry-run");
    const { code, stdout, stderr } = await larder(store.home, ...args);
    expect(code).toBe(expected);
    expect(store.references()).toEqual(references);
    if (isPulled) return;
    expect(plan.code).toBe(expected);
    const { target } = JSON.parse(stdout);
    expect(JSON.parse(plan.stdout).target).toEqual(target);
    expect(target.left).toBe(expected === 75 ? 40_960 : 0);
    if (expected === 75) expect(stderr).toContain(`the target was not reached: `);
  });

  test("evicts where the room is taken by a download that may be gone on with", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 40_960 } });
    store.file(store.layerPath("pulled").replace(/\.erofs$/, ".tar.gz"), 40_960, MINUTE);
    const { code } = await larder(store.home, "prune", "--max-size", "60000");
    expect(code).toBe(0);
    expect(store.references()).toEqual([]);
  });

  test("counts the metadata file of a name that a rule takes where another name of its image is kept", async () => {
    using store = new Store();
    store.alias(store.image({ names: ["acme/a:1"] }), "acme/a:2");
    store.image({ names: ["acme/b:1"] });
    const args = ["prune", "--keep-last", "1", "--max-size", String(allocatedIn(store.cache) - 4096)];
    const dry = await larderJson(store.home, [...args, "--dry-run"]);
    const report = await larderJson(store.home, args);
    expect(report.references).toEqual(["acme/a:1"]);
    expect(report.bytes_reclaimed).toBe(4096);
    expect(report.target).toMatchObject({ needed: 4096, planned: 4096, missing: 0, left: 0 });
    expect(report.decisions.map(({ bytes }: Decision) => bytes)).toEqual([4096, 0, 0]);
    expect(dry.target).toEqual(report.target);
  });

  test("exits 0 where such a file is all that the budget asks for", async () => {
    using store = new Store();
    store.alias(store.image({ names: ["acme/a:1"] }), "acme/a:2");
    const budget = String(allocatedIn(store.cache) - 4096);
    const args = ["prune", "--keep-last", "1", "--keep", "acme/a:2", "--max-size", budget];
    expect((await larder(store.home, ...args)).code).toBe(0);
    expect(allocatedIn(store.cache)).toBe(Number(budget));
  });

  test("counts on no metadata file by which a snapshot of another image boots", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"] });
    const other = store.image({ names: ["acme/b:1"], used: 20 * DAY });
    store.image({ names: ["acme/c:1"], used: 10 * DAY });
    store.pinBySnapshot("base", digest);
    // As `persist --metadata` moves a name on.
    const moved = "UPDATE image_ref SET manifest_id = (SELECT id FROM manifest WHERE digest = ?) WHERE reference = ?";
    store.db.query(moved).run(other, "acme/a:1");
    const budget = allocatedIn(store.cache) - 8192 - 4 * 4096;
    const { code, stdout } = await larder(store.home, "prune", "--max-size", String(budget), "--format", "json");
    const { target } = JSON.parse(stdout);
    expect([code, target.missing, target.left]).toEqual([0, 0, 0]);
    expect(allocatedIn(store.cache)).toBeLessThanOrEqual(budget);
  });

  test("stays below --max-size, and takes no image without need", async () => {
    using store = new Store();
    for (let i = 1; i <= 9; i++)
      store.image({ names: [`acme/i${i}:1`], layers: { base: 40_960, [`l${i}`]: 8192 }, used: i * DAY });
    const each = 8192 + 3 * 4096;
    const budget = 40_960 + 4 * each + 100;
    const report = await larderJson(store.home, ["prune", "--max-size", String(budget)]);
    expect(report.target.missing).toBe(0);
    expect(store.references()).toEqual(["acme/i1:1", "acme/i2:1", "acme/i3:1", "acme/i4:1"]);
    expect(allocatedIn(store.cache)).toBe(40_960 + 4 * each);
  });

  test("reaches the budget by garbage alone where that is enough", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 8192 } });
    store.file(store.layerPath("stray"), 40_960);
    const report = await larderJson(store.home, ["prune", "--max-size", "30000"]);
    expect(outcome(report)).toEqual({ "acme/a:1": "keep within-budget" });
    expect(report.target).toEqual({
      needed: 8192 + 3 * 4096 + 40_960 - 30_000,
      planned: 40_960,
      missing: 0,
      left: 0,
      lacking: 0,
      waits_for: null,
    });
    expect(existsSync(store.layerPath("stray"))).toBe(false);
  });

  const refusal = mountingRefused();

  describe.skipIf(refusal !== undefined)(`budgets of free space${refusal ? ` (${refusal})` : ""}`, () => {
    const MIB = 1024 * 1024;
    const free = (path: string) => {
      const { bavail, bsize } = statfsSync(path);
      return bavail * bsize;
    };

    /** Three images of 4 MiB each, whose layers lie on a file system of their own. */
    function onOwnDisk(): { store: Store; layers: string } & Disposable {
      using parts = new DisposableStack();
      const store = parts.use(new Store());
      const layers = join(store.cache, "layers");
      parts.use(new Mounted(layers, "-t", "tmpfs", "-o", "size=24m", "tmpfs"));
      for (const name of ["a", "b", "c"]) store.image({ names: [`acme/${name}:1`], layers: { [name]: 4 * MIB } });
      const kept = parts.move();
      return { store, layers, [Symbol.dispose]: () => kept.dispose() };
    }

    test("are about the file system that the layers are on", async () => {
      using here = onOwnDisk();
      const report = await larderJson(here.store.home, ["prune", "--min-free", String(free(here.layers) + 2 * MIB)]);
      expect(report.references).toEqual(["acme/a:1"]);
      expect(report.target).toMatchObject({ needed: 2 * MIB, planned: 4 * MIB, lacking: 0 });
      expect((await larderJson(here.store.home, ["df"])).file_system.total_bytes).toBe(24 * MIB);
    });

    test("count nothing that lies on another", async () => {
      using here = onOwnDisk();
      here.store.file(join(here.store.cache, "tmp", "junk"), 8 * MIB);
      const report = await larderJson(here.store.home, [
        "prune",
        "--min-free",
        String(free(here.layers) + 5 * MIB),
        "-n",
      ]);
      expect(report.target).toMatchObject({ needed: 5 * MIB, planned: 8 * MIB });
      expect(outcome(report)).toMatchObject({ "acme/a:1": "evict budget", "acme/b:1": "evict budget" });
    });

    test("miss nothing for what is left on another", async () => {
      using here = onOwnDisk();
      here.store.file(here.store.layerPath("junk"), 4 * MIB, DAY);
      // Too young to go yet, and on the cache's own disk.
      here.store.file(join(here.store.cache, "vmdk", "junk"), 8 * MIB, MINUTE);
      const wanted = String(free(here.layers) + 3 * MIB);
      const report = await larderJson(here.store.home, ["prune", "--min-free", wanted]);
      expect(report.target).toMatchObject({ needed: 3 * MIB, planned: 4 * MIB, missing: 0, left: 0, lacking: 0 });
      expect(report.references).toEqual([]);
    });

    test("exit 6 where what has gone has freed nothing, as in the lower layer of an overlay", async () => {
      using store = new Store();
      store.image({ names: ["acme/a:1"], layers: { a: 4 * MIB } });
      using upper = new TemporaryFolder();
      using _disk = new Mounted(upper.path, "-t", "tmpfs", "-o", "size=16m", "tmpfs");
      for (const name of ["upper", "work"]) mkdirSync(join(upper.path, name));
      const how = `lowerdir=${store.cache},upperdir=${join(upper.path, "upper")},workdir=${join(upper.path, "work")}`;
      using _overlay = new Mounted(store.cache, "-t", "overlay", "-o", how, "overlay");
      const wanted = String(free(store.cache) + MIB);
      const { code, stdout, stderr } = await larder(store.home, "prune", "--min-free", wanted, "--format", "json");
      expect(code).toBe(6);
      const { target, references } = JSON.parse(stdout);
      expect(references).toEqual(["acme/a:1"]);
      expect(target).toMatchObject({ missing: 0, left: 0 });
      expect(target.lacking).toBeGreaterThanOrEqual(MIB);
      expect(stderr).toContain(`still lacks`);
    });

    test("are refused where the file system tells no size", async () => {
      using store = new Store();
      store.image({ names: ["acme/a:1"] });
      using _ = new Mounted(join(store.cache, "layers"), "-t", "ramfs", "ramfs");
      for (const budget of [
        ["--min-free", "1GB"],
        ["--high", "80%", "--low", "70%"],
      ]) {
        const { code, stderr } = await larder(store.home, "prune", ...budget, "--min-age", "0s");
        expect([code, stderr]).toEqual([1, expect.stringContaining("tells neither its size nor what is free")]);
      }
      expect(store.references()).toEqual(["acme/a:1"]);
    });
  });

  test("exits 1 where the system refused a file, also where the budget is out of reach", async () => {
    using store = await OtherStore.make({ one: { references: ["ghcr.io/acme/one:1"], layers: ["own"] } });
    store.sql("INSERT INTO sandbox (name, config, status) VALUES ('web', ?, 'Stopped')", `"${digestOf("one")}"`);
    store.write(at.layer("stray"));
    const under = store.asNobody();
    chmodSync(join(store.cache, "layers"), 0o555);
    const { code, stderr } = await run(["prune", "--max-size", "1", "--home", store.path], { under });
    chmodSync(join(store.cache, "layers"), 0o755);
    expect(stderr).toContain("the target cannot be reached");
    expect(stderr).toContain("permission denied");
    expect(code).toBe(1);
  });

  test("evicts nothing where disks are there and not one layer: their own disk is not mounted", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    rmSync(store.layerPath("acme/a:1-layer"));
    for (const extra of [["-n"], []]) {
      const { code, stderr } = await larder(store.home, "prune", "--unused", "--min-age", "0s", ...extra);
      expect([code, stderr]).toEqual([5, expect.stringContaining('layers" is empty')]);
    }
    expect(store.references()).toEqual(["acme/a:1"]);
    expect((await larder(store.home, "prune", "--unused", "--min-age", "0s", "--sweep-unrecorded")).code).toBe(0);
    expect(store.references()).toEqual([]);
  });

  test("evicts an image without any layer, be layers/ empty", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: {} });
    expect((await larder(store.home, "prune", "--unused", "--min-age", "0s")).code).toBe(0);
    expect(store.references()).toEqual([]);
  });

  test("decides about aliases singly by rule: the image stays while one name does", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], layers: { a: 8192 } });
    store.alias(digest, "acme/b:stable");
    const report = await larderJson(store.home, ["prune", "--unused", "--keep", "*:stable"]);
    expect(report.references).toEqual(["acme/a:1"]);
    expect(report.manifests).toEqual([]);
    expect(store.references()).toEqual(["acme/b:stable"]);
    expect(existsSync(store.metadataPath("acme/a:1"))).toBe(false);
    for (const path of [store.layerPath("a"), store.metadataPath("acme/b:stable"), store.vmdkPath(digest)]) {
      expect(existsSync(path)).toBe(true);
    }
  });

  test("keeps the metadata file that another spelling of a dropped name needs", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], created: 40 * DAY, used: 40 * DAY });
    store.alias(digest, "docker.io/acme/a:1", 30 * DAY, 30 * DAY);
    await larderJson(store.home, ["prune", "--keep-last", "1"]);
    expect(store.references()).toEqual(["docker.io/acme/a:1"]);
    expect(existsSync(store.metadataPath("acme/a:1"))).toBe(true);
  });

  test("lets aliases go together by budget", async () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], layers: { a: 8192 } });
    store.alias(digest, "acme/b:stable");
    store.image({ names: ["acme/c:1"], layers: { c: 8192 }, used: DAY });
    const all = allocatedIn(store.cache);
    await larderJson(store.home, ["prune", "--max-size", String(all - 1)]);
    expect(store.references()).toEqual(["acme/c:1"]);
    expect(existsSync(store.layerPath("a"))).toBe(false);
  });

  test("spares young untagged images in the gc that follows, and takes old ones", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: HOUR });
    const young = store.image({ seed: "young", used: MINUTE, layers: { young: 8192 } });
    const old = store.image({ seed: "old", used: HOUR, layers: { old: 8192 } });
    const report = await larderJson(store.home, ["prune", "--older-than", "30d"]);
    expect(report.manifests).toEqual([old]);
    expect(existsSync(store.layerPath("old"))).toBe(false);
    for (const path of [store.layerPath("young"), store.fsmetaPath(young), store.vmdkPath(young)]) {
      expect(existsSync(path)).toBe(true);
    }
    expect(store.count("manifest")).toBe(2);
  });

  test("leaves a flat blob until the last ref that names it goes", async () => {
    using store = new Store();
    const a = store.image({ names: ["acme/a:1"], used: 9 * DAY });
    const b = store.image({ names: ["acme/b:1"], used: 5 * DAY });
    const blob = store.flat("one", [a, b]);
    await larderJson(store.home, ["prune", "--older-than", "7d"]);
    expect(existsSync(blob)).toBe(true);
    await larderJson(store.home, ["prune", "--older-than", "3d"]);
    expect(existsSync(blob)).toBe(false);
    expect(store.count("image_ref")).toBe(0);
  });

  test("leaves alone a row that holds no digest, and names it", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], layers: { a: 8192 } });
    store.image({ names: ["acme/b:1"], layers: { b: 8192 } });
    store.db.run("UPDATE manifest SET digest = '../../x:y' WHERE id = 1");
    rmSync(store.metadataPath("acme/a:1"));
    const victim = store.file(join(store.home, "x_y.vmdk"), 10);
    const report = await larderJson(store.home, ["prune", "--unused", "--min-age", "0s"]);
    expect(outcome(report)).toEqual({ "acme/b:1": "evict unused" });
    expect(report.unsafe).toEqual(['manifest "../../x:y"']);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(victim)).toBe(true);
    expect(existsSync(store.layerPath("a"))).toBe(true);
  });

  test("reports bytes of a plan that add up to the files of the images that go", async () => {
    using store = new Store();
    fill(store);
    const report = await larderJson(store.home, ["prune", "--older-than", "1d", "--dry-run"]);
    const attributed = report.decisions.reduce((sum: number, { bytes }: Decision) => sum + bytes, 0);
    const strays = 2 * 4096;
    expect(attributed).toBe(report.bytes_reclaimed - strays);
  });
});

describe("larder prune: refusals", () => {
  test("exits 5 and sweeps tmp/ alone where the catalogue does not account for its cache", async () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.image({ names: ["acme/lost:1"] });
    const scratch = store.file(join(store.cache, "tmp", "old.spool"), 4096);
    store.db.run("DELETE FROM image_ref WHERE reference = 'acme/lost:1'");
    for (const table of ["config", "manifest_layer", "manifest"]) {
      store.db.run(`DELETE FROM ${table} WHERE ${table === "manifest" ? "id" : "manifest_id"} = 2`);
    }
    const dry = await larder(store.home, "prune", "--unused", "--dry-run", "--format", "json");
    const done = await larder(store.home, "prune", "--unused", "--format", "json");
    for (const { code, stdout, stderr } of [dry, done]) {
      expect(code).toBe(5);
      const report = JSON.parse(stdout);
      expect(outcome(report)).toEqual({ "acme/a:1": "keep unaccounted" });
      expect(report.files.map(({ path }: { path: string }) => path)).toEqual([scratch]);
      expect([report.references, report.manifests, report.layers]).toEqual([[], [], []]);
      expect(report.unaccounted).toContain(store.metadataPath("acme/lost:1"));
      expect(stderr).toContain("--sweep-unrecorded");
      expect(stderr).not.toContain("evicted");
    }
    expect(existsSync(scratch)).toBe(false);
    expect(store.references()).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("acme/lost:1-layer"))).toBe(true);
    const forced = await larderJson(store.home, ["prune", "--unused", "--sweep-unrecorded"]);
    expect(forced.references).toEqual(["acme/a:1"]);
    expect(existsSync(store.layerPath("acme/lost:1-layer"))).toBe(false);
  });

  test.each<[string, (store: Store) => void]>([
    ["is gone", (store) => rmSync(store.cache, { recursive: true })],
    [
      "is a mount point without its disk",
      (store) => {
        rmSync(store.cache, { recursive: true });
        mkdirSync(store.cache);
      },
    ],
    [
      "is a link that leads nowhere",
      (store) => {
        rmSync(store.cache, { recursive: true });
        symlinkSync("/nowhere/cache", store.cache);
      },
    ],
  ])("exits 5 and evicts nothing where the cache %s", async (_, lose) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"] });
    store.image({ seed: "untagged" });
    lose(store);
    for (const args of [["prune", "--unused"], ["prune", "--max-size", "0"], ["gc"]])
      for (const extra of [["-n"], []]) {
        const { code, stderr } = await larder(store.home, ...args, ...extra);
        expect([args, code]).toEqual([args, 5]);
        expect(stderr).toContain(`there is no cache of msb's at "${store.cache}"`);
      }
    expect([store.references(), store.count("manifest")]).toEqual([["acme/a:1"], 2]);
    expect((await larder(store.home, "prune", "--unused", "--sweep-unrecorded")).code).toBe(0);
    expect(store.count("manifest")).toBe(0);
  });

  test("exits 5 for a budget too, and claims to free nothing but tmp/", async () => {
    using store = new Store();
    store.file(store.layerPath("somebody's"), 40_960);
    const { code, stdout } = await larder(store.home, "prune", "--max-size", "0", "--format", "json");
    expect(code).toBe(5);
    expect(JSON.parse(stdout).files).toEqual([]);
    expect(existsSync(store.layerPath("somebody's"))).toBe(true);
  });

  test.each([[[]], [["--dry-run"]]])(
    "exits 5 where a cache has files and no catalogue is there (%j)",
    async (extra) => {
      using folder = new TemporaryFolder();
      const file = join(folder.path, "cache", "layers", "somebody's");
      mkdirSync(join(folder.path, "cache", "layers"), { recursive: true });
      writeFileSync(file, "x");
      const { code, stdout, stderr } = await larder(folder.path, "prune", "--unused", ...extra);
      expect([code, stdout]).toEqual([5, ""]);
      expect(stderr).toContain(`to account for "${file}"`);
      expect(existsSync(file)).toBe(true);
    },
  );

  test.each<[string, string, (store: Store) => void]>([
    [
      "a sandbox cannot be read",
      'sandbox "broken" cannot be read',
      (store) => store.db.run("INSERT INTO sandbox (name, config, status) VALUES ('broken', '{', 'running')"),
    ],
    [
      "a snapshot's row names no digest",
      'snapshot "bad" cannot be read',
      (store) => store.pinBySnapshot("bad", "sha256:short"),
    ],
    [
      "a snapshot on disk cannot be read",
      'snapshot "torn" cannot be read',
      (store) => void store.file(join(store.home, "snapshots", "torn", "manifest.json"), "{"),
    ],
    [
      "a newer msb's table may need an image",
      'table "novelty" of a newer msb',
      (store) => store.db.run("CREATE TABLE novelty (id integer, manifest_id integer REFERENCES manifest (id))"),
    ],
  ])("exits 5 and changes nothing while %s", async (_, message, damage) => {
    using store = new Store();
    fill(store);
    damage(store);
    const before = store.picture();
    for (const extra of [[], ["--dry-run"], ["--sweep-unrecorded"]]) {
      const { code, stdout, stderr } = await larder(store.home, "prune", "--unused", ...extra);
      expect([code, stdout]).toEqual([5, ""]);
      expect(stderr).toContain(message);
      expect(stderr).toContain("nothing was deleted");
    }
    expect(store.picture()).toBe(before);
  });
});
