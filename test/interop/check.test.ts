import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { stem } from "../sound.ts";
import { build, digestOf, type ImageSpec, noise } from "./archive.ts";
import { addSandbox, writeSnapshot } from "./home.ts";
import { load, msb, msbJson } from "./msb.ts";
import { type Registry, serveRegistry } from "./registry.ts";

const BASE = { files: { "etc/os-release": "ID=base\n", "usr/data": noise(1, 200_000) } };

const ARM = {
  tags: ["arm:1", "alias:1", "docker.io/library/arm:1"],
  layers: [BASE, { files: { arm: "1" } }],
  config: {
    env: ["PATH=/bin", "A=1"],
    entrypoint: ["/init"],
    labels: { team: "web" },
    stopSignal: "SIGINT",
    user: "nobody",
    exposedPorts: ["80/tcp"],
  },
  architecture: "arm64",
  variant: "v8",
} satisfies ImageSpec;

// Everything about a healthy store that may look odd: equal layers twice and across compressions, no layers at all.
const LOADED: ImageSpec[] = [
  ARM,
  { tags: ["dup:1"], layers: [BASE, BASE, { files: { dup: "1" } }] },
  { tags: ["zstd:1"], layers: [{ ...BASE, compression: "zstd" }, { files: { zstd: "1" } }] },
  { tags: ["plain:1"], layers: [{ ...BASE, compression: "none" }] },
  { tags: ["none:1"], layers: [] },
];
const PULLED: ImageSpec[] = [
  { tags: ["layered:1"], layers: [BASE, { files: { layered: "1" } }] },
  { tags: ["flat:1"], layers: [BASE, { files: { flat: "1" } }] },
  { tags: ["both:1"], layers: [BASE, { files: { both: "1" } }] },
  // A pull keeps its manifest in other bytes than those that the digest is of.
  { tags: ["indented:1"], layers: [BASE], indent: 3 },
];

interface Described {
  code: string;
  subject: string;
  severity: string;
  repair: string | null;
}

let registry: Registry;
let home: TemporaryFolder;
beforeAll(async () => {
  registry = serveRegistry(PULLED);
  home = new TemporaryFolder();
  await load(home.path, LOADED);
  for (const [tag, ...options] of [
    ["layered:1"],
    ["flat:1", "--materialize", "flat"],
    ["both:1", "--materialize", "all"],
    ["indented:1"],
  ]) {
    await pull(home.path, `${registry.host}/${tag}`, ...options);
  }
}, 30_000);
afterAll(async () => {
  home[Symbol.dispose]();
  await registry[Symbol.asyncDispose]();
});

async function pull(home: string, reference: string, ...options: string[]): Promise<void> {
  const { code, stderr } = await msb(home, "pull", "--insecure", ...options, reference);
  if (code !== 0) throw new Error(stderr);
}

async function codes(home: string, ...args: string[]): Promise<string[]> {
  const { stdout } = await larder(home, "check", "--format", "json", ...args);
  return (JSON.parse(stdout).problems as Described[]).map(({ code }) => code).sort();
}

function sql(home: string, statements: string): void {
  using db = new Database(join(home, "db", "msb.db"));
  db.run("PRAGMA foreign_keys = OFF");
  db.run(statements);
}

