import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { build, type ImageSpec, type LayerSpec, noise } from "./archive.ts";
import { canonicalOf, change, layerFile, lengthOf } from "./home.ts";
import { load, msb, msbJson } from "./msb.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

const BASE: LayerSpec = { files: { "etc/os-release": "ID=base", "bin/sh": noise(1, 9000) } };
const RUNTIME: LayerSpec = { files: { "usr/lib/runtime.so": noise(2, 70_000), "etc/.wh.os-release": "" } };
const APP: LayerSpec = { files: { "app/main": "print(1)" }, compression: "none" };

// Every way in which images differ that both tools print, and layers that they share.
const IMAGES: ImageSpec[] = [
  {
    tags: ["app:v1", "docker.io/library/app:latest", "ghcr.io/acme/app:v1"],
    layers: [BASE, RUNTIME, APP],
    config: {
      env: ["PATH=/bin", 'GREETING=grüß dich, "Welt"'],
      cmd: ["serve", "--port", "80"],
      entrypoint: ["/app/main"],
      workingDir: "/app",
      user: "1000:1000",
      labels: { "org.example.tier": "web", empty: "" },
      stopSignal: "SIGINT",
      exposedPorts: ["80/tcp"],
      volumes: ["/data"],
    },
  },
  { tags: ["plain"], layers: [BASE] },
  { tags: ["localhost:5000/arm:v8"], layers: [BASE, { files: { arm: "64" } }], architecture: "arm64", variant: "v8" },
  { tags: ["packed:zstd"], layers: [{ files: { z: noise(3, 20_000) }, compression: "zstd" }], config: { env: [] } },
  { tags: ["twice:1"], layers: [APP, BASE, APP] },
  // The first layer is on record as it came with `app:v1`, in another compression.
  { tags: ["again:zstd"], layers: [{ ...RUNTIME, compression: "zstd" }, { files: { own: "1" } }] },
];
const NAMED = IMAGES.flatMap((spec) => spec.tags.map((tag) => ({ tag, spec })));

type Fields = Record<string, unknown>;
interface MsbDetail extends Fields {
  config: Fields | null;
  layers: Fields[];
}

/** Of what larder prints, that which msb prints too; so that a missing field differs from one that is null. */
function like<T>(theirs: T, ours: unknown): unknown {
  if (Array.isArray(theirs) && Array.isArray(ours)) return ours.map((item, i) => like(theirs[i], item));
  if (typeof theirs !== "object" || theirs === null || typeof ours !== "object" || ours === null) return ours;
  // Labels are compared whole: their keys are data.
  return Object.fromEntries(
    Object.entries(ours)
      .filter(([key]) => Object.hasOwn(theirs, key))
      .map(([key, value]) => [key, key === "labels" ? value : like((theirs as Fields)[key], value)]),
  );
}

