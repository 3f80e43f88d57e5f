import { describe, expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import { larder, larderJson, run, runUntilFree, TemporaryFolder } from "../larder.ts";
import { at, metadataOf, Store } from "../store.ts";
import { hasTool } from "../tools.ts";
import { Catalogue, digest, metadata, SOUND, snapshot } from "./catalogue.ts";

/** Persists references from metadata on standard input, and fails with larder's words. */
async function persist(home: string, document: string, ...references: string[]): Promise<void> {
  const outcome = await run(["persist", ...references, "--metadata", "-", "--home", home], { stdin: document });
  expect(outcome).toMatchObject({ code: 0, stderr: "" });
}

/** A batch line. */
function line(reference: string, document = metadata()): string {
  return `{"reference":${JSON.stringify(reference)},"metadata":${document}}`;
}

/** Persists a batch from standard input. */
function batch(home: string, text: string | Uint8Array) {
  return run(["persist", "--batch", "-", "--home", home], { stdin: text });
}

const ALL_ROWS = {
  manifest: "SELECT * FROM manifest ORDER BY id",
  image_ref: "SELECT * FROM image_ref ORDER BY id",
  config: "SELECT * FROM config ORDER BY id",
  layer: "SELECT * FROM layer ORDER BY id",
  manifest_layer: "SELECT * FROM manifest_layer ORDER BY id",
} as const;

/** Every row of the tables that persist writes to. */
function dump(home: string): Record<keyof typeof ALL_ROWS, Record<string, unknown>[]> {
  using catalogue = Catalogue.open(home);
  expect(catalogue.check()).toEqual(SOUND);
  return Object.fromEntries(Object.entries(ALL_ROWS).map(([name, sql]) => [name, catalogue.rows(sql)])) as never;
}

/** The references on record, in the order of their rows. */
function references(home: string): unknown[] {
  return dump(home).image_ref.map(({ reference }) => reference);
}

// Nine digits of fraction and a space: the only form in which text order is time order.
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}$/);

