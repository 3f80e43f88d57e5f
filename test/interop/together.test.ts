import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { larder, larderJson, processStatus, run, runUntilFree, TemporaryFolder } from "../larder.ts";
import { build, type ImageSpec, type LayerSpec, noise, writeArchive } from "./archive.ts";
import {
  addSandbox,
  age,
  change,
  filesOf,
  keyOf,
  layerFile,
  plant,
  problems,
  readFiles,
  readRows,
  rowsOf,
} from "./home.ts";
import { metadataOf } from "./metadata.ts";
import { load, msb, msbJson, type Outcome, start } from "./msb.ts";
import { serveRegistry } from "./registry.ts";

// A busy machine may be slow; it must not look wrong.
setDefaultTimeout(60_000);

const BASE: LayerSpec = { files: { "bin/sh": noise(1, 9000) } };

describe("eight larder processes and msb at work on one home", () => {
  const WORKERS = 8;
  const STEPS = 10;
  // Nobody removes these, so every layer that the workers put on record has its artifact throughout.
  const KEPT: ImageSpec[] = [0, 1, 2].map((i) => ({
    tags: [`keep:${i}`],
    layers: [BASE, { files: { keep: String(i) } }],
  }));

  function ownImage(worker: number, i: number): ImageSpec {
    const { layers } = KEPT[i % KEPT.length]!;
    return { tags: [`worker-${worker}:${i}`], layers, config: { labels: { worker: String(worker), i: String(i) } } };
  }

  function loadedImage(loader: number, i: number): ImageSpec {
    return { tags: [`loader-${loader}:${i}`], layers: [BASE, { files: { own: noise(100 * loader + i + 10, 3000) } }] };
  }

  /** Counts answers, such as `larder rm 0`. */
  class Tally {
    private readonly counts = new Map<string, number>();
    add(what: string, { code }: Outcome): void {
      this.counts.set(`${what} ${code}`, (this.counts.get(`${what} ${code}`) ?? 0) + 1);
    }
    toString(): string {
      return [...this.counts]
        .map(([what, count]) => `${what} ×${count}`)
        .sort()
        .join(", ");
    }
  }

  test("leave a consistent catalogue in which no finished change is lost", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, KEPT);
    addSandbox(home, "web-1", KEPT[0]);
    for (let i = 0; i < 50; i++) plant(home, `layers/stray-${i}`);
    age(home);
    const present = new Map<string, ImageSpec>(KEPT.map((spec) => [spec.tags[0]!, spec]));
    const unsure = new Map<string, ImageSpec>();
    const codes = new Set<number>();
    const tally = new Tally();

    async function ours(what: string, run: Promise<Outcome>): Promise<number> {
      const outcome = await run;
      tally.add(`larder ${what}`, outcome);
      codes.add(outcome.code);
      return outcome.code;
    }

    // Each worker has references of its own, so what it was told last is what must be on record at the end.
    async function work(worker: number): Promise<void> {
      for (let step = 0; step < STEPS; step++) {
        const spec = ownImage(worker, (step * 7 + worker) % 4);
        const [tag] = spec.tags as [string];
        const kind = (step * 5 + worker) % 8;
        if (kind < 3) {
          const persisting = run(["persist", "--metadata", "-", tag, "--home", home], { stdin: metadataOf(spec) });
          if ((await ours("persist", persisting)) === 0) present.set(tag, spec);
        } else if (kind < 5) {
          if ((await ours("rm", larder(home, "rm", tag))) === 0) present.delete(tag);
        } else if (kind === 5) await ours("gc", larder(home, "gc"));
        else if (kind === 6) expect(await ours("rm pinned", larder(home, "rm", "keep:0"))).toBe(4);
        else expect(await ours("inspect", larder(home, "inspect", "keep:1"))).toBe(0);
      }
    }

    // msb loads and removes images of its own; of every third, larder is the one that removes it.
    async function loader(id: number): Promise<void> {
      for (let i = 0; i < 6; i++) {
        const spec = loadedImage(id, i);
        const [tag] = spec.tags as [string];
        const path = join(home, `${id}-${i}.tar`);
        await writeArchive(path, [spec]);
        const loaded = await msb(home, "load", "-i", path);
        tally.add("msb load", loaded);
        if (loaded.code === 0) present.set(tag, spec);
        else unsure.set(tag, spec);
        if (i % 3 === 1) {
          const removed = await msb(home, "image", "rm", tag);
          tally.add("msb rm", removed);
          if (removed.code === 0) present.delete(tag);
          else unsure.set(tag, spec);
        } else if (i % 3 === 2 && (await ours("rm loaded", larder(home, "rm", tag))) === 0) present.delete(tag);
      }
    }

    await Promise.all([...Array.from({ length: WORKERS }, (_, worker) => work(worker)), loader(1), loader(2)]);
    console.log(`answers: ${tally}`);
    expect([...codes].filter((code) => ![0, 3, 4, 75].includes(code))).toEqual([]);
    expect(problems(home)).toEqual([]);

    // Where msb failed, it may have stopped before or after its commit: either is right.
    const { references } = readRows(home);
    for (const [tag, spec] of unsure) {
      if (references[tag] === undefined) present.delete(tag);
      else present.set(tag, spec);
    }
    const images = [...present.values()];
    expect(Object.keys(references).sort()).toEqual([...present.keys()].sort());
    expect(readRows(home)).toMatchObject({
      references: rowsOf(images).references,
      manifests: rowsOf(images).manifests,
    });
    expect((await msbJson(home, "image", "ls")) as object[]).toHaveLength(images.length);

    // What was left for later is found now: only what some image needs remains.
    age(home);
    expect((await larder(home, "gc")).code).toBe(0);
    expect(problems(home)).toEqual([]);
    expect(readRows(home)).toEqual(rowsOf(images));
    expect(readFiles(home)).toEqual(filesOf(images.filter(({ tags }) => !tags[0]!.startsWith("worker-"))));
  });

  test("put one batch each on record, all of it", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    // No home yet: they create it together, while msb opens it as well.
    const images = Array.from({ length: WORKERS }, (_, worker) =>
      Array.from(
        { length: 30 },
        (_, i): ImageSpec => ({ ...ownImage(worker, i), tags: [`batch-${worker}:${i}`, "moving:1"] }),
      ),
    );
    const persisting = images.map((batch) =>
      runUntilFree(["persist", "--batch", "-", "--home", home], {
        stdin: batch
          .flatMap((spec) =>
            spec.tags.map((reference) => `{"reference":"${reference}","metadata":${metadataOf(spec)}}\n`),
          )
          .join(""),
      }),
    );
    const listing = [1, 2].map(() => msb(home, "image", "ls"));
    const outcomes = await Promise.all(persisting);
    const listed = await Promise.all(listing);
    console.log(`msb image ls answered ${listed.map(({ code, stderr }) => `${code} ${stderr.trim()}`).join(" and ")}`);
    expect(outcomes.map(({ code, stderr }) => ({ code, stderr }))).toEqual(
      outcomes.map(() => ({ code: 0, stderr: "" })),
    );
    const { references, layers } = readRows(home);
    expect(Object.keys(references)).toHaveLength(WORKERS * 30 + 1);
    for (const spec of images.flat()) expect(references[spec.tags[0]!]).toBe(build(spec).manifest.digest);
    // The one reference that all of them moved ends at the last image of one of them.
    expect(images.map((batch) => build(batch.at(-1)!).manifest.digest)).toContain(references["moving:1"]!);
    expect(layers).toEqual(rowsOf(images.flat()).layers);
    expect(problems(home).filter((problem) => !problem.endsWith("has no file"))).toEqual([]);
    expect((await msbJson(home, "image", "ls")) as object[]).toHaveLength(WORKERS * 30 + 1);
  });
});

