import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { larder, larderJson, run } from "../larder.ts";
import { Mounted, mountingRefused } from "../mount.ts";
import {
  at,
  digestOf,
  erofs,
  flatRefOf,
  HOSTILE_DIGESTS,
  holdLock,
  metadataOf,
  OLD,
  Store,
  stemOf,
  YOUNG,
} from "../store.ts";
import { hasTool } from "../tools.ts";

const KEPT = "docker.io/library/kept:1";
const LOST = "docker.io/library/lost:1";
/** A name that nobody has on record. */
const OTHER = "docker.io/library/other:1";

function makeKept(cache?: string): Promise<Store> {
  return Store.make({ kept: { references: [KEPT], layers: ["base", "top"], flat: "root of kept" } }, cache);
}

/** The image `kept`, and `lost`, which shares a layer and has no name any more. */
async function makeUntagged(): Promise<Store> {
  const store = await Store.make({
    kept: { references: [KEPT], layers: ["base", "top"], flat: "root of kept" },
    lost: { references: [LOST], layers: ["base", "own"], flat: "root of lost" },
  });
  untag(store);
  return store;
}

function untag(store: Store): void {
  store.sql("DELETE FROM image_ref WHERE reference = ?", LOST);
  rmSync(join(store.cache, at.metadata(LOST)));
}

/** A report's files, relative to the cache, sorted. */
function pathsOf(store: Store, files: { path: string }[]): string[] {
  return files.map(({ path }) => path.slice(store.cache.length + 1)).sort();
}

const long = `sha512_${"0123456789abcdef".repeat(8)}`;

/** Every kind of file that a cache is known to be left with. Folders end in a slash. */
const STRAYS: [kind: string, path: string, content?: string | Uint8Array][] = [
  ["metadata", at.metadata(OTHER), JSON.stringify(metadataOf("kept", ["base", "top"]))],
  ["metadata", at.metadata("garbage"), "{"],
  ["metadata", at.metadata("empty"), ""],
  ["staging", `${at.metadata(OTHER)}.part`],
  ["foreign", "manifests/notes.txt"],
  ["foreign", `manifests/${"A".repeat(64)}.json`],
  ["layer", at.layer("stray"), erofs("stray")],
  ["layer", `layers/${long}.erofs`],
  ["blob", `layers/${stemOf("blob of stray")}.tar.gz`],
  ["foreign", "layers/core.1234"],
  ["foreign", `layers/sha256_${"A".repeat(64)}.erofs`],
  ["foreign", `layers/${stemOf("base")}.erofs.bak`],
  ["foreign", `layers/${stemOf("kept")}.vmdk`],
  ["staging", `layers/${stemOf("stray")}.erofs.part`],
  ["fsmeta", at.fsmeta("stray"), erofs("stray")],
  ["foreign", "fsmeta/-rf"],
  ["vmdk", at.vmdk("stray")],
  ["foreign", "vmdk/a disk.vmdk"],
  ["flat_ref", at.flatRef("stray"), JSON.stringify(flatRefOf("stray", "root of stray"))],
  ["flat_ref", at.flatRef("garbage"), "garbage"],
  ["staging", `${at.flatRef("stray")}.part`],
  ["flat_blob", at.flatBlob("root of stray")],
  ["flat_blob", at.flatBlob("nobody's root")],
  ["foreign", "flat/blobs/.hidden"],
  ["staging", `tmp/${stemOf("blob of stray")}.part`],
  ["staging", `tmp/${stemOf("stray")}.work/`],
  ["staging", `tmp/${stemOf("stray")}.flat.work/`],
  ["staging", `tmp/${digestOf("stray")}.spool`],
  ["staging", `tmp/${stemOf("stray")}.spool`],
  ["staging", `tmp/${digestOf("stray")}.erofs.part`],
  ["staging", `tmp/${stemOf("stray")}.erofs.part`],
  ["staging", "tmp/load-0-4711-1.blob"],
  ["staging", "tmp/save-4711-1.layer.tar"],
  ["staging", "tmp/anything else"],
];

function writeStray(store: Store, [, path, content]: (typeof STRAYS)[number], age: number): void {
  if (path.endsWith("/")) store.write(`${path}deep/file`);
  else store.write(path, content);
  store.age(path, age);
}

describe("larder gc --dry-run of what a killed removal left", () => {
  test("promises nothing that a metadata file written just now still speaks for", async () => {
    using store = await Store.make({
      gone: { references: ["docker.io/library/gone:1"], layers: ["base", "own"] },
      kept: { references: ["docker.io/library/kept:1"], layers: ["base"] },
    });
    store.sql(`DELETE FROM image_ref WHERE manifest_id = 1`);
    for (const table of ["config", "manifest_layer"]) store.sql(`DELETE FROM ${table} WHERE manifest_id = 1`);
    store.sql("DELETE FROM manifest WHERE id = 1");
    store.write(at.metadata("docker.io/library/gone:1"), JSON.stringify(metadataOf("gone", ["base", "own"])), YOUNG);
    const plan = await larderJson(store.path, ["gc", "--dry-run"]);
    const done = await larderJson(store.path, ["gc"]);
    expect(done.files).toEqual([]);
    expect(done.skipped.map(({ kind }: { kind: string }) => kind).sort()).toEqual([
      "fsmeta",
      "layer",
      "metadata",
      "vmdk",
    ]);
    expect({ ...plan, dry_run: false }).toEqual(done);
  });
});

