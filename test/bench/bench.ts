import { readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build, EXECUTABLE } from "../../build.ts";
import { resolveHome } from "../../src/home.ts";
import { closeLarder, openOrCreate, openToRead } from "../../src/larder.ts";
import { parseMetadata } from "../../src/oci/metadata.ts";
import { persist } from "../../src/ops/persist.ts";
import { PinWatch } from "../../src/ops/pins.ts";
import { findStrays } from "../../src/ops/strays.ts";
import { DEFAULT_GRACE_MS } from "../../src/ops/sweep.ts";
import { MSB } from "../interop/msb.ts";
import { batchOf, fillDownloadLocks, fillStrays, referenceOf, settle, WORKSHOPS, Workshop } from "./home.ts";
import { type Point, plot } from "./plot.ts";
import {
  buildFloor,
  describeDisk,
  FLOOR,
  inTurn,
  peakMemory,
  type Run,
  runFloor,
  runLarder,
  runLarderUnder,
  runMsb,
  type Sample,
  sample,
  settlePrograms,
  time,
} from "./run.ts";
import { type Figures, measureServing } from "./serve.ts";
import { longestWriteLock } from "./write-lock.ts";

// Usage: [LARDER_BENCH_DIR=FOLDER] bun run bench [--quick] [--only PART,PART]
// Prints a table of ratios; see README. Not a test: a noisy machine moves the figures, and less so the ratios.

const OPTIONS = parseArgs({ options: { quick: { type: "boolean", default: false }, only: { type: "string" } } }).values;
const QUICK = OPTIONS.quick;
const PAIRS = QUICK ? 3 : 7;
const LARGE = QUICK ? 4000 : 20_000;
const SIZES = QUICK ? [0, 2000] : [0, 2000, 20_000];
const PLOT = fileURLToPath(new URL("prune.svg", import.meta.url));

interface Row {
  work: string;
  larder: string;
  peer: string;
  floor: string;
  ratio: string;
  goal: string;
  met: boolean;
}

const rows: Row[] = [];

function show(sample: Sample | undefined): string {
  if (!sample) return "";
  const digits = sample.ms < 10 ? 1 : 0;
  return `${sample.ms.toFixed(digits)} ms ±${Math.round(sample.spread * 100)}%${sample.runs === PAIRS ? "" : ` (${sample.runs})`}`;
}

/** A row whose figure is larder's time as a part of the peer's, or how many times faster, as its goal is given. */
function compare(
  work: string,
  { larder, msb, floor }: { larder: Sample; msb?: Sample; floor?: Sample },
  goal: { most: number; of?: "msb" | "floor" } | { faster: number },
): void {
  const other = "of" in goal && goal.of === "floor" ? floor! : msb!;
  const ratio = "faster" in goal ? other.ms / larder.ms : larder.ms / other.ms;
  add({
    work,
    larder: show(larder),
    peer: show(msb),
    floor: show(floor),
    ratio:
      "faster" in goal ? `${ratio.toFixed(1)} × faster` : `${ratio.toFixed(2)}${other === floor ? " of floor" : ""}`,
    goal: "faster" in goal ? `≥ ${goal.faster} × faster` : `≤ ${goal.most}`,
    met: "faster" in goal ? ratio >= goal.faster : ratio <= goal.most,
  });
}

/** A row whose goal is a figure. */
function judge(work: string, value: string, goal: string, met: boolean, others: Partial<Row> = {}): void {
  add({ work, larder: value, peer: "", floor: "", ratio: "", goal, met, ...others });
}

function add(row: Row): void {
  rows.push(row);
  console.error(
    `${row.work}: ${row.larder} | msb ${row.peer} | floor ${row.floor} | ${row.ratio} (${row.goal}) ${row.met ? "met" : "MISSED"}`,
  );
}

function start(): void {
  compare(
    "start: `--version`",
    inTurn(PAIRS * 3, {
      larder: () => time([EXECUTABLE, "--version"]),
      floor: () => runFloor(["hello"]),
      msb: () => time([MSB, "--version"]),
    }),
    { most: 1.3, of: "floor" },
  );
}

