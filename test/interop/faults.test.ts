import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { build, digestOf, type ImageSpec, type LayerSpec, noise } from "./archive.ts";
import {
  addSandbox,
  age,
  artifactsOf,
  change,
  filesOf,
  indexSnapshot,
  keyOf,
  layerFile,
  lengthOf,
  openCatalogue,
  plant,
  problems,
  readFiles,
  readLocks,
  readRows,
  rowsOf,
  select,
  writeSnapshot,
} from "./home.ts";
import { metadataOf } from "./metadata.ts";
import { load, msb, msbJson } from "./msb.ts";
import { serveRegistry } from "./registry.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

// What msb gets wrong on a home, and what larder does there instead. Where it is cheap, msb's own answer comes first:
// if a later msb mends it, the test says so.

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 9000) } };
const WEB: ImageSpec = { tags: ["web:v1"], layers: [BASE, { files: { web: "1" } }] };
const JOB: ImageSpec = { tags: ["job:v1"], layers: [BASE, { files: { job: "1" } }] };

/** A home with these images in it, gone at the end of the block. */
async function homeWith(...images: ImageSpec[]): Promise<TemporaryFolder> {
  const folder = new TemporaryFolder();
  await load(folder.path, images);
  return folder;
}

function metadataFile(tag: string): string {
  return `manifests/${keyOf(tag)}.json`;
}

describe("an image in use", () => {
  test("loses its last name by force and keeps its data, where msb fails on a foreign key", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    addSandbox(home, "web-1", WEB);
    const theirs = await msb(home, "image", "rm", "-f", "web:v1");
    expect(theirs).toMatchObject({ code: 1, stderr: expect.stringContaining("FOREIGN KEY constraint failed") });
    expect(readRows(home)).toEqual(rowsOf([WEB, JOB]));

    const refused = await larder(home, "rm", "web:v1");
    expect(refused).toMatchObject({ code: 4, stdout: "" });
    expect(refused.stderr).toContain('cannot remove "web:v1": in use by sandbox "web-1"');
    expect(readRows(home)).toEqual(rowsOf([WEB, JOB]));
    expect(readFiles(home)).toEqual(filesOf([WEB, JOB]));

    const { digest } = build(WEB).manifest;
    const report = await larderJson(home, ["rm", "--force", "web:v1"]);
    expect(report.untagged).toEqual([{ digest, pinned_by: [{ kind: "sandbox", name: "web-1" }] }]);
    expect(readRows(home)).toEqual(rowsOf([JOB], [WEB]));
    expect(readFiles(home)).toEqual(filesOf([JOB], [WEB]));
    expect(problems(home)).toEqual([]);
    expect(await larderJson(home, ["list", "--filter", "pinned=true", "-a"])).toMatchObject([
      { reference: null, digest },
    ]);
    // Its data goes once nothing needs it.
    change(home, "DELETE FROM sandbox");
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf([JOB]));
    expect(readFiles(home)).toEqual(filesOf([JOB]));
  });

  test("can lose any name but its last, where msb refuses each of them", async () => {
    const named: ImageSpec = { ...WEB, tags: ["web:v1", "web:latest", "ghcr.io/acme/web:1"] };
    using folder = await homeWith(named);
    const home = folder.path;
    addSandbox(home, "web-1", named);
    for (const tag of named.tags) {
      const { code, stderr } = await msb(home, "image", "rm", tag);
      expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining("in use") });
    }
    await larderJson(home, ["rm", "web:latest"]);
    expect(readRows(home)).toEqual(rowsOf([{ ...named, tags: ["web:v1", "ghcr.io/acme/web:1"] }]));
    // All the rest at once: the last of them is refused, and the other is gone.
    const report = await larderJson(home, ["rm", "ghcr.io/acme/web:1", "web:v1"], 4);
    expect(report.refused).toMatchObject([{ reference: "web:v1", code: "in_use" }]);
    expect(readRows(home)).toEqual(rowsOf([WEB]));
    expect(readFiles(home)).toEqual(filesOf([WEB]));
  });

  test.each([
    { how: "indexed", pin: indexSnapshot },
    { how: "on disk and not indexed", pin: writeSnapshot },
  ])("by a snapshot $how is refused, where msb removes it", async ({ pin }) => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    pin(home, "nightly", JOB);
    pin(home, "base", WEB);
    expect((await msb(home, "image", "rm", "job:v1")).code).toBe(0);
    expect(readRows(home)).toEqual(rowsOf([WEB]));

    const refused = await larder(home, "rm", "web:v1");
    expect(refused).toMatchObject({ code: 4, stderr: expect.stringContaining('in use by snapshot "base"') });
    expect(readRows(home)).toEqual(rowsOf([WEB]));
    await larderJson(home, ["rm", "-f", "web:v1"]);
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf([], [WEB]));
    // With the metadata by which msb boots the snapshot.
    expect(readFiles(home)).toEqual(filesOf([WEB]));
  });

  test("by a sandbox that has not booted is refused: only its configuration names the image", async () => {
    using folder = await homeWith(WEB);
    const { digest } = build(WEB).manifest;
    addSandbox(folder.path, "starting", undefined, {
      image: { Oci: { reference: "web:v1", manifest_digest: digest } },
    });
    const refused = await larder(folder.path, "rm", "web:v1");
    expect(refused).toMatchObject({ code: 4, stderr: expect.stringContaining('sandbox "starting"') });
    expect(readFiles(folder.path)).toEqual(filesOf([WEB]));
  });
});