describe("persist", () => {
  test("puts every field of the metadata on record", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const raw = { architecture: "arm64", os: "linux", variant: "v8", config: {} };
    const document = metadata({
      manifest: digest(0xa1),
      config: digest(0xa2),
      labels: { team: "web", "": "empty key" },
      stopSignal: "SIGQUIT",
      layers: [
        { blob: digest(0x11), diff: digest(0x21), size: "1000" },
        { blob: digest(0x12), diff: digest(0x22), size: null, mediaType: null },
      ],
      raw,
    });
    await persist(home, document, "ghcr.io/acme/app:v1");
    expect(dump(home)).toEqual({
      manifest: [
        {
          id: 1n,
          digest: digest(0xa1),
          media_type: null,
          config_digest: digest(0xa2),
          architecture: "arm64",
          os: "linux",
          variant: "v8",
          layer_count: 2n,
          total_size_bytes: 1000n,
          created_at: TIME,
        },
      ],
      image_ref: [{ id: 1n, reference: "ghcr.io/acme/app:v1", manifest_id: 1n, created_at: TIME, updated_at: TIME }],
      config: [
        {
          id: 1n,
          manifest_id: 1n,
          digest: digest(0xa2),
          env: '["PATH=/bin","LANG=C"]',
          cmd: '["serve","--all"]',
          entrypoint: '["/entry point"]',
          working_dir: "/srv",
          user: "app",
          labels: '{"team":"web","":"empty key"}',
          stop_signal: "SIGQUIT",
          created_at: TIME,
        },
      ],
      layer: [
        {
          id: 1n,
          diff_id: digest(0x21),
          blob_digest: digest(0x11),
          media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
          compressed_size_bytes: 1000n,
          erofs_size_bytes: null,
          created_at: TIME,
          last_used_at: TIME,
        },
        {
          id: 2n,
          diff_id: digest(0x22),
          blob_digest: digest(0x12),
          media_type: null,
          compressed_size_bytes: null,
          erofs_size_bytes: null,
          created_at: TIME,
          last_used_at: TIME,
        },
      ],
      manifest_layer: [
        { id: 1n, manifest_id: 1n, layer_id: 1n, position: 0n },
        { id: 2n, manifest_id: 1n, layer_id: 2n, position: 1n },
      ],
    });
  });

  test("reads the cache's own metadata for each reference, by its canonical form, in both shapes", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const manifests = join(home, "cache", "manifests");
    mkdirSync(manifests, { recursive: true });
    // The names are sha256sum's of docker.io/library/python:latest and ghcr.io/acme/app:v1.
    writeFileSync(
      join(manifests, "e8f1adef354e6465d41314fafa35b9b339282111c233492e861862dd91deee15.json"),
      metadata({ manifest: digest(1) }),
    );
    writeFileSync(
      join(manifests, "1a7d1f6a310a0744f2e0c3660a2a88550de8f7cb7b709730ba83116a56f73f88.json"),
      `${metadata({ manifest: digest(2), raw: { architecture: "s390x", os: "linux" } })}\n`,
    );
    const { code, stdout, stderr } = await larder(
      home,
      "persist",
      "python",
      "index.docker.io/python",
      "ghcr.io/acme/app:v1",
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toBe(
      [
        `persisted  python  ${digest(1)}\n`,
        `persisted  index.docker.io/python  ${digest(1)}\n`,
        `persisted  ghcr.io/acme/app:v1  ${digest(2)}\n`,
      ].join(""),
    );
    expect(references(home)).toEqual(["python", "index.docker.io/python", "ghcr.io/acme/app:v1"]);
    expect(dump(home).manifest.map(({ architecture }) => architecture)).toEqual([
      // The older shape does not say, so the host's is taken, as msb does.
      process.arch === "arm64" ? "arm64" : "amd64",
      "s390x",
    ]);
    // The metadata is msb's and stays as it is.
    expect(readdirSync(manifests)).toHaveLength(2);
  });

  test("tries every reference, keeps what works, and names those whose metadata cannot be used", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const manifests = join(home, "cache", "manifests");
    mkdirSync(manifests, { recursive: true });
    writeFileSync(join(manifests, "e8f1adef354e6465d41314fafa35b9b339282111c233492e861862dd91deee15.json"), metadata());
    writeFileSync(
      join(manifests, "1a7d1f6a310a0744f2e0c3660a2a88550de8f7cb7b709730ba83116a56f73f88.json"),
      metadata().replace(digest(4), "sha256:../../x"),
    );
    const { code, stdout, stderr } = await larder(home, "persist", "absent", "ghcr.io/acme/app:v1", "python");
    expect({ code, stdout }).toEqual({ code: 3, stdout: `persisted  python  ${digest(1)}\n` });
    expect(stderr).toMatch(
      /^larder: cannot persist "absent": .*\nlarder: .*1a7d1f6a310a0744f2e0c3660a2a88550de8f7cb7b709730ba83116a56f73f88\.json: layers\[0\]\.diff_id: .*\n$/,
    );
    expect(references(home)).toEqual(["python"]);
  });

  test("takes the metadata for all references from one file", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const file = join(folder.path, "metadata.json");
    writeFileSync(file, JSON.stringify(JSON.parse(metadata()), null, 2));
    const handles = await larderJson(home, ["persist", "--metadata", file, "python", "python:3"]);
    expect(handles).toEqual([
      { reference: "python", canonical: "docker.io/library/python:latest", digest: digest(1) },
      { reference: "python:3", canonical: "docker.io/library/python:3", digest: digest(1) },
    ]);
    expect(dump(home)).toMatchObject({ manifest: [{ id: 1n }], image_ref: [{ manifest_id: 1n }, { manifest_id: 1n }] });
  });

  test.each<[sizes: (string | null)[], total: bigint]>([
    [["18446744073709551615"], 2n ** 63n - 1n],
    [["9223372036854775807", "1"], 2n ** 63n - 1n],
    [["9223372036854775806", "1"], 2n ** 63n - 1n],
    // Doubles cannot tell these apart from their neighbours.
    [["9007199254740993"], 9007199254740993n],
    [["9007199254740992", "1", null], 9007199254740993n],
    [["4611686018427387905", "4611686018427387901"], 2n ** 63n - 2n],
    [["0", null], 0n],
    [[], 0n],
  ])("sums layers of %j bytes to %p", async (sizes, total) => {
    using folder = new TemporaryFolder();
    const layers = sizes.map((size, i) => ({ blob: digest(0x10 + i), diff: digest(0x20 + i), size }));
    await persist(folder.path, metadata({ layers }), "app");
    const { manifest, layer } = dump(folder.path);
    expect(manifest).toMatchObject([{ total_size_bytes: total, layer_count: BigInt(sizes.length) }]);
    const stored = sizes.map((size) => size && (BigInt(size) > 2n ** 63n - 1n ? 2n ** 63n - 1n : BigInt(size)));
    expect(layer.map((row) => row.compressed_size_bytes)).toEqual(stored);
  });

  test.each([
    ["2^64", "18446744073709551616", "must be at most 18446744073709551615"],
    ["a negative number", "-1", "must not be negative"],
    ["a fraction", "1.0", "must be an integer"],
    ["an exponent", "1e3", "must be an integer"],
    ["text", '"1"', "must be an integer"],
  ])("refuses a layer of %s bytes, and says where", async (_, size, why) => {
    using folder = new TemporaryFolder();
    const layers = [
      { blob: digest(3), diff: digest(4) },
      { blob: digest(5), diff: digest(6), size },
    ];
    const { code, stderr } = await run(["persist", "app", "--metadata", "-", "--home", folder.path], {
      stdin: metadata({ layers }),
    });
    expect(code).toBe(1);
    expect(stderr).toStartWith(`larder: standard input: layers[1].size_bytes: ${why}`);
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test("writes nothing of a reference or digest that is bad, and says which", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await persist(home, metadata({ manifest: digest(9) }), "kept");
    const before = dump(home);
    const upper = digest(0xab).toUpperCase().replace("SHA256", "sha256");
    const cases: [args: string[], document: string, complaint: string][] = [
      [["Bad"], metadata(), '"Bad" is not an image reference'],
      [["a/../b"], metadata(), '"a/../b" is not an image reference'],
      [["a b"], metadata(), '"a b" is not an image reference'],
      [["good@sha256:12"], metadata(), "is not an image reference"],
      [["good"], metadata({ manifest: "sha256:../x" }), "manifest_digest: must be"],
      [["good"], metadata({ config: "md5:d41d8cd98f00b204e9800998ecf8427e" }), "config_digest: must be"],
      [["good"], metadata({ layers: [{ blob: digest(1), diff: upper }] }), "layers[0].diff_id: must be"],
      [["good"], metadata({ layers: [{ blob: "a/../b:x", diff: digest(1) }] }), "layers[0].digest: must be"],
      [["good"], metadata({ manifest: `${digest(1)}0` }), "manifest_digest: must be"],
      [["good"], metadata({ manifest: `${digest(1)}\\n` }), "manifest_digest: must be"],
      [["good"], metadata().replace('"env":[', '"env":[1,'), "config.env[0]: "],
      [["good"], metadata().replace('"volumes":["/data"],', ""), "config.volumes: "],
      [["good"], "5", "document: "],
      [["good"], "", "not JSON"],
      [["good"], `\ufeff${metadata()}`, "not JSON"],
      [["good"], `${metadata()}x`, "not JSON"],
    ];
    for (const [args, stdin, complaint] of cases) {
      const outcome = await run(["persist", ...args, "--metadata", "-", "--home", home], { stdin });
      expect(outcome).toMatchObject({ code: 1, stdout: "" });
      expect(outcome.stderr).toContain(complaint);
    }
    expect(dump(home)).toEqual(before);
  });

  test("puts the good references on record beside one that is none", async () => {
    using folder = new TemporaryFolder();
    const args = ["persist", "good", "Bad", "good:2", "--metadata", "-", "--format", "json", "--home", folder.path];
    const { code, stdout, stderr } = await run(args, { stdin: metadata() });
    expect(JSON.parse(stdout).map(({ reference }: { reference: string }) => reference)).toEqual(["good", "good:2"]);
    expect([code, stderr]).toEqual([1, 'larder: "Bad" is not an image reference: invalid reference format\n']);
    expect(dump(folder.path).image_ref).toHaveLength(2);
  });

  test("refuses metadata that is not UTF-8, instead of altering it", async () => {
    using folder = new TemporaryFolder();
    const stdin = Buffer.from(metadata({ labels: { name: "caf\u00e9" } }), "latin1");
    const outcome = await run(["persist", "app", "--metadata", "-", "--home", folder.path], { stdin });
    expect(outcome).toEqual({ code: 1, stdout: "", stderr: "larder: standard input: not UTF-8 text\n" });
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test("keeps labels that are called as parts of every object are", async () => {
    using folder = new TemporaryFolder();
    const labels = '{"constructor":"a","__proto__":"b","prototype":"c","toString":"d"}';
    await persist(folder.path, metadata().replace('"labels":{}', `"labels":${labels}`), "app");
    expect(dump(folder.path).config).toMatchObject([{ labels }]);
    const { stdout } = await larder(folder.path, "inspect", "app");
    expect(stdout.match(/^Label .*/gm)?.map((line) => line.split(/ +/)[1])).toEqual([
      "constructor=a",
      "__proto__=b",
      "prototype=c",
      "toString=d",
    ]);
    expect((await larder(folder.path, "list", "-q", "--filter", "label=__proto__=b")).stdout).toBe("app\n");
  });

  test("keeps every id when an image is persisted again, and refreshes the times of use alone", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const document = metadata({ labels: { a: "b" }, raw: { architecture: "arm64", os: "linux" } });
    await persist(home, metadata({ manifest: digest(7), layers: [{ blob: digest(8), diff: digest(9) }] }), "other");
    await persist(home, document, "app");
    const before = dump(home);
    // A clock that stands still would hide a time that is not refreshed.
    await Bun.sleep(5);
    await persist(home, document, "app");
    const after = dump(home);
    const [, ref] = before.image_ref;
    const [, layer] = before.layer;
    expect(after).toEqual({
      ...before,
      image_ref: [before.image_ref[0]!, { ...ref!, updated_at: TIME }],
      layer: [before.layer[0]!, { ...layer!, last_used_at: TIME }],
    });
    expect(String(after.image_ref[1]!.updated_at) > String(ref!.updated_at)).toBe(true);
    expect(String(after.layer[1]!.last_used_at) > String(layer!.last_used_at)).toBe(true);
  });

  test("mends rows that say less than the metadata, in place", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const document = metadata({
      labels: { a: "b" },
      stopSignal: "SIGINT",
      raw: { architecture: "arm64", os: "linux" },
    });
    await persist(home, document, "app");
    const sound = dump(home);
    {
      using catalogue = Catalogue.open(home);
      catalogue.db.run("UPDATE config SET labels = NULL, stop_signal = NULL");
      catalogue.db.run("UPDATE manifest SET architecture = 'amd64', layer_count = 99, total_size_bytes = NULL");
      catalogue.db.run("DELETE FROM manifest_layer");
    }
    await persist(home, document, "app");
    const { manifest, config, manifest_layer } = dump(home);
    expect({ manifest, config }).toEqual({ manifest: sound.manifest, config: sound.config });
    expect(manifest_layer).toMatchObject([{ manifest_id: 1n, layer_id: 1n, position: 0n }]);
  });

  test("keeps the platform on record where later metadata does not state it", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await persist(home, metadata({ raw: { architecture: "arm", os: "linux", variant: "v7" } }), "app");
    await persist(home, metadata(), "app");
    expect(dump(home).manifest).toMatchObject([{ architecture: "arm", os: "linux", variant: "v7" }]);
    // A raw config that is no use states nothing either.
    await persist(home, metadata({ raw: ["nothing"] }), "app");
    expect(dump(home).manifest).toMatchObject([{ architecture: "arm", os: "linux", variant: "v7" }]);
  });

  test("records a layer that an image has twice", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const twice = { blob: digest(0x11), diff: digest(0x21), size: "10" };
    const document = metadata({ layers: [twice, { blob: digest(0x12), diff: digest(0x22), size: "5" }, twice] });
    await persist(home, document, "app");
    const before = dump(home);
    expect(before).toMatchObject({
      manifest: [{ layer_count: 3n, total_size_bytes: 25n }],
      layer: [{ id: 1n }, { id: 2n }],
      manifest_layer: [
        { layer_id: 1n, position: 0n },
        { layer_id: 2n, position: 1n },
        { layer_id: 1n, position: 2n },
      ],
    });
    await persist(home, document, "app");
    expect(dump(home).manifest_layer).toEqual(before.manifest_layer);
    expect(dump(home).config).toEqual(before.config);
  });

  test("shares a layer between images, and leaves what its row says of its first blob", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await persist(home, metadata({ layers: [{ blob: digest(0x11), diff: digest(0x21), size: "10" }] }), "one");
    const second = metadata({
      manifest: digest(5),
      layers: [{ blob: digest(0x99), diff: digest(0x21), size: "20", mediaType: "zstd" }],
    });
    await persist(home, second, "two");
    expect(dump(home)).toMatchObject({
      manifest: [{ total_size_bytes: 10n }, { total_size_bytes: 20n }],
      layer: [{ blob_digest: digest(0x11), compressed_size_bytes: 10n }],
      manifest_layer: [{ layer_id: 1n }, { layer_id: 1n }],
    });
  });

  test("fills in the artifact's size where the cache has it, and keeps it when the artifact has gone", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const layers = join(home, "cache", "layers");
    mkdirSync(layers, { recursive: true });
    const artifact = (n: number) => join(layers, `${digest(n).replace(":", "_")}.erofs`);
    writeFileSync(artifact(0x21), new Uint8Array(12288));
    mkdirSync(artifact(0x22));
    const document = metadata({
      layers: [0x21, 0x22, 0x23].map((n) => ({ blob: digest(n - 0x10), diff: digest(n) })),
    });
    await persist(home, document, "app");
    const sizes = () => dump(home).layer.map((row) => row.erofs_size_bytes);
    expect(sizes()).toEqual([12288n, null, null]);
    writeFileSync(artifact(0x23), new Uint8Array(4096));
    await Bun.file(artifact(0x21)).delete();
    await persist(home, document, "app");
    expect(sizes()).toEqual([12288n, null, 4096n]);
  });

  test("moves a reference whose manifest changed, and leaves the old one untagged", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await persist(home, metadata({ manifest: digest(1) }), "app", "alias");
    const created = dump(home).image_ref[0]!.created_at;
    await persist(home, metadata({ manifest: digest(2) }), "app");
    expect(dump(home).image_ref).toMatchObject([
      { id: 1n, reference: "app", manifest_id: 2n, created_at: created },
      { id: 2n, reference: "alias", manifest_id: 1n },
    ]);
    expect((await larder(home, "list", "-q", "--filter", "untagged=true")).stdout).toBe("");
    await persist(home, metadata({ manifest: digest(2) }), "alias");
    expect((await larder(home, "list", "-q", "--filter", "untagged=true")).stdout).toBe(`${digest(1)}\n`);
    expect(dump(home).manifest).toHaveLength(2);
  });

  test("leaves rows of other tools alone, and adds three indexes to a catalogue that it did not make", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
    let before: unknown[];
    {
      using catalogue = Catalogue.create(home);
      catalogue.image({ reference: "theirs", manifest: digest(0x77), created: "2020-01-01T00:00:00Z" });
      catalogue.db.run("CREATE TABLE theirs (id INTEGER PRIMARY KEY, what TEXT) STRICT");
      catalogue.db.run("INSERT INTO theirs VALUES (1, 'x')");
      catalogue.db.run("INSERT INTO seaql_migrations VALUES ('m20991231_000001_from_a_newer_msb', 1)");
      catalogue.db.run("ALTER TABLE sandbox_rootfs ADD COLUMN root_disk_kind text NOT NULL DEFAULT 'managed'");
      before = [
        catalogue.rows("SELECT * FROM theirs"),
        catalogue.rows("SELECT * FROM seaql_migrations ORDER BY version"),
        catalogue.rows("SELECT * FROM image_ref"),
        catalogue.rows(indexes),
      ];
    }
    await persist(home, metadata(), "ours");
    using catalogue = Catalogue.open(home);
    const [theirs, migrations, refs, had] = before;
    expect(catalogue.rows("SELECT * FROM theirs")).toEqual(theirs as never);
    expect(catalogue.rows("SELECT * FROM seaql_migrations ORDER BY version")).toEqual(migrations as never);
    expect(catalogue.rows("SELECT * FROM image_ref WHERE reference = 'theirs'")).toEqual(refs as never);
    const names = (rows: unknown) => (rows as { name: string }[]).map(({ name }) => name);
    const added = names(catalogue.rows(indexes)).filter((name) => !names(had).includes(name));
    expect(added).toEqual(["idx_image_ref_manifest", "idx_manifest_layer_layer", "idx_sandbox_rootfs_manifest"]);
  });
});