function read(shop: Workshop): void {
  const goals: Record<number, number> = { 0: 0.75, 2000: 0.4, 20000: 0.25 };
  for (const images of SIZES) {
    const [ours, theirs] = [shop.home("larder", images), shop.home("msb", images)];
    for (const format of ["json", "table"]) {
      const flags = format === "json" ? ["--format", "json"] : [];
      const result = inTurn(images === 20_000 ? PAIRS : PAIRS * 2, {
        larder: () => runLarder(ours, ["list", ...flags]),
        msb: () => runMsb(theirs, ["image", "ls", ...flags]),
        floor: () => runFloor(["list", join(ours, "db", "msb.db")]),
      });
      compare(`\`list\` (${format}), ${images} images`, result, { most: goals[images]! });
    }
    if (images !== 2000) judgeMemory(ours, theirs, images);
    if (images === 2000) readWhileLocked(ours, theirs);
    shop.remove(ours);
    shop.remove(theirs);
  }
}

function judgeMemory(ours: string, theirs: string, images: number): void {
  const limit = images === 20_000 ? 80 : 36;
  const bytes = peakMemory([EXECUTABLE, "list", "--format", "json", "--home", ours]);
  const peer = peakMemory([MSB, "image", "ls", "--format", "json"], { MSB_HOME: theirs, HOME: theirs });
  const floor = peakMemory([FLOOR, "list", join(ours, "db", "msb.db")]);
  judge(
    `peak memory of \`list\` (json), ${images} images`,
    mebibytes(bytes),
    `≤ ${limit} MiB`,
    bytes <= limit * 2 ** 20,
    {
      peer: mebibytes(peer),
      floor: mebibytes(floor),
    },
  );
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}

// msb's start-up writes, so it waits for whoever holds the write lock: here for a second.
function readWhileLocked(ours: string, theirs: string): void {
  const holder = fileURLToPath(new URL("hold.ts", import.meta.url));
  const locked = (home: string, run: () => Run) => {
    const child = Bun.spawn([process.execPath, holder, join(home, "db", "msb.db"), "1500"], { stdout: "pipe" });
    Bun.sleepSync(500);
    const result = run();
    child.kill();
    return result;
  };
  const larder = sample(Array.from({ length: 3 }, () => locked(ours, () => runLarder(ours, ["list"]))));
  const msb = sample(Array.from({ length: 3 }, () => locked(theirs, () => runMsb(theirs, ["image", "ls"]))));
  judge("`list` while another process writes for 1 s", show(larder), "does not wait", larder.ms < 500, {
    peer: show(msb),
    ratio: (larder.ms / msb.ms).toFixed(3),
  });
}

function large(shop: Workshop): void {
  const [ours, theirs] = [shop.home("larder", LARGE, { files: true }), shop.home("msb", LARGE, { files: true })];
  for (const command of ["get", "inspect"]) {
    const reference = referenceOf(LARGE >> 1);
    compare(
      `\`${command}\` of one image at ${LARGE}`,
      inTurn(PAIRS * 2, {
        larder: () => runLarder(ours, [command, reference]),
        msb: () => runMsb(theirs, ["image", "inspect", reference]),
        floor: () => runFloor([command, join(ours, "db", "msb.db"), reference]),
      }),
      { most: 0.75 },
    );
  }
  compare(
    `\`rm\` of one image at ${LARGE}`,
    inTurn(PAIRS, {
      larder: (turn) => {
        // The turn before has deleted a metadata file: after a change to their folder larder looks at each for some minutes.
        settle(join(ours, "cache"));
        return runLarder(ours, ["rm", referenceOf(turn * 50)]);
      },
      msb: (turn) => runMsb(theirs, ["image", "rm", referenceOf(turn * 50)]),
      floor: () => runFloor(["write", join(ours, "db", "msb.db")]),
    }),
    { most: 0.3 },
  );
  for (const [name, args] of [
    ["`gc`", ["gc"]],
    ["`prune -n`", [...PRUNE, "-n"]],
    ["`df`", ["df"]],
  ] as const)
    judge(
      `${name} at ${LARGE} images, nothing stray`,
      show(sample([1, 2, 3].map(() => runLarder(ours, [...args])))),
      "",
      true,
    );
  shop.remove(theirs);
  const lock = longestWriteLock(shop, (under) => runLarderUnder(under, ours, PRUNE));
  judge(
    `\`prune\` of ${LARGE} with files: longest write lock`,
    `${lock.longest.toFixed(0)} ms (${lock.count} locks)`,
    "≤ 100 ms",
    lock.longest <= 100,
    { ratio: `${(lock.run.ms / 1000).toFixed(1)} s in all` },
  );
  shop.remove(ours);
}