describe("two spellings of one reference", () => {
  const spelled: ImageSpec = { ...WEB, tags: ["one", "docker.io/library/one:latest"] };

  test("share a metadata file, which msb deletes with the first of them", async () => {
    using folder = await homeWith(spelled);
    const home = folder.path;
    expect((await msb(home, "image", "rm", "one")).code).toBe(0);
    expect(readFiles(home)).toEqual(artifactsOf(spelled).sort());
    const out = join(home, "one.tar");
    expect((await msb(home, "save", "-o", out, "docker.io/library/one:latest")).code).toBe(1);
  });

  test("share a metadata file, which larder deletes with the last of them", async () => {
    using folder = await homeWith(spelled, JOB);
    const home = folder.path;
    await larderJson(home, ["rm", "one"]);
    expect(readRows(home)).toEqual(rowsOf([{ ...spelled, tags: ["docker.io/library/one:latest"] }, JOB]));
    expect(readFiles(home)).toEqual(filesOf([spelled, JOB]));
    const { code } = await msb(home, "save", "-o", join(home, "one.tar"), "docker.io/library/one:latest");
    expect(code).toBe(0);
    await larderJson(home, ["rm", "docker.io/library/one:latest"]);
    expect(readFiles(home)).toEqual(filesOf([JOB]));
  });

  test("of two images at once are an ambiguity, unless one is typed exactly", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    change(home, "UPDATE image_ref SET reference = 'index.docker.io/one' WHERE reference = 'web:v1'");
    change(home, "UPDATE image_ref SET reference = 'library/one' WHERE reference = 'job:v1'");
    const refused = await larder(home, "rm", "one");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('"index.docker.io/one"');
    expect(refused.stderr).toContain('"library/one"');
    await larderJson(home, ["rm", "library/one"]);
    expect(Object.keys(readRows(home).references)).toEqual(["index.docker.io/one"]);
  });
});

