import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { build, digestOf, type ImageSpec, type LayerSpec, noise } from "./archive.ts";
import {
  addSandbox,
  age,
  artifactsOf,
  change,
  filesOf,
  keyOf,
  layerFile,
  plant,
  problems,
  readFiles,
  readLocks,
  readRows,
  rowsOf,
} from "./home.ts";
import { load, msb, msbJson } from "./msb.ts";
import { serveRegistry } from "./registry.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 9000) } };
const MIDDLE: LayerSpec = { files: { "usr/lib/x.so": noise(2, 9000) }, compression: "zstd" };
const ONE: ImageSpec = {
  tags: ["one:v1", "docker.io/library/one:latest"],
  layers: [BASE, MIDDLE, { files: { one: "" } }],
};
const TWO: ImageSpec = { tags: ["two:v1"], layers: [BASE, MIDDLE, { files: { two: "" } }] };
const TWICE: ImageSpec = { tags: ["twice:v1"], layers: [{ files: { own: "" } }, BASE, { files: { own: "" } }] };
const ALONE: ImageSpec = { tags: ["ghcr.io/acme/alone:1"], layers: [{ files: { alone: noise(3, 9000) } }] };
// The same layers as `two:v1` under another config: nothing of it is its own but fsmeta and VMDK.
const SAME: ImageSpec = { tags: ["same"], layers: TWO.layers, config: { env: ["A=1"] }, architecture: "arm64" };
const IMAGES = [ONE, TWO, TWICE, ALONE, SAME];

/** Both tools see these images and no other, and what both print of each is the same. */
async function expectHolds(home: string, images: ImageSpec[], untagged: ImageSpec[] = []): Promise<void> {
  expect(readRows(home)).toEqual(rowsOf(images, untagged));
  expect(readFiles(home)).toEqual(filesOf(images, untagged));
  expect(problems(home)).toEqual([]);
  const theirs = (await msbJson(home, "image", "ls")) as { reference: string }[];
  expect(theirs.map(({ reference }) => reference).sort()).toEqual(images.flatMap(({ tags }) => tags).sort());
  expect(await larderJson(home, ["list"])).toMatchObject(theirs);
  for (const { reference } of theirs) {
    const { digest, layers } = (await msbJson(home, "image", "inspect", reference)) as {
      digest: string;
      layers: { diff_id: string }[];
    };
    const built = build(images.find(({ tags }) => tags.includes(reference))!);
    expect(digest).toBe(built.manifest.digest);
    expect(layers.map(({ diff_id }) => diff_id)).toEqual(built.layers.map(({ diffId }) => diffId));
  }
}

/** An image less some of its names. */
function without(spec: ImageSpec, ...tags: string[]): ImageSpec {
  return { ...spec, tags: spec.tags.filter((tag) => !tags.includes(tag)) };
}

