import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { type ImageSpec, type LayerSpec, noise, writeArchive } from "./archive.ts";
import {
  age,
  artifactsOf,
  change,
  filesOf,
  keyOf,
  plant,
  problems,
  readFiles,
  readLocks,
  readRows,
  rowsOf,
} from "./home.ts";
import { metadataOf } from "./metadata.ts";
import { load, MSB, msbJson, type Outcome } from "./msb.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 9000) } };
const WEB: ImageSpec = { tags: ["web:v1", "web:latest"], layers: [BASE, { files: { web: "1" } }] };
const JOB: ImageSpec = { tags: ["ghcr.io/acme/job:1"], layers: [BASE, { files: { job: "1" } }] };
const IMAGES = [WEB, JOB];

describe("a catalogue that does not account for its cache", () => {
  test("because msb made it anew empties nothing but tmp/", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    plant(home, "tmp/left.part");
    plant(home, "layers/stray");
    age(home);
    rmSync(join(home, "db"), { recursive: true });
    expect(await msbJson(home, "image", "ls")).toEqual([]);
    const full = [...filesOf(IMAGES), "layers/stray"].sort();

    const plan = await larderJson(home, ["gc", "--dry-run"], 5);
    expect(plan.unaccounted).toBeString();
    expect(readFiles(home)).toEqual([...full, "tmp/left.part"].sort());
    const { code, stderr } = await larder(home, "gc");
    expect(code).toBe(5);
    expect(stderr).toContain("does not account for its cache");
    expect(stderr).toContain("--sweep-unrecorded");
    expect(readFiles(home)).toEqual(full);
    // Not with the shortest grace either, nor for its second time.
    expect((await larder(home, "gc", "--grace", "0s")).code).toBe(5);
    expect(readFiles(home)).toEqual(full);

    await larderJson(home, ["gc", "--sweep-unrecorded"]);
    expect(readFiles(home)).toEqual([]);
  });

  test("is healed by persist, and then swept of what is nobody's", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    plant(home, "layers/stray");
    age(home);
    rmSync(join(home, "db"), { recursive: true });
    expect(await msbJson(home, "image", "ls")).toEqual([]);
    await larderJson(home, ["persist", ...WEB.tags]);
    // One image is not on record yet, and its files are as safe as before.
    expect((await larder(home, "gc")).code).toBe(5);
    expect(readFiles(home)).toEqual([...filesOf(IMAGES), "layers/stray"].sort());
    await larderJson(home, ["persist", ...JOB.tags]);
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf(IMAGES));
    expect(readFiles(home)).toEqual(filesOf(IMAGES));
    expect(problems(home)).toEqual([]);
    expect(await msbJson(home, "image", "ls")).toBeArrayOfSize(3);
  });

  test("because it is an old copy loses nothing of the images loaded since", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [WEB]);
    using backup = new TemporaryFolder();
    cpSync(join(home, "db"), backup.path, { recursive: true });
    await load(home, [JOB]);
    rmSync(join(home, "db"), { recursive: true });
    cpSync(backup.path, join(home, "db"), { recursive: true });
    age(home);
    expect(readRows(home)).toEqual(rowsOf([WEB]));

    expect((await larder(home, "gc")).code).toBe(5);
    expect(readFiles(home)).toEqual(filesOf(IMAGES));
    await larderJson(home, ["persist", ...JOB.tags]);
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf(IMAGES));
    expect(readFiles(home)).toEqual(filesOf(IMAGES));
  });

  test("because two homes share the cache empties it of neither's images", async () => {
    using folder = new TemporaryFolder();
    const [first, second] = [join(folder.path, "first"), join(folder.path, "second")];
    const cache = join(first, "cache");
    mkdirSync(second, { recursive: true });
    writeFileSync(join(second, "config.json"), JSON.stringify({ paths: { cache } }));
    mkdirSync(first);
    await load(first, [WEB]);
    await load(second, [JOB]);
    age(first);
    expect(readRows(second)).toEqual(rowsOf([JOB]));
    expect(existsSync(join(second, "cache", "layers"))).toBe(false);
    expect((await larder(first, "gc")).code).toBe(5);
    const report = await larderJson(second, ["gc"], 5);
    expect(report.cache).toBe(cache);
    expect(readFiles(first)).toEqual(filesOf(IMAGES));
  });
});