const PRUNE = ["prune", "--unused", "--min-age", "0s"];
const MSB_PRUNE = ["image", "prune", "-y"];

// Homes are used up, so each turn has one of its own.
function pruneInTurn(shop: Workshop, pairs: number, images: number, options: { pinned?: number; files?: boolean }) {
  return inTurn(
    pairs,
    {
      larder: () => onHome(shop, "larder", images, options, (home) => runLarder(home, PRUNE)),
      msb: () => onHome(shop, "msb", images, options, (home) => runMsb(home, MSB_PRUNE)),
      floor: () =>
        onHome(shop, "larder", images, options, (home) =>
          options.files ? time(["rm", "-rf", join(home, "cache")]) : runFloor(["prune", join(home, "db", "msb.db")]),
        ),
    },
    false,
  );
}

function onHome(
  shop: Workshop,
  owner: "larder" | "msb",
  images: number,
  options: { pinned?: number; files?: boolean },
  run: (home: string) => Run,
) {
  const home = shop.home(owner, images, options);
  if (options.files) Bun.spawnSync(["sync"]);
  const result = run(home);
  shop.remove(home);
  return result;
}

// As many images as most hosts have. No goal of their own, but nobody should have to wait for larder instead of msb.
function small(shop: Workshop): void {
  const works: [work: string, larder: string[], msb: string[]][] = [
    ["`rm` of one", ["rm", referenceOf(4)], ["image", "rm", referenceOf(4)]],
    ["`prune` of all", PRUNE, MSB_PRUNE],
  ];
  for (const [work, ours, theirs] of works)
    compare(
      `${work} of 20 images, with files`,
      inTurn(PAIRS * 2, {
        larder: () => onHome(shop, "larder", 20, { files: true }, (home) => runLarder(home, ours)),
        msb: () => onHome(shop, "msb", 20, { files: true }, (home) => runMsb(home, theirs)),
      }),
      { most: 1 },
    );
}

function pruneAll(shop: Workshop): void {
  const images = QUICK ? 1000 : 4000;
  compare(`\`prune\` of all ${images}, with files`, pruneInTurn(shop, PAIRS, images, { files: true }), { faster: 3 });
  compare(`\`prune\` of all ${images}, catalogue alone`, pruneInTurn(shop, PAIRS, images, {}), { faster: 25 });
}

function pruneHalf(shop: Workshop): void {
  const goals: [number, number][] = QUICK
    ? [[1000, 20]]
    : [
        [4000, 80],
        [8000, 200],
      ];
  for (const [images, faster] of goals) {
    const result = pruneInTurn(shop, images >= 8000 ? 3 : PAIRS, images, { pinned: images / 2 });
    compare(`\`prune\`, half of ${images} pinned, catalogue alone`, result, { faster });
    curve.push({ images, larder: result.larder.ms, msb: result.msb.ms });
  }
  for (const images of QUICK ? [500] : [1000, 2000]) {
    const result = pruneInTurn(shop, 3, images, { pinned: images / 2 });
    curve.push({ images, larder: result.larder.ms, msb: result.msb.ms });
  }
  for (const images of QUICK ? [2000, 4000] : [16_000, 20_000]) {
    const ours = inTurn(
      3,
      {
        larder: () => onHome(shop, "larder", images, { pinned: images / 2 }, (home) => runLarder(home, PRUNE)),
      },
      false,
    );
    curve.push({ images, larder: ours.larder.ms });
  }
  curve.sort((a, b) => a.images - b.images);
  const [first, last] = [curve.find(({ images }) => images >= (QUICK ? 500 : 1000))!, curve.at(-1)!];
  const growth = last.larder / first.larder / (last.images / first.images);
  judge(
    `growth of that from ${first.images} to ${last.images} images`,
    `${first.larder.toFixed(0)} → ${last.larder.toFixed(0)} ms`,
    "time / size within 1.5",
    growth <= 1.5,
    { ratio: growth.toFixed(2) },
  );
  writeFileSync(PLOT, plot(curve));
}