describe("a pull that is half-way", () => {
  const OLD: ImageSpec = { tags: ["old:1"], layers: [BASE, { files: { old: "1" } }] };
  const KEEP: ImageSpec = { tags: ["keep:1"], layers: [{ files: { keep: "1" } }] };
  // What it still has to fetch, and what it found in the cache: there only because of `old:1`.
  const FETCHED: LayerSpec = { files: { big: noise(5, 100_000) } };
  const NEW: ImageSpec = { tags: ["new:1"], layers: [BASE, FETCHED] };

  /** Pulls `NEW`, and holds it in the middle of the layer that it fetches until `finish`. */
  async function pullHalf(home: string, spec: ImageSpec = NEW) {
    const fetched = build(spec).layers.at(-1)!.digest;
    const halfWay = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const registry = serveRegistry([spec], {
      midway(digest) {
        if (digest !== fetched) return;
        halfWay.resolve();
        return release.promise;
      },
    });
    const tag = `${registry.host}/${spec.tags[0]}`;
    const child = start(home, "pull", "--insecure", tag);
    await halfWay.promise;
    // What the registry has sent, msb may not have written yet.
    const part = join(home, "cache", "tmp", `${fetched.replace(":", "_")}.part`);
    while (!statSync(part, { throwIfNoEntry: false })?.size) await Bun.sleep(1);
    return {
      tag,
      spec: { ...spec, tags: [tag] },
      kill: () => child.kill("SIGKILL"),
      async finish(): Promise<Outcome> {
        release.resolve();
        const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
        return { code, stdout, stderr };
      },
      async [Symbol.asyncDispose]() {
        release.resolve();
        await child.exited;
        await registry[Symbol.asyncDispose]();
      },
    };
  }

  test("loses no layer to rm and gc, finishes, and leaves the rest to a later gc", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [OLD, KEEP]);
    const shared = layerFile(build(NEW).layers[0]!.diffId);
    await using pull = await pullHalf(home);

    const removed = await larderJson(home, ["rm", "old:1"]);
    const metadata = `manifests/${keyOf("old:1")}.json`;
    const inCache = (path: string) => join(home, "cache", path);
    expect(removed).toMatchObject({
      files: [{ path: inCache(metadata) }],
      failed: [],
      removed: [{ reference: "old:1" }],
    });
    const artifacts = filesOf([OLD]).filter((path) => path !== metadata);
    expect(removed.skipped.map(({ path }: { path: string }) => path).sort()).toEqual(artifacts.map(inCache));
    for (const { reason } of removed.skipped) expect(reason).toStartWith("a pull or load is running");
    expect(readRows(home)).toEqual(rowsOf([KEEP]));
    const swept = await larderJson(home, ["gc", "--grace", "0s"]);
    expect(swept.files).toEqual([]);
    const before = readFiles(home).filter((path) => !path.startsWith("tmp/"));
    expect(before).toEqual(filesOf([OLD, KEEP]).filter((path) => path !== metadata));
    expect(before).toContain(shared);

    expect(await pull.finish()).toMatchObject({ code: 0 });
    expect(readRows(home)).toEqual(rowsOf([KEEP, pull.spec]));
    expect(problems(home)).toEqual([]);
    // The shared layer belongs to the new image now; the rest of the old one is nobody's.
    age(home);
    expect((await larder(home, "gc")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([KEEP, pull.spec]));
    expect(problems(home)).toEqual([]);
    expect((await msb(home, "save", "-o", join(home, "new.tar"), pull.tag)).code).toBe(0);
  });

  test("of a newer image of the same name keeps its metadata file when the old name is removed", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [KEEP]);
    await using pull = await pullHalf(home);
    // What an earlier pull of that name left.
    plant(home, `manifests/${keyOf(pull.tag)}.json`, metadataOf(OLD));
    await larderJson(home, ["persist", pull.tag]);
    // Its own pull may be about to write it: neither the row nor the file goes.
    expect((await larder(home, "rm", pull.tag)).code).toBe(75);
    expect(readRows(home)).toEqual(rowsOf([KEEP, { ...OLD, tags: [pull.tag] }]));
    expect(await pull.finish()).toMatchObject({ code: 0 });
    // The name has moved on; what it meant before is untagged, and for a gc.
    await larderJson(home, ["gc"]);
    expect(readRows(home)).toEqual(rowsOf([KEEP, pull.spec]));
    expect(readFiles(home)).toEqual(filesOf([KEEP, pull.spec]));
  });

  test("and was killed leaves nothing that a later gc does not take", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [OLD, KEEP]);
    await using pull = await pullHalf(home);
    pull.kill();
    await pull.finish();
    expect(readdirSync(join(home, "cache", "tmp")).some((name) => name.endsWith(".part"))).toBe(true);
    // Young, it is somebody's to go on with.
    await larderJson(home, ["gc"]);
    expect(readdirSync(join(home, "cache", "tmp")).some((name) => name.endsWith(".part"))).toBe(true);
    age(home);
    await larderJson(home, ["gc"]);
    expect(readFiles(home)).toEqual(filesOf([OLD, KEEP]));
  });
});

