import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { FileLock } from "../../src/host/flock.ts";
import type { Larder } from "../../src/larder.ts";
import { gc } from "../../src/ops/gc.ts";
import { list } from "../../src/ops/images.ts";
import { prune } from "../../src/ops/prune.ts";
import type { PrunePolicy } from "../../src/ops/prune-plan.ts";
import { IMAGES, pathOf, REFERENCES } from "./oracle.ts";
import { printFigures } from "./random.ts";
import { Stage } from "./stage.ts";

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const GRACE = 10 * MINUTE;

const POLICIES: [name: string, policy: PrunePolicy][] = [
  ["--unused", { keep: [], minAge: GRACE, unused: true }],
  ["--older-than 1m", { keep: [], minAge: GRACE, olderThan: MINUTE }],
  ["--older-than 1m --min-age 0s", { keep: [], minAge: 0, olderThan: MINUTE }],
  ["--keep-last 0", { keep: [], minAge: GRACE, keepLast: 0 }],
  ["--max-size 0", { keep: [], minAge: GRACE, maxSize: 0 }],
];

const STRAYS = [
  pathOf("layers", `sha256:${"1".repeat(64)}`, ".erofs"),
  pathOf("fsmeta", `sha256:${"2".repeat(64)}`, ".erofs"),
  `manifests/${"3".repeat(64)}.json`,
  "layers/notes.txt",
  "tmp/half.part",
];

/** Three images used just now, and strays written just now. */
function stageNow(): Stage {
  const stage = new Stage();
  for (const number of [0, 2, 4]) stage.add(REFERENCES[number]!, IMAGES[number]!, 0);
  for (const path of STRAYS) stage.write(path, "stray", 0);
  return stage;
}

function at<T>(stage: Stage, now: number, work: (larder: Larder) => Promise<T>): Promise<T> {
  return stage.useAsync((larder) => work({ ...larder, now: () => now }));
}

function collect(larder: Larder) {
  return gc(larder, { grace: GRACE, sweepUnrecorded: false, dryRun: false });
}

function evict(larder: Larder, policy: PrunePolicy) {
  return prune(larder, { policy, grace: GRACE, sweepUnrecorded: false, dryRun: false });
}

function layersOf(stage: Stage): string[] {
  return stage.files().filter((path) => path.startsWith("layers/"));
}

let clocks = 0;
afterAll(() => printFigures("clock", { clocks }));

describe.each([
  ["a minute back", () => Date.now() - MINUTE],
  ["a day back", () => Date.now() - DAY],
  ["in 1970", () => 0],
])("a clock %s", (_name, clock) => {
  test("lets gc sweep nothing by age", async () => {
    using stage = stageNow();
    clocks++;
    const before = stage.files();
    const report = await at(stage, clock(), collect);
    expect(report).toMatchObject({ files: [], manifests: [], layers: [], unaccounted: null });
    expect(report.skipped.map(({ path }) => path).sort()).toEqual(
      STRAYS.map((path) => join(stage.home.cache, path)).sort(),
    );
    expect(stage.files()).toEqual(before);
  });

  test.each(POLICIES)("lets prune %s evict nothing", async (_name, policy) => {
    using stage = stageNow();
    clocks++;
    const before = stage.files();
    const report = await at(stage, clock(), (larder) => evict(larder, policy));
    expect(report).toMatchObject({ files: [], references: [], manifests: [] });
    expect(stage.files()).toEqual(before);
    expect(stage.use((larder) => list(larder, {}, false, (rows) => [...rows]))).toHaveLength(3);
  });

  test("takes scratch from before it was set back for work that runs", async () => {
    using stage = stageNow();
    clocks++;
    // Untagged, so that gc would take it.
    stage.use(({ db }) => db.query("DELETE FROM image_ref WHERE reference = ?").run(REFERENCES[4]!.typed));
    stage.write("tmp/load-0-1-1.blob", "x", 0);
    const layers = layersOf(stage);
    const report = await at(stage, clock(), collect);
    expect(report.files).toEqual([]);
    expect(layersOf(stage)).toEqual(layers);
  });
});

