import { describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, run, TemporaryFolder } from "../larder.ts";
import { Catalogue, databaseOf, digest, metadata, SOUND, snapshot } from "./catalogue.ts";

const isRoot = process.geteuid?.() === 0;
/** A user without rights, and how root becomes that one. */
const NOBODY = 65534;
const AS_NOBODY = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
const canBecomeNobody = isRoot && succeeds([...AS_NOBODY, EXECUTABLE, "--version"]);
const canMount = isRoot && succeeds(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]);

function succeeds(command: string[]): boolean {
  try {
    return Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore" }).exitCode === 0;
  } catch {
    return false;
  }
}

/** Makes a home with as many images as are asked for, closed, so that all of it is in the database itself. */
function makeHome(home: string, images = 1): void {
  using catalogue = Catalogue.create(home);
  for (let n = 1; n <= images; n++) catalogue.image({ reference: `image:${n}`, manifest: digest(n) });
  catalogue.db.run("PRAGMA wal_checkpoint(TRUNCATE)");
}

/** The commands of this file's subject; `persist` is given good metadata, so that nothing else stands in its way. */
const COMMANDS = [
  ["list"],
  ["list", "-a", "--format", "json"],
  ["get", "image:1"],
  ["inspect", "image:1"],
  ["persist", "app", "--metadata", "-"],
];

/** Runs a command, and expects one line on standard error that is a sentence and not a stack. */
async function refused(home: string, args: string[], under: string[] = []): Promise<{ code: number; stderr: string }> {
  const { code, stdout, stderr } = await run([...args, "--home", home], { stdin: metadata(), under });
  expect(stdout).toBe("");
  expect(stderr).toMatch(/^larder: [^\n]+\n$/);
  expect(stderr).not.toMatch(/SQLITE_|errno|^\s+at /m);
  return { code, stderr };
}

describe("a database that cannot be used", () => {
  const CASES: [what: string, spoil: (home: string) => void, code: number, complaint: string][] = [
    [
      "a folder",
      (home) => mkdirSync(databaseOf(home), { recursive: true }),
      1,
      'cannot open the database "@": it is a directory',
    ],
    [
      "a pipe",
      (home) => {
        mkdirSync(join(home, "db"));
        Bun.spawnSync(["mkfifo", databaseOf(home)]);
      },
      1,
      'cannot open the database "@": it is no regular file',
    ],
    [
      "text",
      (home) => {
        mkdirSync(join(home, "db"));
        writeFileSync(databaseOf(home), "this is no database\n".repeat(1000));
      },
      5,
      'cannot use the database "@": it is not a SQLite database',
    ],
    [
      "shorter than a header",
      (home) => {
        mkdirSync(join(home, "db"));
        writeFileSync(databaseOf(home), "SQLite format 3");
      },
      5,
      'cannot use the database "@": it is not a SQLite database',
    ],
    [
      "cut off in its first page",
      (home) => {
        makeHome(home);
        truncateSync(databaseOf(home), 2000);
      },
      5,
      'cannot use the database "@": it is damaged',
    ],
    [
      "cut in half",
      (home) => {
        makeHome(home, 300);
        truncateSync(databaseOf(home), Math.floor(statSync(databaseOf(home)).size / 8192) * 4096);
      },
      5,
      'cannot use the database "@": it is damaged',
    ],
    [
      "overwritten behind its header",
      (home) => {
        makeHome(home, 300);
        const bytes = readFileSync(databaseOf(home));
        bytes.fill(0x5a, 100, 4096);
        writeFileSync(databaseOf(home), bytes);
      },
      5,
      'cannot use the database "@": it is damaged',
    ],
    [
      "another program's",
      (home) => {
        makeHome(home);
        using catalogue = Catalogue.open(home);
        catalogue.db.run("ALTER TABLE layer RENAME COLUMN diff_id TO other");
      },
      5,
      'the database "@" is not a catalogue that larder knows: layer.diff_id is missing',
    ],
    [
      "in a folder that is a file",
      (home) => writeFileSync(join(home, "db"), ""),
      1,
      "a part of the path is not a directory",
    ],
  ];

  test.each(CASES)("because it is %s is named in a sentence, and left as it was", async (_, spoil, code, complaint) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    mkdirSync(home);
    spoil(home);
    const before = snapshot(home);
    for (const command of COMMANDS) {
      const outcome = await refused(home, command);
      expect([command[0], outcome.code]).toEqual([command[0], code]);
      expect(outcome.stderr).toContain(complaint.replace("@", databaseOf(home)));
    }
    expect(snapshot(home)).toEqual(before);
  });

  test("is refused by a dry run as by what deletes, be its migration history what is damaged", async () => {
    using folder = new TemporaryFolder();
    makeHome(folder.path);
    const bytes = readFileSync(databaseOf(folder.path));
    using catalogue = Catalogue.open(folder.path);
    const roots = catalogue.rows("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'seaql_migrations'");
    for (const page of roots.map(({ rootpage }) => Number(rootpage))) bytes.fill(0x5a, (page - 1) * 4096, page * 4096);
    mkdirSync(join(folder.path, "spoilt/db"), { recursive: true });
    writeFileSync(databaseOf(join(folder.path, "spoilt")), bytes);
    for (const command of [["rm", "image:1"], ["gc"], ["prune", "--unused"]]) {
      for (const args of [command, [...command, "--dry-run"]]) {
        const { code, stderr } = await refused(join(folder.path, "spoilt"), args);
        expect([args, code]).toEqual([args, 5]);
        expect(stderr).toContain("it is damaged (restore it from a backup)");
      }
    }
  });

  test("because its home is a file is named in a sentence", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    writeFileSync(home, "a file");
    for (const command of COMMANDS) expect(await refused(home, command)).toMatchObject({ code: 1 });
    expect(readFileSync(home, "utf8")).toBe("a file");
  });

  test("of no bytes holds no images, and reading it does not make it a catalogue", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "db"));
    writeFileSync(databaseOf(folder.path), "");
    expect(await larder(folder.path, "list")).toMatchObject({ code: 0, stdout: "" });
    expect(await larder(folder.path, "get", "a")).toMatchObject({ code: 3, stdout: "" });
    expect(await larder(folder.path, "inspect", "a")).toMatchObject({ code: 3, stdout: "" });
    expect(statSync(databaseOf(folder.path)).size).toBe(0);
  });

  test("shows its stack, and what lay underneath, where LARDER_DEBUG is 1", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "db"));
    writeFileSync(databaseOf(folder.path), "this is no database\n".repeat(1000));
    const { code, stderr } = await run(["list", "--home", folder.path], { env: { LARDER_DEBUG: "1" } });
    expect(code).toBe(5);
    expect(stderr).toMatch(/^larder: cannot use the database .*\n.*\n\s+at /);
    expect(stderr).toContain("\ncaused by SQLiteError: ");
  });
});

