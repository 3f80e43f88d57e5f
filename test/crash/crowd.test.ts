import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ImageSpec, type LayerSpec, noise, writeArchive } from "../interop/archive.ts";
import {
  addSandbox,
  age,
  artifactsOf,
  change,
  filesOf,
  plant,
  problems,
  readFiles,
  readRows,
  rowsOf,
} from "../interop/home.ts";
import { metadataOf } from "../interop/metadata.ts";
import { load, msb, type Outcome } from "../interop/msb.ts";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { IS_LONG, printFigures, Random } from "./random.ts";

const PROCESSES = 16;
const OPERATIONS = IS_LONG ? 1120 : 320;
const SEEDS = IS_LONG ? [1, 2, 3] : [1];

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 9000) } };
const SHARED: LayerSpec[] = [2, 3].map((seed) => ({ files: { shared: noise(seed, 6000) } }));

// Nobody removes these. One is pinned, all are old, and every other image stands on their layers.
const RESIDENTS: ImageSpec[] = [0, 1, 2].map((i) => ({
  tags: [`keep:${i}`],
  layers: [BASE, { files: { keep: String(i) } }],
}));
// Not used for days: prune takes them, and with them nothing of anybody's.
const STALE: ImageSpec[] = Array.from({ length: 8 }, (_, i) => ({
  tags: [`stale:${i}`],
  layers: [BASE, SHARED[i % 2]!, { files: { stale: String(i) } }],
}));

/** An image that only one worker loads and removes. */
function ownImage(worker: number, i: number): ImageSpec {
  return { tags: [`worker-${worker}:${i}`], layers: [BASE, { files: { own: `${worker} ${i}` } }] };
}

/** An image that every worker loads and removes; its tag moves between two images that share a layer. */
function churnImage(i: number, version: number): ImageSpec {
  return { tags: [`churn:${i}`], layers: [SHARED[i % 2]!, { files: { version: String(version) } }] };
}

// Between another's commit and its deletes there are metadata files without rows, which is what a lost catalogue looks
// like: a gc that meets one deletes nothing outside tmp/ and says so. Once all is quiet it must not.
const COLLECTED = [0, 5];

interface Figures extends Record<string, number> {
  operations: number;
  busy: number;
  "refused by msb": number;
  "left to a later gc": number;
  "files lost on msb's cached path": number;
}

/** What one worker knows for certain of its own tags: the image on record, none, or that msb failed half-way. */
type Known = Map<string, ImageSpec | undefined | "unsure">;

class Worker {
  readonly known: Known = new Map();

  constructor(
    private readonly home: string,
    private readonly number: number,
    private readonly random: Random,
    private readonly figures: Figures,
    private readonly archives: Map<string, string>,
  ) {}

  async work(): Promise<void> {
    const { random } = this;
    const roll = random.below(100);
    const own = ownImage(this.number, random.below(2));
    const [tag] = own.tags as [string];
    const churn = churnImage(random.below(3), random.below(2));
    if (roll < 22) await this.msb(["load", "-i", this.archive(own)], tag, own);
    else if (roll < 30) await this.persist(own);
    else if (roll < 42) await this.remove(tag, this.known.get(tag) !== undefined);
    else if (roll < 50) await this.msb(["rmi", tag], tag, undefined);
    else if (roll < 60) await this.msb(["load", "-i", this.archive(churn)]);
    else if (roll < 68) await this.larder([0, 3], "rm", ...churn.tags);
    else if (roll < 72) await this.msb(["rmi", ...churn.tags]);
    else if (roll < 80) await this.larder(COLLECTED, "gc");
    else if (roll < 88) await this.larder(COLLECTED, "prune", "--older-than", "1d", "--keep", "keep:*");
    else if (roll < 92) await this.larder([4], "rm", "keep:0");
    else await this.larder([0], "list", "-a", "--format", "json");
  }

  private archive(spec: ImageSpec): string {
    return this.archives.get(JSON.stringify(spec))!;
  }

  private async msb(args: string[], tag?: string, after?: ImageSpec): Promise<void> {
    this.figures.operations++;
    const { code } = await msb(this.home, ...args);
    if (code !== 0) this.figures["refused by msb"]++;
    if (tag !== undefined) this.known.set(tag, code === 0 ? after : this.known.get(tag) === after ? after : "unsure");
  }

  private async persist(spec: ImageSpec): Promise<void> {
    // On record already, or with its files to come: both are done on real hosts.
    const [tag] = spec.tags as [string];
    if (this.known.get(tag) !== spec) return this.work();
    await this.told([0], () =>
      run(["persist", "--metadata", "-", tag, "--home", this.home], { stdin: metadataOf(spec) }),
    );
  }