describe("a load that is half-way", () => {
  const OLD: ImageSpec = { tags: ["old:1"], layers: [BASE, { files: { old: "1" } }] };
  const KEEP: ImageSpec = { tags: ["keep:1"], layers: [{ files: { keep: "1" } }] };
  // Large enough that the load can be stopped while it unpacks.
  const big: LayerSpec = { files: { big: noise(6, 6_000_000) }, compression: "none" };
  const NEW: ImageSpec = { tags: ["new:1"], layers: [BASE, big] };

  async function untilStopped(pid: number): Promise<void> {
    while (!/^[TZ]/.test(processStatus(pid, "State") ?? "Z")) await Bun.sleep(1);
  }

  /** Loads an archive until a file shows in `tmp/`, and stops msb there; one that was too fast for that loads again. */
  async function stopLoad(home: string, path: string, sign: RegExp): Promise<ReturnType<typeof start>> {
    const isThere = () => readdirSync(join(home, "cache", "tmp")).some((name) => sign.test(name));
    for (;;) {
      const child = start(home, "load", "-i", path);
      while (child.exitCode === null) {
        if (isThere()) {
          child.kill("SIGSTOP");
          await untilStopped(child.pid);
          if (isThere()) return child;
          // It was done with that before it stopped.
          child.kill("SIGCONT");
          await child.exited;
        }
        await Bun.sleep(0);
      }
      await msb(home, "image", "rm", "new:1");
    }
  }

  test.each([/^load-/, /\.erofs\.part$/])("at %p in tmp/ loses no layer to rm and gc", async (sign) => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [OLD, KEEP]);
    const path = join(home, "new.tar");
    await writeArchive(path, [NEW]);
    const child = await stopLoad(home, path, sign);
    const metadata = join(home, "cache", `manifests/${keyOf("old:1")}.json`);
    try {
      // A load writes metadata files under no lock, so a young one may be its own.
      expect((await larder(home, "rm", "old:1")).code).toBe(75);
      expect(readRows(home)).toEqual(rowsOf([OLD, KEEP]));
      const anHourAgo = new Date(Date.now() - 3_600_000);
      utimesSync(metadata, anHourAgo, anHourAgo);
      const report = await larderJson(home, ["rm", "old:1"]);
      expect(report).toMatchObject({ files: [{ path: metadata }], removed: [{ reference: "old:1" }] });
      expect((await larderJson(home, ["gc"])).files).toEqual([]);
    } finally {
      child.kill("SIGCONT");
    }
    expect(await child.exited).toBe(0);
    expect(readRows(home)).toEqual(rowsOf([KEEP, NEW]));
    expect(problems(home)).toEqual([]);
    age(home);
    expect((await larder(home, "gc")).code).toBe(0);
    expect(readFiles(home)).toEqual(filesOf([KEEP, NEW]));
    expect((await msb(home, "save", "-o", join(home, "saved.tar"), "new:1")).code).toBe(0);
  });
});