describe("persist of an image on record, by metadata that lacks a layer", () => {
  const layers = [1, 2].map((i) => ({ blob: digest(0x10 + i), diff: digest(0x20 + i) }));
  const whole = metadata({ layers });
  const refusal = (lost: string) =>
    `cannot put ${digest(1)} on record anew: this metadata lacks its layer ${lost}, and a digest stands for one image (where the record is wrong, remove it first)`;

  test.each([
    ["one", [layers[0]!], layers[1]!.diff],
    ["all", [], layers[0]!.diff],
    ["another", [layers[0]!, { blob: digest(0x13), diff: digest(0x23) }], layers[1]!.diff],
  ])("is refused, and changes nothing: %s", async (_, fewer, lost) => {
    using folder = new TemporaryFolder();
    await persist(folder.path, whole, "app:1");
    const before = dump(folder.path);
    const args = ["persist", "app:2", "--metadata", "-", "--home", folder.path];
    const { code, stdout, stderr } = await run(args, { stdin: metadata({ layers: fewer }) });
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toBe(`larder: "app:2": ${refusal(lost)}\n`);
    expect(dump(folder.path)).toEqual(before);
  });

  test("keeps none of a batch's others off the record", async () => {
    using folder = new TemporaryFolder();
    const other = metadata({ manifest: digest(9), config: digest(8), layers });
    const lines = [line("app:1", whole), line("app:2", metadata({ layers: [] })), line("other:1", other)];
    const { code, stdout, stderr } = await batch(folder.path, lines.join("\n"));
    expect(code).toBe(1);
    expect(stdout.match(/persisted {2}\S+/g)).toEqual(["persisted  app:1", "persisted  other:1"]);
    expect(stderr).toBe(`larder: line 2: ${refusal(layers[0]!.diff)}\n`);
    expect(references(folder.path)).toEqual(["app:1", "other:1"]);
  });

  test("and a batch that ends in a failure after it, tell all of what became of each", async () => {
    using folder = new TemporaryFolder();
    await persist(folder.path, whole, "app:1");
    {
      using catalogue = Catalogue.open(folder.path);
      const never = "BEFORE INSERT ON image_ref WHEN NEW.reference = 'last:1'";
      catalogue.db.run(`CREATE TRIGGER never ${never} BEGIN SELECT raise(ABORT, 'never'); END`);
    }
    const other = metadata({ manifest: digest(9), config: digest(8), layers });
    const lines = [line("other:1", other), line("app:2", metadata({ layers: [] })), line("last:1", other)];
    const { code, stdout, stderr } = await batch(folder.path, lines.join("\n"));
    expect(code).toBe(1);
    expect(stdout).toStartWith("persisted  other:1  ");
    expect(stderr.trimEnd().split("\n")).toEqual([
      `larder: line 2: ${refusal(layers[0]!.diff)}`,
      expect.stringContaining("never"),
    ]);
    expect(references(folder.path)).toEqual(["app:1", "other:1"]);
  });

  test.each([
    ["is gone", `DELETE FROM layer WHERE diff_id = '${layers[0]!.diff}'`],
    ["has no digest", `UPDATE layer SET diff_id = 'junk' WHERE diff_id = '${layers[0]!.diff}'`],
  ])("is no loss of a row that %s: the whole metadata mends it", async (_, damage) => {
    using folder = new TemporaryFolder();
    await persist(folder.path, whole, "app:1");
    {
      using catalogue = Catalogue.open(folder.path);
      catalogue.db.run("PRAGMA foreign_keys = OFF");
      catalogue.db.run(damage);
    }
    await persist(folder.path, whole, "app:1");
    using catalogue = Catalogue.open(folder.path);
    const diffIds =
      "SELECT l.diff_id AS id FROM manifest_layer AS j JOIN layer AS l ON l.id = j.layer_id ORDER BY position";
    expect(catalogue.rows(diffIds)).toEqual(layers.map(({ diff }) => ({ id: diff })));
  });

  test("may bring more", async () => {
    using folder = new TemporaryFolder();
    await persist(folder.path, metadata({ layers: [layers[1]!] }), "app:1");
    await persist(folder.path, whole, "app:1");
    expect(dump(folder.path).manifest_layer).toHaveLength(2);
  });
});