describe("--home", () => {
  test("is not overridden by a config.json inside it, whatever destroys or creates", async () => {
    using folder = new TemporaryFolder();
    const [here, there] = [join(folder.path, "here"), join(folder.path, "there")];
    mkdirSync(here);
    mkdirSync(there);
    await load(here, [WEB]);
    await load(there, IMAGES);
    writeFileSync(join(here, "config.json"), JSON.stringify({ home: there }));
    // Found by the environment the home moves, for msb; larder asks which of two is meant.
    expect(await msbJson(here, "image", "ls")).toBeArrayOfSize(3);
    const moved = await run(["list"], { env: { MSB_HOME: here } });
    expect(moved).toMatchObject({ code: 1, stderr: expect.stringContaining("two databases could be meant") });

    expect(await larderJson(here, ["list"])).toBeArrayOfSize(2);
    const report = await larderJson(here, ["rm", "web:v1"]);
    expect(report).toMatchObject({ database: join(here, "db", "msb.db"), cache: join(here, "cache") });
    expect((await larder(here, "persist", ...JOB.tags)).code).toBe(3);
    await larderJson(here, ["gc"]);
    expect(readRows(there)).toEqual(rowsOf(IMAGES));
    expect(readFiles(there)).toEqual(filesOf(IMAGES));
    expect(readRows(here)).toEqual(rowsOf([{ ...WEB, tags: ["web:latest"] }]));
  });

  test("creates a home where it says, not where a config.json inside it says", async () => {
    using folder = new TemporaryFolder();
    const [here, there] = [join(folder.path, "here"), join(folder.path, "there")];
    mkdirSync(here);
    writeFileSync(join(here, "config.json"), JSON.stringify({ home: there }));
    const stdin = metadataOf(WEB);
    expect((await run(["persist", "--metadata", "-", ...WEB.tags, "--home", here], { stdin })).code).toBe(0);
    expect(existsSync(there)).toBe(false);
    expect(readRows(here)).toEqual(rowsOf([WEB]));
  });
});

// Only root can make files for others, and only root can get it wrong.
const USER = 54321;
const GROUP = 54322;
const canSwitch = process.getuid?.() === 0 && Bun.which("setpriv") !== null;

