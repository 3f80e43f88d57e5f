import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { IMAGES, SoundHome } from "../sound.ts";
import { hasTool } from "../tools.ts";
import { onTerminal } from "./pty.ts";

const ONE = IMAGES.one.manifest.digest;
const TWO = IMAGES.two.manifest.digest;
const OWN = IMAGES.one.layers[1]!.diffId;
const NOWHERE = `sha256:${"0".repeat(64)}`;

let sound: SoundHome;
beforeAll(async () => {
  sound = await SoundHome.make();
});
afterAll(() => sound[Symbol.dispose]());

interface Described {
  code: string;
  severity: string;
  subject: string;
  message: string;
  advice: string;
  repair: string | null;
  left: string | null;
}

/** Damage of every kind that can be mended, and some that cannot. */
function wreck(home: SoundHome): void {
  home.sql(
    "UPDATE config SET labels = NULL; UPDATE layer SET erofs_size_bytes = NULL; DELETE FROM config WHERE id = 2",
  );
  truncateSync(home.layer(OWN), 0);
  rmSync(home.metadata("docker.io/library/flat:1"));
  const vmdk = readFileSync(home.vmdk(TWO), "utf8");
  writeFileSync(home.vmdk(TWO), vmdk.replaceAll(home.cache, "/srv/old"));
  writeFileSync(join(home.cache, "layers", "stray"), "stray");
  writeFileSync(join(home.cache, "tmp", "load-1-2-3.blob"), "scratch");
  home.age();
}

/** Takes the topmost layer off the record of an image, and with `alsoMetadata` what it could be put there again by. */
function loseJunction(home: SoundHome, manifest: string, alsoMetadata = false): void {
  home.sql(
    `DELETE FROM manifest_layer WHERE position = 1 AND manifest_id = (SELECT id FROM manifest WHERE digest = '${manifest}')`,
  );
  if (alsoMetadata) truncateSync(home.metadata(`docker.io/library/${manifest === ONE ? "one" : "two"}:1`), 100);
}

/** A snapshot on disk, by its descriptor. */
function snapshot(home: SoundHome, descriptor: string): void {
  mkdirSync(join(home.path, "snapshots", "base"), { recursive: true });
  writeFileSync(join(home.path, "snapshots", "base", "snapshot.json"), descriptor);
}

const adviceOf = ({ advice }: Described) => advice;

/** Everything that a run may change: the rows, the database's own bytes, and the cache. */
function state(home: SoundHome) {
  return { rows: home.rows(), database: readFileSync(home.database).toString("base64"), files: home.files() };
}