describe("a write-ahead log", () => {
  /** Copies a home whose newest commits, one an image, are in the log alone, as msb leaves it after a load. */
  function copyUnfinished(from: string, to: string): string {
    using catalogue = Catalogue.create(from);
    catalogue.image({ reference: "image:1", manifest: digest(1) });
    catalogue.db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    for (let n = 2; n <= 4; n++) {
      catalogue.db.transaction(() => catalogue.image({ reference: `image:${n}`, manifest: digest(n) }))();
    }
    mkdirSync(join(to, "db"), { recursive: true });
    // By another process: to close these files here would drop SQLite's locks on them.
    for (const suffix of ["", "-wal"]) Bun.spawnSync(["cp", databaseOf(from) + suffix, databaseOf(to) + suffix]);
    return `${databaseOf(to)}-wal`;
  }

  test.each<[what: string, spoil: (wal: string) => void, images: number]>([
    ["that is whole", () => {}, 4],
    ["cut in its last frame", (wal) => truncateSync(wal, statSync(wal).size - 100), 3],
    ["cut after its header", (wal) => truncateSync(wal, 32), 1],
    ["cut in its header", (wal) => truncateSync(wal, 10), 1],
    ["of garbage", (wal) => writeFileSync(wal, "x".repeat(20_000)), 1],
    [
      "with a frame that is not what its checksum says",
      (wal) => {
        const bytes = readFileSync(wal);
        bytes[bytes.length - 5]! ^= 0xff;
        writeFileSync(wal, bytes);
      },
      3,
    ],
  ])("%s costs what was in its lost part, and nothing else", async (_, spoil, images) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    spoil(copyUnfinished(join(folder.path, "source"), home));
    const kept = Array.from({ length: images }, (_, i) => `image:${i + 1}`);
    const before = snapshot(home);
    const listed = await larder(home, "list", "-q");
    expect(listed).toMatchObject({ code: 0, stderr: "" });
    expect(listed.stdout.trimEnd().split("\n")).toEqual(kept);
    expect(snapshot(home)).toEqual(before);
    const persisted = await run(["persist", "app", "--metadata", "-", "--home", home], {
      stdin: metadata({ manifest: digest(9) }),
    });
    expect(persisted).toMatchObject({ code: 0, stderr: "" });
    using catalogue = Catalogue.open(home);
    expect(catalogue.check()).toEqual(SOUND);
    const rows = catalogue.rows("SELECT reference FROM image_ref ORDER BY id");
    expect(rows.map(({ reference }) => reference)).toEqual([...kept, "app"]);
  });
});