describe.skipIf(!canSwitch)("a home of another user, larder run by root (needs root and setpriv)", () => {
  // Where that user can run msb from, wherever the tests themselves lie.
  const tools = new TemporaryFolder();
  const theirMsb = join(tools.path, "msb");
  const theirExecutable = join(tools.path, "larder");
  beforeAll(() => {
    chmodSync(tools.path, 0o755);
    copyFileSync(MSB, theirMsb);
    chmodSync(theirMsb, 0o755);
    copyFileSync(EXECUTABLE, theirExecutable);
  });
  afterAll(() => tools[Symbol.dispose]());

  /** Runs a command as the user who owns the home. */
  async function asThem(command: string[], env: Record<string, string | undefined>): Promise<Outcome> {
    const child = Bun.spawn(["setpriv", `--reuid=${USER}`, `--regid=${GROUP}`, "--clear-groups", ...command], {
      env: { TZ: "UTC", ...env },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
    return { code, stdout, stderr };
  }

  function theirs(home: string, ...args: string[]): Promise<Outcome> {
    return asThem([theirMsb, ...args], { MSB_HOME: home, HOME: home, PATH: process.env.PATH });
  }

  /** Runs larder so, which is asked for JSON. */
  async function theirLarder(home: string, ...args: string[]) {
    const { stdout, ...rest } = await asThem([theirExecutable, ...args, "--format", "json", "--home", home], {});
    return { ...rest, out: stdout === "" ? undefined : JSON.parse(stdout) };
  }

  /** Makes a lock as root leaves it: nobody else's. */
  function leaveLock(path: string, mode: number): void {
    writeFileSync(path, "");
    chownSync(path, 0, 0);
    chmodSync(path, mode);
  }

  function give(path: string): void {
    chownSync(path, USER, GROUP);
  }

  /** A folder of the user's, and in it an archive of the images for msb to load. */
  async function theirFolder(): Promise<TemporaryFolder> {
    const folder = new TemporaryFolder();
    give(folder.path);
    const path = join(folder.path, "images.tar");
    await writeArchive(path, IMAGES);
    give(path);
    return folder;
  }

  /** Everything in a home that is not its owner's, and everything that its owner cannot open. */
  function notTheirs(home: string): string[] {
    return [".", ...readdirSync(home, { recursive: true, encoding: "utf8" })].filter((path) => {
      const { uid, gid, mode } = lstatSync(join(home, path));
      return uid !== USER || gid !== GROUP || (mode & 0o600) !== 0o600;
    });
  }

  async function expectUsable(home: string, archive: string, listed: string[]): Promise<void> {
    expect(notTheirs(home)).toEqual([]);
    const list = await theirs(home, "image", "ls", "-q");
    expect({ ...list, stdout: list.stdout.trim().split("\n").sort() }).toEqual({
      code: 0,
      stdout: [...listed].sort(),
      stderr: "",
    });
    const loaded = await theirs(home, "load", "-q", "-i", archive);
    expect(loaded).toMatchObject({ code: 0, stderr: "" });
    expect((await theirs(home, "image", "rm", "web:v1")).code).toBe(0);
    expect((await theirs(home, "image", "prune", "--yes")).code).toBe(0);
    expect(readFiles(home)).toEqual([]);
    expect(notTheirs(home)).toEqual([]);
  }

  test.each(["an empty folder", "no folder yet"])("made by larder in %s is theirs", async (where) => {
    using folder = await theirFolder();
    const home = join(folder.path, "home", ".microsandbox");
    mkdirSync(dirname(home));
    give(dirname(home));
    if (where === "an empty folder") {
      mkdirSync(home);
      give(home);
    }
    const made = await run(["persist", "--metadata", "-", ...WEB.tags, "--home", home], { stdin: metadataOf(WEB) });
    expect(made).toMatchObject({ code: 0, stderr: "" });
    await expectUsable(home, join(folder.path, "images.tar"), WEB.tags);
  });

  test("stays theirs when larder writes, locks and deletes in it", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    const archive = join(home, "images.tar");
    expect((await theirs(home, "load", "-i", archive)).code).toBe(0);
    // msb unlinks lock files; larder has to make each one that it takes.
    for (const path of readLocks(home)) rmSync(join(home, "cache", path));
    rmSync(join(home, "db", "msb.db.migration.lock"));
    plant(home, `fsmeta/sha256_${"0".repeat(64)}.erofs`);
    for (const path of readdirSync(join(home, "cache"), { recursive: true, encoding: "utf8" }))
      lchownSync(join(home, "cache", path), USER, GROUP);
    age(home);
    await larderJson(home, ["persist", ...WEB.tags]);
    await larderJson(home, ["rm", ...JOB.tags]);
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf([WEB]));
    expect(readFiles(home)).toEqual(filesOf([WEB]));

    const locks = readLocks(home);
    const gone = artifactsOf(JOB).filter((path) => !artifactsOf(WEB).includes(path) && !path.startsWith("vmdk/"));
    const made = [...gone.map((path) => `${path}.lock`), `manifests/${keyOf(JOB.tags[0]!)}.lock`];
    expect(locks).toEqual(expect.arrayContaining(made));
    for (const path of locks) expect(statSync(join(home, "cache", path)).mode & 0o777).toBe(0o600);
    await expectUsable(home, archive, WEB.tags);
  });

  test.each([
    ["a root that may give nothing away", ["--bounding-set=-chown", "--inh-caps=-chown"]],
    ["another user of its group", [`--reuid=${USER + 1}`, `--regid=${GROUP}`, "--clear-groups"]],
  ])("stays theirs when %s looks at it", async (_, rights) => {
    using folder = await theirFolder();
    const home = folder.path;
    const archive = join(home, "images.tar");
    expect((await theirs(home, "load", "-i", archive)).code).toBe(0);
    chmodSync(home, 0o755);
    chmodSync(join(home, "db"), 0o2775);
    // The last to write folds the log in, and takes it and its index away.
    await theirLarder(home, "rm", ...JOB.tags);
    const as = async (...args: string[]) => {
      const child = Bun.spawn(["setpriv", ...rights, theirExecutable, ...args, "--home", home], { stderr: "pipe" });
      return [await child.exited, await child.stderr.text()];
    };
    const database = ["msb.db", "msb.db.migration.lock"];
    for (const command of ["list", "df", "check"]) {
      expect(await as(command)).toEqual([0, expect.any(String)]);
      expect(readdirSync(join(home, "db")).sort()).toEqual(database);
    }
    expect(await as("rm", WEB.tags[0]!)).toEqual([
      1,
      expect.stringMatching(/\(.*run larder as (that user|its owner)\)/),
    ]);
    expect(readdirSync(join(home, "db")).sort()).toEqual(database);
    await expectUsable(home, archive, WEB.tags);
  });

  test("is accounted for and collected although root has left a folder in it that only root can read", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    const mine = join(home, "cache", "tmp", "load-root");
    mkdirSync(mine, { mode: 0o700 });
    plant(home, `fsmeta/sha256_${"0".repeat(64)}.erofs`);
    lchownSync(join(home, "cache", "fsmeta", `sha256_${"0".repeat(64)}.erofs`), USER, GROUP);
    age(home);
    expect(await theirLarder(home, "df")).toMatchObject({ code: 0 });
    const { code, out } = await theirLarder(home, "gc");
    expect(code).toBe(1);
    expect(out.failed.map(({ path }: { path: string }) => path)).toEqual([mine]);
    expect(readFiles(home)).toEqual(expect.not.arrayContaining([`fsmeta/sha256_${"0".repeat(64)}.erofs`]));
    expect(readRows(home)).toEqual(rowsOf(IMAGES));
  });

  test("is not collected where root has left a lock in it, and larder says so instead of waiting for its end", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    change(home, "DELETE FROM image_ref WHERE reference LIKE '%job:1'");
    const mine = join(home, "cache", "manifests", `${keyOf(JOB.tags[0]!)}.lock`);
    leaveLock(mine, 0o600);
    age(home);
    const [rows, files] = [readRows(home), readFiles(home)];
    for (const command of [["gc"], ["gc", "--dry-run"], ["prune", "--unused", "--min-age", "0s"]]) {
      const { code, stderr } = await theirLarder(home, ...command);
      expect({ command, code, stderr }).toEqual({
        command,
        code: 1,
        stderr: expect.stringContaining(`cannot tell whether the lock "${mine}" is held: it may not be opened`),
      });
      expect(readRows(home)).toEqual(rows);
      expect(readFiles(home)).toEqual(files);
    }
    give(mine);
    expect(await theirLarder(home, "gc")).toMatchObject({ code: 0, out: { failed: [], skipped: [] } });
    expect(readFiles(home)).toEqual(filesOf([WEB]));
  });

  test("loses the others by prune where a lock of root's is one image's alone, and a load runs", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    const own = artifactsOf(JOB).find((path) => path.startsWith("layers/") && !artifactsOf(WEB).includes(path))!;
    leaveLock(join(home, "cache", `${own}.lock`), 0o600);
    age(home);
    plant(home, "tmp/load-1-1-1.blob");
    const { code, out } = await theirLarder(home, "prune", "--unused", "--min-age", "0s", "--dry-run");
    expect(code).toBe(0);
    const causes = out.decisions.map(({ reference, cause }: { reference: string; cause: string }) => [
      reference,
      cause,
    ]);
    expect(Object.fromEntries(causes)).toEqual({
      ...Object.fromEntries(WEB.tags.map((tag) => [tag, "unused"])),
      ...Object.fromEntries(JOB.tags.map((tag) => [tag, "locked"])),
    });
  });

  test("is listed by its owner, and loses nothing, where root keeps a snapshot to itself", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    age(home);
    const snapshot = join(home, "snapshots", "group", "mine");
    mkdirSync(snapshot, { recursive: true });
    chmodSync(snapshot, 0o700);
    const trouble = `snapshot "group/mine" cannot be read: cannot lstat "${join(snapshot, "snapshot.json")}": permission denied`;
    const listed = await theirLarder(home, "list");
    expect([listed.code, listed.out.length]).toEqual([0, WEB.tags.length + JOB.tags.length]);
    expect(listed.stderr).toBe(`more may be in use than is shown: ${trouble}\n`);
    const rows = readRows(home);
    for (const command of [["rm", ...JOB.tags], ["gc"], ["prune", "--unused", "--min-age", "0s"]]) {
      const { code, stderr } = await theirLarder(home, ...command);
      expect([code, stderr.includes(trouble)]).toEqual([5, true]);
    }
    const { references, manifests } = readRows(home);
    expect([Object.keys(manifests), references[WEB.tags[0]!]]).toEqual([
      Object.keys(rows.manifests),
      rows.references[WEB.tags[0]!]!,
    ]);
  });

  test("is busy, and not damaged, where a table is missing and root's migration lock may be held", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    change(home, "DROP TABLE snapshot_index");
    for (const path of readdirSync(join(home, "db"))) give(join(home, "db", path));
    leaveLock(join(home, "db", "msb.db.migration.lock"), 0o600);
    expect(await theirLarder(home, "list")).toMatchObject({ code: 75, out: undefined });
  });

  test("is collected although root has left a lock in it that all can read, as msb 0.5 does", async () => {
    using folder = await theirFolder();
    const home = folder.path;
    expect((await theirs(home, "load", "-i", join(home, "images.tar"))).code).toBe(0);
    age(home);
    for (const tag of JOB.tags) leaveLock(join(home, "cache", "manifests", `${keyOf(tag)}.lock`), 0o644);
    expect(await theirLarder(home, "rm", ...JOB.tags)).toMatchObject({ code: 0, out: { failed: [], skipped: [] } });
    expect(readFiles(home)).toEqual(filesOf([WEB]));
  });

  test.each([{ before: "made by msb" }, { before: "not there" }])(
    "keeps a WAL that msb can open when larder is killed with a catalogue that was $before",
    async ({ before }) => {
      using folder = await theirFolder();
      const home = folder.path;
      const archive = join(home, "images.tar");
      const listed: string[] = [];
      if (before === "made by msb") {
        expect((await theirs(home, "load", "-i", archive)).code).toBe(0);
        listed.push(...IMAGES.flatMap(({ tags }) => tags));
        // The last to close folds the WAL in and deletes it, so that the next one is root's to make.
        await larderJson(home, ["persist", ...JOB.tags]);
        expect(existsSync(join(home, "db", "msb.db-wal"))).toBe(false);
      }
      const metadata = metadataOf(JOB);
      const tags = Array.from({ length: 200 }, (_, i) => `job:${i}`);
      const child = Bun.spawn([EXECUTABLE, "persist", "--batch", "-", "--home", home], {
        env: {},
        stdin: "pipe",
        stdout: "ignore",
        stderr: "ignore",
      });
      child.stdin.write(tags.map((tag) => `{"reference":"${tag}","metadata":${metadata}}\n`).join(""));
      await child.stdin.flush();
      // That many lines are one transaction; the input stays open, so larder waits for more with its files open.
      const wal = join(home, "db", "msb.db-wal");
      const committed = () => existsSync(wal) && readdirSync(join(home, "db")).length >= 3 && rowsSeen(home) >= 200;
      while (!committed()) await Bun.sleep(20);
      child.kill("SIGKILL");
      await child.exited;
      expect(existsSync(wal)).toBe(true);
      expect(existsSync(join(home, "db", "msb.db-shm"))).toBe(true);
      await expectUsable(home, archive, [...listed, ...tags]);
    },
  );
});

/** How many references a catalogue holds that another process writes; none while it is being made. */
function rowsSeen(home: string): number {
  try {
    return Object.keys(readRows(home).references).length;
  } catch {
    return 0;
  }
}