describe("larder check", () => {
  test("exits with 0 on a sound home, and says where it looked", async () => {
    const { code, stdout, stderr } = await larder(sound.path, "check", "--deep");
    expect({ code, stdout }).toEqual({ code: 0, stdout: "0 damaged, 0 notes\n" });
    expect(stderr).toBe(`database ${sound.database}, cache ${sound.cache}\n`);
  });

  test("exits with 0 where there are notes alone", async () => {
    using home = sound.copy();
    home.sql("UPDATE layer SET erofs_size_bytes = NULL");
    const { code, stdout } = await larder(home.path, "check");
    expect(code).toBe(0);
    // One line a kind of note, with an example.
    expect(stdout).toMatch(
      /^note {4}erofs-size-unrecorded {2}layer sha256:\w+: its artifact has \d+ bytes\n {8}--repair: the size is recorded\n {8}and 3 more like it\n0 damaged, 4 notes\n$/,
    );
  });

  test("exits with 5 on damage, and names each with what to do", async () => {
    using home = sound.copy();
    rmSync(home.vmdk(ONE));
    truncateSync(home.layer(OWN), 0);
    const { code, stdout } = await larder(home.path, "check");
    expect(code).toBe(5);
    expect(stdout).toBe(
      [
        `damage  artifact-empty  layer ${OWN}: "${home.layer(OWN)}" is empty`,
        "        --repair: the file is removed, so that msb's next pull makes it anew",
        `damage  artifact-missing  one:1: "${home.vmdk(ONE)}" does not exist`,
        "        pull the image again",
        "2 damaged, 0 notes",
        "",
      ].join("\n"),
    );
  });

  test("prints one JSON document, with every problem apart", async () => {
    using home = sound.copy();
    home.sql("UPDATE layer SET erofs_size_bytes = 1");
    rmSync(home.vmdk(ONE));
    const report = await larderJson(home.path, ["check"], 5);
    expect(Object.keys(report)).toEqual([
      ...["database", "cache", "deep", "dry_run", "problems", "damage", "notes", "failure"],
    ]);
    expect(report).toMatchObject({
      database: home.database,
      cache: home.cache,
      deep: false,
      dry_run: false,
      damage: 5,
      notes: 0,
    });
    expect(report.problems).toHaveLength(5);
    expect(report.problems.find(({ code }: Described) => code === "artifact-missing")).toEqual({
      code: "artifact-missing",
      severity: "damage",
      subject: "one:1",
      message: `"${home.vmdk(ONE)}" does not exist`,
      advice: "pull the image again",
      repair: null,
      remedy: null,
      left: null,
    });
    const sizes = report.problems.filter(({ code }: Described) => code === "erofs-size-mismatch");
    expect(sizes.map(({ repair }: Described) => repair)).toEqual(["possible", "possible", "possible", "possible"]);
  });

  test("prints the same as one line with --format jsonl", async () => {
    const { stdout } = await larder(sound.path, "check", "--format", "jsonl");
    expect(stdout.endsWith("}\n")).toBe(true);
    expect(stdout.trimEnd()).not.toContain("\n");
    expect(JSON.parse(stdout)).toMatchObject({ damage: 0, notes: 0, problems: [] });
  });

  test("reads what artifacts hold only with --deep", async () => {
    using home = sound.copy();
    const bytes = readFileSync(home.flatBlobPath);
    bytes[5000] = 8;
    writeFileSync(home.flatBlobPath, bytes);
    expect((await larder(home.path, "check")).code).toBe(0);
    const report = await larderJson(home.path, ["check", "--deep"], 5);
    expect(report).toMatchObject({ deep: true, damage: 1 });
    expect(report.problems.map(({ code }: Described) => code)).toEqual(["flat-blob-digest"]);
  });

  test("promises of --deep no more than it reads beyond a plain check", async () => {
    const { stdout } = await run(["check", "--help"]);
    expect(stdout).toMatch(/--deep\s+read artifacts too: superblock checksums, flat blobs, raw documents/);
  });

  test("writes out what a terminal would obey", async () => {
    using home = sound.copy();
    home.sql("INSERT INTO image_ref (reference, manifest_id) VALUES ('evil' || char(27) || '[2J', 1)");
    const { code, stdout } = await larder(home.path, "check");
    expect(code).toBe(5);
    expect(stdout).toContain("reference-invalid  evil\\u001b[2J: ");
    expect(stdout).not.toContain("\u001b");
  });

  test.each([
    ["an unknown flag", ["--fix"], "--fix"],
    ["an operand", ["one:1"], "one:1"],
    ["--dry-run alone", ["--dry-run"], "--dry-run goes with --repair"],
    ["a grace that is no duration", ["--grace", "soon"], '"soon" is not a duration'],
  ])("exits with 2 for %s, and opens nothing", async (_, args, said) => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "db", "msb.db"), { recursive: true });
    const { code, stdout, stderr } = await larder(folder.path, "check", ...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(said);
  });

  test.each([[[]], [["--repair"]], [["--repair", "--dry-run"]], [["--deep"]]])(
    "has nothing to check where no home is (%p), and makes none",
    async (args) => {
      using folder = new TemporaryFolder();
      const home = join(folder.path, "none");
      const { code, stdout, stderr } = await larder(home, "check", ...args);
      expect({ code, stdout }).toEqual({ code: 0, stdout: "0 damaged, 0 notes\n" });
      expect(stderr).toContain(`there is no catalogue at "${join(home, "db", "msb.db")}"`);
      expect(existsSync(home)).toBe(false);
    },
  );

  test("exits with 5 where a cache has files and there is no catalogue", async () => {
    using home = sound.copy();
    rmSync(join(home.path, "db"), { recursive: true });
    // Also while its files are young.
    for (const flags of [[], ["--grace", "0s"], ["--grace", "14d"]]) {
      const report = await larderJson(home.path, ["check", ...flags], 5);
      const codes = report.problems.map(({ code }: Described) => code);
      expect(codes.filter((code: string) => code === "catalogue-unaccounted")).toHaveLength(1);
    }
    expect(existsSync(join(home.path, "db"))).toBe(false);
  });

  test("promises and mends nothing where a cache has files and there is no catalogue", async () => {
    using home = sound.copy();
    rmSync(join(home.path, "db"), { recursive: true });
    mkdirSync(join(home.path, "cache", "tmp"), { recursive: true });
    const scratch = join(home.path, "cache", "tmp", "load-1-1-1.blob");
    writeFileSync(scratch, "scratch");
    utimesSync(scratch, 0, 0);
    for (const flags of [["--repair", "--dry-run"], ["--repair"]]) {
      const report = await larderJson(home.path, ["check", ...flags], 5);
      expect(report.problems.filter(({ repair }: Described) => repair !== null)).toEqual([]);
      const advices = report.problems.filter(({ severity }: Described) => severity === "note").map(adviceOf);
      expect(new Set(advices)).toEqual(
        new Set(["gc leaves it while there is no catalogue", expect.stringContaining("larder persist")]),
      );
    }
    expect([existsSync(scratch), existsSync(join(home.path, "db"))]).toEqual([true, false]);
    rmSync(join(home.path, "cache"), { recursive: true });
    mkdirSync(join(home.path, "cache", "tmp"), { recursive: true });
    writeFileSync(scratch, "scratch");
    expect((await larderJson(home.path, ["check"])).damage).toBe(0);
  });

  test("exits with 1 where the database cannot be opened", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "db", "msb.db"), { recursive: true });
    const { code, stderr } = await larder(folder.path, "check");
    expect(code).toBe(1);
    expect(stderr).toContain("it is a directory");
  });

  const corruptions: [name: string, code: string, corrupt: (home: SoundHome) => void][] = [
    ["is no database", "database-corrupt", (home) => writeFileSync(home.database, "no database ".repeat(1000))],
    ["lost a page of an index", "database-corrupt", (home) => home.corrupt()],
    [
      "was cut in half",
      "database-corrupt",
      (home) => truncateSync(home.database, (readFileSync(home.database).length >> 13) << 12),
    ],
    ["lacks a column", "schema-unknown", (home) => home.sql("ALTER TABLE config DROP COLUMN labels")],
  ];
  test.each(corruptions)("reports a file that %s, and leaves every byte alone", async (_, code, corrupt) => {
    using home = sound.copy();
    wreck(home);
    // So that opening it to write would change it.
    home.sql("DROP INDEX idx_manifest_layer_layer");
    corrupt(home);
    const before = { database: readFileSync(home.database).toString("base64"), files: home.files() };
    for (const args of [[], ["--deep"], ["--repair"], ["--repair", "--dry-run"], ["--repair", "--grace", "0s"]]) {
      const report = await larderJson(home.path, ["check", ...args], 5);
      expect(new Set(report.problems.map(({ code }: Described) => code))).toEqual(new Set([code]));
      expect(report.problems[0].subject).toBe("database");
    }
    expect({ database: readFileSync(home.database).toString("base64"), files: home.files() }).toEqual(before);
  });

  test("does not write where msb would wipe the catalogue at its next start", async () => {
    using home = sound.copy();
    wreck(home);
    home.sql("DELETE FROM seaql_migrations");
    const before = state(home);
    const report = await larderJson(home.path, ["check", "--repair"], 5);
    expect(report.problems.map(({ code }: Described) => code)).toContain("migrations-missing");
    expect(report.problems.filter(({ repair }: Described) => repair !== "left")).toEqual([]);
    expect(state(home)).toEqual(before);
  });
});

