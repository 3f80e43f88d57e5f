import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { build, type ImageSpec, type LayerSpec, noise } from "./archive.ts";
import { artifactsOf, filesOf, keyOf, plant, problems, readFiles, readRows, rowsOf, select } from "./home.ts";
import { metadataOf, type Shape } from "./metadata.ts";
import { load, msb, msbJson } from "./msb.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 5000) } };
const WEB: ImageSpec = {
  tags: ["web:v1"],
  layers: [BASE, { files: { web: "1" }, compression: "zstd" }],
  architecture: "arm64",
  variant: "v8",
  config: {
    env: ["A=1", "B=two words"],
    cmd: ["serve"],
    entrypoint: ["/web"],
    workingDir: "/srv",
    user: "web",
    labels: { tier: "front" },
    stopSignal: "SIGQUIT",
    exposedPorts: ["80/tcp"],
    volumes: ["/data"],
  },
};
const TWICE: ImageSpec = { tags: ["ghcr.io/acme/twice"], layers: [BASE, { files: { d: "1" } }, BASE] };
const BARE: ImageSpec = { tags: ["bare"], layers: [], config: {} };
const IMAGES = [WEB, TWICE, BARE];
// Oldest first, as they are put on record one after the other; msb lists the newest first.
const TAGS = IMAGES.flatMap(({ tags }) => tags);

/** What `msb image inspect` has to print of an image that larder put on record, but for its time. */
function detailOf(spec: ImageSpec, shape: Shape): Record<string, unknown> {
  const { manifest, config, layers } = build(spec);
  const { config: runConfig = {} } = spec;
  return {
    // The old metadata does not tell the platform: then it is the host's, as msb has it.
    architecture:
      shape === "0.5.5" ? (spec.architecture ?? "amd64") : { x64: "amd64", arm64: "arm64" }[process.arch as string],
    os: "linux",
    digest: manifest.digest,
    reference: spec.tags[0],
    layer_count: layers.length,
    size_bytes: layers.reduce((sum, { bytes }) => sum + bytes.length, 0),
    config: {
      digest: config.digest,
      env: runConfig.env ?? [],
      cmd: runConfig.cmd ?? null,
      entrypoint: runConfig.entrypoint ?? null,
      working_dir: runConfig.workingDir ?? null,
      user: runConfig.user ?? null,
      labels: runConfig.labels ?? null,
      stop_signal: runConfig.stopSignal ?? null,
    },
    layers: layers.map(({ digest, diffId, mediaType, bytes }, position) => ({
      position,
      diff_id: diffId,
      blob_digest: digest,
      media_type: mediaType,
      compressed_size_bytes: bytes.length,
      erofs_size_bytes: null,
    })),
  };
}

function countMigrations(home: string): number {
  return select<{ n: number }>(home, "SELECT count(*) AS n FROM seaql_migrations")[0]!.n;
}

/** Puts the images on record in an empty home, by one of the ways there are. */
const WAYS: { way: string; shape: Shape; persist: (home: string) => Promise<void> }[] = (
  ["0.4.4", "0.5.5"] as const
).flatMap((shape) => [
  {
    way: "--metadata FILE",
    shape,
    async persist(home: string) {
      using input = new TemporaryFolder();
      for (const spec of IMAGES) {
        const path = join(input.path, "metadata.json");
        await Bun.write(path, metadataOf(spec, shape));
        await larderJson(home, ["persist", "--metadata", path, ...spec.tags]);
      }
    },
  },
  {
    way: "--batch -",
    shape,
    async persist(home: string) {
      // One at a time: a batch is one moment, and the order of the list is tested below.
      for (const spec of IMAGES) {
        const line = `{"reference":${JSON.stringify(spec.tags[0])},"metadata":${metadataOf(spec, shape)}}\n`;
        const { code, stderr } = await run(["persist", "--batch", "-", "--home", home], { stdin: line });
        expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      }
    },
  },
  {
    way: "the cache's own files",
    shape,
    async persist(home: string) {
      for (const spec of IMAGES) {
        plant(home, `manifests/${keyOf(spec.tags[0]!)}.json`, metadataOf(spec, shape));
        await larderJson(home, ["persist", ...spec.tags]);
      }
    },
  },
]);

