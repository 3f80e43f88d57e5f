import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { Catalogue, digest, metadata, snapshot } from "./catalogue.ts";

/** Where the cache keeps the metadata of `docker.io/library/app:latest`; the key is sha256sum's. */
const APP_METADATA = "cache/manifests/28ec096a835a49537929b040aae40036c4b93d8920de5563fc8a3689c4a79316.json";

const LAYERS = [
  { blob: digest(0x11), diff: digest(0x21), size: "1000" },
  { blob: digest(0x12), diff: digest(0x22), size: "18446744073709551615" },
  // The same layer twice, as some builders make it.
  { blob: digest(0x11), diff: digest(0x21), size: "1000" },
];

/** A home with `app` on record, persisted from metadata that the cache does not hold. */
async function makeHome(home: string): Promise<string> {
  const stdin = metadata({ layers: LAYERS, labels: { team: "web" }, stopSignal: "SIGINT" });
  const { code, stderr } = await run(["persist", "app", "--metadata", "-", "--home", home], { stdin });
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return home;
}

describe("inspect", () => {
  test("shows config and layers, bottom to top, from the catalogue alone", async () => {
    using folder = new TemporaryFolder();
    const home = await makeHome(folder.path);
    const { stdout } = await larder(home, "inspect", "app", "--format", "json");
    // Beyond 2^63-1 a column cannot count, and beyond 2^53 JSON.parse cannot: the text is looked at.
    expect(stdout.match(/"compressed_size_bytes": \d+/g)).toEqual([
      '"compressed_size_bytes": 1000',
      '"compressed_size_bytes": 9223372036854775807',
      '"compressed_size_bytes": 1000',
    ]);
    const detail = JSON.parse(stdout);
    expect(detail).toMatchObject({ reference: "app", digest: digest(1), layer_count: 3, damage: [] });
    expect(detail.config).toEqual({
      cmd: ["serve", "--all"],
      digest: digest(2),
      entrypoint: ["/entry point"],
      env: ["PATH=/bin", "LANG=C"],
      labels: { team: "web" },
      stop_signal: "SIGINT",
      user: "app",
      working_dir: "/srv",
      exposed_ports: null,
      volumes: null,
    });
    expect(detail.layers.map(({ diff_id, position }: Record<string, unknown>) => [position, diff_id])).toEqual([
      [0, digest(0x21)],
      [1, digest(0x22)],
      [2, digest(0x21)],
    ]);
    expect(Object.keys(detail.layers[0]).sort()).toEqual([
      "blob_digest",
      "compressed_size_bytes",
      "created_at",
      "diff_id",
      "erofs_size_bytes",
      "last_used_at",
      "media_type",
      "position",
    ]);
    expect(detail.layers[0]).toMatchObject({
      blob_digest: digest(0x11),
      erofs_size_bytes: null,
      media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
    });
    expect(detail.layers[0].last_used_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?\+00:00$/);
  });

  test("takes from the cache's metadata what the catalogue has no column for, and sizes as they were written", async () => {
    using folder = new TemporaryFolder();
    const home = await makeHome(folder.path);
    mkdirSync(join(home, "cache/manifests"), { recursive: true });
    // The image's own blob, though the layer's row is another image's.
    const own = [{ blob: digest(0x91), diff: digest(0x21), size: "77", mediaType: "own/type" }, ...LAYERS.slice(1)];
    writeFileSync(join(home, APP_METADATA), metadata({ layers: own }));
    const { stdout } = await larder(home, "inspect", "app", "--format", "json");
    expect(stdout).toContain('"compressed_size_bytes": 18446744073709551615');
    expect(JSON.parse(stdout)).toMatchObject({
      config: { exposed_ports: ["80/tcp"], volumes: ["/data"] },
      layers: [{ blob_digest: digest(0x91), media_type: "own/type" }, {}, { blob_digest: digest(0x11) }],
    });
    // A file about another manifest says nothing about this image: a later pull moved the name.
    writeFileSync(join(home, APP_METADATA), metadata({ layers: own, manifest: digest(99) }));
    expect(await larderJson(home, ["inspect", "app"])).toMatchObject({
      config: { exposed_ports: null },
      layers: [{ blob_digest: digest(0x11) }, {}, {}],
    });
    // One that cannot be read costs nothing but what it would have added.
    writeFileSync(join(home, APP_METADATA), "{");
    expect(await larderJson(home, ["inspect", "app"])).toMatchObject({ config: { exposed_ports: null } });
  });

  test("measures an artifact whose size is not on record", async () => {
    using folder = new TemporaryFolder();
    const home = await makeHome(folder.path);
    mkdirSync(join(home, "cache/layers"), { recursive: true });
    writeFileSync(join(home, `cache/layers/${digest(0x22).replace(":", "_")}.erofs`), new Uint8Array(8192));
    const { layers } = await larderJson(home, ["inspect", "app"]);
    expect(layers.map((layer: Record<string, unknown>) => layer.erofs_size_bytes)).toEqual([null, 8192, null]);
  });

  test("draws fields and tables that keep digest and size apart", async () => {
    using folder = new TemporaryFolder();
    const home = await makeHome(folder.path);
    const { code, stdout, stderr } = await larder(home, "inspect", "app");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^Reference {2}app$/m);
    expect(stdout).toMatch(/^Entrypoint {3}"\/entry point"$/m);
    expect(stdout).toMatch(/^Command {6}serve --all$/m);
    expect(stdout).toMatch(/^Stop signal {2}SIGINT$/m);
    expect(stdout.match(/^Env .*/gm)).toEqual(["Env          PATH=/bin", "Env          LANG=C"]);
    expect(stdout).toMatch(/^Label {8}team=web$/m);
    const row = (...[position, diff, size, disk]: string[]) =>
      `${position}  ${diff!.padEnd(71)}  ${size!.padStart(13)}  ${disk!.padStart(7)}\n`;
    expect(stdout.slice(stdout.indexOf("Layers, bottom to top"))).toBe(
      [
        "Layers, bottom to top\n",
        row("#", "DIFF ID", "COMPRESSED", "ON DISK"),
        row("0", digest(0x21), "1000 B", "-"),
        row("1", digest(0x22), "8388608.0 TiB", "-"),
        row("2", digest(0x21), "1000 B", "-"),
      ].join(""),
    );
  });

  test("of several references shows those found, in their order, and fails for the rest", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "one", manifest: digest(1) });
    catalogue.image({ reference: "two", manifest: digest(2) });
    const both = await larder(folder.path, "inspect", "two", "absent", "one", "UPPER", "--format", "json");
    expect(both.code).toBe(3);
    expect(JSON.parse(both.stdout).map((detail: { reference: string }) => detail.reference)).toEqual(["two", "one"]);
    expect(both.stderr).toBe(
      'larder: image not found: "absent"\nlarder: image not found: "UPPER" (it is not a valid reference either)\n',
    );
    const lines = await larder(folder.path, "inspect", "two", "one", "--format", "jsonl");
    expect(lines).toMatchObject({ code: 0, stderr: "" });
    expect(
      lines.stdout
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line).reference),
    ).toEqual(["two", "one"]);
    expect((await larder(folder.path, "inspect", "one", "two")).stdout.match(/^Reference .*/gm)).toHaveLength(2);
  });

  test("prints one object for one reference, and an array for several, even if one alone is found", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "one", manifest: digest(1) });
    expect(await larderJson(folder.path, ["inspect", "one"])).toMatchObject({ reference: "one" });
    expect(await larderJson(folder.path, ["inspect", "one", "absent"], 3)).toMatchObject([{ reference: "one" }]);
    expect(await larderJson(folder.path, ["inspect", "absent", "gone"], 3)).toEqual([]);
    expect(await larder(folder.path, "inspect", "absent", "--format", "json")).toMatchObject({ code: 3, stdout: "" });
  });

  test("matches as typed before it matches the canonical form", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "docker.io/library/app:latest", manifest: digest(1) });
    catalogue.image({ reference: "app", manifest: digest(2) });
    catalogue.image({ reference: null, manifest: digest(3) });
    for (const [asked, found] of [
      ["app", 2],
      ["docker.io/library/app:latest", 1],
      ["library/app", 1],
      [digest(3), 3],
    ] as const) {
      expect(await larderJson(folder.path, ["inspect", asked])).toMatchObject({ digest: digest(found) });
    }
  });

  test.each<[what: string, sql: string, shown: object, damage: RegExp]>([
    ["an env that is no JSON", "UPDATE config SET env = '[\"A=1\"'", { config: { env: [] } }, /^config: env /],
    ["an env of numbers", "UPDATE config SET env = '[1]'", { config: { env: [] } }, /^config: env /],
    ["a cmd that is an object", "UPDATE config SET cmd = '{}'", { config: { cmd: null } }, /^config: cmd /],
    [
      "an entrypoint that is a blob",
      "UPDATE config SET entrypoint = x'01'",
      { config: { entrypoint: null } },
      /^config: entrypoint /,
    ],
    ["labels that are a list", "UPDATE config SET labels = '[]'", { config: { labels: null } }, /^config: labels /],
    ["labels of null", "UPDATE config SET labels = 'null'", { config: { labels: null } }, /^config: labels /],
    [
      "a layer of a size that is text",
      "UPDATE layer SET compressed_size_bytes = 'x' WHERE diff_id LIKE '%22'",
      { layers: [{}, { compressed_size_bytes: null }, {}] },
      /^layer 1: compressed_size_bytes /,
    ],
    [
      "a layer of a time that is none",
      "UPDATE layer SET last_used_at = 'x' WHERE diff_id LIKE '%22'",
      { layers: [{}, { last_used_at: null }, {}] },
      /^layer 1: last_used_at /,
    ],
    [
      "a diff ID that leads out of the cache",
      "UPDATE layer SET diff_id = 'sha256:../../../etc/passwd' WHERE diff_id LIKE '%22'",
      { layers: [{}, { erofs_size_bytes: null }, {}] },
      /^layer 1: diff_id /,
    ],
    [
      "a diff ID that is a blob",
      "UPDATE layer SET diff_id = x'01' WHERE diff_id LIKE '%22'",
      { layers: [{}, { diff_id: null }, {}] },
      /^layer 1: diff_id /,
    ],
  ])("shows %s as damaged, and the rest as it is", async (_, sql, shown, damage) => {
    using folder = new TemporaryFolder();
    const home = await makeHome(folder.path);
    using catalogue = Catalogue.open(home);
    expect(catalogue.db.run(sql).changes).toBe(1);
    const before = snapshot(home);
    const detail = await larderJson(home, ["inspect", "app"]);
    expect(detail).toMatchObject(shown);
    expect(detail).toMatchObject({ reference: "app", config: { working_dir: "/srv" } });
    expect(detail.layers).toHaveLength(3);
    expect(detail.damage).toEqual([expect.stringMatching(damage)]);
    const table = await larder(home, "inspect", "app");
    expect(table).toMatchObject({ code: 0, stderr: "" });
    expect(table.stdout).toMatch(/^Damage {5}\S/m);
    expect(snapshot(home)).toEqual(before);
  });

  test("shows an image without a config, and one whose manifest is gone", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "bare", manifest: digest(1) });
    catalogue.image({ reference: "lost", manifest: digest(2) });
    catalogue.db.run("DELETE FROM config");
    catalogue.db.run("PRAGMA foreign_keys = OFF");
    catalogue.db.run("UPDATE image_ref SET manifest_id = 999 WHERE reference = 'lost'");
    expect(await larderJson(folder.path, ["inspect", "bare"])).toMatchObject({ config: null, layers: [], damage: [] });
    expect(await larderJson(folder.path, ["inspect", "lost"])).toMatchObject({
      digest: null,
      config: null,
      layers: [],
      damage: ["manifest is missing"],
    });
  });
});