describe("larder gc", () => {
  test("finds nothing in a sound home", async () => {
    using store = await makeKept();
    const { code, stdout } = await larder(store.path, "gc", "--grace", "0s");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^reclaimed +0 +0 B$/m);
    expect(store.files()).toEqual(store.filesOf("kept"));
    expect(store.rows().manifests).toEqual(["kept"]);
  });

  test("collects untagged images with the layers that only they had", async () => {
    using store = await makeUntagged();
    const report = await larderJson(store.path, ["gc"]);
    const files = [
      ["vmdk", at.vmdk("lost")],
      ["fsmeta", at.fsmeta("lost")],
      ["flat_ref", at.flatRef("lost")],
      ["flat_blob", at.flatBlob("root of lost")],
      ["layer", at.layer("own")],
    ];
    expect(report).toEqual({
      manifests: [digestOf("lost")],
      layers: [digestOf("own")],
      unsafe: [],
      spared: [],
      unaccounted: null,
      database: store.database,
      cache: store.cache,
      dry_run: false,
      files: files.map(([kind, path]) => ({ kind, path: join(store.cache, path!), bytes: expect.any(Number) })),
      skipped: [],
      failed: [],
      bytes_reclaimed: expect.any(Number),
    });
    expect(store.rows()).toEqual({
      references: [KEPT],
      manifests: ["kept"],
      layers: ["base", "top"],
      configs: 1,
      junctions: 2,
    });
    expect(store.files()).toEqual(store.filesOf("kept"));
    expect(store.unsound()).toEqual([]);
  });

  test("prints counts and bytes by kind", async () => {
    using store = await makeUntagged();
    const { stdout } = await larder(store.path, "gc");
    expect(stdout).toMatch(/^untagged images +1 *$/m);
    expect(stdout).toMatch(/^layer rows +1 *$/m);
    expect(stdout).toMatch(/^layer files +1 +8\.0 KiB$/m);
    expect(stdout).toMatch(/^flat blob files +1 +\S+ \S+$/m);
    expect(stdout).toMatch(/^reclaimed +5 +\S+ \S+$/m);
  });

  test("collects orphan layers with their artifacts", async () => {
    using store = await makeKept();
    store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x'), (?, 'x')", digestOf("own"), digestOf("bare"));
    store.write(at.layer("own"), erofs("own"), YOUNG);
    const report = await larderJson(store.path, ["gc"]);
    expect(report.layers.sort()).toEqual([digestOf("own"), digestOf("bare")].sort());
    expect(store.files()).toEqual(store.filesOf("kept"));
    expect(store.rows().layers).toEqual(["base", "top"]);
  });

  test("collects orphan layers alone with --layers-only", async () => {
    using store = await makeUntagged();
    store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("orphan"));
    store.write(at.layer("orphan"));
    store.write(at.layer("stray"));
    store.write("tmp/junk");
    const report = await larderJson(store.path, ["gc", "--layers-only"]);
    expect([report.layers, report.manifests]).toEqual([[digestOf("orphan")], []]);
    expect(pathsOf(store, report.files)).toEqual([at.layer("orphan")]);
    expect(store.rows()).toMatchObject({ manifests: ["kept", "lost"], layers: ["base", "own", "top"] });
    expect(store.has(at.layer("stray"))).toBe(true);
    expect(store.has("tmp/junk")).toBe(true);
  });

  test("sweeps every kind of stray file that is old, and nothing else", async () => {
    using store = await makeKept();
    for (const stray of STRAYS) writeStray(store, stray, OLD);
    const report = await larderJson(store.path, ["gc"]);
    const swept = report.files.map(({ kind, path }: { kind: string; path: string }) => [
      kind,
      path.slice(store.cache.length + 1),
    ]);
    expect(swept.sort()).toEqual(STRAYS.map(([kind, path]) => [kind, path.replace(/\/$/, "")]).sort());
    expect(report.skipped).toEqual([]);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("leaves every kind of stray file that is young, and says so", async () => {
    using store = await makeKept();
    for (const stray of STRAYS) writeStray(store, stray, YOUNG);
    const files = store.files();
    const report = await larderJson(store.path, ["gc"]);
    expect(report.files).toEqual([]);
    expect(pathsOf(store, report.skipped)).toEqual(STRAYS.map(([, path]) => path.replace(/\/$/, "")).sort());
    for (const { reason } of report.skipped) expect(reason).toContain("younger than the grace period");
    expect(store.files()).toEqual(files);
    expect((await larder(store.path, "gc", "--grace", "0s")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test.each([
    ["3h", 2, true],
    ["1h", 2, false],
    ["1d", 25, false],
    ["0s", 0, false],
  ])("with --grace %s treats a file %d hours old as young: %p", async (grace, hours, stays) => {
    using store = await makeKept();
    store.write(at.layer("stray"), "junk", hours * 3_600_000);
    expect((await larder(store.path, "gc", "--grace", grace)).code).toBe(0);
    expect(store.has(at.layer("stray"))).toBe(stays);
  });

  test("takes a file of the future for a young one, unless there is no grace", async () => {
    using store = await makeKept();
    const scratch = "tmp/load-0-1-0.blob";
    for (const path of [at.layer("stray"), scratch]) store.write(path, "junk", -OLD);
    const report = await larderJson(store.path, ["gc", "--grace", "1s"]);
    expect(pathsOf(store, report.skipped)).toEqual([at.layer("stray"), scratch]);
    expect(report.skipped[0].reason).toContain("dated in the future");
    expect(pathsOf(store, (await larderJson(store.path, ["gc", "--grace", "0s"])).files)).toEqual([
      at.layer("stray"),
      scratch,
    ]);
  });

  test("refuses a grace that is no duration before it opens anything", async () => {
    using store = await makeKept();
    store.write(at.layer("stray"));
    const before = store.fingerprint();
    expect(await larder(store.path, "gc", "--grace", "-1s")).toMatchObject({ code: 2 });
    expect(await larder(store.path, "gc", "--grace", "1")).toMatchObject({ code: 2 });
    expect(store.fingerprint()).toEqual(before);
  });

  test("keeps a stray blob for as long as any ref needs it", async () => {
    using store = await Store.make({
      kept: { references: [KEPT], layers: ["base"], flat: "shared" },
      lost: { references: [LOST], layers: ["own"], flat: "shared" },
    });
    untag(store);
    await larderJson(store.path, ["gc"]);
    expect(store.files()).toEqual(store.filesOf("kept"));
    store.sql("DELETE FROM image_ref");
    rmSync(join(store.cache, at.metadata(KEPT)));
    await larderJson(store.path, ["gc"]);
    expect(store.files()).toEqual([]);
  });

  test("plans to keep the blob of a flat ref that is itself too young to go", async () => {
    using store = await makeKept();
    store.write(at.flatRef("stray"), JSON.stringify(flatRefOf("stray", "root of stray")), YOUNG);
    store.write(at.flatBlob("root of stray"));
    const plan = await larderJson(store.path, ["gc", "--dry-run"]);
    const report = await larderJson(store.path, ["gc"]);
    expect(store.has(at.flatBlob("root of stray"))).toBe(true);
    expect(report).toEqual({ ...plan, dry_run: false });
  });

  /** A home with some of everything that gc knows. */
  async function makeMess(): Promise<Store> {
    const store = await makeUntagged();
    for (const stray of STRAYS.slice(0, 20)) writeStray(store, stray, OLD);
    for (const stray of STRAYS.slice(21, 24)) writeStray(store, stray, YOUNG);
    for (const orphan of ["orphan", "another", "third"]) {
      store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf(orphan));
      store.write(at.layer(orphan));
    }
    store.write("layers/folder/file");
    symlinkSync("/etc", join(store.cache, "layers/link"));
    store.age("layers/link", OLD);
    store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES ('../x:y', 'x')");
    return store;
  }

  test.each([
    ["all", []],
    ["a longer grace", ["--grace", "2h"]],
    ["none", ["--grace", "0s"]],
    ["orphan layers", ["--layers-only"]],
  ])("prints with --dry-run what the same command then does, and writes nothing: %s", async (_, flags) => {
    using store = await makeMess();
    // Held open, as a running msb has it: SQLite then need not make its files anew, even to read.
    using _larder = store.open();
    const before = store.fingerprint();
    const files = store.files();
    const plan = await larderJson(store.path, ["gc", "--dry-run", ...flags]);
    expect(store.fingerprint()).toEqual(before);
    const report = await larderJson(store.path, ["gc", ...flags]);
    expect(plan.dry_run).toBe(true);
    expect(report).toEqual({ ...plan, dry_run: false });
    const left = store.files();
    const gone = files.filter((path) => !left.includes(path) && !path.endsWith("/"));
    expect(pathsOf(store, plan.files)).toEqual(gone);
  });

  test.if(hasTool("strace")).each([[["gc"]], [["rm", KEPT]]])(
    "opens nothing in the home for writing with --dry-run: %p",
    async (args) => {
      using store = await makeMess();
      const trace = join(store.path, "trace");
      const under = ["strace", "-f", "-o", trace, "-e", "trace=%file,ftruncate,fchown,fchmod"];
      const { code } = await run([...args, "--dry-run", "--home", store.path], { under });
      expect(code).toBe(0);
      const calls = readFileSync(trace, "utf8")
        .split("\n")
        .filter((line) => line.includes(`"${store.path}/`));
      expect(calls.some((line) => line.includes(`"${store.database}", O_RDONLY`))).toBe(true);
      // SQLite's readers meet in a shared memory file, and find their log: both are made where they are missing.
      const writes = calls.filter(
        (line) =>
          /O_RDWR|O_WRONLY|O_CREAT|unlink|rename|mkdir|rmdir|link\(|chmod|chown|utime|truncate/.test(line) &&
          !/msb\.db-(wal|shm)"/.test(line) &&
          !/readlink/.test(line),
      );
      expect(writes).toEqual([]);
    },
  );

  test("deletes nothing while an image lacks the row of a layer, whose file would look like nobody's", async () => {
    using store = await makeKept();
    {
      // As a tool does that leaves foreign keys off.
      using db = new Database(store.database);
      db.query("DELETE FROM layer WHERE diff_id = ?").run(digestOf("base"));
    }
    const files = store.files();
    for (const args of [["gc"], ["gc", "--dry-run"], ["prune", "--unused", "--min-age", "0s"]]) {
      const { code, stderr } = await larder(store.path, ...args);
      expect(code).toBe(5);
      expect(stderr).toContain("check --repair");
    }
    expect(store.files()).toEqual(files);
  });

  test("has nothing left to do the second time", async () => {
    using store = await makeMess();
    const first = await larderJson(store.path, ["gc"]);
    const second = await larderJson(store.path, ["gc"]);
    expect(second).toMatchObject({ manifests: [], layers: [], files: [], failed: [] });
    expect(second.skipped).toEqual(first.skipped);
    expect(store.unsound()).toEqual([]);
  });

  const held: [what: string, lock: string, everything: boolean][] = [
    ["a layer's build", at.layerLock("stray"), false],
    ["a stitch", at.fsmetaLock("stray"), true],
    ["a pull", at.metadataLock(OTHER), true],
    ["a download", at.downloadLock("blob of stray"), true],
    ["a flattening", at.flatLock("root of stray"), true],
  ];

  test.each(held)("leaves what %s may need, says so, and takes it the next time", async (_, lock, everything) => {
    using store = await makeKept();
    const mine = [at.layer("stray"), `tmp/${stemOf("stray")}.spool`];
    const others = [at.layer("another"), at.fsmeta("stray"), "tmp/junk", at.flatBlob("root of stray")];
    for (const path of [...mine, ...others]) store.write(path);
    {
      await using _ = await holdLock(join(store.cache, lock));
      const report = await larderJson(store.path, ["gc"]);
      const left = everything ? [...mine, ...others] : mine;
      expect(pathsOf(store, report.skipped)).toEqual(left.sort());
      expect(store.files()).toEqual([...store.filesOf("kept"), ...left].sort());
      expect(report.skipped[0].reason).toContain(lock);
    }
    expect((await larderJson(store.path, ["gc"])).skipped).toEqual([]);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test.each([
    ["a load", "tmp/load-1-4711-0.blob"],
    ["a stitch", `tmp/${stemOf("another")}.work/part`],
    ["a flattening", `tmp/${stemOf("another")}.flat.work/part`],
  ])("leaves everything while the scratch of %s is young", async (_, scratch) => {
    using store = await makeUntagged();
    store.write(at.layer("stray"));
    store.write(scratch, "part", YOUNG);
    const top = scratch.split("/").slice(0, 2).join("/");
    store.age(top, YOUNG);
    const before = store.files();
    const report = await larderJson(store.path, ["gc"]);
    expect(report.files).toEqual([]);
    expect(report.manifests).toEqual([digestOf("lost")]);
    expect(store.files()).toEqual(before);
    expect(pathsOf(store, report.skipped)).toContain(at.layer("own"));
    store.age(top, OLD);
    expect((await larderJson(store.path, ["gc"])).skipped).toEqual([]);
    expect(store.files()).toEqual(store.filesOf("kept"));
  });

  test("is not held up by the scratch of a save, or by another file that is young", async () => {
    using store = await makeKept();
    store.write(at.layer("stray"));
    store.write("tmp/save-4711-0.layer.tar", "part", YOUNG);
    store.write(`tmp/${stemOf("blob")}.part`, "part", YOUNG);
    await larderJson(store.path, ["gc"]);
    expect(store.has(at.layer("stray"))).toBe(false);
  });

  test("never unlinks a lock file, of whatever age and wherever", async () => {
    using store = await makeKept();
    const locks = [
      at.metadataLock(OTHER),
      at.layerLock("stray"),
      at.fsmetaLock("stray"),
      `vmdk/${stemOf("stray")}.vmdk.lock`,
      at.flatLock("root of stray"),
      at.downloadLock("blob of stray"),
      "tmp/odd.lock",
      "flat/refs/odd.lock",
      "flat/blobs/odd.lock",
    ];
    for (const lock of locks) store.write(lock, "");
    store.write(at.layer("stray"));
    store.write(at.fsmeta("stray"));
    const inodes = () => locks.map((lock) => lstatSync(join(store.cache, lock)).ino);
    const before = inodes();
    const report = await larderJson(store.path, ["gc", "--grace", "0s"]);
    expect(pathsOf(store, report.files)).toEqual([at.fsmeta("stray"), at.layer("stray")]);
    expect(inodes()).toEqual(before);
    expect(store.locks()).toEqual(locks.sort());
  });

  test("plans and does the same while a pull runs", async () => {
    using store = await makeKept();
    store.write(at.layer("stray"));
    await using _ = await holdLock(join(store.cache, at.downloadLock("of a pull")));
    const plan = await larderJson(store.path, ["gc", "-n"]);
    expect(pathsOf(store, plan.skipped)).toEqual([at.layer("stray")]);
    expect(await larderJson(store.path, ["gc"])).toEqual({ ...plan, dry_run: false });
  });

  test("keeps what a young metadata file names whose image is not on record yet", async () => {
    using store = await makeKept();
    // As msb works: artifacts first (here found in the cache, hence old), the file, and only then the rows.
    const coming = [at.layer("one"), at.layer("two"), at.fsmeta("coming"), at.vmdk("coming"), at.flatRef("coming")];
    for (const path of coming) store.write(path);
    store.write(at.metadata(OTHER), JSON.stringify(metadataOf("coming", ["one", "two"])), YOUNG);
    store.write(at.layer("stray"));
    const report = await larderJson(store.path, ["gc"]);
    expect(pathsOf(store, report.files)).toEqual([at.layer("stray")]);
    expect(pathsOf(store, report.skipped)).toEqual([...coming, at.metadata(OTHER)].sort());
    expect(store.files()).toEqual([...store.filesOf("kept"), ...coming, at.metadata(OTHER)].sort());
  });

  test("keeps no layer for a young metadata file whose image is on record", async () => {
    using store = await makeKept();
    store.write(at.metadata(OTHER), JSON.stringify(metadataOf("kept", ["base", "stray"])), YOUNG);
    store.write(at.layer("stray"));
    await larderJson(store.path, ["gc"]);
    expect(store.has(at.layer("stray"))).toBe(false);
  });

  describe("where the catalogue does not account for the cache", () => {
    const triggers: [what: string, lose: (store: Store) => void][] = [
      [
        "no manifest is on record",
        (store) => {
          for (const table of ["image_ref", "config", "manifest_layer", "manifest", "layer"])
            store.sql(`DELETE FROM ${table}`);
        },
      ],
      [
        "an older metadata file names an image that is not on record",
        (store) => {
          store.write(at.metadata(OTHER), JSON.stringify(metadataOf("elsewhere", ["far"])));
          store.write(at.layer("far"));
        },
      ],
      [
        "an older metadata file in another style names one",
        (store) => {
          store.write(at.metadata(OTHER), JSON.stringify(metadataOf("elsewhere", ["far"]), null, 1));
          store.write(at.layer("far"));
        },
      ],
    ];

    test.each(triggers)("sweeps tmp/ only, and exits with 5: %s", async (_, lose) => {
      using store = await makeUntagged();
      store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("orphan"));
      lose(store);
      const [rows, files] = [store.rows(), store.files()];
      for (const path of ["tmp/junk", "tmp/load-0-1-2.blob"]) store.write(path);
      store.write(`tmp/${stemOf("x")}.work/part`);
      store.age(`tmp/${stemOf("x")}.work`, OLD);
      for (const flags of [[], ["--grace", "30m"], ["--layers-only"]]) {
        const outcome = await larder(store.path, "gc", "--dry-run", ...flags);
        // With orphan layers alone in question there may be nothing to sweep.
        if (flags[0] !== "--layers-only") expect(outcome.code).toBe(5);
      }
      const { code, stderr } = await larder(store.path, "gc");
      expect(code).toBe(5);
      expect(stderr).toContain("does not account for its cache");
      expect(stderr).toContain("--sweep-unrecorded");
      expect(store.rows()).toEqual(rows);
      expect(store.files()).toEqual(files);

      const plan = await larderJson(store.path, ["gc", "--dry-run", "--sweep-unrecorded"]);
      const report = await larderJson(store.path, ["gc", "--sweep-unrecorded"]);
      expect(report).toEqual({ ...plan, dry_run: false });
      expect(store.files()).toEqual(rows.manifests.length > 0 ? store.filesOf("kept") : []);
    });

    test("says in JSON why, and which files it took", async () => {
      using store = await makeUntagged();
      store.write(at.metadata(OTHER), JSON.stringify(metadataOf("elsewhere", ["far"])));
      store.write("tmp/junk");
      const report = await larderJson(store.path, ["gc"], 5);
      expect(report).toMatchObject({ manifests: [], layers: [] });
      expect(report.unaccounted).toContain(at.metadata(OTHER));
      expect(report.unaccounted).toContain(digestOf("elsewhere"));
      expect(pathsOf(store, report.files)).toEqual(["tmp/junk"]);
    });

    test("keeps the artifact of an orphan layer with --layers-only, too", async () => {
      using store = await makeKept();
      store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("orphan"));
      store.write(at.layer("orphan"));
      store.write(at.metadata(OTHER), JSON.stringify(metadataOf("elsewhere", ["orphan"])));
      expect(await larder(store.path, "gc", "--layers-only")).toMatchObject({ code: 5 });
      expect(store.has(at.layer("orphan"))).toBe(true);
      expect(store.rows().layers).toContain(digestOf("orphan"));
    });

    test("touches nothing where there is no database, and makes none", async () => {
      using store = await makeKept();
      rmSync(join(store.path, "db"), { recursive: true });
      store.write("tmp/load-1-1-1.blob", "scratch");
      const before = store.fingerprint();
      for (const flags of [[], ["--dry-run"], ["--layers-only"]]) {
        const { code, stdout, stderr } = await larder(store.path, "gc", ...flags);
        expect([code, stdout]).toEqual([5, ""]);
        expect(stderr).toContain(store.database);
      }
      expect(store.fingerprint()).toEqual(before);
    });

    test("sweeps it all where there is no database, if that is asked for", async () => {
      using store = await makeKept();
      rmSync(join(store.path, "db"), { recursive: true });
      const plan = await larderJson(store.path, ["gc", "--sweep-unrecorded", "--dry-run"]);
      expect(existsSync(store.database)).toBe(false);
      const { files } = await larderJson(store.path, ["gc", "--sweep-unrecorded"]);
      expect(pathsOf(store, files)).toEqual(pathsOf(store, plan.files));
      expect(store.files()).toEqual([]);
    });

    test("has nothing to collect in a home without database and cache", async () => {
      using store = await Store.make();
      const before = store.fingerprint();
      const { code, stdout, stderr } = await larder(store.path, "gc", "--format", "json");
      expect([code, stderr]).toEqual([0, expect.stringContaining("Nothing to collect")]);
      expect(JSON.parse(stdout)).toMatchObject({ manifests: [], layers: [], files: [], dry_run: false });
      expect(store.fingerprint()).toEqual(before);
    });

    const sound: [what: string, prepare: (store: Store) => void][] = [
      ["a metadata file that cannot be read", (store) => void store.write(at.metadata(OTHER), '{"manifest_digest":1}')],
      [
        "a name that was removed, its image on record",
        (store) => void store.write(at.metadata(OTHER), JSON.stringify(metadataOf("kept", ["base"]))),
      ],
      [
        "a link to a metadata file elsewhere",
        (store) => {
          const outside = join(store.path, "outside.json");
          writeFileSync(outside, JSON.stringify(metadataOf("elsewhere", ["far"])));
          symlinkSync(outside, join(store.cache, at.metadata(OTHER)));
          store.age(at.metadata(OTHER), OLD);
        },
      ],
    ];

    test.each(sound)("is not taken in by %s", async (_, prepare) => {
      using store = await makeKept();
      prepare(store);
      store.write(at.layer("stray"));
      expect((await larder(store.path, "gc")).code).toBe(0);
      expect(store.files()).toEqual(store.filesOf("kept"));
    });

    test("sweeps tmp/ without a word where nothing else is to be swept", async () => {
      using store = await makeKept();
      store.sql("DELETE FROM image_ref");
      rmSync(join(store.cache, at.metadata(KEPT)));
      await larderJson(store.path, ["gc"]);
      store.write("tmp/junk");
      expect(store.rows().manifests).toEqual([]);
      expect((await larder(store.path, "gc")).code).toBe(0);
      expect(store.files()).toEqual([]);
    });
  });

  describe("links and folders", () => {
    const links = [
      at.metadata(OTHER),
      `${at.metadata(OTHER)}.part`,
      at.layer("stray"),
      at.fsmeta("stray"),
      at.vmdk("stray"),
      at.flatRef("stray"),
      at.flatBlob("stray"),
      `layers/${stemOf("blob")}.tar.gz`,
      `tmp/${stemOf("stray")}.work`,
      "tmp/load-0-1-2.blob",
      "layers/foreign",
    ];

    test.each(["file", "folder"])("are removed where they are strays, and a %s behind them stays", async (what) => {
      using store = await makeKept();
      const outside = join(store.path, "outside");
      await Bun.write(join(outside, "canary"), "canary");
      const target = what === "file" ? join(outside, "canary") : outside;
      for (const link of links) {
        symlinkSync(target, join(store.cache, link));
        store.age(link, OLD);
      }
      const report = await larderJson(store.path, ["gc"]);
      expect(pathsOf(store, report.files)).toEqual(links.sort());
      expect(readFileSync(join(outside, "canary"), "utf8")).toBe("canary");
      expect(store.files()).toEqual(store.filesOf("kept"));
    });

    test("inside scratch folders are not followed", async () => {
      using store = await makeKept();
      const outside = join(store.path, "outside");
      await Bun.write(join(outside, "canary"), "canary");
      const work = `tmp/${stemOf("stray")}.work`;
      store.write(`${work}/deep/part`);
      symlinkSync(outside, join(store.cache, work, "deep", "link"));
      store.age(work, OLD);
      await larderJson(store.path, ["gc"]);
      expect(store.files()).toEqual(store.filesOf("kept"));
      expect(readFileSync(join(outside, "canary"), "utf8")).toBe("canary");
    });

    test.each(["manifests", "layers", "fsmeta", "vmdk", "flat/refs", "flat/blobs", "flat", "tmp"])(
      "in place of %s lead to no sweep elsewhere, and are reported",
      async (folder) => {
        using store = await makeKept();
        const canaries = ["canary", "refs/canary", "blobs/canary"].map((name) => join(store.path, "outside", name));
        for (const canary of canaries) {
          await Bun.write(canary, "canary");
          utimesSync(canary, 0, 0);
        }
        rmSync(join(store.cache, folder), { recursive: true });
        symlinkSync(join(store.path, "outside"), join(store.cache, folder));
        const report = await larderJson(store.path, ["gc", "--sweep-unrecorded"]);
        for (const canary of canaries) expect(readFileSync(canary, "utf8")).toBe("canary");
        expect(lstatSync(join(store.cache, folder)).isSymbolicLink()).toBe(true);
        const reported = folder === "flat" ? ["flat/blobs", "flat/refs"] : [folder];
        expect(pathsOf(store, report.skipped)).toEqual(expect.arrayContaining(reported));
      },
    );

    const refusal = mountingRefused();

    describe.skipIf(refusal !== undefined)(`mounts${refusal ? ` (${refusal})` : ""}`, () => {
      test.each(["tmp/inspect", "tmp/load-0-1-2/deep/down"])(
        "at %s keep what is on them, and their folder",
        async (folder) => {
          using store = await makeKept();
          const outside = join(store.path, "outside");
          await Bun.write(join(outside, "canary"), "canary");
          utimesSync(outside, 0, 0);
          mkdirSync(join(store.cache, folder), { recursive: true });
          const scratch = folder.split("/", 2).join("/");
          store.age(scratch, OLD);
          store.write("tmp/junk");
          using _ = new Mounted(join(store.cache, folder), "--bind", outside);
          for (const extra of [["-n"], []]) {
            const report = await larderJson(store.path, ["gc", ...extra]);
            expect(pathsOf(store, report.files)).toEqual(["tmp/junk"]);
            expect(report.skipped).toEqual([
              { kind: "staging", path: join(store.cache, scratch), reason: "a file system is mounted in it" },
            ]);
          }
          await larder(store.path, "check", "--repair");
          expect(readFileSync(join(outside, "canary"), "utf8")).toBe("canary");
        },
      );

      test.each(["layers", "flat"])("of another home's %s lead to no sweep there, and are reported", async (folder) => {
        using store = await makeKept();
        using other = await makeKept();
        const strays = [at.layer("stray"), at.flatBlob("stray")];
        for (const stray of strays) other.write(stray);
        using _ = new Mounted(join(store.cache, folder), "--bind", join(other.cache, folder));
        const report = await larderJson(store.path, ["gc"]);
        expect(report.files).toEqual([]);
        expect(report.skipped[0]).toMatchObject({ reason: expect.stringContaining("is mounted from another folder") });
        expect(other.files()).toEqual([...other.filesOf("kept"), ...strays].sort());
      });

      test("of a whole file system are a part of the cache", async () => {
        using store = await makeKept();
        using _ = new Mounted(join(store.cache, "layers"), "-t", "tmpfs", "tmpfs");
        store.write(at.layer("stray"));
        expect(pathsOf(store, (await larderJson(store.path, ["gc"])).files)).toEqual([at.layer("stray")]);
      });

      test("of the cache itself are the cache", async () => {
        using store = await makeKept();
        store.write(at.layer("stray"));
        using _ = new Mounted(store.cache, "--bind", store.cache);
        expect(pathsOf(store, (await larderJson(store.path, ["gc"])).files)).toEqual([at.layer("stray")]);
      });
    });

    test("a cache that is a link is the cache", async () => {
      using store = await makeKept();
      await Bun.$`mv ${store.cache} ${join(store.path, "disk")} && ln -s disk ${store.cache}`.quiet();
      store.write(at.layer("stray"));
      await larderJson(store.path, ["gc"]);
      expect(store.files()).toEqual(store.filesOf("kept"));
    });

    test("folders where files belong are left and reported", async () => {
      using store = await makeKept();
      const folders = [
        at.metadata(OTHER),
        `${at.metadata(OTHER)}.part`,
        at.layer("stray"),
        at.fsmeta("stray"),
        at.vmdk("stray"),
        at.flatRef("stray"),
        at.flatBlob("stray"),
        "layers/subfolder",
        "layers/subfolder.part",
      ];
      for (const folder of folders) {
        store.write(`${folder}/file`);
        store.age(folder, OLD);
      }
      const before = store.files();
      const report = await larderJson(store.path, ["gc", "--grace", "0s"]);
      expect(report.files).toEqual([]);
      expect(pathsOf(store, report.skipped)).toEqual(folders.sort());
      for (const { reason } of report.skipped) expect(reason).toContain("folder");
      expect(store.files()).toEqual(before);
    });

    test("pipes are swept as any stray, and none is waited for", async () => {
      using store = await makeKept();
      const pipes = [at.metadata(OTHER), at.flatRef("stray"), at.layer("stray"), "tmp/load-0-1-2.blob"];
      for (const pipe of [...pipes, at.metadataLock(OTHER), at.downloadLock("stray")]) {
        await Bun.$`mkfifo ${join(store.cache, pipe)}`.quiet();
        store.age(pipe, OLD);
      }
      await larderJson(store.path, ["gc"]);
      expect(store.files()).toEqual(store.filesOf("kept"));
      expect(store.locks()).toContain(at.downloadLock("stray"));
    });
  });

  test.each(HOSTILE_DIGESTS)(
    "leaves and reports rows whose digest holds %s, and collects the others",
    async (_, digest) => {
      using store = await makeUntagged();
      const canaries = ["canary_x.erofs", "canary_x.vmdk", "canary_x.json"].flatMap((name) => [
        join(store.path, name),
        join(store.cache, name),
      ]);
      for (const canary of canaries) writeFileSync(canary, "canary");
      store.sql("INSERT INTO manifest (digest) VALUES (?)", digest);
      store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digest);
      const report = await larderJson(store.path, ["gc"]);
      const shown = JSON.stringify(digest.slice(0, 100));
      expect(report.unsafe).toEqual([`manifest ${shown}`, `layer ${shown}`]);
      expect(report.manifests).toEqual([digestOf("lost")]);
      for (const canary of canaries) expect(readFileSync(canary, "utf8")).toBe("canary");
      expect(store.rows()).toMatchObject({
        manifests: [digest, "kept"].sort(),
        layers: [digest, "base", "top"].sort(),
      });
      const { stderr } = await larder(store.path, "gc");
      expect(stderr.match(/^left (manifest|layer) .*: it is no digest$/gm)).toHaveLength(2);
      expect(stderr).not.toContain("\0");
    },
  );

  test("reports at once a layer row without a digest that an untagged image leaves", async () => {
    using store = await makeUntagged();
    store.sql("UPDATE layer SET diff_id = 'a/../b:x' WHERE diff_id = ?", digestOf("own"));
    const plan = await larderJson(store.path, ["gc", "--dry-run"]);
    const report = await larderJson(store.path, ["gc"]);
    expect(report.unsafe).toEqual(['layer "a/../b:x"']);
    expect(report).toEqual({ ...plan, dry_run: false });
    expect(store.rows().layers).toEqual(["a/../b:x", "base", "top"]);
  });

  test("keeps going when the system refuses a file, and exits with 1", async () => {
    using store = await makeKept();
    store.write(at.layer("stray"));
    store.write(at.fsmeta("stray"));
    store.write("tmp/junk");
    const layers = join(store.cache, "layers");
    chmodSync(layers, 0o555);
    const under = store.asNobody();
    const { code, stderr, stdout } = await run(["gc", "--format", "json", "--home", store.path], { under });
    chmodSync(layers, 0o755);
    expect(code).toBe(1);
    expect(stderr).toContain(`"${join(layers, stemOf("stray"))}.erofs.lock": permission denied`);
    expect(pathsOf(store, JSON.parse(stdout).failed)).toEqual([at.layer("stray")]);
    expect(store.files()).toEqual([...store.filesOf("kept"), at.layer("stray")].sort());
  });

  test("acts on the cache that config.json names", async () => {
    using store = await makeKept("elsewhere/images");
    const decoy = join(store.path, "cache", at.layer("stray"));
    await Bun.write(decoy, "decoy");
    utimesSync(decoy, 0, 0);
    store.write(at.layer("stray"));
    const report = await larderJson(store.path, ["gc"]);
    expect(report.cache).toBe(store.cache);
    expect(store.files()).toEqual(store.filesOf("kept"));
    expect(await Bun.file(decoy).text()).toBe("decoy");
  });

  test("gives the locks that it makes to the owner of their folder", async () => {
    using store = await makeKept();
    const root = process.geteuid?.() === 0;
    for (const path of [at.layer("stray"), at.vmdk("stray"), `layers/${stemOf("blob")}.tar.gz`]) store.write(path);
    store.write(at.flatRef("stray"), JSON.stringify(flatRefOf("stray", "root of stray")));
    rmSync(join(store.cache, "flat/locks"), { recursive: true });
    if (root) store.give(12345);
    await larderJson(store.path, ["gc"]);
    expect(store.locks()).toEqual(
      [at.layerLock("stray"), at.fsmetaLock("stray"), at.downloadLock("blob"), at.flatLock("root of stray")].sort(),
    );
    for (const path of [...store.locks(), "flat/locks"]) {
      const { uid, gid, mode } = lstatSync(join(store.cache, path));
      expect([uid, gid]).toEqual(root ? [12345, 12345] : [process.getuid!(), process.getgid!()]);
      if (path.endsWith(".lock")) expect(mode & 0o777).toBe(0o600);
    }
  });

  test("does not follow a link where a lock belongs", async () => {
    using store = await makeKept();
    const outside = join(store.path, "outside");
    store.write(at.layer("stray"));
    symlinkSync(outside, join(store.cache, at.layerLock("stray")));
    const { code, stderr } = await larder(store.path, "gc");
    expect(code).toBe(1);
    expect(stderr).toContain(at.layerLock("stray"));
    expect(store.has(at.layer("stray"))).toBe(true);
    expect(await Bun.file(outside).exists()).toBe(false);
  });

  test("gives up with 75 while another process writes, and deletes nothing", async () => {
    using untagged = await makeUntagged();
    using strays = await makeKept();
    strays.write(at.layer("stray"));
    const files = strays.files();
    const rows = untagged.rows();
    await Promise.all(
      [untagged, strays].map(async (store) => {
        using other = store.open();
        other.db.run("BEGIN IMMEDIATE");
        const { code, stdout, stderr } = await larder(store.path, "gc");
        expect([code, stdout, stderr]).toEqual([75, "", expect.stringContaining("another process is writing")]);
        other.db.run("ROLLBACK");
      }),
    );
    expect(untagged.rows()).toEqual(rows);
    expect(untagged.files()).toEqual(untagged.filesOf("kept", "lost").filter((path) => path !== at.metadata(LOST)));
    expect(strays.files()).toEqual(files);
  });
});