describe("putting an image on record twice", () => {
  const TWICE: ImageSpec = { tags: ["twice:1"], layers: [BASE, { files: { a: "" } }, BASE], config: { env: ["A=1"] } };
  const ids = (home: string) =>
    ["manifest", "config", "manifest_layer", "image_ref", "layer"].map((table) =>
      select<{ id: number }>(home, `SELECT id FROM ${table} ORDER BY id`).map(({ id }) => id),
    );

  test("keeps every row's id, where msb gives one with a layer twice new rows each time", async () => {
    using folder = await homeWith(TWICE, WEB);
    const home = folder.path;
    const first = ids(home);
    await load(home, [TWICE, WEB]);
    const second = ids(home);
    expect(second).not.toEqual(first);
    for (let i = 0; i < 3; i++) await larderJson(home, ["persist", "twice:1", "web:v1"]);
    expect(ids(home)).toEqual(second);
    expect(readRows(home)).toEqual(rowsOf([TWICE, WEB]));
  });

  test("keeps every row's id in a home of its own, and the time of the first", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    plant(home, metadataFile("twice:1"), metadataOf(TWICE));
    await larderJson(home, ["persist", "twice:1"]);
    const first = ids(home);
    const [created] = select(home, "SELECT created_at FROM config");
    const [used] = select<{ at: string }>(home, "SELECT updated_at AS at FROM image_ref");
    await larderJson(home, ["persist", "twice:1"]);
    expect(ids(home)).toEqual(first);
    expect(select(home, "SELECT created_at FROM config")).toEqual([created]);
    expect(select<{ at: string }>(home, "SELECT updated_at AS at FROM image_ref")[0]!.at > used!.at).toBe(true);
    expect(readRows(home)).toEqual(rowsOf([TWICE]));
  });
});

describe("what msb does not record of an image", () => {
  const RICH: ImageSpec = {
    tags: ["rich:1"],
    layers: [BASE, { files: { rich: "" } }],
    architecture: "arm64",
    variant: "v8",
    config: {
      labels: { tier: "web" },
      stopSignal: "SIGUSR1",
      exposedPorts: ["80/tcp"],
      volumes: ["/data"],
    },
  };

  test("is shown by larder from the metadata, and after persist by msb as well", async () => {
    using folder = await homeWith(RICH);
    const home = folder.path;
    // Older msb wrote no labels at all.
    change(home, "UPDATE config SET labels = NULL");
    const theirs = await msbJson(home, "image", "inspect", "rich:1");
    expect(theirs).toMatchObject({ architecture: "amd64", config: { labels: null, stop_signal: null } });
    expect(theirs).toMatchObject({ layers: [{ erofs_size_bytes: null }, { erofs_size_bytes: null }] });
    const seen = await larderJson(home, ["inspect", "rich:1"]);
    expect(seen.config).toMatchObject({
      stop_signal: "SIGUSR1",
      exposed_ports: ["80/tcp"],
      volumes: ["/data"],
    });

    await larderJson(home, ["persist", "rich:1"]);
    const erofs = build(RICH).layers.map(({ diffId }) => ({ erofs_size_bytes: lengthOf(home, layerFile(diffId)) }));
    const healed = { config: { labels: { tier: "web" }, stop_signal: "SIGUSR1" }, layers: erofs };
    expect(await msbJson(home, "image", "inspect", "rich:1")).toMatchObject({ ...healed, architecture: "arm64" });
    expect(await larderJson(home, ["inspect", "rich:1"])).toMatchObject({
      ...healed,
      architecture: "arm64",
      variant: "v8",
    });
    expect(await larderJson(home, ["list", "-q", "--filter", "label=tier=web"])).toMatchObject([
      { reference: "rich:1" },
    ]);
  });

  test("is kept when the metadata that is put on record later tells less", async () => {
    using folder = await homeWith(RICH);
    const home = folder.path;
    await larderJson(home, ["persist", "rich:1"]);
    const old = metadataOf(RICH, "0.4.4");
    expect((await run(["persist", "--metadata", "-", "rich:1", "--home", home], { stdin: old })).code).toBe(0);
    expect(await larderJson(home, ["get", "rich:1"])).toMatchObject({ architecture: "arm64", variant: "v8" });
    // The cache's own file is not touched: msb would ignore the old shape.
    expect(readFileSync(join(home, "cache", metadataFile("rich:1")), "utf8")).toBe(metadataOf(RICH));
  });
});

describe("an image that lost its name to a newer one", () => {
  const NEWER: ImageSpec = { tags: WEB.tags, layers: [BASE, { files: { web: "2" } }] };

  test("cannot be reached by msb, and is listed, inspected and collected by larder", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    await load(home, [NEWER]);
    const { digest } = build(WEB).manifest;
    expect(JSON.stringify(await msbJson(home, "image", "ls"))).not.toContain(digest);
    expect((await msb(home, "image", "rm", digest)).code).toBe(1);
    expect(readRows(home)).toEqual(rowsOf([NEWER, JOB], [WEB]));

    expect(await larderJson(home, ["inspect", digest])).toMatchObject({ reference: null, digest, layer_count: 2 });
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf([NEWER, JOB]));
    expect(readFiles(home)).toEqual(filesOf([NEWER, JOB]));
  });
});

