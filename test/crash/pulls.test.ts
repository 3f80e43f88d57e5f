import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { type ImageSpec, type LayerSpec, noise } from "../interop/archive.ts";
import { age, artifactsOf, problems, readFiles, readRows } from "../interop/home.ts";
import { load, msb } from "../interop/msb.ts";
import { serveRegistry } from "../interop/registry.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { IS_LONG, printFigures, Random } from "./random.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(120_000);

const PULLS = IS_LONG ? 400 : 30;
const PULLERS = 3;

// Five layers in many images, so that nearly every pull finds in the cache what another image is about to take along.
const POOL: LayerSpec[] = Array.from({ length: 5 }, (_, i) => ({ files: { layer: noise(i + 1, 20_000) } }));

function image(i: number): ImageSpec {
  return {
    tags: [`app/image-${i}:1`],
    layers: [POOL[i % 5]!, POOL[(i * 3 + 1) % 5]!, { files: { own: noise(100 + i, 40_000) } }],
  };
}

const IMAGES = Array.from({ length: 10 }, (_, i) => image(i));
const KEPT: ImageSpec = { tags: ["kept:1"], layers: [{ files: { kept: "1" } }] };

describe("pulls by msb", () => {
  const figures = {
    pulls: 0,
    "refused by msb": 0,
    collections: 0,
    removals: 0,
    "files lost on msb's cached path": 0,
    "files taken by the test": 0,
    "losses mended": 0,
  };
  afterAll(() => printFigures("pulls", figures));

  /** Fails unless what a pull has left out is named by `check`, and there again after the next pull. */
  async function expectMended(home: string, tag: string, missing: string[]): Promise<void> {
    const named = JSON.stringify(await larderJson(home, ["check"], 5));
    for (const path of missing) expect(named).toContain(path);
    expect(await msb(home, "pull", "--insecure", tag)).toMatchObject({ code: 0 });
    expect(missing.filter((path) => !existsSync(join(home, "cache", path)))).toEqual([]);
    figures["losses mended"] += missing.length;
  }

  test(
    "end complete while gc, prune and rm loop, and what is lost all the same is named and mended",
    async () => {
      using folder = new TemporaryFolder();
      const home = folder.path;
      await load(home, [KEPT]);
      await using registry = serveRegistry(IMAGES);
      const random = new Random(1);
      const pulled = new Map<string, ImageSpec>();
      let isDone = false;

      async function pull(): Promise<void> {
        while (figures.pulls < PULLS) {
          figures.pulls++;
          const spec = random.pick(IMAGES);
          const tag = `${registry.host}/${spec.tags[0]}`;
          if ((await msb(home, "pull", "--insecure", tag)).code === 0) pulled.set(tag, spec);
          else figures["refused by msb"]++;
        }
      }

      async function collect(): Promise<void> {
        const commands = [
          ["gc"],
          // Young images go, old layers stay in use by others: the harshest policy there is.
          ["prune", "--unused", "--min-age", "0s", "--keep", "kept:*"],
          ["prune", "--max-size", "200KiB", "--min-age", "0s", "--keep", "kept:*"],
        ];
        for (let i = 0; !isDone; i++) {
          const { code, stderr } = await larder(home, ...commands[i % commands.length]!);
          figures.collections++;
          if (![0, 5, 6, 75].includes(code)) throw new Error(`larder exited with ${code}: ${stderr}`);
        }
      }

      async function remove(): Promise<void> {
        while (!isDone) {
          const tag = `${registry.host}/${random.pick(IMAGES).tags[0]}`;
          const { code, stderr } = await larder(home, "rm", "--ignore", tag);
          figures.removals++;
          if (![0, 75].includes(code)) throw new Error(`larder exited with ${code}: ${stderr}`);
        }
      }

      const loops = [collect(), remove()];
      await Promise.all(Array.from({ length: PULLERS }, pull));
      isDone = true;
      await Promise.all(loops);

      const sound = problems(home).filter((problem) => !problem.endsWith("has no file"));
      expect(sound).toEqual([]);
      const { references } = readRows(home);
      for (const [tag, spec] of pulled) {
        if (references[tag] === undefined) continue;
        const files = readFiles(home);
        const missing = artifactsOf(spec).filter((path) => !files.includes(path));
        figures["files lost on msb's cached path"] += missing.length;
        if (missing.length > 0) await expectMended(home, tag, missing);
      }
      expect(problems(home)).toEqual([]);
      // What guards left over goes in the end, and nothing else.
      age(home);
      expect((await larder(home, "gc", "--sweep-unrecorded")).code).toBe(0);
      expect(problems(home)).toEqual([]);
      expect(artifactsOf(KEPT).filter((path) => !readFiles(home).includes(path))).toEqual([]);
    },
    IS_LONG ? 1_800_000 : 120_000,
  );

  test.each<[string, (tag: string) => string[], number[]]>([
    ["rm", (tag) => ["rm", tag], [0]],
    ["gc without grace", () => ["gc", "--grace", "0s", "--sweep-unrecorded"], [0]],
    ["prune", () => ["prune", "--unused", "--min-age", "0s", "--keep", "kept:*", "--sweep-unrecorded"], [0]],
    ["prune by budget", () => ["prune", "--max-size", "1", "--min-age", "0s", "--sweep-unrecorded"], [75]],
  ])("that run when %s looks are complete when msb reports them done", async (_name, args, codes) => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [KEPT]);
    const [first, second] = [image(0), image(5)];
    const release = Promise.withResolvers<void>();
    const halfWay = Promise.withResolvers<void>();
    let isHeld = false;
    await using registry = serveRegistry([first, second], {
      midway() {
        if (!isHeld) return;
        halfWay.resolve();
        return release.promise;
      },
    });
    const [there, tag] = [first, second].map(({ tags }) => `${registry.host}/${tags[0]}`) as [string, string];
    expect((await msb(home, "pull", "--insecure", there)).code).toBe(0);
    isHeld = true;
    const pulling = msb(home, "pull", "--insecure", tag);
    await halfWay.promise;
    const { code, stderr } = await larder(home, ...args(there));
    if (!codes.includes(code)) throw new Error(`larder exited with ${code}: ${stderr}`);
    release.resolve();
    figures.pulls++;
    expect(await pulling).toMatchObject({ code: 0 });
    const files = readFiles(home);
    expect(artifactsOf(second).filter((path) => !files.includes(path))).toEqual([]);
    expect(problems(home)).toEqual([]);
  });

  // What a pull loses on msb's lock-free path looks like this, however rarely the race itself is won.
  test("that lost a file after they found it are named by check, and mended by the next pull", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await using registry = serveRegistry([image(0), image(5)]);
    for (const spec of [image(0), image(5)]) await msb(home, "pull", "--insecure", `${registry.host}/${spec.tags[0]}`);
    const [fsmeta, , ...layers] = artifactsOf(image(5)) as [string, string, ...string[]];
    for (const path of [fsmeta, ...layers]) {
      figures["files taken by the test"]++;
      unlinkSync(join(home, "cache", path));
      await expectMended(home, `${registry.host}/${image(5).tags[0]}`, [path]);
      expect(problems(home)).toEqual([]);
    }
  });
});