describe("a home that msb loaded", () => {
  const folder = new TemporaryFolder();
  const home = folder.path;
  beforeAll(async () => {
    for (const image of IMAGES) await load(home, [image]);
  });
  afterAll(() => folder[Symbol.dispose]());

  test("is listed as msb lists it, field by field and in its order", async () => {
    const theirs = await msbJson(home, "image", "ls");
    expect(theirs).toBeArrayOfSize(NAMED.length);
    expect(like(theirs, await larderJson(home, ["list"]))).toEqual(theirs as object);
    expect((await larder(home, "ls", "-q")).stdout).toBe((await msb(home, "image", "ls", "-q")).stdout);
  });

  test("is listed in msb's order when times are equal, missing or of other precisions", async () => {
    using copy = new TemporaryFolder();
    for (const image of IMAGES) await load(copy.path, [image]);
    const times = [
      "2026-03-01 10:00:00",
      "2026-03-01 10:00:00",
      null,
      "2026-03-01T10:00:00.5Z",
      null,
      "2026-03-01 10:00",
    ];
    for (const [i, time] of times.entries())
      change(copy.path, "UPDATE image_ref SET created_at = ? WHERE reference = ?", time, NAMED[i]!.tag);
    const theirs = await msbJson(copy.path, "image", "ls");
    expect(like(theirs, await larderJson(copy.path, ["list"]))).toEqual(theirs as object);
  });

  test("gives each image its canonical reference and no damage", async () => {
    for (const { reference, canonical, damage, pinned_by } of await larderJson(home, ["list"])) {
      expect({ canonical, damage, pinned_by }).toEqual({
        canonical: canonicalOf(reference),
        damage: [],
        pinned_by: [],
      });
    }
  });

  test.each(NAMED)("inspects $tag as msb does, and right where msb is wrong", async ({ tag, spec }) => {
    const theirs = (await msbJson(home, "image", "inspect", tag)) as MsbDetail;
    const { layers, config } = build(spec);
    expect(theirs.layers).toHaveLength(layers.length);
    const expected: MsbDetail = {
      ...theirs,
      // msb never stores the stop signal and never measures an artifact.
      config: { ...theirs.config, digest: config.digest, stop_signal: spec.config?.stopSignal ?? null },
      layers: theirs.layers.map((layer, i) => ({
        ...layer,
        erofs_size_bytes: lengthOf(home, layerFile(layers[i]!.diffId)),
        // A layer's row says how its first image packed it; only this image has one packed otherwise.
        ...(tag === "again:zstd" && {
          blob_digest: layers[i]!.digest,
          compressed_size_bytes: layers[i]!.bytes.length,
          media_type: layers[i]!.mediaType,
        }),
      })),
    };
    const ours = await larderJson(home, ["inspect", tag]);
    expect(like(theirs, ours)).toEqual(expected);
    expect(ours.config.exposed_ports).toEqual(spec.config?.exposedPorts ?? []);
    expect(ours.config.volumes).toEqual(spec.config?.volumes ?? []);
  });

  test("gives a layer shared across compressions each image's own blob", async () => {
    const [, shared] = build(IMAGES[0]!).layers;
    const [own] = build(IMAGES.at(-1)!).layers;
    expect(own!.diffId).toBe(shared!.diffId);
    expect(own!.digest).not.toBe(shared!.digest);
    // What msb says of the second image is the first one's.
    const theirs = (await msbJson(home, "image", "inspect", "again:zstd")) as MsbDetail;
    expect(theirs.layers[0]!.blob_digest).toBe(shared!.digest);
    expect((await larderJson(home, ["inspect", "again:zstd"])).layers[0].blob_digest).toBe(own!.digest);
    expect((await larderJson(home, ["inspect", "app:v1"])).layers[1].blob_digest).toBe(shared!.digest);
  });

  test("is found by any spelling of a reference, where msb wants the one that was typed", async () => {
    expect((await msb(home, "image", "inspect", "app")).code).toBe(1);
    expect((await larderJson(home, ["inspect", "app"])).reference).toBe("docker.io/library/app:latest");
    expect((await larderJson(home, ["get", "index.docker.io/library/plain:latest"])).reference).toBe("plain");
  });

  test("is not changed by being read", async () => {
    using copy = new TemporaryFolder();
    await load(copy.path, IMAGES.slice(0, 2));
    const before = await Bun.file(`${copy.path}/db/msb.db-wal`).bytes();
    await larderJson(copy.path, ["list", "-a"]);
    await larderJson(copy.path, ["inspect", "plain", "app:v1"]);
    await larderJson(copy.path, ["get", "plain"]);
    await larderJson(copy.path, ["gc", "--dry-run"]);
    expect(await Bun.file(`${copy.path}/db/msb.db-wal`).bytes()).toEqual(before);
  });

  test("is still inspected, from its rows alone, when the metadata files are lost", async () => {
    using copy = new TemporaryFolder();
    for (const image of [IMAGES[0]!, IMAGES.at(-1)!]) await load(copy.path, [image]);
    rmSync(`${copy.path}/cache/manifests`, { recursive: true });
    for (const tag of ["app:v1", "again:zstd"]) {
      const theirs = (await msbJson(copy.path, "image", "inspect", tag)) as MsbDetail;
      const ours = await larderJson(copy.path, ["inspect", tag]);
      const sizes = theirs.layers.map(({ diff_id }) => lengthOf(copy.path, layerFile(String(diff_id))));
      expect(like(theirs, ours)).toEqual({
        ...theirs,
        layers: theirs.layers.map((layer, i) => ({ ...layer, erofs_size_bytes: sizes[i] })),
      });
      expect(ours.config).toMatchObject({ exposed_ports: null, volumes: null });
    }
  });
});