describe.each([
  ["a day ahead", () => Date.now() + DAY],
  ["in 2100", () => Date.UTC(2100, 0, 1)],
])("a clock %s", (_name, clock) => {
  test.each(POLICIES)("holds every pin, and else trusts the clock with prune %s", async (_name, policy) => {
    using stage = stageNow();
    clocks++;
    stage.use(({ db }) => {
      db.run("INSERT INTO sandbox (id, name, config, status) VALUES (1, 'web', '{}', 'Running')");
      db.run(
        "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) SELECT 1, id, 'ro' FROM manifest WHERE digest = ?",
        [IMAGES[0]!.digest],
      );
      const config = JSON.stringify({ image: { Oci: `one@${IMAGES[2]!.digest}` } });
      db.run("INSERT INTO sandbox (id, name, config, status) VALUES (2, 'next', ?, 'Starting')", [config]);
    });
    const report = await at(stage, clock(), (larder) => evict(larder, policy));
    expect(report.references).toEqual([REFERENCES[4]!.typed]);
    const kept = [0, 2].flatMap((i) => [
      `manifests/${REFERENCES[i]!.key}.json`,
      pathOf("fsmeta", IMAGES[i]!.digest, ".erofs"),
      pathOf("vmdk", IMAGES[i]!.digest, ".vmdk"),
      ...IMAGES[i]!.layers.map(({ diffId }) => pathOf("layers", diffId, ".erofs")),
    ]);
    expect(stage.files()).toEqual([...new Set(kept)].sort());
  });

  test("holds a lock on the one file that it guards", async () => {
    using stage = stageNow();
    clocks++;
    const path = pathOf("layers", IMAGES[4]!.layers[0]!.diffId, ".erofs");
    using _ = FileLock.take(join(stage.home.cache, `${path}.lock`))!;
    await at(stage, clock(), (larder) => evict(larder, POLICIES[1]![1]));
    expect(stage.files()).toEqual([path]);
  });

  test("holds every artifact while a pull has its lock", async () => {
    using stage = stageNow();
    clocks++;
    const before = layersOf(stage);
    using _ = FileLock.take(join(stage.home.cache, "manifests", `${"4".repeat(64)}.lock`))!;
    await at(stage, clock(), (larder) => evict(larder, POLICIES[1]![1]));
    expect(layersOf(stage)).toEqual(before);
  });

  test("does not empty a cache that the catalogue does not account for", async () => {
    using stage = stageNow();
    clocks++;
    stage.plant(REFERENCES[5]!, IMAGES[5]!, 0);
    const before = stage.files();
    for (const work of [collect, (larder: Larder) => evict(larder, POLICIES[0]![1])]) {
      const report = await at(stage, clock(), work);
      expect(report.unaccounted).toContain(REFERENCES[5]!.key);
      expect(stage.files()).toEqual(before);
    }
    expect(stage.use((larder) => list(larder, {}, false, (rows) => [...rows]))).toHaveLength(3);
  });

  test("is trusted with strays", async () => {
    using stage = stageNow();
    clocks++;
    const report = await at(stage, clock(), collect);
    expect(report.files.map(({ path }) => path).sort()).toEqual(
      STRAYS.map((path) => join(stage.home.cache, path)).sort(),
    );
  });

  test("set right again leaves what was used meanwhile alone", async () => {
    using stage = new Stage();
    clocks++;
    for (const number of [0, 2, 4]) stage.add(REFERENCES[number]!, IMAGES[number]!, Date.now() - clock());
    for (const [, policy] of POLICIES) {
      const report = await at(stage, Date.now(), (larder) => evict(larder, policy));
      expect(report).toMatchObject({ files: [], references: [] });
    }
  });
});