describe("a home that larder created", () => {
  test.each(WAYS)("from $way as of msb $shape is migrated, listed and inspected by msb", async ({ shape, persist }) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    await persist(home);
    expect(countMigrations(home)).toBe(6);
    expect(readRows(home)).toEqual(rowsOf(IMAGES));

    const listed = (await msbJson(home, "image", "ls")) as Record<string, unknown>[];
    expect(listed.map(({ reference }) => reference)).toEqual(TAGS.toReversed());
    // msb 0.6.18 has 25 migrations; the six that larder wrote are its first.
    expect(countMigrations(home)).toBe(25);
    for (const spec of IMAGES) {
      const { created_at, ...theirs } = (await msbJson(
        home,
        "image",
        "inspect",
        spec.tags[0]!,
      )) as (typeof listed)[number];
      expect(theirs).toEqual(detailOf(spec, shape));
      expect(created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?\+00:00$/);
      const ours = await larderJson(home, ["inspect", spec.tags[0]!]);
      expect(ours).toMatchObject({ ...theirs, created_at, damage: [] });
    }
    expect(readRows(home)).toEqual(rowsOf(IMAGES));
    expect(problems(home).filter((problem) => !problem.endsWith("has no file"))).toEqual([]);
  });

  test.each(WAYS)("from $way as of msb $shape is emptied by msb image rm and prune", async ({ persist }) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    await persist(home);
    expect(await msb(home, "image", "rm", "-q", "web:v1")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readRows(home)).toEqual(rowsOf([TWICE, BARE]));
    expect(await msbJson(home, "image", "prune", "--yes")).toMatchObject({
      image_refs_removed: 2,
      manifests_removed: 2,
    });
    expect(readRows(home)).toEqual(rowsOf([]));
    expect(problems(home)).toEqual([]);
    expect(await larderJson(home, ["list", "-a"])).toEqual([]);
  });

  test("takes what msb loads after it, beside what larder put on record", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await run(["persist", "--metadata", "-", "web:v1", "--home", home], { stdin: metadataOf(WEB) });
    // The artifacts come with this, and the layer that both have keeps its one row.
    await load(home, [TWICE, WEB]);
    expect(readRows(home)).toEqual(rowsOf([WEB, TWICE]));
    expect(readFiles(home)).toEqual(filesOf([WEB, TWICE]));
    expect(problems(home)).toEqual([]);
    await larderJson(home, ["rm", "web:v1"]);
    expect(readRows(home)).toEqual(rowsOf([TWICE]));
    expect(readFiles(home)).toEqual(filesOf([TWICE]));
    expect((await msb(home, "image", "rm", "ghcr.io/acme/twice")).code).toBe(0);
    expect(readFiles(home)).toEqual([]);
  });

  test("keeps what msb recorded when it is put on record again", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    const everything = () =>
      ["manifest", "config", "layer", "manifest_layer", "image_ref"].map((table) =>
        select(home, `SELECT * FROM ${table}`),
      );
    const image: ImageSpec = { ...TWICE, config: { labels: { a: "b" }, env: ["X=y"] } };
    await load(home, [image]);
    const [manifest, config, layers, junctions, references] = everything();
    await larderJson(home, ["persist", ...image.tags]);
    const after = everything();
    expect(after[0]).toEqual(manifest!);
    expect(after[1]).toEqual(config!);
    expect(after[3]).toEqual(junctions!);
    // What moves is when they were used last, and the artifact's length that msb never fills.
    const still = (rows: unknown[]) =>
      rows.map((row) => ({ ...(row as object), last_used_at: 0, updated_at: 0, erofs_size_bytes: 0 }));
    expect(still(after[2]!)).toEqual(still(layers!));
    expect(still(after[4]!)).toEqual(still(references!));
    expect(after[4]).not.toEqual(references!);
  });
});

describe("a cache whose database was lost", () => {
  const LOST: ImageSpec[] = [{ ...WEB, tags: ["web:v1", "web:latest"] }, TWICE];

  test("is put on record again by larder from its own metadata files, and works with msb as before", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, LOST);
    const tags = LOST.flatMap((spec) => spec.tags);
    const before = await Promise.all(tags.map((tag) => msbJson(home, "image", "inspect", tag)));
    rmSync(join(home, "db"), { recursive: true });

    expect(await larderJson(home, ["persist", ...tags])).toHaveLength(3);
    expect(readRows(home)).toEqual(rowsOf(LOST));
    expect(readFiles(home)).toEqual(filesOf(LOST));
    const after = await Promise.all(tags.map((tag) => msbJson(home, "image", "inspect", tag)));
    // Better than before: what msb does not record of an image, larder does.
    const same = (detail: unknown) => ({ ...(detail as object), created_at: 0, architecture: 0, config: 0, layers: 0 });
    expect(after.map(same)).toEqual(before.map(same));
    expect((after[0] as { architecture: string }).architecture).toBe("arm64");
    expect(problems(home)).toEqual([]);

    // The images themselves are as good as ever: msb writes one out again, and removes the rest with its files.
    expect((await msb(home, "save", "-o", join(home, "saved.tar"), "web:v1")).code).toBe(0);
    expect((await msb(home, "image", "rm", ...TWICE.tags)).code).toBe(0);
    const rest = readFiles(home);
    for (const file of artifactsOf(WEB)) expect(rest).toContain(file);
    expect((await msb(home, "image", "prune", "--yes")).code).toBe(0);
    expect(readFiles(home)).toEqual([]);
    expect(problems(home)).toEqual([]);
  });

  test("keeps the bytes of its metadata files", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, LOST);
    rmSync(join(home, "db"), { recursive: true });
    const path = join(home, "cache", "manifests", `${keyOf("web:v1")}.json`);
    expect(readFileSync(path, "utf8")).toBe(metadataOf(WEB));
    await larderJson(home, ["persist", "web:v1"]);
    expect(readFileSync(path, "utf8")).toBe(metadataOf(WEB));
  });

  test("lists nothing, and is not created by a command that only reads", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, LOST);
    rmSync(join(folder.path, "db"), { recursive: true });
    const before = readFiles(folder.path);
    expect(await larderJson(folder.path, ["list"])).toEqual([]);
    expect((await larder(folder.path, "inspect", "web:v1")).code).toBe(3);
    expect((await larder(folder.path, "rm", "web:v1")).code).toBe(3);
    expect((await larder(folder.path, "gc")).code).toBe(5);
    expect(await Bun.file(join(folder.path, "db", "msb.db")).exists()).toBe(false);
    expect(readFiles(folder.path)).toEqual(before);
  });
});