describe("remove from a home that msb loaded", () => {
  test.each<{ removed: string[]; kept: ImageSpec[] }>([
    { removed: ["one:v1"], kept: [without(ONE, "one:v1"), TWO, TWICE, ALONE, SAME] },
    { removed: ["one"], kept: [without(ONE, "docker.io/library/one:latest"), TWO, TWICE, ALONE, SAME] },
    { removed: ["one:v1", "one"], kept: [TWO, TWICE, ALONE, SAME] },
    { removed: ["two:v1"], kept: [ONE, TWICE, ALONE, SAME] },
    { removed: ["two:v1", "same"], kept: [ONE, TWICE, ALONE] },
    { removed: ["one:v1", "one:latest", "two:v1", "same"], kept: [TWICE, ALONE] },
    { removed: ["twice:v1"], kept: [ONE, TWO, ALONE, SAME] },
    { removed: ["ghcr.io/acme/alone:1"], kept: [ONE, TWO, TWICE, SAME] },
    { removed: ["same:latest", "twice:v1", "ghcr.io/acme/alone:1", "one", "one:v1", "two:v1"], kept: [] },
  ])("$removed leaves exactly what the other images need", async ({ removed, kept }) => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    const locks = readLocks(home);
    const gone = IMAGES.filter(
      (spec) => !kept.some(({ layers, config }) => layers === spec.layers && config === spec.config),
    );
    const lost = rowsOf(IMAGES).layers.filter((diffId) => !rowsOf(kept).layers.includes(diffId));

    const report = await larderJson(home, ["rm", ...removed]);
    expect(report.manifests.sort()).toEqual(gone.map((spec) => build(spec).manifest.digest).sort());
    expect(report.layers.sort()).toEqual(lost);
    expect(report).toMatchObject({ skipped: [], failed: [], refused: [], untagged: [] });
    expect(readLocks(home)).toEqual(expect.arrayContaining(locks));
    await expectHolds(home, kept);
    // Nothing was left for gc either.
    age(home);
    const swept = await larderJson(home, ["gc"], 0);
    expect(swept).toMatchObject({ files: [], manifests: [], layers: [], skipped: [], unaccounted: null });
    expect(readRows(home)).toEqual(rowsOf(kept));
    expect(readFiles(home)).toEqual(filesOf(kept));
  });

  test("plans exactly what it then does, and counts allocated bytes", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    const before = readFiles(home);
    const allocated = (path: string) => statSync(join(home, "cache", path)).blocks * 512;
    const sizes = new Map(before.map((path) => [join(home, "cache", path), allocated(path)]));
    const args = ["rm", "two:v1", "same", "one:v1", "twice:v1"];

    const plan = await larderJson(home, [...args, "--dry-run"]);
    await expectHolds(home, IMAGES);
    expect(readFiles(home)).toEqual(before);
    const done = await larderJson(home, args);
    expect({ ...done, dry_run: true }).toEqual(plan);
    const left = new Set(readFiles(home).map((path) => join(home, "cache", path)));
    const gone = [...sizes].filter(([path]) => !left.has(path));
    expect(done.files.map(({ path }: { path: string }) => path).sort()).toEqual(gone.map(([path]) => path).sort());
    expect(done.bytes_reclaimed).toBe(gone.reduce((sum, [, bytes]) => sum + bytes, 0));
    await expectHolds(home, [without(ONE, "one:v1"), ALONE]);
  });

  test("leaves images that msb can load again and write out", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    await larderJson(home, ["rm", "one:v1", "two:v1", "twice:v1"]);
    await load(home, [TWO]);
    await expectHolds(home, [without(ONE, "one:v1"), TWO, ALONE, SAME]);
    for (const tag of ["docker.io/library/one:latest", "two:v1", "same", "ghcr.io/acme/alone:1"]) {
      const { code, stderr } = await msb(home, "save", "-o", join(home, "saved.tar"), tag);
      expect({ tag, code, stderr }).toMatchObject({ tag, code: 0 });
    }
  });
});

describe("gc of a home that msb loaded", () => {
  const NEXT: ImageSpec = { tags: ["one:v1", "docker.io/library/one:latest"], layers: [BASE, { files: { next: "" } }] };

  test("takes nothing while every image has a name", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, IMAGES);
    age(folder.path);
    expect(await larderJson(folder.path, ["gc"])).toMatchObject({ files: [], manifests: [], layers: [] });
    await expectHolds(folder.path, IMAGES);
  });

  test("takes a manifest that a new image took the name of, and the layers that only it had", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    await load(home, [NEXT]);
    const old = build(ONE);
    // msb knows the old manifest by no name; larder shows it.
    await expectHolds(home, [NEXT, TWO, TWICE, ALONE, SAME], [ONE]);
    const untagged = await larderJson(home, ["list", "--filter", "untagged=true"]);
    expect(untagged).toMatchObject([{ reference: null, digest: old.manifest.digest, layer_count: 3 }]);

    const report = await larderJson(home, ["gc"]);
    expect(report).toMatchObject({ manifests: [old.manifest.digest], layers: [old.layers[2]!.diffId], skipped: [] });
    await expectHolds(home, [NEXT, TWO, TWICE, ALONE, SAME]);
  });

  test("keeps an untagged manifest while a sandbox uses it, and takes it after", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    addSandbox(home, "web-1", ONE);
    await load(home, [NEXT]);
    expect(await larderJson(home, ["gc"])).toMatchObject({ files: [], manifests: [], layers: [] });
    await expectHolds(home, [NEXT, TWO, TWICE, ALONE, SAME], [ONE]);
    change(home, "DELETE FROM sandbox");
    expect(await larderJson(home, ["gc"])).toMatchObject({ manifests: [build(ONE).manifest.digest] });
    await expectHolds(home, [NEXT, TWO, TWICE, ALONE, SAME]);
  });

  test("removes an untagged manifest by its digest", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    await load(home, [NEXT]);
    await larderJson(home, ["rm", build(ONE).manifest.digest]);
    await expectHolds(home, [NEXT, TWO, TWICE, ALONE, SAME]);
  });

  test("with --layers-only takes orphan layers and leaves untagged manifests and strays", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, IMAGES);
    await load(home, [NEXT]);
    const orphan = digestOf(Buffer.from("orphan"));
    change(home, "INSERT INTO layer (diff_id, blob_digest) VALUES (?, ?)", orphan, orphan);
    plant(home, layerFile(orphan), readFileSync(join(home, "cache", layerFile(build(ONE).layers[0]!.diffId))));
    plant(home, "layers/stray");
    age(home);
    const report = await larderJson(home, ["gc", "--layers-only"]);
    expect(report).toMatchObject({ layers: [orphan], manifests: [] });
    expect(report.files).toMatchObject([{ kind: "layer", path: join(home, "cache", layerFile(orphan)) }]);
    expect(readFiles(home)).toContain("layers/stray");
    expect(readFiles(home).filter((path) => path !== "layers/stray")).toEqual(
      filesOf([NEXT, TWO, TWICE, ALONE, SAME], [ONE]),
    );
    expect(readRows(home)).toEqual(rowsOf([NEXT, TWO, TWICE, ALONE, SAME], [ONE]));
  });
});