describe("persist --batch", () => {
  test.skipIf(!hasTool("strace"))("tells what is on record where the file cannot be read to its end", async () => {
    using folder = new TemporaryFolder();
    const file = join(folder.path, "batch.jsonl");
    const padded = metadata({ labels: { padding: "x".repeat(1000) } });
    writeFileSync(file, Array.from({ length: 1000 }, (_, i) => `${line(`image:${i}`, padded)}\n`).join(""));
    const under = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", "inject=read,pread64:error=EIO:when=4+"];
    const { code, stdout, stderr } = await run(["persist", "--batch", file, "--home", folder.path], { under });
    expect(code).toBe(1);
    const told = stdout.split("\n").filter((line) => line.startsWith("persisted "));
    expect(told.length).toBeGreaterThan(100);
    expect(references(folder.path)).toHaveLength(told.length);
    expect(stderr).toBe(`larder: cannot read "${file}": the device reported an input/output error\n`);
  });

  test.each(["/dev/null", "FIFO"])("reads from %s", async (source) => {
    using folder = new TemporaryFolder();
    const fifo = join(folder.path, "fifo");
    if (source === "FIFO") Bun.spawn(["sh", "-c", `mkfifo ${fifo}; echo '${line("one:1")}' > ${fifo}`]);
    while (source === "FIFO" && !existsSync(fifo)) await Bun.sleep(5);
    const { code, stderr } = await larder(folder.path, "persist", "--batch", source === "FIFO" ? fifo : source);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(existsSync(join(folder.path, "db"))).toBe(source === "FIFO");
  });

  test("names bad lines by their number, skips them, and keeps the rest", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const bad: [line: string, complaint: string][] = [
      ["{", "not JSON"],
      ["[]", 'must be an object {"reference": "…", "metadata": {…}}'],
      ["null", "must be an object"],
      ['"text"', "must be an object"],
      [`{"reference":5,"metadata":${metadata()}}`, "must be an object"],
      [`{"metadata":${metadata()}}`, "must be an object"],
      ['{"reference":"a"}', "must be an object"],
      [line("UPPER"), '"UPPER" is not an image reference'],
      [line(""), "repository name must have at least one component"],
      ['{"reference":"a","metadata":null}', "metadata: document: "],
      [line("a", metadata({ manifest: "sha256:1" })), "metadata: manifest_digest: must be"],
      [
        line("a", metadata({ layers: [{ blob: digest(1), diff: digest(2), size: "-1" }] })),
        "metadata: layers[0].size_bytes: ",
      ],
      [`${line("a")}${line("b")}`, "not JSON"],
      [`\ufeff${line("a")}`, "not JSON"],
    ];
    // good, blank, bad, good, blank, bad, …, and the last line without its newline
    const lines = bad.flatMap(([text], i) => [line(`good:${i}`), i % 2 === 0 ? "" : " \t\r", text]);
    const { code, stdout, stderr } = await batch(home, [...lines, line("good:last")].join("\n"));
    expect(code).toBe(1);
    const good = [...bad.keys(), "last"].map((i) => `good:${i}`);
    expect(stdout).toBe(good.map((reference) => `persisted  ${reference}  ${digest(1)}\n`).join(""));
    const complaints = stderr.trimEnd().split("\n");
    expect(complaints).toHaveLength(bad.length);
    bad.forEach(([, complaint], i) => {
      expect(complaints[i]).toStartWith(`larder: line ${3 * i + 3}: `);
      expect(complaints[i]).toContain(complaint);
    });
    expect(references(home)).toEqual(good);
  });

  test.each([
    ["is not there", line("a")],
    ["is there", `${line("a")}\n`],
    ["is followed by blank lines", `${line("a")}\n\n  \n`],
    ["ends lines as on Windows", `${line("a")}\r\n\r\n`],
  ])("takes a last line whose newline %s", async (_, text) => {
    using folder = new TemporaryFolder();
    expect(await batch(folder.path, text)).toEqual({ code: 0, stdout: `persisted  a  ${digest(1)}\n`, stderr: "" });
    expect(references(folder.path)).toEqual(["a"]);
  });

  test("keeps the lines beside one that is not UTF-8", async () => {
    using folder = new TemporaryFolder();
    const labels = { name: "café" };
    const text = Buffer.concat([
      Buffer.from(`${line("one", metadata({ labels }))}\n`),
      Buffer.from(`${line("two", metadata({ labels }))}\n`, "latin1"),
      Buffer.from(`${line("three")}\n`),
    ]);
    const { code, stderr } = await batch(folder.path, text);
    expect({ code, stderr }).toEqual({ code: 1, stderr: "larder: line 2: not UTF-8 text\n" });
    expect(references(folder.path)).toEqual(["one", "three"]);
    expect(dump(folder.path).config).toMatchObject([{ labels: null }]);
    await batch(folder.path, line("one", metadata({ labels })));
    expect(dump(folder.path).config).toMatchObject([{ labels: '{"name":"café"}' }]);
  });

  test("reads thousands of lines, some longer than a pipe holds, wherever the chunks part them", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const count = 3000;
    const lines: string[] = [];
    for (let i = 1; i <= count; i++) {
      // Characters of several bytes, which a chunk's end may cut.
      const labels = { i: String(i), text: i % 500 === 0 ? "日本€ß".repeat(20_000) : "日€" };
      lines.push(line(`acme/i:${i}`, metadata({ manifest: digest(0x10000 + i), labels })));
    }
    const text = `${lines.join("\n")}\n`;
    const file = join(folder.path, "batch.jsonl");
    writeFileSync(file, text);
    for (const [target, outcome] of [
      [home, await larder(home, "persist", "--batch", file, "--format", "jsonl")],
      [`${home}2`, await run(["persist", "--batch", "-", "--home", `${home}2`, "--format", "jsonl"], { stdin: text })],
    ] as const) {
      expect(outcome).toMatchObject({ code: 0, stderr: "" });
      expect(
        outcome.stdout
          .trimEnd()
          .split("\n")
          .map((each) => JSON.parse(each).reference),
      ).toEqual(Array.from({ length: count }, (_, i) => `acme/i:${i + 1}`));
      using catalogue = Catalogue.open(target);
      expect(catalogue.check()).toEqual(SOUND);
      expect(
        catalogue.rows(
          `SELECT count(*) AS images,
                  sum(json_extract(c.labels, '$.i') = replace(r.reference, 'acme/i:', '')) AS matching,
                  sum(length(json_extract(c.labels, '$.text'))) AS characters
           FROM image_ref AS r JOIN config AS c USING (manifest_id)`,
        ),
      ).toEqual([{ images: 3000n, matching: 3000n, characters: 6n * 80_000n + 2994n * 2n }]);
    }
  });

  test("lets the last line about a reference stand", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const lines = [1, 2, 3].map((n) => line("app", metadata({ manifest: digest(n) })));
    expect((await batch(home, lines.join("\n"))).code).toBe(0);
    expect(await larderJson(home, ["get", "app"])).toMatchObject({ digest: digest(3) });
    expect((await larder(home, "list", "-q", "--filter", "untagged=true")).stdout.split("\n")).toHaveLength(3);
  });
});