const curve: Point[] = [];

function persistAll(shop: Workshop): void {
  const many = ["persist", "--format", "jsonl", "--batch"];
  persistInTurn(shop, "`persist --batch`", QUICK ? 4000 : 20_000, 500, 9000, (home, batch) =>
    runLarder(home, [...many, batch]),
  );
  persistInTurn(shop, "persist one by one in one process", 3000, 1, 4000, persistEach);
}

function persistInTurn(
  shop: Workshop,
  work: string,
  images: number,
  atOnce: number,
  goal: number,
  run: (home: string, batch: string) => Run,
): void {
  const batch = join(shop.path, "batch.jsonl");
  writeFileSync(batch, batchOf(images));
  const { larder, floor } = inTurn(
    3,
    {
      larder: () => onHome(shop, "larder", 0, {}, (home) => run(home, batch)),
      floor: () =>
        onHome(shop, "larder", 0, {}, (home) =>
          runFloor(["persist", join(home, "db", "msb.db"), batch, String(atOnce)]),
        ),
    },
    false,
  );
  const rate = ({ ms }: Sample) => (images / ms) * 1000;
  judge(work, `${rate(larder).toFixed(0)} images/s`, `≥ ${goal}/s`, rate(larder) >= goal, {
    floor: `${rate(floor).toFixed(0)} images/s`,
    ratio: `${(larder.ms / floor.ms).toFixed(2)} of floor`,
  });
}

// As the endpoint does it: what is checked before a line gets there does not count.
function persistEach(home: string, batch: string): Run {
  const entries = readFileSync(batch, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const { reference, metadata } = JSON.parse(line);
      return { reference, metadata: parseMetadata(JSON.stringify(metadata), "a line") };
    });
  const larder = openOrCreate(resolveHome(home, {}));
  const run = timeOf(() => {
    for (const entry of entries) persist(larder, [entry]);
  });
  closeLarder(larder);
  return run;
}

function deleteMany(shop: Workshop): void {
  const count = QUICK ? 5000 : 50_000;
  const make = () => {
    const home = shop.home("larder", 1, { files: true });
    fillStrays(join(home, "cache"), count);
    Bun.spawnSync(["sync"]);
    return home;
  };
  const use = (run: (home: string) => Run) => {
    const home = make();
    const result = run(home);
    shop.remove(home);
    return result;
  };
  const artifacts = (home: string) => join(home, "cache", "layers");
  const result = inTurn(
    QUICK ? 2 : 5,
    {
      larder: () => use((home) => runLarder(home, ["gc"])),
      floor: () =>
        use((home) => {
          // The artifacts without their locks, which larder leaves.
          for (const name of readdirSync(artifacts(home)).filter((name) => name.endsWith(".lock")))
            unlinkSync(join(artifacts(home), name));
          Bun.spawnSync(["sync"]);
          return time(["rm", "-rf", artifacts(home)]);
        }),
    },
    false,
  );
  compare(`\`gc\` of ${count} artifacts against \`rm -rf\``, result, { most: 2.5, of: "floor" });
}