  private async remove(tag: string, isThere: boolean): Promise<void> {
    const isSure = this.known.get(tag) !== "unsure";
    await this.larder(isSure ? [isThere ? 0 : 3] : [0, 3], "rm", tag);
    this.known.set(tag, undefined);
  }

  private larder(codes: number[], ...args: string[]): Promise<Outcome> {
    return this.told(codes, () => larder(this.home, ...args));
  }

  // Busy means that nothing was done, so that what it would have done can be asked for again.
  private async told(codes: number[], start: () => Promise<Outcome>): Promise<Outcome> {
    for (;;) {
      this.figures.operations++;
      const outcome = await start();
      if (outcome.code === 75) this.figures.busy++;
      else if (codes.includes(outcome.code)) {
        if (outcome.code === 5) this.figures["left to a later gc"]++;
        return outcome;
      } else throw new Error(`larder exited with ${outcome.code}, not ${codes}: ${outcome.stderr}`);
    }
  }
}

async function writeArchives(folder: string, specs: ImageSpec[]): Promise<Map<string, string>> {
  const archives = new Map<string, string>();
  for (const [i, spec] of specs.entries()) {
    const path = join(folder, `${i}.tar`);
    await writeArchive(path, [spec]);
    archives.set(JSON.stringify(spec), path);
  }
  return archives;
}

describe("sixteen processes on one home", () => {
  const figures: Figures = {
    operations: 0,
    busy: 0,
    "refused by msb": 0,
    "left to a later gc": 0,
    "files lost on msb's cached path": 0,
  };
  afterAll(() => printFigures("crowd", figures));

  test.each(SEEDS)(
    "lose no update and no file of a live layer, with seed %d",
    async (seed) => {
      using folder = new TemporaryFolder();
      using archiveFolder = new TemporaryFolder();
      const home = folder.path;
      await load(home, [...RESIDENTS, ...STALE]);
      addSandbox(home, "web-1", RESIDENTS[0]);
      for (let i = 0; i < 50; i++) plant(home, `layers/stray-${i}`);
      age(home);
      change(home, "UPDATE image_ref SET updated_at = '2026-01-01 00:00:00', created_at = '2026-01-01 00:00:00'");
      change(home, "UPDATE layer SET last_used_at = '2026-01-01 00:00:00'");
      const churns = [0, 1, 2].flatMap((i) => [0, 1].map((version) => churnImage(i, version)));
      const owns = Array.from({ length: PROCESSES }, (_, worker) => [0, 1].map((i) => ownImage(worker, i))).flat();
      const archives = await writeArchives(archiveFolder.path, [...churns, ...owns]);

      const until = figures.operations + OPERATIONS;
      const workers = Array.from(
        { length: PROCESSES },
        (_, number) => new Worker(home, number, new Random(seed * 1000 + number), figures, archives),
      );
      await Promise.all(
        workers.map(async (worker) => {
          while (figures.operations < until) await worker.work();
        }),
      );

      const known = new Map(workers.flatMap((worker) => [...worker.known]));
      const { references, manifests } = readRows(home);
      const live = [...RESIDENTS, ...[...known.values()].filter((spec) => typeof spec === "object")];
      const expected = rowsOf(live);
      for (const [tag, digest] of Object.entries(expected.references))
        expect([tag, references[tag]]).toEqual([tag, digest]);
      for (const [tag, spec] of known) if (spec === undefined) expect([tag, references[tag]]).toEqual([tag, undefined]);
      for (const [digest, layers] of Object.entries(expected.manifests)) expect(manifests[digest]).toEqual(layers);
      expect(Object.keys(references).filter((tag) => tag.startsWith("stale:"))).toEqual([]);
      const files = readFiles(home);
      expect(filesOf(live).filter((path) => !files.includes(path))).toEqual([]);

      // What all of them load and remove may be lost where msb had found it without a lock: see the interop facts.
      const churning = churns.filter((spec) => references[spec.tags[0]!] === rowsOf([spec]).references[spec.tags[0]!]);
      const lost = new Set(churning.flatMap(artifactsOf).filter((path) => !files.includes(path)));
      figures["files lost on msb's cached path"] += lost.size;
      expect(problems(home).filter((problem) => !problem.endsWith("has no file"))).toEqual([]);
      if (lost.size > 0) {
        const named = JSON.stringify(await larderJson(home, ["check"], 5));
        for (const path of lost) expect(named).toContain(path);
        await load(home, churning);
        const mended = readFiles(home);
        expect(churning.flatMap(artifactsOf).filter((path) => !mended.includes(path))).toEqual([]);
      }
      expect((await msb(home, "image", "ls")).code).toBe(0);
      expect(await larder(home, "gc")).toMatchObject({ code: 0 });
    },
    600_000,
  );
});