const MIGRATIONS = [
  "m20260305_000001_create_image_tables",
  "m20260305_000002_create_sandbox_tables",
  "m20260305_000003_create_storage_tables",
  "m20260305_000004_create_sandbox_images_table",
  "m20260410_000001_erofs_image_schema",
  "m20260501_000001_create_snapshot_index",
];

const isRoot = process.geteuid?.() === 0;

describe("persist on a host without a catalogue", () => {
  test("makes one as msb 0.4.4 does, with its six migrations", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "a", "b", "home");
    await persist(home, metadata(), "app");
    using catalogue = Catalogue.open(home);
    expect(catalogue.check()).toEqual(SOUND);
    expect(catalogue.rows("PRAGMA journal_mode")).toEqual([{ journal_mode: "wal" }]);
    const versions = catalogue.rows("SELECT version FROM seaql_migrations ORDER BY version");
    expect(versions.map(({ version }) => version)).toEqual(MIGRATIONS);
    const tables = catalogue.rows(
      "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    );
    expect(tables.map(({ name }) => name)).toEqual([
      "config",
      "image_ref",
      "layer",
      "manifest",
      "manifest_layer",
      "run",
      "sandbox",
      "sandbox_metric",
      "sandbox_rootfs",
      "seaql_migrations",
      "snapshot_index",
      "volume",
    ]);
  });

  test("names failures in the order of what was asked, and returns the first one's code", async () => {
    const [one, image] = ["ghcr.io/acme/one:1", { references: ["ghcr.io/acme/one:1"], layers: ["base", "own"] }];
    using store = await Store.make({ one: image });
    // Refused only once it is to be put on record: it lacks a layer.
    const metadata = metadataOf("one", ["base"]);
    store.write(at.metadata(one), JSON.stringify(metadata));
    const { code, stderr } = await larder(store.path, "persist", one, "missing:1");
    expect(code).toBe(1);
    expect(stderr).toMatch(/lacks its layer.*\n.*cannot persist "missing:1"/);
    const stdin = `${JSON.stringify({ reference: one, metadata })}\nno JSON\n`;
    const batch = await run(["persist", "--batch", "-", "--home", store.path], { stdin });
    expect(batch.stderr.match(/line \d/g)).toEqual(["line 1", "line 2"]);
  });

  test("makes one out of a database of no bytes, as SQLite leaves it before the first write", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "db"));
    writeFileSync(join(folder.path, "db", "msb.db"), "");
    await persist(folder.path, metadata(), "app");
    expect(references(folder.path)).toEqual(["app"]);
  });

  test("lets several at once make one together", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const names = ["a", "b", "c", "d", "e", "f"];
    const args = (name: string) => ["persist", name, "--metadata", "-", "--home", home];
    await Promise.all(names.map((name) => runUntilFree(args(name), { stdin: metadata() })));
    expect(references(home).sort()).toEqual(names);
    using catalogue = Catalogue.open(home);
    expect(catalogue.rows("SELECT count(*) AS n FROM seaql_migrations")).toEqual([{ n: 6n }]);
    expect(dump(home)).toMatchObject({ manifest: [{}], config: [{}], layer: [{}], manifest_layer: [{}] });
  });

  test("gives folders, files and locks msb's modes", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const under = ["sh", "-c", 'umask 022; exec "$@"', "sh"];
    const args = ["persist", "app", "--metadata", "-", "--home", home];
    expect((await run(args, { stdin: metadata(), under })).code).toBe(0);
    const modes = Object.entries(snapshot(home)).map(([name, state]) => [name, state.split(" ")[0]]);
    expect(modes).toEqual([
      ["cache", "40755"],
      ["db", "40755"],
      ["db/msb.db", "100644"],
      ["db/msb.db.migration.lock", "100600"],
    ]);
    expect((statSync(home).mode & 0o777).toString(8)).toBe("755");
  });

  // Only root can give files away, and only root has the trouble.
  test.skipIf(!isRoot)("run by root gives all of it to the owner of the folder it lies in", async () => {
    using folder = new TemporaryFolder();
    chmodSync(folder.path, 0o755);
    const user = join(folder.path, "user");
    mkdirSync(user);
    chownSync(user, 12345, 23456);
    const home = join(user, ".microsandbox");
    // A reader that stays keeps the WAL and its index on the disk.
    await persist(home, metadata(), "app");
    using catalogue = Catalogue.open(home);
    catalogue.rows("SELECT 1 FROM image_ref");
    await persist(home, metadata(), "app:2");
    const owners = new Map<string, string>();
    for (const name of [".", ...readdirSync(home, { recursive: true, encoding: "utf8" })]) {
      const { uid, gid } = statSync(join(home, name));
      owners.set(name, `${uid}:${gid}`);
    }
    expect([...owners.keys()].sort()).toEqual([
      ".",
      "cache",
      "db",
      "db/msb.db",
      "db/msb.db-shm",
      "db/msb.db-wal",
      "db/msb.db.migration.lock",
    ]);
    expect([...owners.values()].filter((owner) => owner !== "12345:23456")).toEqual([]);
  });
});