describe("a home that msb made", () => {
  test("has no damage, only what msb leaves out", async () => {
    const { problems, damage } = await larderJson(home.path, ["check", "--deep"]);
    expect(damage).toBe(0);
    const notes = Map.groupBy(problems as Described[], ({ code }) => code);
    expect([...notes.keys()].sort()).toEqual(["config-outdated", "erofs-size-unrecorded", "platform-outdated"]);
    // Only the one image has a stop signal and a foreign platform; of its names the newest speaks.
    expect(notes.get("config-outdated")).toHaveLength(1);
    expect(notes.get("platform-outdated")).toHaveLength(1);
    expect(ARM.tags).toContain(notes.get("platform-outdated")![0]!.subject);
    const layers = new Set([...LOADED, ...PULLED].flatMap((spec) => build(spec).layers.map(({ diffId }) => diffId)));
    expect(new Set(notes.get("erofs-size-unrecorded")!.map(({ subject }) => subject))).toEqual(
      new Set([...layers].map((diffId) => `layer ${diffId}`)),
    );
  });

  test("has nothing left to say about it once it is mended, and msb still uses it", async () => {
    const before = (await msbJson(home.path, "image", "ls")) as { reference: string; created_at: string }[];
    const report = await larderJson(home.path, ["check", "--repair"]);
    expect(new Set(report.problems.map(({ repair }: Described) => repair))).toEqual(new Set(["done"]));
    expect(await larderJson(home.path, ["check", "--deep"])).toMatchObject({ problems: [], damage: 0, notes: 0 });

    const arm = (image: { reference: string }) => ARM.tags.includes(image.reference);
    const after = (await msbJson(home.path, "image", "ls")) as typeof before;
    expect(after).toEqual(before.map((image) => (arm(image) ? { ...image, architecture: "arm64" } : image)));
    for (const reference of ARM.tags) {
      expect(await msbJson(home.path, "image", "inspect", reference)).toMatchObject({
        architecture: "arm64",
        os: "linux",
        config: {
          labels: { team: "web" },
          stop_signal: "SIGINT",
          env: ["PATH=/bin", "A=1"],
          entrypoint: ["/init"],
          user: "nobody",
        },
        layers: ARM.layers.map(() => ({ erofs_size_bytes: expect.any(Number) })),
      });
    }
    using db = new Database(join(home.path, "db", "msb.db"), { readonly: true });
    expect(db.query("SELECT DISTINCT variant FROM manifest WHERE architecture = 'arm64'").all()).toEqual([
      { variant: "v8" },
    ]);
    for (const { diff_id, erofs_size_bytes } of db
      .query<{ diff_id: string; erofs_size_bytes: number }, []>("SELECT diff_id, erofs_size_bytes FROM layer")
      .all()) {
      expect(statSync(join(home.path, "cache", "layers", `${stem(diff_id)}.erofs`)).size).toBe(erofs_size_bytes);
    }
  });

  test("is used from its cache by msb afterwards, without a registry", async () => {
    // A cached image asks nothing of the registry.
    const asked = registry.requests.length;
    await pull(home.path, `${registry.host}/layered:1`);
    expect(registry.requests.slice(asked).filter((request) => request.includes("/blobs/"))).toEqual([]);
    const saved = join(home.path, "saved.tar");
    const { code, stderr } = await msb(home.path, "save", "-o", saved, "arm:1");
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(statSync(saved).size).toBeGreaterThan(200_000);
    expect(await codes(home.path, "--deep")).toEqual([]);
  });
});