describe("files that no row accounts for", () => {
  // One of each kind that msb or a person can leave behind; what is not there is not what larder must tell apart.
  const digest = digestOf(Buffer.from("nobody's")).replace(":", "_");
  const hex = digest.slice("sha256_".length);
  const JUNK = [
    `layers/${digest}.erofs`,
    `layers/${digest}.tar.gz`,
    `layers/${digest}.erofs.part`,
    "layers/notes.txt",
    `fsmeta/${digest}.erofs`,
    "fsmeta/core",
    `vmdk/${digest}.vmdk`,
    "vmdk/.hidden",
    `flat/refs/${digest}.json`,
    `flat/refs/${digest}.json.part`,
    `flat/blobs/${digest}.raw`,
    `manifests/${hex}.json`,
    `manifests/${hex}.json.part`,
    "manifests/readme",
    `tmp/${digest}.part`,
    `tmp/${digest}.erofs.part`,
    `tmp/${digest}.spool`,
    `tmp/sha256:${hex}.spool`,
    `tmp/${digest}.work/fsmeta.erofs`,
    `tmp/${digest}.flat.work/root.raw`,
    "tmp/load-1-99999-0.blob",
    "tmp/save-99999-0.layer.tar",
  ];
  const LOCKS = [
    `layers/${digest}.erofs.lock`,
    `fsmeta/${digest}.erofs.lock`,
    `manifests/${hex}.lock`,
    `tmp/${digest}.download.lock`,
    `flat/locks/${digest}.lock`,
  ];

  test("stay under msb's prune for ever, and go in gc once they are old; locks stay", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    for (const path of [...JUNK, ...LOCKS]) plant(home, path, path.endsWith(".lock") ? "" : "junk");
    const locks = readLocks(home);
    age(home);
    // Pruning an image shows that msb's prune did run.
    addSandbox(home, "web-1", WEB);
    expect(await msbJson(home, "image", "prune", "--yes")).toMatchObject({ image_refs_removed: 1 });
    expect(readFiles(home)).toEqual([...filesOf([WEB]), ...JUNK].sort());

    const report = await larderJson(home, ["gc"]);
    expect(readFiles(home)).toEqual(filesOf([WEB]));
    expect(report).toMatchObject({ skipped: [], failed: [], manifests: [], layers: [] });
    // Only what msb itself unlinked is missing of the locks.
    const gone = artifactsOf(JOB).map((path) => `${path}.lock`);
    expect(readLocks(home)).toEqual(expect.arrayContaining(locks.filter((path) => !gone.includes(path))));
    expect(readRows(home)).toEqual(rowsOf([WEB]));
  });

  test("stay while they are young, and are named", async () => {
    using folder = await homeWith(WEB);
    const home = folder.path;
    // Young work in tmp/ would hold back everything; here each file is judged by its own age.
    const young = JUNK.filter((path) => !path.includes("load-") && !path.includes(".work"));
    for (const path of young) plant(home, path, "junk");
    const report = await larderJson(home, ["gc"]);
    expect(readFiles(home)).toEqual([...filesOf([WEB]), ...young].sort());
    expect(report.files).toEqual([]);
    expect(report.skipped.map(({ path }: { path: string }) => path).sort()).toEqual(
      young.map((path) => join(home, "cache", path)).sort(),
    );
    // A shorter grace takes them.
    await larderJson(home, ["gc", "--grace", "0s"]);
    expect(readFiles(home)).toEqual(filesOf([WEB]));
  });

  test.each([
    // msb deletes the metadata file last, larder first.
    { killed: "after its metadata file went", left: artifactsOf(WEB).slice(0, 2), code: 0 },
    { killed: "right after its commit", left: [...artifactsOf(WEB), metadataFile("web:v1")], code: 5 },
  ])("because a removal was killed $killed are found by scanning, where msb never looks", async ({ left, code }) => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    const own = (path: string) => !filesOf([JOB]).includes(path);
    const planted = left.filter(own);
    // The rows as the commit leaves them, and the files that were not unlinked yet.
    const content = new Map(planted.map((path) => [path, readFileSync(join(home, "cache", path))]));
    expect((await msb(home, "image", "rm", "web:v1")).code).toBe(0);
    for (const [path, bytes] of content) plant(home, path, bytes);
    age(home);
    addSandbox(home, "job-1", JOB);
    expect((await msb(home, "image", "prune", "--yes")).code).toBe(0);
    expect(readFiles(home)).toEqual([...filesOf([JOB]), ...planted].sort());

    // A metadata file without its row could as well mean a lost database: then larder asks first.
    expect((await larder(home, "gc")).code).toBe(code);
    if (code === 5) {
      expect(readFiles(home)).toEqual([...filesOf([JOB]), ...planted].sort());
      expect((await larder(home, "gc", "--sweep-unrecorded")).code).toBe(0);
    }
    expect(readFiles(home)).toEqual(filesOf([JOB]));
    expect(problems(home)).toEqual([]);
  });
});

