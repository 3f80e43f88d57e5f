import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, processStatus, run, TemporaryFolder } from "../larder.ts";
import { at, holdLock, metadataOf, Store } from "../store.ts";
import { hasTool } from "../tools.ts";
import { onTerminal } from "./pty.ts";

const GONE = "docker.io/library/gone:1";

interface Ended {
  code: number | null;
  signal: unknown;
  stdout: string;
  stderr: string;
}

// SIGINT, SIGTERM and SIGHUP in the mask of the signals that a process handles.
const HANDLED = 0x4003;

function caughtBy(pid: number): number {
  return Number.parseInt((processStatus(pid, "SigCgt") ?? "0").slice(-8), 16) & HANDLED;
}

function hearsSignals(pid: number): boolean {
  return caughtBy(pid) === HANDLED;
}

/** Waits until a process has come to where it is to be stopped. */
async function comeTo(child: Bun.Subprocess, isThere: () => boolean): Promise<void> {
  for (let tries = 0; !isThere(); tries++) {
    if (tries > 2000 || child.exitCode !== null) {
      const said = child.stderr instanceof ReadableStream ? await child.stderr.text() : "";
      throw new Error(`larder did not come to where it was to be stopped: ${said}`);
    }
    await Bun.sleep(5);
  }
}

/** Starts larder, sends it a signal as soon as it handles those and `isReady`, and waits for its end. */
async function interrupt(args: string[], signal: NodeJS.Signals, isReady: () => boolean): Promise<Ended> {
  const child = Bun.spawn([EXECUTABLE, ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { TZ: "UTC" },
  });
  await comeTo(child, () => hearsSignals(child.pid) && isReady());
  child.kill(signal);
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, signal: child.signalCode, stdout, stderr };
}

/** A home with an image to go and one in use; `work` makes larder wait with the files, once the rows are gone. */
async function makeStore(): Promise<{ store: Store; work: AsyncDisposable }> {
  const store = await Store.make({
    gone: { references: [GONE], layers: ["shared", "own"] },
    kept: { references: ["docker.io/library/kept:1"], layers: ["shared"] },
  });
  store.sandbox("web", "{}", "kept");
  // Old enough for a rule: a row's time is that of its persist.
  store.sql("UPDATE image_ref SET created_at = '2020-01-01 00:00:00', updated_at = '2020-01-01 00:00:00'");
  store.sql("UPDATE layer SET last_used_at = '2020-01-01 00:00:00'");
  return { store, work: await holdLock(join(store.cache, at.downloadLock("of a pull"))) };
}

const PRUNE = ["prune", "--unused", "--min-age", "1s", "--format", "json"];

const SIGNALS: [signal: NodeJS.Signals, code: number][] = [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
];