describe("an artifact that larder removes as invalid", () => {
  const layer = build(PULLED[0]!).layers[1]!.diffId;
  const manifest = build(PULLED[0]!).manifest.digest;
  const cases: [name: string, path: (home: string) => string, damage: (path: string) => void][] = [
    ["an empty layer", (home) => artifact(home, "layers", layer), (path) => truncateSync(path, 0)],
    [
      "a layer that is not EROFS",
      (home) => artifact(home, "layers", layer),
      (path) => writeFileSync(path, new Uint8Array(8192)),
    ],
    ["a misaligned merged tree", (home) => artifact(home, "fsmeta", manifest), (path) => truncateSync(path, 5000)],
    ["an empty disk", (home) => join(home, "cache", "vmdk", `${stem(manifest)}.vmdk`), (path) => truncateSync(path, 0)],
  ];

  test.each(cases)("is made anew by msb's next pull: %s", async (_, find, damage) => {
    using folder = new TemporaryFolder();
    const reference = `${registry.host}/layered:1`;
    await pull(folder.path, reference);
    await larderJson(folder.path, ["check", "--repair"]);
    const path = find(folder.path);
    const sound = digestOf(readFileSync(path));
    damage(path);
    await larderJson(folder.path, ["check", "--repair", "--grace", "0s"], 5);
    expect(existsSync(path)).toBe(false);
    await pull(folder.path, reference);
    expect(digestOf(readFileSync(path))).toBe(sound);
    expect(await codes(folder.path, "--deep")).toEqual([]);
  });

  test("is made anew by msb load", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [ARM]);
    await larderJson(folder.path, ["check", "--repair"]);
    const path = artifact(folder.path, "layers", build(ARM).layers[1]!.diffId);
    truncateSync(path, 0);
    await larderJson(folder.path, ["check", "--repair", "--grace", "0s"], 5);
    await load(folder.path, [ARM]);
    expect(statSync(path).size).toBeGreaterThan(0);
    expect((await larder(folder.path, "check", "--deep")).code).toBe(0);
  });

  test("is not one that msb takes for sound: a layer cut at a block", async () => {
    using folder = new TemporaryFolder();
    const reference = `${registry.host}/layered:1`;
    await pull(folder.path, reference);
    const path = artifact(folder.path, "layers", build(PULLED[0]!).layers[0]!.diffId);
    const whole = statSync(path).size;
    truncateSync(path, whole - 4096);
    await pull(folder.path, reference);
    expect(statSync(path).size).toBe(whole - 4096);
    expect(await codes(folder.path)).toContain("artifact-truncated");
    await larderJson(folder.path, ["check", "--repair"], 5);
    expect(statSync(path).size).toBe(whole - 4096);
  });
});