describe("lock files", () => {
  const inodes = (home: string) =>
    Object.fromEntries(readLocks(home).map((path) => [path, statSync(join(home, "cache", path)).ino]));

  test("of what is removed are unlinked by msb and kept by larder, the same file", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    const before = inodes(home);
    expect((await msb(home, "image", "rm", "job:v1")).code).toBe(0);
    const after = inodes(home);
    expect(Object.keys(after).length).toBeLessThan(Object.keys(before).length);
    await larderJson(home, ["rm", "web:v1"]);
    expect(readFiles(home)).toEqual([]);
    expect(inodes(home)).toMatchObject(after);
  });

  test("that somebody holds keep what they guard, and everything that needs it", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    const own = layerFile(build(WEB).layers[1]!.diffId);
    const holder = Bun.spawn(["flock", join(home, "cache", `${own}.lock`), "sh", "-c", "echo held; cat"], {
      stdin: "pipe",
      stdout: "pipe",
    });
    try {
      await holder.stdout.getReader().read();
      const report = await larderJson(home, ["rm", "web:v1"]);
      expect(report.skipped).toMatchObject([{ kind: "layer", path: join(home, "cache", own) }]);
      expect(readRows(home)).toEqual(rowsOf([JOB]));
      expect(readFiles(home)).toEqual([...filesOf([JOB]), own].sort());
    } finally {
      holder.stdin.end();
      await holder.exited;
    }
    age(home);
    await larderJson(home, ["gc"]);
    expect(readFiles(home)).toEqual(filesOf([JOB]));
  });
});

describe("a row that holds a path for a digest", () => {
  test.each(["a/../../../victim:x", "/victim:x", "sha256:../../../victim", "../../victim"])(
    "%p leads nowhere: what it points at stays, and the rest goes on",
    async (hostile) => {
      using folder = await homeWith(WEB, JOB);
      const home = folder.path;
      // Wherever the text could lead from a folder of the cache.
      const victims = [
        join(home, "victim"),
        join(home, "victim.erofs"),
        join(home, "victim_x.erofs"),
        join(home, "cache", "victim.erofs"),
        join(folder.path, "victim:x.erofs"),
      ];
      for (const victim of victims) writeFileSync(victim, "mine");
      change(home, "UPDATE layer SET diff_id = ? WHERE diff_id = ?", hostile, build(WEB).layers[1]!.diffId);
      change(home, "INSERT INTO layer (diff_id, blob_digest) VALUES (?, ?)", `${hostile}2`, "x");
      change(home, "INSERT INTO manifest (digest) VALUES (?)", `${hostile}3`);
      age(home);

      expect((await larder(home, "inspect", "web:v1")).code).toBe(0);
      expect(await larderJson(home, ["list", "-a"])).toBeArrayOfSize(3);
      await larderJson(home, ["rm", "web:v1"]);
      const report = await larderJson(home, ["gc"]);
      expect(report.unsafe).toHaveLength(3);
      // One victim lies in the cache, in no folder that is swept.
      for (const victim of victims) expect(readFileSync(victim, "utf8")).toBe("mine");
      expect(readFiles(home).filter((path) => path !== "victim.erofs")).toEqual(filesOf([JOB]));
      expect(select(home, "SELECT 1 FROM layer WHERE diff_id LIKE '%victim%'")).toHaveLength(2);
    },
  );

  test("is never made: such metadata is refused before anything is written", async () => {
    using folder = await homeWith(JOB);
    const home = folder.path;
    const hostile = metadataOf(WEB).replaceAll(build(WEB).layers[1]!.diffId, "a/../../b:x");
    plant(home, metadataFile("web:v1"), hostile);
    const refused = await larder(home, "persist", "web:v1");
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("layers[1].diff_id") });
    expect(readRows(home)).toEqual(rowsOf([JOB]));
  });
});