describe.each(SIGNALS)("%s", (signal, code) => {
  test("ends prune between rows and files, and the next gc takes what is left", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    {
      await using __ = work;
      const args = [...PRUNE, "--home", store.path];
      const ended = await interrupt(args, signal, () => store.rows().manifests.length === 1);
      expect(ended).toMatchObject({ code, signal: null });
      expect(ended.stderr).toContain(`database ${store.database}, cache ${store.cache}\n`);
      expect(ended.stderr).toContain(`stopped by ${signal}: what is left, the next gc takes`);
      expect(JSON.parse(ended.stdout)).toMatchObject({ references: [GONE], dry_run: false, skipped: [] });
      // Without its rows the metadata file would make the catalogue look lost. Nothing else went.
      expect(store.files()).toEqual(store.filesOf("gone", "kept").filter((path) => path !== at.metadata(GONE)));
      expect(store.unsound()).toEqual([]);
    }
    const { code: next, stderr } = await larder(store.path, "gc");
    expect({ next, stderr }).toMatchObject({ next: 0 });
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("ends rm between rows and files, and the next gc takes what is left", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    {
      await using __ = work;
      const args = ["rm", GONE, "--format", "json", "--home", store.path];
      const ended = await interrupt(args, signal, () => store.rows().manifests.length === 1);
      expect(ended).toMatchObject({ code, signal: null });
      expect(ended.stderr).toContain(`stopped by ${signal}: what is left, the next gc takes`);
      expect(JSON.parse(ended.stdout)).toMatchObject({ removed: [{ reference: GONE }], dry_run: false });
      expect(store.files()).toEqual(store.filesOf("gone", "kept").filter((path) => path !== at.metadata(GONE)));
    }
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("ends rm that waits for a pull of it, and changes nothing", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    await using __ = work;
    await using ___ = await holdLock(join(store.cache, at.metadata(GONE).replace(/json$/, "lock")));
    const before = store.files();
    const ended = await interrupt(["rm", GONE, "--home", store.path], signal, () => true);
    expect(ended).toEqual({ code, signal: null, stdout: "", stderr: `stopped by ${signal}: nothing was removed\n` });
    expect(store.files()).toEqual(before);
    expect(store.rows().manifests).toEqual(["gone", "kept"]);
  });

  test("ends check --repair between two mends, which tells what it has mended", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    const disk = join(store.cache, at.vmdk("gone"));
    const before = readFileSync(disk, "utf8");
    store.write(at.vmdk("gone"), before.replaceAll(store.cache, "/srv/old"));
    store.write("layers/stray");
    {
      await using __ = work;
      const args = ["check", "--repair", "--format", "json", "--home", store.path];
      const ended = await interrupt(args, signal, () => readFileSync(disk, "utf8") === before);
      expect(ended).toMatchObject({ code, signal: null });
      expect(ended.stderr).toContain(`stopped by ${signal}: what was not mended yet, the next repair mends`);
      expect(JSON.parse(ended.stdout)).toMatchObject({
        problems: [
          { code: "vmdk-mislocated", repair: "done" },
          { code: "stray-file", repair: "possible", left: null },
        ],
        damage: 0,
        notes: 1,
        failure: null,
      });
      expect(store.has("layers/stray")).toBe(true);
    }
    expect((await larder(store.path, "check", "--repair")).code).toBe(0);
    expect(store.has("layers/stray")).toBe(false);
  });

  test("ends gc before a file goes where no row went, and changes nothing", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    await using __ = work;
    store.write("layers/stray");
    const before = store.files();
    // It waits up to a second for the pull.
    const ended = await interrupt(["gc", "--format", "json", "--home", store.path], signal, () => true);
    expect(ended).toMatchObject({ code, signal: null });
    expect(ended.stderr).toContain(`database ${store.database}, cache ${store.cache}\n`);
    expect(JSON.parse(ended.stdout).skipped).toEqual([]);
    expect(store.files()).toEqual(before);
    expect(store.rows().manifests).toEqual(["gone", "kept"]);
  });
});

/** Sends a gc that waits for a pull two signals at once, and waits for its end. */
async function strikeTwice(first: NodeJS.Signals, second: NodeJS.Signals) {
  const { store, work } = await makeStore();
  using _ = store;
  await using __ = work;
  store.write("layers/stray");
  const child = Bun.spawn([EXECUTABLE, "gc", "--home", store.path], { stdio: ["ignore", "ignore", "pipe"] });
  await comeTo(child, () => hearsSignals(child.pid));
  child.kill(first);
  child.kill(second);
  const [code, stderr] = await Promise.all([child.exited, child.stderr.text()]);
  return { code, signal: child.signalCode, stderr };
}

describe("the end of a terminal", () => {
  test.each([
    ["SIGHUP", "SIGHUP"],
    ["SIGTERM", "SIGHUP"],
    ["SIGHUP", "SIGTERM"],
  ] as const)("is no second signal beside another: %s, %s stops the work as one does", async (first, second) => {
    const { code, signal, stderr } = await strikeTwice(first, second);
    expect([code, signal]).toEqual([expect.any(Number), null]);
    expect(stderr).toMatch(/stopped by SIG(HUP|TERM): /);
  });
});

describe("Interruption", () => {
  const cases: [signals: string[], code: number | null, killed: boolean][] = [
    [[], null, false],
    [["SIGHUP"], 129, false],
    [["SIGHUP", "SIGHUP"], 129, false],
    [["SIGTERM", "SIGHUP"], 143, false],
    [["SIGHUP", "SIGTERM"], 143, false],
    [["SIGHUP", "SIGTERM", "SIGINT"], 130, true],
    [["SIGINT", "SIGINT"], 130, true],
  ];

  test.each(cases)("that hears %j", async (signals, code, killed) => {
    const script = `
      const { Interruption } = await import(${JSON.stringify(import.meta.resolve("../../src/cli/interruption.ts"))});
      const interruption = new Interruption();
      let killed = false;
      process.kill = () => { killed = true; };
      for (const signal of ${JSON.stringify(signals)}) process.emit(signal, signal);
      console.log(JSON.stringify([interruption.exitCode ?? null, killed]));
      process.exit();`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    expect(await child.stdout.json()).toEqual([code, killed]);
  });
});

describe("a second signal", () => {
  test("ends larder at once", async () => {
    // Of two of a kind the second is lost while the first is not heard yet.
    const { signal } = await strikeTwice("SIGINT", "SIGTERM");
    // Which of them is heard first is chance.
    expect(signal).toBeOneOf(["SIGINT", "SIGTERM"]);
  });
});