describe("what check advises", () => {
  const [spec, flat] = [PULLED[0]!, PULLED[1]!];
  const { manifest } = build(spec);
  const metadata = (home: string, reference: string) =>
    join(home, "cache", "manifests", `${new Bun.CryptoHasher("sha256").update(reference).digest("hex")}.json`);
  const disk = (home: string) => join(home, "cache", "vmdk", `${stem(manifest.digest)}.vmdk`);
  const blob = (home: string) => {
    const folder = join(home, "cache", "flat", "blobs");
    return join(folder, readdirSync(folder)[0]!);
  };
  const change = (path: string, from: RegExp | string, to: string) =>
    writeFileSync(path, readFileSync(path, "latin1").replace(from, to), "latin1");
  const withoutMetadata = (statement: string) => (home: string, reference: string) => {
    sql(home, statement);
    rmSync(metadata(home, reference));
  };

  test.each<[code: string, spec: ImageSpec, damage: (home: string, reference: string) => void]>([
    ["json-unreadable", spec, withoutMetadata("UPDATE config SET env = '{'")],
    ["config-missing", spec, withoutMetadata("DELETE FROM config")],
    ["layers-missing", spec, withoutMetadata("DELETE FROM manifest_layer")],
    ["layer-count-mismatch", spec, withoutMetadata("UPDATE manifest SET layer_count = 7")],
    ["position-gap", spec, withoutMetadata("UPDATE manifest_layer SET position = position + 5")],
    ["column-unreadable", spec, withoutMetadata("UPDATE manifest SET total_size_bytes = 'x'")],
    ["erofs-size-mismatch", spec, (home) => sql(home, "UPDATE layer SET erofs_size_bytes = 7")],
    [
      "raw-digest-mismatch",
      spec,
      (home, reference) => change(metadata(home, reference), /"raw_config_json":"/, '"raw_config_json":" '),
    ],
    ["vmdk-unreadable", spec, (home) => truncateSync(disk(home), 30)],
    ["vmdk-extent-missing", spec, (home) => change(disk(home), /\w{6}\.erofs/, "ffffff.erofs")],
    ["vmdk-incomplete", spec, (home) => change(disk(home), /RW .*layers.*\n/, "")],
    ["vmdk-mislocated", spec, (home) => change(disk(home), /\/cache\/layers\//, "/elsewhere/layers/")],
    [
      "artifact-truncated",
      spec,
      (home) => {
        const path = artifact(home, "layers", build(spec).layers[0]!.diffId);
        truncateSync(path, statSync(path).size - 4096);
      },
    ],
    ["artifact-missing", flat, (home) => rmSync(blob(home))],
    ["flat-blob-size", flat, (home) => truncateSync(blob(home), 4096)],
    ["flat-blob-digest", flat, (home) => change(blob(home), /^\0{4}/, "XXXX")],
  ])("against %s helps, done as it is written", async (code, spec, damage) => {
    using folder = new TemporaryFolder();
    const reference = `${registry.host}/${spec.tags[0]}`;
    await pull(folder.path, reference, ...(spec === flat ? ["--materialize", "flat"] : []));
    // Has what the others share.
    await pull(folder.path, `${registry.host}/both:1`);
    await larderJson(folder.path, ["check", "--repair"]);
    damage(folder.path, reference);
    const { problems } = await larderJson(folder.path, ["check", "--deep", "--grace", "0s"], 5);
    const { advice } = problems.find((problem: Described) => problem.code === code);
    if (advice.includes("remove the file")) rmSync(blob(folder.path));
    const flags = [...(advice.matchAll(/--force|--materialize flat/g) as Iterable<[string]>)];
    if (advice.includes("pull")) await pull(folder.path, reference, ...flags.flatMap(([flag]) => flag.split(" ")));
    if (advice.includes("--repair")) await larder(folder.path, "check", "--repair", "--grace", "0s");
    const left = await larderJson(folder.path, ["check", "--deep", "--grace", "0s"]);
    expect(left.damage).toBe(0);
  });
});

describe("a cache whose layers lie on another disk, behind a link", () => {
  test("has no damage", async () => {
    using linked = new TemporaryFolder();
    const disk = join(linked.path, "disk");
    mkdirSync(disk);
    mkdirSync(join(linked.path, "cache"));
    symlinkSync(disk, join(linked.path, "cache", "layers"));
    await load(linked.path, [ARM]);
    expect(readdirSync(disk)).not.toEqual([]);
    const found = await codes(linked.path);
    expect([...new Set(found)]).toEqual(["config-outdated", "erofs-size-unrecorded", "platform-outdated"]);
  });
});

describe("a cache that was moved", () => {
  test("has its disks pointed at their files, as msb itself writes them there", async () => {
    using folder = new TemporaryFolder();
    const root = join(folder.path, "home");
    mkdirSync(root);
    await load(root, LOADED);
    await larderJson(root, ["check", "--repair"]);
    const cache = join(folder.path, "elsewhere with spaces");
    renameSync(join(root, "cache"), cache);
    writeFileSync(join(root, "config.json"), JSON.stringify({ paths: { cache } }));
    const disks = readdirSync(join(cache, "vmdk")).sort();
    expect(disks.length).toBe(LOADED.length);
    expect(new Set(await codes(root))).toEqual(new Set(["vmdk-mislocated"]));
    expect(await larderJson(root, ["check", "--repair"])).toMatchObject({ damage: 0, cache });
    expect(await codes(root, "--deep")).toEqual([]);
    const read = () => disks.map((name) => [name, readFileSync(join(cache, "vmdk", name), "utf8")]);
    const mended = read();
    for (const name of disks) rmSync(join(cache, "vmdk", name));
    await load(root, LOADED);
    expect(read()).toEqual(mended);
  });
});

describe("metadata", () => {
  test("in the shape of msb 0.4.4 is noted, kept to the byte, and used for what it has", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [{ ...ARM, tags: ["arm:1"] }]);
    await larderJson(folder.path, ["check", "--repair"]);
    const path = metadata(folder.path, "docker.io/library/arm:1");
    const { raw_manifest_json: _, raw_config_json: __, ...old } = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify(old));
    // As 0.4.4 left its rows.
    sql(folder.path, "UPDATE config SET labels = NULL, stop_signal = NULL");
    expect(await codes(folder.path)).toEqual(["config-outdated", "metadata-old-shape"]);
    await larderJson(folder.path, ["check", "--repair"]);
    expect(readFileSync(path, "utf8")).toBe(JSON.stringify(old));
    expect(await codes(folder.path, "--deep")).toEqual(["metadata-old-shape"]);
    expect(await msbJson(folder.path, "image", "inspect", "arm:1")).toMatchObject({
      architecture: "arm64",
      config: { labels: { team: "web" }, stop_signal: "SIGINT" },
    });
  });

  test("without a reference is reported and kept, and can be put on record again", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [ARM, { tags: ["other:1"], layers: [BASE] }]);
    await larderJson(folder.path, ["check", "--repair"]);
    sql(folder.path, "DELETE FROM image_ref WHERE reference = 'other:1'");
    const path = metadata(folder.path, "docker.io/library/other:1");
    const before = readFileSync(path, "utf8");
    for (const args of [
      ["--grace", "0s"],
      ["--repair", "--grace", "0s"],
    ]) {
      const { problems } = await larderJson(folder.path, ["check", ...args]);
      expect(problems.find(({ code }: Described) => code === "metadata-unrecorded")).toMatchObject({
        subject: path,
        severity: "note",
      });
    }
    expect(readFileSync(path, "utf8")).toBe(before);
    await larderJson(folder.path, ["persist", "other:1"]);
    expect(await codes(folder.path, "--deep")).toEqual([]);
  });

  test("whose raw config does not have the digest it claims is found with --deep alone", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [{ tags: ["raw:1"], layers: [BASE] }]);
    await larderJson(folder.path, ["check", "--repair"]);
    const path = metadata(folder.path, "docker.io/library/raw:1");
    const found = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...found, raw_config_json: `${found.raw_config_json}\n` }));
    expect(await codes(folder.path)).toEqual([]);
    expect(await codes(folder.path, "--deep")).toEqual(["raw-digest-mismatch"]);
  });

  test("rebuilds every row of an image whose reference is still on record, as msb had them", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [{ ...ARM, tags: ["arm:1"] }]);
    await larderJson(folder.path, ["check", "--repair"]);
    const inspect = () => msbJson(folder.path, "image", "inspect", "arm:1");
    const before = await inspect();
    sql(folder.path, "DELETE FROM manifest; DELETE FROM config; DELETE FROM layer; DELETE FROM manifest_layer");
    expect(await inspect()).toMatchObject({ reference: "arm:1", digest: null, config: null, layers: [] });
    await larderJson(folder.path, ["check", "--repair", "--grace", "0s"]);
    expect(await inspect()).toEqual(before);
    expect(await codes(folder.path, "--deep")).toEqual([]);
  });
});