describe("another process that holds the write lock", () => {
  test("is waited for by what writes, and not by what reads", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    using db = openCatalogue(home);
    db.run("BEGIN IMMEDIATE");
    db.run("UPDATE image_ref SET updated_at = updated_at");
    const writing = [
      larder(home, "rm", "web:v1"),
      larder(home, "persist", "job:v1"),
      larder(home, "gc", "--grace", "1h"),
    ];
    // Reading goes through while the lock is held.
    expect(await larderJson(home, ["list"])).toBeArrayOfSize(2);
    expect((await larder(home, "inspect", "web:v1")).code).toBe(0);
    expect(await larderJson(home, ["rm", "--dry-run", "web:v1"])).toMatchObject({ removed: [{ reference: "web:v1" }] });
    db.run("COMMIT");
    const codes = (await Promise.all(writing)).map(({ code }) => code);
    expect(codes).toEqual([0, 0, 0]);
    expect(readRows(home)).toEqual(rowsOf([JOB]));
  });

  test("for good makes what writes give up with 75, nothing changed", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    // A first write has made larder's indexes.
    await larderJson(home, ["persist", "web:v1"]);
    using db = openCatalogue(home);
    db.run("BEGIN IMMEDIATE");
    const outcomes = await Promise.all([
      larder(home, "rm", "web:v1"),
      larder(home, "persist", "job:v1"),
      run(["persist", "--metadata", "-", "new:1", "--home", home], { stdin: metadataOf(WEB) }),
    ]);
    db.run("ROLLBACK");
    for (const { code, stdout, stderr } of outcomes) {
      expect({ code, stdout }).toEqual({ code: 75, stdout: "" });
      expect(stderr).toContain("try again");
    }
    expect(readRows(home)).toEqual(rowsOf([WEB, JOB]));
    expect(readFiles(home)).toEqual(filesOf([WEB, JOB]));
  });
});

describe("a record that cannot be written", () => {
  test("fails persist with a sentence, where msb's pull says nothing", async () => {
    using folder = await homeWith(JOB);
    const home = folder.path;
    change(home, "CREATE TRIGGER full BEFORE INSERT ON image_ref BEGIN SELECT raise(ABORT, 'no room for it'); END");
    await using registry = serveRegistry([WEB]);
    const tag = `${registry.host}/web:v1`;
    const theirs = await msb(home, "pull", "--insecure", tag);
    expect(theirs.code).toBe(0);
    expect(readRows(home).references).toEqual(rowsOf([JOB]).references);

    const ours = await larder(home, "persist", tag);
    expect(ours).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("no room for it") });
    // Neither is a half of it on record.
    expect(readRows(home).references).toEqual(rowsOf([JOB]).references);
    change(home, "DROP TRIGGER full");
    expect((await larder(home, "persist", tag)).code).toBe(0);
    expect(readRows(home)).toEqual(rowsOf([{ ...WEB, tags: [tag] }, JOB]));
  });

  test.each<[string, (home: string) => void, number]>([
    ["is missing", (home) => rmSync(join(home, "cache", metadataFile("web:v1"))), 3],
    ["is cut short", (home) => plant(home, metadataFile("web:v1"), metadataOf(WEB).slice(0, 200)), 1],
    ["is empty", (home) => plant(home, metadataFile("web:v1"), ""), 1],
    [
      "is a folder",
      (home) => {
        rmSync(join(home, "cache", metadataFile("web:v1")));
        plant(home, join(metadataFile("web:v1"), "x"));
      },
      1,
    ],
  ])("because its metadata %s fails persist and keeps the rest", async (_, damage, code) => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    rmSync(join(home, "db"), { recursive: true });
    damage(home);
    const ours = await larder(home, "persist", "web:v1", "job:v1");
    expect(ours.code).toBe(code);
    expect(ours.stderr).not.toBe("");
    expect(readRows(home)).toEqual(rowsOf([JOB]));
  });
});