describe("metadata that cannot be used", () => {
  // The name is sha256sum's of docker.io/library/app:latest.
  const FILE = "cache/manifests/28ec096a835a49537929b040aae40036c4b93d8920de5563fc8a3689c4a79316.json";

  test.each<[what: string, make: (path: string) => void, complaint: RegExp]>([
    ["a folder", (path) => mkdirSync(path), /"@" is not a regular file/],
    ["a link", (path) => Bun.spawnSync(["ln", "-s", "/etc/passwd", path]), /"@" is a link, not a file/],
    ["a pipe", (path) => Bun.spawnSync(["mkfifo", path]), /"@" is not a regular file/],
    ["empty", (path) => writeFileSync(path, ""), /@: not JSON/],
    ["cut off", (path) => writeFileSync(path, metadata().slice(0, 100)), /@: not JSON/],
    ["no UTF-8", (path) => writeFileSync(path, Buffer.from([0x22, 0xff, 0x22])), /"@" is not UTF-8 text/],
    ["followed by more", (path) => writeFileSync(path, `${metadata()}{}`), /@: not JSON/],
    ["without layers", (path) => writeFileSync(path, metadata().replace(/,"layers":.*/, "}")), /@: layers: /],
  ])("because it is %s is named, and nothing is written", async (_, make, complaint) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, FILE);
    mkdirSync(join(path, ".."), { recursive: true });
    make(path);
    const before = snapshot(folder.path);
    const { code, stderr } = await refused(folder.path, ["persist", "app"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(new RegExp(complaint.source.replace("@", path.replaceAll(".", "\\."))));
    expect(snapshot(folder.path)).toEqual(before);
  });
});

