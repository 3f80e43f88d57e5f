import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "../larder.ts";
import { IMAGES, REFERENCES } from "./oracle.ts";
import { IS_LONG, printFigures, Random } from "./random.ts";
import { Stage, treeOf } from "./stage.ts";

const CASES = IS_LONG ? 3000 : 500;
const COMMANDS = [
  ["gc"],
  ["gc", "--grace", "0s"],
  ["prune", "--older-than", "30d"],
  ["rm", REFERENCES[2]!.typed],
  ["list", "-a"],
  ["check"],
];

/** Damages one copy of a database's files, anywhere or among its first pages, and says how. */
function damage(random: Random, files: Map<string, Buffer>, pages: number): string {
  const [name, all] = random.pick([...files]);
  const bytes = random.chance(0.2) ? all : all.subarray(0, 4096 * pages);
  if (random.chance(0.15)) {
    const length = random.below(bytes.length);
    files.set(name, all.subarray(0, length));
    return `${name} cut to ${length} bytes`;
  }
  const flips = Array.from({ length: random.pick([1, 1, 2, 8, 200]) }, () => {
    // Half of them where the b-trees' heads and cells are dense.
    const page = 4096 * random.below(Math.ceil(bytes.length / 4096));
    const at = random.chance(0.5) ? random.below(bytes.length) : Math.min(page + random.below(64), bytes.length - 1);
    bytes[at]! ^= 1 << random.below(8);
    return at;
  });
  return `${name} flipped at ${flips.slice(0, 8)}`;
}

/** What SQLite itself says of a copy: whether a check of it finds anything. */
function isDamaged(folder: string, files: Map<string, Buffer>): boolean {
  mkdirSync(folder, { recursive: true });
  for (const [name, bytes] of files) writeFileSync(join(folder, name), bytes);
  try {
    using db = new Database(join(folder, "msb.db"), { readwrite: true, create: false });
    return db.query<{ integrity_check: string }, []>("PRAGMA integrity_check").get()?.integrity_check !== "ok";
  } catch {
    return true;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("a damaged database", () => {
  const figures = { cases: 0, damaged: 0, refused: 0 };
  afterAll(() => printFigures("damage", figures));

  /**
   * A home of three images, with a database whose newest rows lie in the WAL, and how many pages it would have without a
   * table of so many bytes that are nobody's.
   */
  function makeStage(ballast: number): { stage: Stage; files: Map<string, Buffer>; pages: number } {
    const stage = new Stage();
    stage.add(REFERENCES[0]!, IMAGES[0]!);
    stage.add(REFERENCES[4]!, IMAGES[4]!);
    const pages = addBallast(stage.home.database, ballast);
    // While another connection is open the last to close does not fold the WAL in.
    const reader = new Database(stage.home.database, { readonly: true });
    reader.query("SELECT 1 FROM manifest").get();
    stage.add(REFERENCES[2]!, IMAGES[2]!);
    const files = new Map<string, Buffer>();
    for (const name of ["msb.db", "msb.db-wal"])
      files.set(name, readFileSync(join(dirname(stage.home.database), name)));
    reader.close();
    return { stage, files, pages };
  }

  function addBallast(database: string, bytes: number): number {
    using db = new Database(database, { readwrite: true, create: false });
    const { page_count } = db.query<{ page_count: number }, []>("PRAGMA page_count").get()!;
    if (bytes > 0) db.run("CREATE TABLE ballast AS SELECT zeroblob(?) AS data", [bytes]);
    return page_count;
  }

  test.each([
    ["small", CASES, 0],
    // larder checks one of this size in a thread of its own.
    ["large", CASES / 10, 9 * 1024 * 1024],
  ])(
    "costs no file that an image needs, whatever runs on a %s one",
    async (_, cases, ballast) => {
      const { stage, files, pages } = makeStage(ballast);
      using __ = stage;
      const database = dirname(stage.home.database);
      const restore = stage.keep();
      const canary = treeOf(stage.canary);
      const before = stage.files();
      // What goes with the one image that is removed, and no other image has.
      const own = new Set([...IMAGES[2]!.layers.slice(1).map(({ diffId }) => diffId), IMAGES[2]!.digest]);
      const isOwn = (path: string) =>
        path.includes(REFERENCES[2]!.key) || [...own].some((digest) => path.includes(digest.slice(7)));
      let isClean = true;
      for (let i = 0; i < cases; i++) {
        const random = new Random(7_000_000 + i);
        const copies = new Map([...files].map(([name, bytes]) => [name, Buffer.from(bytes)]));
        const how = damage(random, copies, pages);
        const args = random.pick(COMMANDS);
        if (!isClean) restore();
        rmSync(database, { recursive: true });
        mkdirSync(database);
        for (const [name, bytes] of copies) writeFileSync(join(database, name), bytes);
        const { code, stderr } = await run([...args, "--home", stage.home.root]);
        const told = `case ${i}: ${how}; larder ${args.join(" ")} exited with ${code}: ${stderr}`;
        if (![0, 1, 3, 5, 75].includes(code) || /^\s+at |Bun v|panic/m.test(stderr)) throw new Error(told);
        const after = stage.files();
        const gone = before.filter((path) => !after.includes(path));
        isClean = gone.length === 0;
        const broken = isDamaged(join(stage.folder, "copy"), copies);
        // A removal that succeeds takes what no other image has; what it rests on was sound then, whatever was not.
        const allowed = args[0] === "rm" && code === 0 ? gone.filter(isOwn) : [];
        const lost = gone.filter((path) => !allowed.includes(path));
        if (lost.length > 0) throw new Error(`${told}\ngone: ${lost}`);
        expect(treeOf(stage.canary)).toEqual(canary);
        figures.cases++;
        if (broken) figures.damaged++;
        if (code === 5) figures.refused++;
      }
    },
    600_000,
  );
});