describe("larder check --repair", () => {
  test("lists in a dry run exactly what the run then does, and writes nothing", async () => {
    using home = sound.copy();
    wreck(home);
    const before = state(home);
    const plan = await larderJson(home.path, ["check", "--repair", "--dry-run"], 5);
    expect(state(home)).toEqual(before);
    expect(plan.dry_run).toBe(true);
    const done = await larderJson(home.path, ["check", "--repair"], 5);
    expect(done.dry_run).toBe(false);
    const list = ({ problems }: { problems: Described[] }, fate: string) =>
      problems.filter(({ repair }) => repair === fate).map(({ code, subject }) => `${code} ${subject}`);
    expect(list(done, "done")).toEqual(list(plan, "planned"));
    expect(new Set(list(plan, "planned").map((line) => line.split(" ")[0]))).toEqual(
      new Set([
        "config-missing",
        "config-outdated",
        "artifact-empty",
        "erofs-size-unrecorded",
        "vmdk-mislocated",
        "stray-file",
        "staging-stale",
      ]),
    );
    expect(list(done, "left")).toEqual(["metadata-missing flat:1"]);
  });

  const obstacles: [name: string, spoil: (home: SoundHome) => void, swept: string[]][] = [
    ["nothing stands in the way", () => {}, ["staging-stale", "stray-file"]],
    ["a snapshot cannot be read", (home) => snapshot(home, "{"), []],
    ["an image lacks a layer, and its metadata is cut short", (home) => loseJunction(home, ONE, true), []],
    [
      "an image lacks a layer that its metadata names",
      (home) => loseJunction(home, ONE),
      ["staging-stale", "stray-file"],
    ],
    [
      "of two images that lack a layer one cannot be rebuilt",
      (home) => {
        loseJunction(home, ONE, true);
        loseJunction(home, TWO);
      },
      [],
    ],
    [
      "an image without a name has a layer by what is no digest",
      (home) => {
        home.sql(
          `DELETE FROM image_ref WHERE reference = 'one:1'; UPDATE layer SET diff_id = 'x' WHERE diff_id = '${OWN}'`,
        );
        rmSync(home.metadata("docker.io/library/one:1"));
      },
      [],
    ],
    [
      "the layers of an image to collect are not mounted",
      (home) => {
        home.sql(`DELETE FROM image_ref WHERE reference = 'one:1'`);
        rmSync(home.metadata("docker.io/library/one:1"));
        rmSync(join(home.cache, "layers"), { recursive: true });
        mkdirSync(join(home.cache, "layers"));
      },
      [],
    ],
    [
      "the layers are not mounted, and no row is to go",
      (home) => {
        rmSync(join(home.cache, "layers"), { recursive: true });
        mkdirSync(join(home.cache, "layers"));
      },
      ["staging-stale", "stray-file"],
    ],
    [
      "a metadata file written just now names an image that is not on record",
      (home) => {
        const metadata = readFileSync(home.metadata("docker.io/library/one:1"), "utf8");
        const strange = metadata.replaceAll(ONE, NOWHERE);
        writeFileSync(home.vmdk(NOWHERE), "disk");
        home.age();
        writeFileSync(home.metadata("docker.io/library/other:1"), strange);
      },
      ["staging-stale"],
    ],
    [
      "a snapshot needs an image that is not on record",
      (home) => {
        snapshot(home, JSON.stringify({ image: { manifest_digest: NOWHERE } }));
        writeFileSync(home.vmdk(NOWHERE), "disk");
        home.age();
      },
      ["staging-stale"],
    ],
  ];
  test.each(obstacles)("plans to sweep just what the run then sweeps where %s", async (_, spoil, swept) => {
    using home = sound.copy();
    writeFileSync(join(home.cache, "fsmeta", "stray"), "stray");
    writeFileSync(join(home.cache, "tmp", "load-1-2-3.blob"), "scratch");
    home.age();
    spoil(home);
    const sweeps = async (fate: string, ...flags: string[]) => {
      const { stdout } = await larder(home.path, "check", "--repair", "--format", "json", ...flags);
      const made = JSON.parse(stdout).problems.filter(({ repair }: Described) => repair === fate);
      return made.flatMap(({ code }: Described) => (/stray|staging/.test(code) ? code : [])).sort();
    };
    expect(await sweeps("planned", "--dry-run")).toEqual(swept);
    expect(await sweeps("done")).toEqual(swept);
  });

  test("counts what a second look finds, and exits with 5 while damage is left", async () => {
    using home = sound.copy();
    truncateSync(home.layer(OWN), 0);
    const report = await larderJson(home.path, ["check", "--repair"], 5);
    expect(report).toMatchObject({ damage: 2, notes: 0 });
    expect(report.problems.map(({ code, repair }: Described) => [code, repair])).toEqual([
      ["artifact-empty", "done"],
      ["artifact-missing", null],
      ["vmdk-extent-missing", null],
    ]);
    expect(existsSync(home.layer(OWN))).toBe(false);
  });

  test("exits with 0 once nothing is damaged any more", async () => {
    using home = sound.copy();
    home.sql("UPDATE manifest SET layer_count = 9");
    const { code, stdout } = await larder(home.path, "check", "--repair");
    expect(code).toBe(0);
    expect(stdout).toContain("\n        done: its rows are written anew from its metadata\n");
    expect(stdout).toEndWith("0 damaged, 0 notes\n");
    expect(home.facts()).toEqual(sound.facts());
  });

  describe.if(hasTool("strace"))("of a note", () => {
    test("exits with 1 where the system refuses it", async () => {
      using home = sound.copy();
      const stray = join(home.cache, "layers", "stray");
      writeFileSync(stray, "stray");
      home.age();
      const under = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", stray, "-e", "inject=unlink,unlinkat:error=EIO"];
      const flags = ["--repair", "--format", "json", "--home", home.path];
      const { code, stdout } = await run(["check", ...flags], { under });
      expect(code).toBe(1);
      expect(JSON.parse(stdout)).toMatchObject({
        problems: [{ code: "stray-file", repair: "left", left: expect.stringContaining("input/output error") }],
        damage: 0,
        notes: 1,
        failure: "failed",
      });
      expect((await larderJson(home.path, ["check", "--repair"])).failure).toBeNull();
      expect(existsSync(stray)).toBe(false);
    });
  });

  test("exits with 0 where a note is left to who uses the file", async () => {
    using home = sound.copy();
    const stray = home.layer(`sha256:${"5".repeat(64)}`);
    writeFileSync(stray, "stray");
    home.age();
    using _ = FileLock.take(`${stray}.lock`);
    const report = await larderJson(home.path, ["check", "--repair"]);
    expect(report).toMatchObject({ damage: 0, notes: 1, failure: null });
    expect(report.problems[0]).toMatchObject({ code: "stray-file", repair: "left" });
    expect(existsSync(stray)).toBe(true);
  });

  test("twice equals once", async () => {
    using home = sound.copy();
    wreck(home);
    await larderJson(home.path, ["check", "--repair"], 5);
    const once = { rows: home.rows(), files: home.files() };
    const again = await larderJson(home.path, ["check", "--repair"], 5);
    expect({ rows: home.rows(), files: home.files() }).toEqual(once);
    expect(again.problems.filter(({ repair }: Described) => repair === "done")).toEqual([]);
  });

  test("tells of what it cannot mend why it is left", async () => {
    using home = sound.copy();
    rmSync(home.metadata("docker.io/library/one:1"));
    const { code, stdout } = await larder(home.path, "check", "--repair");
    expect(code).toBe(5);
    expect(stdout).toContain("\n        left: pull the image again, so that msb can save and boot it offline\n");
  });

  test("calls mended what a second look no longer finds, and nothing else", async () => {
    using home = sound.copy();
    // With its manifest row an image's config and junctions have a parent again; its time stays as it is.
    home.sql(
      `UPDATE image_ref SET created_at = '' WHERE reference = 'one:1'; DELETE FROM manifest WHERE digest = '${ONE}'`,
    );
    const report = await larderJson(home.path, ["check", "--repair"], 5);
    expect(report).toMatchObject({ damage: 1, notes: 0 });
    const fates = report.problems.map(({ code, repair }: Described) => `${code} ${repair}`);
    expect(new Set(fates)).toEqual(new Set(["foreign-key done", "timestamp-unreadable left"]));
    expect(fates).toHaveLength(6);
  });

  test("leaves files alone while a pull runs, and says which", async () => {
    using home = sound.copy();
    truncateSync(home.layer(OWN), 0);
    const path = join(home.cache, "manifests", `${"a".repeat(64)}.lock`);
    using _ = FileLock.take(path)!;
    const report = await larderJson(home.path, ["check", "--repair"], 5);
    expect(report.problems).toMatchObject([
      { code: "artifact-empty", repair: "left", left: `a pull or load is running ("${path}")` },
    ]);
    expect(existsSync(home.layer(OWN))).toBe(true);
  });

  test("leaves a disk alone while msb holds its lock", async () => {
    using home = sound.copy();
    const text = readFileSync(home.vmdk(ONE), "utf8").replaceAll(home.cache, "/srv/old");
    writeFileSync(home.vmdk(ONE), text);
    const path = `${home.fsmeta(ONE)}.lock`;
    using _ = FileLock.take(path)!;
    const report = await larderJson(home.path, ["check", "--repair"], 5);
    expect(report.problems).toMatchObject([
      { code: "vmdk-mislocated", repair: "left", left: `its lock is held ("${path}")` },
    ]);
    expect(readFileSync(home.vmdk(ONE), "utf8")).toBe(text);
  });

  const refusals: [name: string, spoil: (home: SoundHome) => void, advice: string][] = [
    ["nothing stands in the way", () => {}, "larder gc takes it once it is old enough"],
    [
      "the catalogue does not account for its cache",
      (home) => {
        const metadata = readFileSync(home.metadata("docker.io/library/one:1"), "utf8").replace(ONE, NOWHERE);
        writeFileSync(home.metadata("docker.io/library/other:1"), metadata);
      },
      "gc leaves it until the catalogue accounts for its cache",
    ],
    [
      "what is in use cannot be told",
      (home) => home.sql("INSERT INTO sandbox (name, config, status) VALUES ('web', '{', 'Stopped')"),
      "gc leaves it until it can be told what is in use",
    ],
    [
      "the row of a layer is lost",
      (home) => home.sql(`DELETE FROM layer WHERE diff_id = '${OWN}'`),
      "gc leaves it while an image lacks a layer on record",
    ],
    [
      "a diff ID is no digest",
      (home) => home.sql(`UPDATE layer SET diff_id = 'junk' WHERE diff_id = '${OWN}'`),
      "gc leaves it while an image lacks a layer on record",
    ],
    [
      "msb would wipe the catalogue",
      (home) => home.sql("DELETE FROM seaql_migrations"),
      "gc leaves it until the migration history is there",
    ],
    [
      "it is a folder",
      (home) => {
        rmSync(home.layer(NOWHERE));
        mkdirSync(home.layer(NOWHERE));
      },
      "gc leaves it while that is so",
    ],
  ];
  test.each(refusals)("promises of a stray what gc does where %s", async (_, spoil, advice) => {
    using home = sound.copy();
    writeFileSync(home.layer(NOWHERE), "stray");
    spoil(home);
    const { stdout } = await larder(home.path, "check", "--grace", "0s", "--format", "json");
    const stray = JSON.parse(stdout).problems.find(({ subject }: Described) => subject === home.layer(NOWHERE));
    expect(stray.advice).toBe(advice);
    await larder(home.path, "gc", "--grace", "0s");
    expect(existsSync(home.layer(NOWHERE))).toBe(!advice.startsWith("larder gc takes it"));
  });

  test("promises nothing of an untagged image while metadata names one that is not on record", async () => {
    using home = sound.copy();
    home.sql("DELETE FROM image_ref WHERE reference = 'two:1'");
    rmSync(home.metadata("docker.io/library/two:1"));
    const metadata = readFileSync(home.metadata("docker.io/library/one:1"), "utf8");
    writeFileSync(home.metadata("docker.io/library/one:1"), metadata.replace(ONE, NOWHERE));
    home.age();
    const { problems } = await larderJson(home.path, ["check"], 5);
    expect(problems.find(({ code }: Described) => code === "untagged-manifest").advice).toBe(
      "gc leaves it until the catalogue accounts for its cache",
    );
    expect((await larder(home.path, "gc")).code).toBe(5);
  });

  test("promises what gc does where layers are not mounted and no row is to go", async () => {
    using home = sound.copy();
    rmSync(join(home.cache, "layers"), { recursive: true });
    const stray = join(home.cache, "fsmeta", "stray");
    writeFileSync(stray, "stray");
    home.age();
    const { problems } = await larderJson(home.path, ["check"], 5);
    const found = problems.find(({ subject }: Described) => subject === stray);
    expect(found.advice).toBe("larder gc takes it once it is old enough");
    expect((await larder(home.path, "gc")).code).toBe(0);
    expect(existsSync(stray)).toBe(false);
  });

  test("promises nothing of the layers that a catalogue without images has left", async () => {
    using home = sound.copy();
    rmSync(join(home.cache, "manifests"), { recursive: true });
    rmSync(join(home.cache, "flat"), { recursive: true });
    for (const folder of ["vmdk", "fsmeta"]) rmSync(join(home.cache, folder), { recursive: true });
    home.sql("DELETE FROM image_ref; DELETE FROM config; DELETE FROM manifest_layer; DELETE FROM manifest");
    const { problems } = await larderJson(home.path, ["check"], 5);
    const orphans = problems.filter(({ code }: Described) => code === "layer-orphan");
    expect(new Set(orphans.map(adviceOf))).toEqual(
      new Set(["gc leaves it until the catalogue accounts for its cache"]),
    );
    expect((await larder(home.path, "gc")).code).toBe(5);
  });

  test("takes a stray at once with --grace 0s", async () => {
    using home = sound.copy();
    const stray = home.layer(NOWHERE);
    writeFileSync(stray, "stray");
    const young = await larderJson(home.path, ["check", "--repair"]);
    expect(young.problems).toMatchObject([{ code: "stray-file", repair: "left" }]);
    expect(existsSync(stray)).toBe(true);
    const old = await larderJson(home.path, ["check", "--repair", "--grace", "0s"]);
    expect(old.problems).toMatchObject([{ code: "stray-file", repair: "done" }]);
    expect(existsSync(stray)).toBe(false);
  });
});

