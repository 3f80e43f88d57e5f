import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { once } from "node:events";
import { lstatSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { larder, larderJson, run } from "../larder.ts";
import { at, digestOf, flatRefOf, HOSTILE_DIGESTS, holdLock, metadataOf, OLD, Store, stemOf, YOUNG } from "../store.ts";

const ONE = "docker.io/library/one:1";
const ALIAS = "docker.io/library/uno:1";
const TWO = "docker.io/library/two:1";

/** Two images that share a layer, the first with two names. */
function makeShelf(cache?: string): Promise<Store> {
  return Store.make(
    { one: { references: [ONE, ALIAS], layers: ["base", "top"] }, two: { references: [TWO], layers: ["base", "own"] } },
    cache,
  );
}

/** A report's files, relative to the cache, sorted. */
function pathsOf(store: Store, files: { path: string }[]): string[] {
  return files.map(({ path }) => path.slice(store.cache.length + 1)).sort();
}

describe("larder remove", () => {
  test("drops one alias: its metadata file goes, the image stays", async () => {
    using store = await makeShelf();
    const before = store.rows();
    const { code, stdout } = await larder(store.path, "rm", ONE);
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^removed {2}docker\.io\/library\/one:1\nreclaimed/)]);
    expect(store.rows()).toEqual({ ...before, references: [TWO, ALIAS] });
    expect(store.files()).toEqual(store.filesOf("one", "two").filter((path) => path !== at.metadata(ONE)));
  });

  test("drops the last name with all that nothing else needs, and leaves what another image shares", async () => {
    using store = await makeShelf();
    expect((await larder(store.path, "rm", ONE, ALIAS)).code).toBe(0);
    expect(store.rows()).toEqual({
      references: [TWO],
      manifests: ["two"],
      layers: ["base", "own"],
      configs: 1,
      junctions: 2,
    });
    expect(store.files()).toEqual(store.filesOf("two"));
    expect(store.unsound()).toEqual([]);
  });

  test("reports what went as JSON", async () => {
    using store = await makeShelf();
    const report = await larderJson(store.path, ["rm", TWO]);
    const files = [
      ["metadata", at.metadata(TWO)],
      ["vmdk", at.vmdk("two")],
      ["fsmeta", at.fsmeta("two")],
      ["layer", at.layer("own")],
    ];
    expect(report).toEqual({
      removed: [{ reference: TWO, digest: digestOf("two") }],
      manifests: [digestOf("two")],
      layers: [digestOf("own")],
      untagged: [],
      unsafe: [],
      refused: [],
      database: store.database,
      cache: store.cache,
      dry_run: false,
      files: files.map(([kind, path]) => ({ kind, path: join(store.cache, path!), bytes: expect.any(Number) })),
      skipped: [],
      failed: [],
      bytes_reclaimed: expect.any(Number),
    });
    const bytes = report.files.map((file: { bytes: number }) => file.bytes);
    expect(report.bytes_reclaimed).toBe(bytes.reduce((sum: number, each: number) => sum + each, 0));
  });

  test("prints a JSON line as jsonl, and the dropped references alone with -q", async () => {
    using store = await makeShelf();
    const { stdout } = await larder(store.path, "rm", ONE, "--format", "jsonl");
    expect(stdout.match(/\n/g)).toHaveLength(1);
    expect(JSON.parse(stdout).removed).toEqual([{ reference: ONE, digest: digestOf("one") }]);
    expect(await larder(store.path, "rm", "-q", TWO, "missing", ALIAS)).toEqual({
      code: 3,
      stdout: `${TWO}\n${ALIAS}\n`,
      stderr: expect.stringContaining('image not found: "missing"'),
    });
  });

  test("names the database and the cache that it acted on", async () => {
    using store = await makeShelf();
    const { stderr } = await larder(store.path, "rm", ONE);
    expect(stderr).toContain(store.database);
    expect(stderr).toContain(store.cache);
  });

  test("drops a reference that is named twice once, typed or spelled", async () => {
    using store = await makeShelf();
    const report = await larderJson(store.path, ["rm", ONE, ONE, "one:1", ALIAS]);
    expect(report.removed.map(({ reference }: { reference: string }) => reference)).toEqual([ONE, ALIAS]);
    expect(store.files()).toEqual(store.filesOf("two"));
  });

  test("exits with 3 for what is not there, and the second time", async () => {
    using store = await makeShelf();
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    const before = store.fingerprint();
    const { code, stdout, stderr } = await larder(store.path, "rm", TWO);
    expect([code, stdout, stderr]).toEqual([3, "", expect.stringContaining(`image not found: "${TWO}"`)]);
    expect(store.files()).toEqual(store.filesOf("one"));
    expect(store.fingerprint().filter((line) => !line.startsWith("db/"))).toEqual(
      before.filter((line) => !line.startsWith("db/")),
    );
  });

  test("takes what is not there for no failure with --ignore, but nothing else", async () => {
    using store = await makeShelf();
    store.sandbox("web", "{}", "two");
    expect(await larder(store.path, "rm", "-i", "missing", ONE)).toMatchObject({ code: 0 });
    expect(await larder(store.path, "rm", "--ignore", "missing", TWO)).toMatchObject({ code: 4 });
    expect(store.rows().references).toEqual([TWO, ALIAS]);
  });

  test("says not found where there is no catalogue, and makes none", async () => {
    using store = await Store.make();
    const before = store.fingerprint();
    const { code, stdout, stderr } = await larder(store.path, "rm", ONE, TWO, "--format", "json");
    expect(code).toBe(3);
    expect(stderr).toContain(`There is no catalogue at "${store.database}"`);
    expect(JSON.parse(stdout).refused.map(({ reference }: { reference: string }) => reference)).toEqual([ONE, TWO]);
    expect((await larderJson(store.path, ["rm", "--ignore", ONE])).refused).toEqual([]);
    expect(store.fingerprint()).toEqual(before);
  });

  test("lists the spellings that an argument could mean, and drops none of them", async () => {
    using store = await Store.make({
      one: {
        references: ["one=docker.io/library/one:latest", "docker.io/one=docker.io/library/one:latest"],
        layers: ["base"],
      },
    });
    const { code, stderr } = await larder(store.path, "rm", "index.docker.io/library/one");
    expect(code).toBe(1);
    expect(stderr).toContain('"one"');
    expect(stderr).toContain('"docker.io/one"');
    expect(store.rows().references).toEqual(["docker.io/one", "one"]);
    expect(store.files()).toEqual(store.filesOf("one"));
  });

  test("deletes a metadata file only with the last spelling that needs it", async () => {
    using store = await Store.make({
      one: {
        references: ["one=docker.io/library/one:latest", "docker.io/library/one:latest"],
        layers: ["base"],
      },
    });
    expect((await larder(store.path, "rm", "one")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("one"));
    expect((await larder(store.path, "rm", "one")).code).toBe(0);
    expect(store.files()).toEqual([]);
    expect(store.rows()).toEqual({ references: [], manifests: [], layers: [], configs: 0, junctions: 0 });
  });

  test("deletes an untagged image by its digest", async () => {
    using store = await makeShelf();
    store.sql("DELETE FROM image_ref WHERE reference = ?", TWO);
    const report = await larderJson(store.path, ["rm", digestOf("two")]);
    expect([report.removed, report.manifests]).toEqual([[], [digestOf("two")]]);
    expect(store.rows().manifests).toEqual(["one"]);
    // The metadata file belongs to the name that was lost: a stray, and gc's.
    expect(store.files()).toEqual([...store.filesOf("one"), at.metadata(TWO)].sort());
  });

  const digest = digestOf("one");
  const image = `{"image":{"Oci":{"reference":"x","manifest":"${digest}"}}}`;
  type Change = (store: Store) => void;
  const pins: [what: string, name: string, pin: Change, unpin: string][] = [
    ["a sandbox's rootfs", "web-1", (store) => store.sandbox("web-1", "{}", "one"), "DELETE FROM sandbox"],
    ["a sandbox's config alone", "web-2", (store) => store.sandbox("web-2", image), "DELETE FROM sandbox"],
    [
      "a config that writes the digest with escapes",
      "web-3",
      (store) => store.sandbox("web-3", `{"x":"${digest.replace("sha", "\\u0073ha")}"}`),
      "DELETE FROM sandbox",
    ],
    [
      "a sandbox's active_config",
      "web-4",
      (store) => {
        store.sql("ALTER TABLE sandbox ADD COLUMN active_config text");
        store.sandbox("web-4", "{}");
        store.sql("UPDATE sandbox SET active_config = ?", image);
      },
      "DELETE FROM sandbox",
    ],
    [
      "a row of the snapshot index",
      "base-1",
      (store) => store.snapshotRow("base-1", digest),
      "DELETE FROM snapshot_index",
    ],
    [
      "a snapshot on disk",
      "base-2",
      (store) => store.snapshotOnDisk("base-2", `{"image":{"manifest_digest":"${digest}"}}`),
      "",
    ],
    [
      "a snapshot on disk as newer msb files it",
      "team/base-3",
      (store) => store.snapshotOnDisk("team/base-3", `{"image":{"manifest_digest":"${digest}"}}`, "manifest.json"),
      "",
    ],
  ];

  describe.each(pins)("an image in use by %s", (_, name, pin, unpin) => {
    test("keeps its last name, and loses an alias", async () => {
      using store = await makeShelf();
      pin(store);
      expect((await larder(store.path, "rm", ALIAS)).code).toBe(0);
      const before = store.fingerprint().filter((line) => line.startsWith("cache/"));
      const { code, stdout, stderr } = await larder(store.path, "rm", ONE);
      expect([code, stdout]).toEqual([4, ""]);
      expect(stderr).toContain(`cannot remove "${ONE}": in use by`);
      expect(stderr).toContain(`"${name}"`);
      expect(store.rows()).toMatchObject({ references: [ONE, TWO], manifests: ["one", "two"] });
      expect(store.fingerprint().filter((line) => line.startsWith("cache/"))).toEqual(before);
    });

    test("loses its last name to --force and nothing else, until the pin is gone", async () => {
      using store = await makeShelf();
      pin(store);
      const report = await larderJson(store.path, ["rm", "--force", ONE, ALIAS]);
      expect(report.untagged).toEqual([{ digest, pinned_by: [{ kind: expect.any(String), name }] }]);
      expect([report.manifests, report.layers]).toEqual([[], []]);
      // By its metadata msb boots a snapshot, and by nothing else.
      const isBooted = report.untagged[0].pinned_by[0].kind === "snapshot";
      const gone = isBooted ? [] : [at.metadata(ONE), at.metadata(ALIAS)];
      const kept = store.filesOf("one", "two").filter((path) => !gone.includes(path));
      const untagged = { references: [TWO], manifests: ["one", "two"], layers: ["base", "own", "top"] };
      expect(store.rows()).toMatchObject(untagged);
      expect(store.files()).toEqual(kept);

      expect(await larder(store.path, "rm", digest)).toMatchObject({ code: 4 });
      expect(await larder(store.path, "rm", "--force", digest)).toMatchObject({ code: 4 });
      expect(await larder(store.path, "gc", "--grace", "0s")).toMatchObject({ code: 0 });
      expect(store.rows()).toMatchObject(untagged);
      expect(store.files()).toEqual(kept);

      if (unpin === "") await Bun.$`rm -r ${join(store.path, "snapshots")}`.quiet();
      else store.sql(unpin);
      expect((await larderJson(store.path, ["gc"])).manifests).toEqual([digest]);
      expect(store.files()).toEqual(store.filesOf("two"));
    });
  });

  test("refuses only the last of all aliases of an image in use", async () => {
    using store = await makeShelf();
    store.sandbox("web", "{}", "one");
    const { code, stdout } = await larder(store.path, "rm", "-q", ONE, ALIAS);
    expect([code, stdout]).toEqual([4, `${ONE}\n`]);
    expect(store.rows()).toMatchObject({ references: [TWO, ALIAS], manifests: ["one", "two"] });
  });

  test("names every pin of an image", async () => {
    using store = await makeShelf();
    store.sandbox("web", "{}", "two");
    store.sandbox("job", `["${digestOf("two")}"]`);
    store.snapshotRow("base", digestOf("two"));
    const { stderr } = await larder(store.path, "rm", TWO);
    expect(stderr).toContain('in use by sandbox "web", sandbox "job", snapshot "base" (--force');
  });

  const unreadable: [what: string, named: string, damage: Change][] = [
    ["a sandbox's config is not JSON", 'sandbox "web"', (store) => store.sandbox("web", "{")],
    ["a sandbox's config is empty", 'sandbox "web"', (store) => store.sandbox("web", "")],
    [
      "a sandbox's config is a blob",
      'sandbox "web"',
      (store) => {
        store.sandbox("web", "{}");
        store.sql("UPDATE sandbox SET config = ?", new Uint8Array([123, 125]));
      },
    ],
    [
      "a sandbox's active_config is not JSON",
      'sandbox "web"',
      (store) => {
        store.sql("ALTER TABLE sandbox ADD COLUMN active_config text");
        store.sandbox("web", "{}");
        store.sql("UPDATE sandbox SET active_config = 'x'");
      },
    ],
    ["a snapshot row's image is no digest", 'snapshot "base"', (store) => store.snapshotRow("base", "a/../b:x")],
    ["a snapshot on disk is not JSON", 'snapshot "base"', (store) => store.snapshotOnDisk("base", "{")],
    ["a snapshot on disk names no image", 'snapshot "base"', (store) => store.snapshotOnDisk("base", '{"image":{}}')],
    [
      "a snapshot on disk names no digest",
      'snapshot "base"',
      (store) => store.snapshotOnDisk("base", '{"image":{"manifest_digest":"sha256:AB"}}'),
    ],
    [
      "a newer msb's table refers to manifests",
      'table "flat_rootfs"',
      (store) => store.sql("CREATE TABLE flat_rootfs (id integer, manifest_id integer REFERENCES manifest (id))"),
    ],
    [
      "a newer msb's table refers to layers",
      'table "hot layers"',
      (store) => store.sql('CREATE TABLE "hot layers" (layer integer REFERENCES "LAYER" (id))'),
    ],
  ];

  test.each(unreadable)("deletes nothing while %s, and names it", async (_, named, damage) => {
    using store = await makeShelf();
    damage(store);
    const { code, stdout, stderr } = await larder(store.path, "rm", TWO);
    expect([code, stdout]).toEqual([5, ""]);
    expect(stderr).toContain(named);
    expect(store.rows()).toMatchObject({ references: [ONE, TWO, ALIAS], manifests: ["one", "two"] });
    expect(store.files()).toEqual(store.filesOf("one", "two"));

    // A name protects nothing: an alias may go, and with --force the last one. Their metadata may be a snapshot's.
    expect(await larder(store.path, "rm", ALIAS)).toMatchObject({ code: 0 });
    expect(await larder(store.path, "rm", "--force", TWO)).toMatchObject({ code: 0 });
    expect(store.rows()).toMatchObject({ references: [ONE], manifests: ["one", "two"] });
    expect(store.files()).toEqual(store.filesOf("one", "two"));
    expect(await larder(store.path, "gc", "--grace", "0s")).toMatchObject({ code: 5, stdout: "" });
    expect(store.rows().manifests).toEqual(["one", "two"]);
  });

  test.each([
    [["missing"], 3],
    [["--ignore", "missing"], 0],
  ])("needs no write lock where nothing goes (%j)", async (args, code) => {
    using store = await makeShelf();
    store.sql("DROP INDEX IF EXISTS idx_manifest_layer_layer");
    using db = new Database(store.database);
    db.run("BEGIN IMMEDIATE");
    expect((await larder(store.path, "rm", ...args)).code).toBe(code);
    db.run("COMMIT");
    expect(db.query("SELECT 1 FROM sqlite_master WHERE name = 'idx_manifest_layer_layer'").all()).toEqual([]);
  });

  test("says of an image whose name is no text that this cannot be read", async () => {
    using store = await makeShelf();
    store.sql("UPDATE image_ref SET reference = X'00ff' WHERE reference = ?", TWO);
    const { code, stderr } = await larder(store.path, "rm", digestOf("two"));
    expect([code, stderr]).toEqual([5, expect.stringContaining("it has a name on record that is no text")]);
    const list = await larder(store.path, "list", "--all");
    expect(list.stdout).toContain("(unreadable) (damaged)");
    expect((await larder(store.path, "get", digestOf("two"))).stdout).toMatch(/^Reference +\(unreadable\)\n/);
    expect(await larderJson(store.path, ["list", "--filter", "untagged=false"])).toHaveLength(3);
    expect(await larderJson(store.path, ["list", "--filter", "untagged=true"])).toEqual([]);
  });

  test("takes a socket where a lock belongs for nobody's lock", async () => {
    using store = await makeShelf();
    const socket = createServer().listen(join(store.cache, "fsmeta", "x.lock"));
    await once(socket, "listening");
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    socket.close();
    expect(store.files()).toEqual(store.filesOf("one"));
  });

  test.each([[[]], [["--force"]], [["--ignore"]]])("names what can be dropped of a digest (%j)", async (flags) => {
    using store = await makeShelf();
    const digest = digestOf("one");
    const { code, stdout, stderr } = await larder(store.path, "rm", digest, ...flags);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toStartWith(
      `larder: cannot remove "${digest}": it is the digest of an image with names (remove "${ONE}" and "${ALIAS}")\n`,
    );
    expect(store.rows().references).toEqual([ONE, TWO, ALIAS]);
    expect(store.files()).toEqual(store.filesOf("one", "two"));
  });

  const order: [first: string, code: number, args: string[]][] = [
    ["not found", 3, ["missing", TWO, ONE]],
    ["in use", 4, [TWO, "missing", ONE]],
    ["none", 0, [ONE, ALIAS]],
  ];

  test.each(order)("tries every argument, and exits as the first failure says: %s", async (_, code, args) => {
    using store = await makeShelf();
    store.sandbox("web", "{}", "two");
    expect(await larder(store.path, "rm", ...args)).toMatchObject({ code });
    expect(store.rows().references).not.toContain(ONE);
    expect(store.rows().references).toContain(TWO);
  });

  test("keeps an artifact that another image got meanwhile through a young metadata file", async () => {
    using store = await makeShelf();
    store.write("manifests/".padEnd(74, "e").concat(".json"), JSON.stringify(metadataOf("three", ["own"])), 1000);
    const report = await larderJson(store.path, ["rm", TWO]);
    expect(report.layers).toEqual([digestOf("own")]);
    expect(pathsOf(store, report.skipped)).toEqual([at.layer("own")]);
    expect(store.has(at.layer("own"))).toBe(true);
  });

  test("counts allocated blocks, not lengths", async () => {
    using store = await makeShelf();
    const layer = join(store.cache, at.layer("own"));
    truncateSync(layer, 512 * 2 ** 20);
    const allocated = store
      .filesOf("two")
      .filter((path) => !store.filesOf("one").includes(path))
      .map((path) => Number(Bun.spawnSync(["stat", "-c", "%b", join(store.cache, path)]).stdout.toString()) * 512);
    const report = await larderJson(store.path, ["rm", TWO]);
    expect(report.bytes_reclaimed).toBe(allocated.reduce((sum, bytes) => sum + bytes));
    expect(report.bytes_reclaimed).toBeLessThan(2 ** 20);
    expect(report.bytes_reclaimed).toBeGreaterThan(0);
  });

  test.each([
    ["one alias", [ONE]],
    ["both names", [ONE, ALIAS]],
    ["all, with one in use and one missing", [ONE, "missing", ALIAS, TWO]],
    ["all, by force", ["--force", TWO, ONE, ALIAS]],
  ])("prints with --dry-run what the same command then does, and writes nothing: %s", async (_, args) => {
    using store = await makeShelf();
    store.sandbox("web", "{}", "two");
    // Held open, as a running msb has it: SQLite then need not make its files anew, even to read.
    using _larder = store.open();
    const before = store.fingerprint();
    const files = store.files();
    const plan = await run(["rm", "--dry-run", "--format", "json", "--home", store.path, ...args]);
    expect(store.fingerprint()).toEqual(before);
    const done = await run(["rm", "--format", "json", "--home", store.path, ...args]);
    expect(plan.code).toBe(done.code);
    const [planned, report] = [JSON.parse(plan.stdout), JSON.parse(done.stdout)];
    expect(planned.dry_run).toBe(true);
    expect(report).toEqual({ ...planned, dry_run: false });
    const left = store.files();
    expect(pathsOf(store, planned.files)).toEqual(files.filter((path) => !left.includes(path)));
  });

  test("foresees with --dry-run what a metadata file written just now keeps", async () => {
    using store = await makeShelf();
    store.write(at.metadata("docker.io/library/coming:1"), JSON.stringify(metadataOf("coming", ["own"])), YOUNG);
    const plan = await larderJson(store.path, ["rm", TWO, "-n"]);
    expect(pathsOf(store, plan.skipped)).toEqual([at.layer("own")]);
    expect(await larderJson(store.path, ["rm", TWO])).toEqual({ ...plan, dry_run: false });
  });

  test("foresees with --dry-run that another name of the image is coming", async () => {
    using store = await makeShelf();
    store.write(at.metadata("docker.io/library/coming:1"), JSON.stringify(metadataOf("two", ["own"])), YOUNG);
    const plan = await larderJson(store.path, ["rm", TWO, "-n"]);
    expect(pathsOf(store, plan.files)).toEqual([at.metadata(TWO)]);
    expect(await larderJson(store.path, ["rm", TWO])).toEqual({ ...plan, dry_run: false });
  });

  test("keeps the metadata by which msb boots a snapshot, until that is gone", async () => {
    using store = await makeShelf();
    store.snapshotOnDisk("base", JSON.stringify({ image: { manifest_digest: digestOf("one") } }));
    const kept = { kind: "metadata", reason: 'snapshot "base" needs it' };
    for (const args of [[ALIAS], ["--force", ONE]]) {
      const plan = await larderJson(store.path, ["rm", ...args, "-n"]);
      expect(plan).toMatchObject({ files: [], skipped: [kept] });
      expect(await larderJson(store.path, ["rm", ...args])).toEqual({ ...plan, dry_run: false });
    }
    expect(store.files()).toEqual(store.filesOf("one", "two"));
    expect(await larderJson(store.path, ["gc", "--grace", "0s"])).toMatchObject({ files: [], skipped: [kept, kept] });
    rmSync(join(store.path, "snapshots"), { recursive: true });
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("two"));
  });

  test("says in words what --dry-run would do", async () => {
    using store = await makeShelf();
    const { stdout } = await larder(store.path, "rm", "-n", TWO);
    expect(stdout).toMatch(/^would remove {2}docker\.io\/library\/two:1\nwould reclaim {2}\S+ \S+ in 4 files\n$/);
  });

  test("deletes a flat root with the last image that has it", async () => {
    const flat = "rootfs";
    using store = await Store.make({
      one: { references: [ONE], layers: ["base"], flat },
      two: { references: [TWO], layers: ["own"], flat },
      three: { references: [ALIAS], layers: ["top"], flat: "another" },
    });
    expect((await larder(store.path, "rm", ONE)).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("two", "three"));
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("three"));
  });

  test("deletes a flat root with both its images at once", async () => {
    const flat = "rootfs";
    using store = await Store.make({
      one: { references: [ONE], layers: ["base"], flat },
      two: { references: [TWO], layers: ["own"], flat },
    });
    expect((await larder(store.path, "rm", ONE, TWO)).code).toBe(0);
    expect(store.files()).toEqual([]);
  });

  test("follows no digest in a flat ref out of the cache", async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base"], flat: "rootfs" } });
    const canary = join(store.path, "canary_x.raw");
    writeFileSync(canary, "canary");
    store.write(
      at.flatRef("one"),
      JSON.stringify({ ...flatRefOf("one", "rootfs"), artifact_digest: "../../../canary:x" }),
    );
    expect((await larder(store.path, "rm", ONE)).code).toBe(0);
    expect(readFileSync(canary, "utf8")).toBe("canary");
    expect(store.has(at.flatRef("one"))).toBe(false);
  });

  test("acts on the cache that config.json names", async () => {
    using store = await makeShelf("elsewhere/images");
    const decoy = join(store.path, "cache", at.layer("own"));
    await Bun.write(decoy, "decoy");
    const report = await larderJson(store.path, ["rm", TWO]);
    expect(report.cache).toBe(join(store.path, "elsewhere/images"));
    expect(store.files()).toEqual(store.filesOf("one"));
    expect(await Bun.file(decoy).text()).toBe("decoy");
  });

  test("leaves a layer whose lock is held, says so, and the next gc takes it", async () => {
    using store = await makeShelf();
    {
      await using _ = await holdLock(join(store.cache, at.layerLock("own")));
      const report = await larderJson(store.path, ["rm", TWO]);
      expect(pathsOf(store, report.skipped)).toEqual([at.layer("own")]);
      expect(store.files()).toEqual([...store.filesOf("one"), at.layer("own")].sort());
      expect(store.rows().layers).toEqual(["base", "top"]);
    }
    expect((await larderJson(store.path, ["gc"])).files).toHaveLength(1);
    expect(store.files()).toEqual(store.filesOf("one"));
  });

  test.each([
    ["a pull of another image", at.metadataLock("docker.io/library/other:1")],
    ["a download", at.downloadLock("other")],
    ["a stitch", at.fsmetaLock("other")],
    ["a flattening", at.flatLock("other")],
  ])("deletes no artifact while %s runs, and leaves them to a later gc", async (_, lock) => {
    using store = await makeShelf();
    {
      await using _ = await holdLock(join(store.cache, lock));
      const plan = await larderJson(store.path, ["rm", TWO, "-n"]);
      const report = await larderJson(store.path, ["rm", TWO]);
      expect(report).toEqual({ ...plan, dry_run: false });
      // Nothing but a load writes it without its lock; left behind it would make the catalogue look lost.
      expect(pathsOf(store, report.files)).toEqual([at.metadata(TWO)]);
      expect(report.skipped).toHaveLength(3);
      expect(report.skipped[0].reason).toContain(lock);
      expect(store.rows().references).toEqual([ONE, ALIAS]);
      expect(store.files()).toEqual(store.filesOf("one", "two").filter((path) => path !== at.metadata(TWO)));
    }
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("one"));
  });

  test("refuses what a pull is at work on, and drops the rest", async () => {
    using store = await makeShelf();
    {
      await using _ = await holdLock(join(store.cache, at.metadataLock(TWO)));
      const args = ["rm", TWO, ONE, "gone:1"];
      const plan = await larderJson(store.path, [...args, "--dry-run"], 75);
      const { code, stdout, stderr } = await larder(store.path, ...args, "--format", "json");
      expect(code).toBe(75);
      const report = JSON.parse(stdout);
      expect(plan.refused).toEqual(report.refused);
      expect(plan.removed).toEqual(report.removed);
      expect(report.removed).toEqual([{ reference: ONE, digest: digestOf("one") }]);
      expect(report.refused).toMatchObject([
        { reference: TWO, code: "busy" },
        { reference: "gone:1", code: "not_found" },
      ]);
      expect(stderr).toContain(`cannot remove "${TWO}": a pull or load of it is running ("`);
      expect(store.rows().references).toEqual([TWO, ALIAS]);
    }
    expect((await larder(store.path, "rm", TWO, ALIAS)).code).toBe(0);
    expect(store.files()).toEqual([]);
  });

  test("leaves a folder where a file belongs, and says so", async () => {
    using store = await makeShelf();
    await Bun.$`rm ${join(store.cache, at.layer("own"))}`.quiet();
    store.write(`${at.layer("own")}/inside`);
    const report = await larderJson(store.path, ["rm", TWO]);
    expect(pathsOf(store, report.skipped)).toEqual([at.layer("own")]);
    expect(store.has(`${at.layer("own")}/inside`)).toBe(true);
  });

  test("removes a link where an artifact belongs, and not what it points to", async () => {
    using store = await makeShelf();
    const canary = join(store.path, "canary");
    writeFileSync(canary, "canary");
    for (const path of [at.layer("own"), at.metadata(TWO), at.fsmeta("two"), at.vmdk("two")])
      await Bun.$`ln -sf ${canary} ${join(store.cache, path)}`.quiet();
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    expect(readFileSync(canary, "utf8")).toBe("canary");
    expect(store.files()).toEqual(store.filesOf("one"));
  });

  test.each(HOSTILE_DIGESTS)("joins no diff ID to a path that holds %s", async (_, diffId) => {
    using store = await makeShelf();
    const canaries = [join(store.path, "canary_x.erofs"), join(store.cache, "canary_x.erofs")];
    for (const canary of canaries) writeFileSync(canary, "canary");
    store.sql("UPDATE layer SET diff_id = ? WHERE diff_id = ?", diffId, digestOf("own"));
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    for (const canary of canaries) expect(readFileSync(canary, "utf8")).toBe("canary");
    // The row stays for gc to report; the file that it once named is a stray now.
    expect(store.rows()).toMatchObject({ references: [ONE, ALIAS], manifests: ["one"] });
    expect(store.rows().layers).toHaveLength(3);
    expect(store.files()).toEqual([...store.filesOf("one"), at.layer("own"), "canary_x.erofs"].sort());
  });

  test.each(HOSTILE_DIGESTS)("joins no manifest digest to a path that holds %s", async (_, digest) => {
    using store = await makeShelf();
    const canaries = ["canary_x.erofs", "canary_x.vmdk", "canary_x.json"].map((name) => join(store.path, name));
    for (const canary of canaries) writeFileSync(canary, "canary");
    store.sql("UPDATE manifest SET digest = ? WHERE digest = ?", digest, digestOf("two"));
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    for (const canary of canaries) expect(readFileSync(canary, "utf8")).toBe("canary");
    expect(store.rows().references).toEqual([ONE, ALIAS]);
    expect(store.unsound()).toEqual([]);
  });

  test("gives the locks that it makes to the owner of their folder", async () => {
    using store = await makeShelf();
    const root = process.geteuid?.() === 0;
    if (root) store.give(12345);
    await Bun.$`rm -r ${join(store.cache, "layers", "..", "flat", "locks")}`.quiet();
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    expect(store.locks()).toEqual([at.metadataLock(TWO), at.fsmetaLock("two"), at.layerLock("own")].sort());
    for (const lock of store.locks()) {
      const { uid, gid, mode, size } = lstatSync(join(store.cache, lock));
      expect([uid, gid]).toEqual(root ? [12345, 12345] : [process.getuid!(), process.getgid!()]);
      expect([mode & 0o777, size]).toEqual([0o600, 0]);
    }
  });

  test("leaves lock files that msb made", async () => {
    using store = await makeShelf();
    const locks = [at.metadataLock(TWO), at.fsmetaLock("two"), at.layerLock("own"), `vmdk/${stemOf("two")}.vmdk.lock`];
    const inodes = locks.map((lock) => lstatSync(store.write(lock, "", OLD)).ino);
    expect((await larder(store.path, "rm", TWO)).code).toBe(0);
    expect(locks.map((lock) => lstatSync(join(store.cache, lock)).ino)).toEqual(inodes);
  });

  test("gives up with 75 while another process writes, and deletes nothing", async () => {
    using store = await makeShelf();
    // A first write makes larder's indexes, so that what waits here is the removal.
    await larder(store.path, "rm", ALIAS);
    const rows = store.rows();
    {
      using other = store.open();
      other.db.run("BEGIN IMMEDIATE");
      const { code, stdout, stderr } = await larder(store.path, "rm", TWO);
      expect([code, stdout, stderr]).toEqual([75, "", expect.stringContaining("another process is writing")]);
      other.db.run("ROLLBACK");
    }
    expect(store.rows()).toEqual(rows);
    expect(store.files()).toEqual(store.filesOf("one", "two").filter((path) => path !== at.metadata(ALIAS)));
  });
});