describe("flat artifacts", () => {
  const pulled = ["a:1", "b:1"].map(
    (tag, i): ImageSpec => ({ tags: [tag], layers: [BASE, { files: { n: String(i) } }] }),
  );

  interface FlatRef {
    derivation_digest: string;
    artifact_digest: string;
  }

  function refFile(spec: ImageSpec): string {
    return `flat/refs/${build(spec).manifest.digest.replace(":", "_")}.json`;
  }

  function blobFile(digest: string): string {
    return `flat/blobs/${digest.replace(":", "_")}.raw`;
  }

  /** A flat ref as msb 0.6 writes it. */
  function flatRef(spec: ImageSpec, artifact: string, derivation = digestOf(Buffer.from(spec.tags[0]!))): string {
    return JSON.stringify({
      schema: 1,
      manifest_digest: build(spec).manifest.digest,
      derivation_digest: derivation,
      artifact_digest: artifact,
      materializer_abi: 2,
      uuid: derivation.slice(7, 39),
      virtual_size_bytes: 4096,
      inode_count: 4,
      content_bytes: 10,
    });
  }

  test("that a real pull made go with their image, which msb never does", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await using registry = serveRegistry(pulled);
    const named = pulled.map((spec) => ({ ...spec, tags: [`${registry.host}/${spec.tags[0]}`] }));
    const [a, b] = named as [ImageSpec, ImageSpec];
    for (const { tags } of named) {
      const { code, stderr } = await msb(home, "pull", "--insecure", "--materialize", "all", tags[0]!);
      expect({ code, stderr }).toMatchObject({ code: 0 });
    }
    const [refA, refB] = named.map(
      (spec) => JSON.parse(readFileSync(join(home, "cache", refFile(spec)), "utf8")) as FlatRef,
    );
    const flat = (spec: ImageSpec, ref: FlatRef) => [refFile(spec), blobFile(ref.artifact_digest)];
    expect(readFiles(home)).toEqual([...filesOf(named), ...flat(a, refA!), ...flat(b, refB!)].sort());

    // A copy, so that msb's own removal can be shown: the image goes and its flat root stays.
    using copy = new TemporaryFolder();
    cpSync(home, copy.path, { recursive: true });
    expect((await msb(copy.path, "image", "rm", a.tags[0]!)).code).toBe(0);
    expect(readFiles(copy.path)).toEqual([...filesOf([b]), ...flat(a, refA!), ...flat(b, refB!)].sort());

    const report = await larderJson(home, ["rm", a.tags[0]!]);
    expect(report.files.map(({ kind }: { kind: string }) => kind)).toEqual(
      expect.arrayContaining(["flat_ref", "flat_blob"]),
    );
    expect(readRows(home)).toEqual(rowsOf([b]));
    expect(readFiles(home)).toEqual([...filesOf([b]), ...flat(b, refB!)].sort());
    // The other's flat root is still a hit: msb has nothing to fetch and nothing to build.
    const before = registry.requests.length;
    expect((await msb(home, "pull", "--insecure", "--materialize", "all", b.tags[0]!)).code).toBe(0);
    expect(registry.requests.slice(before).filter((request) => request.includes("/blobs/"))).toEqual([]);
    // What msb left behind in the copy is swept by gc.
    age(copy.path);
    await larderJson(copy.path, ["gc"]);
    expect(readFiles(copy.path)).toEqual([...filesOf([b]), ...flat(b, refB!)].sort());
  });

  test("shared by two refs stay until the last of their images goes", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [TWO, SAME, ALONE]);
    const shared = digestOf(Buffer.from("shared"));
    for (const spec of [TWO, SAME]) plant(home, refFile(spec), flatRef(spec, shared));
    plant(home, blobFile(shared), new Uint8Array(4096));

    await larderJson(home, ["rm", "two:v1"]);
    expect(readFiles(home)).toEqual([...filesOf([SAME, ALONE]), refFile(SAME), blobFile(shared)].sort());
    age(home);
    await larderJson(home, ["gc"]);
    expect(readFiles(home)).toEqual([...filesOf([SAME, ALONE]), refFile(SAME), blobFile(shared)].sort());
    await larderJson(home, ["rm", "same"]);
    await expectHolds(home, [ALONE]);
  });

  test("of an untagged image and of no image go in gc, a pinned one's stay", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ONE, TWO, ALONE]);
    await load(home, [
      { tags: ONE.tags, layers: SAME.layers, config: { env: ["new=1"] } },
      { tags: TWO.tags, layers: SAME.layers, config: { env: ["new=2"] } },
    ]);
    addSandbox(home, "web-1", TWO);
    const [ofOne, ofTwo, ofNone] = ["1", "2", "3"].map((text) => digestOf(Buffer.from(text))) as [
      string,
      string,
      string,
    ];
    plant(home, refFile(ONE), flatRef(ONE, ofOne));
    plant(home, refFile(TWO), flatRef(TWO, ofTwo));
    for (const digest of [ofOne, ofTwo, ofNone]) plant(home, blobFile(digest), new Uint8Array(4096));
    age(home);
    await larderJson(home, ["gc"]);
    expect(readFiles(home).filter((path) => path.startsWith("flat/"))).toEqual([blobFile(ofTwo), refFile(TWO)].sort());
    for (const file of artifactsOf(TWO)) expect(readFiles(home)).toContain(file);
    for (const file of artifactsOf(ONE).slice(0, 2)) expect(readFiles(home)).not.toContain(file);
  });

  test("whose lock is held stay, and go later", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [ALONE, TWO]);
    const artifact = digestOf(Buffer.from("flat"));
    const derivation = digestOf(Buffer.from("derivation"));
    plant(home, refFile(ALONE), flatRef(ALONE, artifact, derivation));
    plant(home, blobFile(artifact), new Uint8Array(4096));
    const lock = `flat/locks/${derivation.replace(":", "_")}.lock`;
    plant(home, lock, "");
    const holder = Bun.spawn(["flock", join(home, "cache", lock), "sh", "-c", "echo held; cat"], {
      stdin: "pipe",
      stdout: "pipe",
    });
    try {
      await holder.stdout.getReader().read();
      const report = await larderJson(home, ["rm", "ghcr.io/acme/alone:1"]);
      expect(report.skipped.map(({ kind }: { kind: string }) => kind)).toEqual(
        expect.arrayContaining(["flat_ref", "flat_blob"]),
      );
      expect(readFiles(home)).toEqual(expect.arrayContaining([refFile(ALONE), blobFile(artifact)]));
    } finally {
      holder.stdin.end();
      await holder.exited;
    }
    expect(readRows(home)).toEqual(rowsOf([TWO]));
    age(home);
    expect((await larder(home, "gc")).code).toBe(0);
    await expectHolds(home, [TWO]);
  });
});

test("keyOf is the key that msb files metadata under", async () => {
  using folder = new TemporaryFolder();
  await load(folder.path, IMAGES);
  const keys = IMAGES.flatMap(({ tags }) => tags).map((tag) => `manifests/${keyOf(tag)}.json`);
  expect(readFiles(folder.path).filter((path) => path.startsWith("manifests/"))).toEqual(keys.sort());
});