function scan(shop: Workshop): void {
  const home = shop.home("larder", LARGE, { files: true });
  fillDownloadLocks(join(home, "cache"), Math.round(LARGE * 5.7));
  const entries = ["manifests", "layers", "fsmeta", "vmdk", "tmp"].reduce(
    (sum, folder) => sum + readdirSync(join(home, "cache", folder)).length,
    0,
  );
  const result = inTurn(PAIRS, {
    larder: () => runLarder(home, ["gc", "-n"]),
    floor: () => runFloor(["scan", join(home, "cache")]),
  });
  judge(`\`gc -n\` over ${entries} entries`, show(result.larder), "≤ 600 ms", result.larder.ms <= 600, {
    floor: show(result.floor),
    ratio: `${(result.larder.ms / result.floor.ms).toFixed(1)} of floor`,
  });
  const larder = openToRead(resolveHome(home, {}))!;
  const pins = new PinWatch(larder).read();
  const looks = sample(Array.from({ length: PAIRS }, () => timeOf(() => findStrays(larder, pins, DEFAULT_GRACE_MS))));
  closeLarder(larder);
  judge("its scan alone: what names are no row's", show(looks), "≤ 600 ms", looks.ms <= 600);
  shop.remove(home);
}

function timeOf(work: () => void): Run {
  const start = performance.now();
  work();
  return { ms: performance.now() - start };
}

async function serve(): Promise<void> {
  const [rounds, seconds] = QUICK ? [1, 1] : [3, 2];
  for (const { request, constant, unchanged, changed } of await measureServing(rounds, seconds)) {
    const rate = ({ perSecond }: Figures) => `${perSecond.toFixed(0)}/s`;
    const milliseconds = (ms: number) => `${ms.toFixed(2)} ms`;
    for (const [when, figures, least] of [
      ["unchanged", unchanged, 0.8],
      ["while another commits", changed, 0.35],
    ] as const) {
      const ratio = figures.perSecond / constant.perSecond;
      judge(`serve: ${request}, ${when}`, rate(figures), `≥ ${least} of a constant`, ratio >= least, {
        floor: rate(constant),
        ratio: `${ratio.toFixed(2)} of floor`,
      });
      judge(`serve: ${request}, ${when}: p99`, milliseconds(figures.p99Ms), "< 2 ms", figures.p99Ms < 2, {
        floor: milliseconds(constant.p99Ms),
      });
    }
  }
}

function table(): string {
  const head = "| work | larder | msb 0.6.18 | floor | ratio | goal | |\n|---|---|---|---|---|---|---|\n";
  return (
    head +
    rows
      .map(
        ({ work, larder, peer, floor, ratio, goal, met }) =>
          `| ${work} | ${larder} | ${peer} | ${floor} | ${ratio} | ${goal} | ${goal === "" ? "" : met ? "met" : "missed"} |\n`,
      )
      .join("")
  );
}

{
  using shop = new Workshop();
  const parts: Record<string, () => void | Promise<void>> = {
    start,
    read: () => read(shop),
    small: () => small(shop),
    large: () => large(shop),
    all: () => pruneAll(shop),
    half: () => pruneHalf(shop),
    persist: () => persistAll(shop),
    delete: () => deleteMany(shop),
    scan: () => scan(shop),
    serve,
  };
  const chosen = OPTIONS.only?.split(",") ?? Object.keys(parts);
  const unknown = chosen.find((name) => !Object.hasOwn(parts, name));
  if (unknown !== undefined) throw new Error(`no part ${unknown}: there are ${Object.keys(parts).join(", ")}`);
  await build();
  await buildFloor();
  settlePrograms();
  try {
    for (const name of chosen) await parts[name]!();
  } finally {
    // What was measured before one of them failed has taken long enough to be shown.
    const cpu = /model name\s*: (.*)/.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "unknown";
    const load = readFileSync("/proc/loadavg", "utf8").split(" ")[0];
    console.log(`${cpus().length} × ${cpu}, Linux ${release()}, ${describeDisk(WORKSHOPS)}, load ${load}\n`);
    console.log(table());
  }
}