describe("persist refuses", () => {
  test.each<[what: string, spoil: (home: string, catalogue: Catalogue) => void, complaint: RegExp]>([
    [
      "a catalogue whose migration table is empty, which msb would wipe",
      (_, { db }) => db.run("DELETE FROM seaql_migrations"),
      /will not write to the database ".*": its migration history \(table seaql_migrations\) is empty/,
    ],
    [
      "a catalogue whose migration table is missing",
      (_, { db }) => db.run("DROP TABLE seaql_migrations"),
      /its migration history \(table seaql_migrations\) is missing/,
    ],
    [
      "a catalogue that an msb downgrade has not finished with",
      (home) => {
        mkdirSync(join(home, "db/self-downgrade/op-1"), { recursive: true });
        writeFileSync(join(home, "db/self-downgrade/op-1/journal.json"), '{"phase":"copying"}');
      },
      /an msb downgrade is not finished \(".*journal\.json"\)/,
    ],
    [
      "a catalogue whose downgrade journal cannot be read",
      (home) => {
        mkdirSync(join(home, "db/self-downgrade/op-1"), { recursive: true });
        writeFileSync(join(home, "db/self-downgrade/op-1/journal.json"), "{");
      },
      /an msb downgrade is not finished/,
    ],
  ])("%s, which can still be listed", async (_, spoil, complaint) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    using catalogue = Catalogue.create(home);
    catalogue.image({ reference: "there", manifest: digest(9) });
    spoil(home, catalogue);
    const before = catalogue.rows("SELECT * FROM image_ref");
    const outcome = await run(["persist", "app", "--metadata", "-", "--home", home], { stdin: metadata() });
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(outcome.stderr).toMatch(complaint);
    expect(catalogue.rows("SELECT * FROM image_ref")).toEqual(before);
    expect((await larder(home, "list", "-q")).stdout).toBe("there\n");
  });

  test("such a catalogue before it has changed so much as its journal mode", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    {
      using catalogue = Catalogue.create(home);
      catalogue.db.run("DELETE FROM seaql_migrations");
      catalogue.rows("PRAGMA journal_mode = DELETE");
    }
    const before = snapshot(home);
    const outcome = await run(["persist", "app", "--metadata", "-", "--home", home], { stdin: metadata() });
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
    expect(snapshot(home)).toEqual(before);
  });

  test("nothing where the downgrade is complete, or the lease has run out", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    using catalogue = Catalogue.create(home);
    mkdirSync(join(home, "db/self-downgrade/op-1"), { recursive: true });
    writeFileSync(join(home, "db/self-downgrade/op-1/journal.json"), '{"phase":"complete"}');
    catalogue.db.run("CREATE TABLE maintenance_lease (name text PRIMARY KEY, lease_expires_at datetime_text)");
    catalogue.db.run("INSERT INTO maintenance_lease VALUES ('install_exclusive', '2020-01-01 00:00:00.000000000')");
    catalogue.db.run("INSERT INTO maintenance_lease VALUES ('another', '2999-01-01 00:00:00.000000000')");
    await persist(home, metadata(), "app");
  });

  // All wait for the same five seconds, so they wait together.
  test("with 75 what another process keeps busy, and leaves it as it was", async () => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    using locked = Catalogue.create(at("locked"));
    locked.image({ reference: "there", manifest: digest(9) });
    locked.db.run("BEGIN IMMEDIATE");
    using leased = Catalogue.create(at("leased"));
    leased.image({ reference: "there", manifest: digest(9) });
    leased.db.run("CREATE TABLE maintenance_lease (name text PRIMARY KEY, lease_expires_at datetime_text)");
    leased.db.run("INSERT INTO maintenance_lease VALUES ('install_exclusive', '2999-01-01 00:00:00.000000000')");
    // A first start of msb makes the catalogue, and holds this lock while it does.
    mkdirSync(at("made/db"), { recursive: true });
    using _ = FileLock.take(at("made/db/msb.db.migration.lock"))!;
    const outcomes = Promise.all(
      ["locked", "leased", "made"].map((name) =>
        run(["persist", "app", "--metadata", "-", "--home", at(name)], { stdin: metadata() }),
      ),
    );
    // Reading waits for none of them.
    for (const command of [
      ["list", "-q"],
      ["list", "-q", "--filter", "label=x"],
      ["get", "there"],
      ["inspect", "there"],
    ]) {
      for (const name of ["locked", "leased"]) {
        const { code, stderr } = await larder(at(name), ...command);
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      }
    }
    expect((await larder(at("made"), "list")).code).toBe(0);
    const [onLocked, onLeased, onMade] = await outcomes;
    for (const outcome of [onLocked, onLeased, onMade]) expect(outcome).toMatchObject({ code: 75, stdout: "" });
    expect(onLocked!.stderr).toBe(
      `larder: cannot use the database "${at("locked/db/msb.db")}": another process is writing to it; try again\n`,
    );
    expect(onLeased!.stderr).toContain("an msb installation is in progress; try again");
    expect(onMade!.stderr).toContain(
      `another process holds the lock "${at("made/db/msb.db.migration.lock")}"; try again`,
    );
    locked.db.run("ROLLBACK");
    for (const catalogue of [locked, leased]) {
      expect(catalogue.check()).toEqual(SOUND);
      expect(catalogue.rows("SELECT reference FROM image_ref")).toEqual([{ reference: "there" }]);
      expect(catalogue.rows("SELECT name FROM sqlite_master WHERE name LIKE 'idx_image_ref%'")).toEqual([]);
    }
    expect(readdirSync(at("made/db"))).toEqual(["msb.db.migration.lock"]);
  });

  test("nothing for a lease or a lock that is given up in time", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    using catalogue = Catalogue.create(home);
    catalogue.db.run("CREATE TABLE maintenance_lease (name text PRIMARY KEY, lease_expires_at datetime_text)");
    catalogue.db.run("INSERT INTO maintenance_lease VALUES ('install_exclusive', '2999-01-01 00:00:00.000000000')");
    const leased = persist(home, metadata(), "app");
    await Bun.sleep(150);
    catalogue.db.run("DELETE FROM maintenance_lease");
    await leased;
    catalogue.db.run("BEGIN IMMEDIATE");
    const locked = persist(home, metadata(), "app:2");
    await Bun.sleep(150);
    catalogue.db.run("COMMIT");
    await locked;
    expect(references(home)).toEqual(["app", "app:2"]);
  });
});