describe.skipIf(!canBecomeNobody)("without the rights (needs root, and setpriv to give them up)", () => {
  /** A home that its user may read, with what is asked for taken away. */
  function makeGuarded(folder: TemporaryFolder, guard: (home: string) => void): string {
    chmodSync(folder.path, 0o755);
    const home = join(folder.path, "home");
    makeHome(home);
    guard(home);
    return home;
  }

  test.each<[what: string, guard: (home: string) => void, path: string]>([
    ["a database", (home) => chmodSync(databaseOf(home), 0o600), "db/msb.db"],
    ["a folder of the database", (home) => chmodSync(join(home, "db"), 0o700), "db/msb.db"],
    [
      "a configuration",
      (home) => {
        writeFileSync(join(home, "config.json"), "{}");
        chmodSync(join(home, "config.json"), 0o600);
      },
      "config.json",
    ],
  ])("to read %s, every command says so and writes nothing", async (_, guard, path) => {
    using folder = new TemporaryFolder();
    const home = makeGuarded(folder, guard);
    const before = snapshot(home);
    for (const command of COMMANDS) {
      const { code, stderr } = await refused(home, command, AS_NOBODY);
      expect(code).toBe(1);
      expect(stderr).toContain(`"${join(home, path)}"`);
      expect(stderr).toMatch(/permission/);
    }
    expect(snapshot(home)).toEqual(before);
  });

  test("to read the metadata, persist says so", async () => {
    using folder = new TemporaryFolder();
    const home = makeGuarded(folder, () => {});
    const manifests = join(home, "cache", "manifests");
    mkdirSync(manifests, { recursive: true });
    const path = join(manifests, "28ec096a835a49537929b040aae40036c4b93d8920de5563fc8a3689c4a79316.json");
    writeFileSync(path, metadata(), { mode: 0o600 });
    const { code, stderr } = await refused(home, ["persist", "app"], AS_NOBODY);
    expect({ code, stderr }).toEqual({ code: 1, stderr: `larder: cannot open "${path}": permission denied\n` });
  });

  test("to write the database, what is in it can still be read", async () => {
    using folder = new TemporaryFolder();
    const home = makeGuarded(folder, () => {});
    const before = snapshot(home);
    const listed = await run(["list", "-q", "--home", home], { under: AS_NOBODY });
    expect(listed).toEqual({ code: 0, stdout: "image:1\n", stderr: "" });
    const { code, stderr } = await refused(home, ["persist", "app", "--metadata", "-"], AS_NOBODY);
    expect(code).toBe(1);
    expect(stderr).toMatch(/cannot be (written|opened) \(permissions/);
    expect(snapshot(home)).toEqual(before);
  });

  test("to make a home, persist names the folder", async () => {
    using folder = new TemporaryFolder();
    chmodSync(folder.path, 0o755);
    const home = join(folder.path, "home");
    const { code, stderr } = await refused(home, ["persist", "app", "--metadata", "-"], AS_NOBODY);
    expect({ code, stderr }).toEqual({ code: 1, stderr: `larder: cannot mkdir "${home}": permission denied\n` });
  });

  test("of root, a user's own home works", async () => {
    using folder = new TemporaryFolder();
    chownSync(folder.path, NOBODY, NOBODY);
    const home = join(folder.path, "home");
    const start = { stdin: metadata(), under: AS_NOBODY };
    expect(await run(["persist", "app", "--metadata", "-", "--home", home], start)).toMatchObject({ code: 0 });
    expect((await run(["list", "-q", "--home", home], start)).stdout).toBe("app\n");
  });
});

describe.skipIf(!canMount)("on a read-only file system (needs root, and the right to mount)", () => {
  /** Runs commands of shell where `$1` is a home on a file system that was made read-only after `prepare`. */
  async function onReadOnly(home: string, prepare: string, commands: string) {
    const script = `
      set -e
      mount -t tmpfs none "$2"
      cp -r "$1" "$2/home"
      cd "$2"
      ${prepare}
      mount -o remount,ro "$2"
      set +e
      ${commands.replaceAll("larder", EXECUTABLE)}`;
    using folder = new TemporaryFolder();
    const child = Bun.spawn(["unshare", "--mount", "sh", "-c", script, "sh", home, folder.path], {
      stdout: "pipe",
      stderr: "pipe",
      stdin: new TextEncoder().encode(metadata()),
    });
    const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
    return { code, stdout, stderr: stderr.replaceAll(folder.path, "") };
  }

  test("reads a database whose log is empty or absent", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    makeHome(home, 2);
    for (const prepare of ["rm -f home/db/*-wal home/db/*-shm", "rm -f home/db/*-shm; : >home/db/msb.db-wal"]) {
      const outcome = await onReadOnly(
        home,
        prepare,
        "larder list -q --home home && larder get image:2 --home home >/dev/null && larder inspect image:2 --home home --format jsonl",
      );
      expect(outcome).toMatchObject({ code: 0, stderr: "" });
      const [first, second, detail] = outcome.stdout.split("\n");
      expect([first, second]).toEqual(["image:1", "image:2"]);
      expect(JSON.parse(detail!)).toMatchObject({ reference: "image:2" });
    }
  });

  test("says what it needs where the newest changes are in the log", async () => {
    using folder = new TemporaryFolder();
    const source = join(folder.path, "source");
    const home = join(folder.path, "home");
    using catalogue = Catalogue.create(source);
    catalogue.image({ reference: "image:1", manifest: digest(1) });
    mkdirSync(join(home, "db"), { recursive: true });
    for (const suffix of ["", "-wal"]) Bun.spawnSync(["cp", databaseOf(source) + suffix, databaseOf(home) + suffix]);
    const { code, stdout, stderr } = await onReadOnly(home, "", "larder list --home home");
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toBe(
      'larder: cannot read the database "/home/db/msb.db": its newest changes are in "/home/db/msb.db-wal", and SQLite must be able to write "/home/db/msb.db-shm" to read them (remount the file system writable, or copy the folder "/home/db" to a writable place and name that home with --home)\n',
    );
  });

  test("refuses to persist, into a home that is there and one that is not", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    makeHome(home);
    const there = await onReadOnly(home, "", "larder persist app --metadata - --home home");
    expect(there).toMatchObject({ code: 1, stdout: "" });
    expect(there.stderr).toMatch(
      /^larder: cannot use the database "\/home\/db\/msb\.db": [^\n]*read-only file system\)\n$/,
    );
    const absent = await onReadOnly(home, "", "larder persist app --metadata - --home absent");
    expect(absent).toEqual({
      code: 1,
      stdout: "",
      stderr: 'larder: cannot mkdir "/absent": the file system is read-only\n',
    });
  });

  test("says there is no catalogue where there is none", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "home"));
    const outcome = await onReadOnly(join(folder.path, "home"), "", "larder list --home home");
    expect(outcome).toEqual({
      code: 0,
      stdout: "",
      stderr: 'No images (there is no catalogue at "/home/db/msb.db")\n',
    });
  });
});