describe("an image that msb removed from under what needs it", () => {
  test.each([
    [
      "a sandbox that has not booted yet",
      'sandbox "web"',
      (home: string, digest: string) => addSandbox(home, "web", undefined, { manifest_digest: digest }),
    ],
    ["a snapshot", 'snapshot "base"', (home: string) => writeSnapshot(home, "base", ARM)],
  ])("is named with %s, and no more once it is there again", async (_, name, need) => {
    using folder = new TemporaryFolder();
    const spec = { ...ARM, tags: ["arm:1"] };
    const digest = build(spec).manifest.digest;
    await load(folder.path, [spec]);
    await larderJson(folder.path, ["check", "--repair"]);
    need(folder.path, digest);
    expect(await codes(folder.path)).toEqual([]);
    expect((await msb(folder.path, "image", "rm", "arm:1")).code).toBe(0);
    const { problems } = await larderJson(folder.path, ["check"], 5);
    expect(problems).toMatchObject([
      {
        code: "image-missing",
        severity: "damage",
        subject: digest,
        message: `${name} needs it, and it is neither on record nor in the cache`,
      },
    ]);
    await load(folder.path, [spec]);
    expect(await codes(folder.path)).not.toContain("image-missing");
  });
});

function artifact(home: string, folder: "layers" | "fsmeta", digest: string): string {
  return join(home, "cache", folder, `${stem(digest)}.erofs`);
}

function metadata(home: string, canonical: string): string {
  return join(home, "cache", "manifests", `${digestOf(Buffer.from(canonical)).slice("sha256:".length)}.json`);
}