describe("nohup", () => {
  test("keeps a prune from being stopped by the end of its terminal", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    await using pull = work;
    const child = Bun.spawn(["nohup", EXECUTABLE, "gc", "--home", store.path], { stdio: ["ignore", "ignore", "pipe"] });
    store.write("layers/stray");
    // SIGINT and SIGTERM are handled, and SIGHUP is not.
    await comeTo(child, () => caughtBy(child.pid) === (HANDLED & ~1));
    child.kill("SIGHUP");
    await pull[Symbol.asyncDispose]();
    expect({ code: await child.exited, signal: child.signalCode }).toEqual({ code: 0, signal: null });
    expect(await child.stderr.text()).not.toContain("stopped by");
  });
});

describe("Ctrl-C", () => {
  const layers = ["a", "b", "c", "d", "e", "f"];

  test.skipIf(!hasTool("strace"))("ends a check between two files, and changes nothing", async () => {
    using store = await Store.make({ kept: { references: [GONE], layers } });
    // One whole check first: the first reader of a database leaves an empty log beside it.
    expect((await larder(store.path, "check")).code).toBe(0);
    const before = store.fingerprint();
    using folder = new TemporaryFolder();
    const [first, ...later] = layers.map((layer) => join(store.cache, at.layer(layer))).sort();
    const paths = [first!, ...later].flatMap((path) => ["-P", path]);
    // It is struck while it opens a layer; a tenth of a second a file makes sure that it has the time to hear.
    const under = ["strace", "-f", "-qq", "-o", join(folder.path, "calls"), ...paths, "-e", "trace=%%stat,openat"];
    const inject = ["-e", "inject=openat:signal=SIGINT:when=1", "-e", "inject=%%stat:delay_exit=100000"];
    const ended = await run(["check", "--home", store.path], { under: [...under, ...inject] });
    expect(ended).toEqual({
      code: 130,
      stdout: "",
      stderr: "stopped by SIGINT: nothing is known of what was not checked yet\n",
    });
    const looked = new Set((await Bun.file(join(folder.path, "calls")).text()).match(/layers\/sha256_\w+\.erofs/g));
    expect(looked.size).toBeLessThan(layers.length);
    expect(store.fingerprint()).toEqual(before);
  });
});

describe("progress", () => {
  test("shows a bar once a second has passed, takes it away, and keeps it off standard output", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    await using __ = work;
    store.write("layers/stray");
    using folder = new TemporaryFolder();
    const output = join(folder.path, "output");
    // The running pull makes it wait for just that second, and leave the file.
    const { code, screen } = await onTerminal(["gc", "--home", store.path], { wiring: `>${output}` });
    expect(code).toBe(0);
    expect(screen).toContain(`\rswept ${"░".repeat(30)} 0/1\r\x1b[K`);
    expect(await Bun.file(output).text()).not.toContain("swept");
  });

  test("is given up where its terminal is gone, and the work goes on", async () => {
    const { store, work } = await makeStore();
    using _ = store;
    await using __ = work;
    using folder = new TemporaryFolder();
    const output = join(folder.path, "output");
    const command = `trap '' HUP; exec "$@" >${output}`;
    const child = Bun.spawn(["sh", "-c", command, "sh", EXECUTABLE, ...PRUNE, "--home", store.path], {
      env: { TZ: "UTC" },
      terminal: { cols: 80, rows: 24, data() {} },
    });
    await comeTo(child, () => store.rows().manifests.length === 1);
    child.terminal!.close();
    expect([await child.exited, child.signalCode]).toEqual([0, null]);
    expect(await Bun.file(output).json()).toMatchObject({ references: [GONE], failed: [] });
  });

  test("counts what is persisted, while a slow pipe brings it", async () => {
    using folder = new TemporaryFolder();
    const lines = Array.from({ length: 200 }, (_, i) => ({ reference: `i:${i}`, metadata: metadataOf(`i${i}`, []) }));
    const input = join(folder.path, "lines");
    await Bun.write(input, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    // A batch of 200 after a second: as long as nothing is drawn.
    const slowly = ["sh", "-c", `{ cat ${input}; sleep 1.1; cat ${input}; } | "$@" >${folder.path}/output`, "sh"];
    const args = ["persist", "--batch", "-", "--home", join(folder.path, "home")];
    const { code, screen } = await onTerminal(args, { under: slowly });
    // On a slow disk the first batch takes a second, too, and then the other is done before it would be drawn.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: this is how a line is taken away
    expect(screen).toMatch(/^(\rpersisted [24]00)+\r\x1b\[K$/);
    expect(code).toBe(0);
    expect((await Bun.file(join(folder.path, "output")).text()).split("\n")).toHaveLength(401);
  });
});