describe.skipIf(!hasTool("strace"))("larder check --deep's progress", () => {
  // The bar is drawn after a second: the opening of one layer is made to take longer.
  const slow = (home: SoundHome) => [
    ...[Bun.which("strace")!, "-f", "-qq", "-o", "/dev/null", "-P", home.layer(OWN)],
    ...["-e", "trace=openat,open", "-e", "inject=openat,open:delay_enter=600000"],
  ];

  test("is drawn on a terminal, and gone at the end", async () => {
    const { code, screen } = await onTerminal(["check", "--deep", "--home", sound.path], { under: slow(sound) });
    expect(code).toBe(0);
    expect(screen).toMatch(/\rchecked [█░]{30} \d\/7/);
    expect(screen.lastIndexOf("\r\u001b[K")).toBeGreaterThan(screen.lastIndexOf("checked "));
    expect(screen).toContain("0 damaged, 0 notes");
  });

  test("is not drawn where standard error is no terminal", async () => {
    using folder = new TemporaryFolder();
    const errors = join(folder.path, "errors");
    const { code, screen } = await onTerminal(["check", "--deep", "--home", sound.path], {
      under: slow(sound),
      wiring: `2>${errors}`,
    });
    expect({ code, screen }).toEqual({ code: 0, screen: "0 damaged, 0 notes\n" });
    expect(readFileSync(errors, "utf8")).toBe(`database ${sound.database}, cache ${sound.cache}\n`);
  });

  test("is not drawn without --deep", async () => {
    const { screen } = await onTerminal(["check", "--home", sound.path], { under: slow(sound) });
    expect(screen).not.toContain("checked");
  });
});