describe("a migration that is half-way", () => {
  const IMAGE: ImageSpec = { tags: ["one:1"], layers: [BASE] };
  const commands = (home: string) => [
    larder(home, "list"),
    larder(home, "inspect", "one:1"),
    larder(home, "persist", "one:1"),
    larder(home, "gc", "--dry-run"),
  ];

  test("under msb's lock is waited for, and without it is a damaged catalogue", async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [IMAGE]);
    // msb rebuilds this table in steps that it commits one by one.
    change(home, "ALTER TABLE snapshot_index RENAME TO snapshot_index_old");
    for (const { code, stderr } of await Promise.all(commands(home))) {
      expect({ code, stderr }).toMatchObject({ code: 5, stderr: expect.stringContaining("snapshot_index") });
    }
    const holder = Bun.spawn(["flock", join(home, "db", "msb.db.migration.lock"), "sh", "-c", "echo held; cat"], {
      stdin: "pipe",
      stdout: "pipe",
    });
    await holder.stdout.getReader().read();
    const waiting = commands(home);
    // However long they take to start: none can be done before the table is back.
    const first = await Promise.race([...waiting, Bun.sleep(300).then(() => "none")]);
    expect(first).toBe("none");
    change(home, "ALTER TABLE snapshot_index_old RENAME TO snapshot_index");
    holder.stdin.end();
    await holder.exited;
    for (const { code, stderr } of await Promise.all(waiting)) expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(readRows(home)).toEqual(rowsOf([IMAGE]));
  });
});