describe("one damaged row", () => {
  test("with a time that is none fails msb's whole list, and is one damaged image in larder's", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    change(home, "UPDATE image_ref SET created_at = 'soon' WHERE reference = 'web:v1'");
    expect(await msb(home, "image", "ls")).toMatchObject({ code: 1, stdout: "" });
    const { code, stdout } = await larder(home, "list");
    expect(code).toBe(0);
    expect(stdout).toContain("web:v1 (damaged)");
    expect(stdout).toContain("job:v1");
    const listed = await larderJson(home, ["list"]);
    const damage = Object.fromEntries(
      listed.map((item: { reference: string; damage: string[] }) => [item.reference, item.damage]),
    );
    expect(damage).toEqual({ "web:v1": [expect.stringContaining("created_at")], "job:v1": [] });
    // It can be put right, or be removed: msb lists the rest again.
    await larderJson(home, ["rm", "web:v1"]);
    expect(await msbJson(home, "image", "ls")).toMatchObject([{ reference: "job:v1" }]);
    expect(readFiles(home)).toEqual(filesOf([JOB]));
  });

  test("with a digest that is not ASCII aborts msb, and is one damaged image in larder's list", async () => {
    using folder = await homeWith(WEB, JOB);
    const home = folder.path;
    const strange = `sha256:00000000000é${"0".repeat(20)}`;
    change(home, "UPDATE manifest SET digest = ? WHERE digest = ?", strange, build(WEB).manifest.digest);
    expect((await msb(home, "image", "ls")).code).toBe(134);
    const { code, stdout } = await larder(home, "list");
    expect(code).toBe(0);
    expect(stdout).toContain("sha256:00000000000é ");
    expect(stdout).toContain("job:v1");
    expect((await larder(home, "inspect", "web:v1")).stdout).toContain(strange);
    expect((await larder(home, "get", "web:v1")).stdout).toContain(strange);
  });

  test("with a blob digest that is not ASCII aborts msb's inspect, and not larder's", async () => {
    using folder = await homeWith(WEB);
    const home = folder.path;
    change(home, "UPDATE layer SET blob_digest = ?", `sha256:00000000000é${"0".repeat(20)}`);
    expect((await msb(home, "image", "inspect", "web:v1")).code).toBe(134);
    const { code, stdout } = await larder(home, "inspect", "web:v1");
    expect(code).toBe(0);
    for (const { diffId } of build(WEB).layers) expect(stdout).toContain(diffId);
  });
});

test("inspect keeps a digest apart from the size beside it, where msb prints them as one word", async () => {
  using folder = await homeWith(WEB);
  const [bottom] = build(WEB).layers;
  const glued = new RegExp(`${bottom!.digest.slice(0, 19)}[0-9]`);
  const theirs = (await msb(folder.path, "image", "inspect", "web:v1")).stdout;
  // Not the digest going on: msb cuts it to these characters.
  expect(theirs.match(glued)).not.toBeNull();
  expect(theirs).not.toContain(bottom!.digest);
  const { stdout } = await larder(folder.path, "inspect", "web:v1");
  const line = stdout.split("\n").find((line) => line.includes(bottom!.diffId));
  expect(line?.split(/\s+/)).toContain(bottom!.diffId);
  expect(line).toMatch(/\d (B|KiB)\b/);
  expect(existsSync(join(folder.path, "cache", layerFile(bottom!.diffId)))).toBe(true);
});
