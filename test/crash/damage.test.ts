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

/** Damages one copy of a database's files, and says how. */
function damage(random: Random, files: Map<string, Buffer>): string {
  const [name, bytes] = random.pick([...files]);
  if (random.chance(0.15)) {
    const length = random.below(bytes.length);
    files.set(name, bytes.subarray(0, length));
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

  /** A home of three images, with a database whose newest rows lie in the WAL. */
  function makeStage(): { stage: Stage; files: Map<string, Buffer> } {
    const stage = new Stage();
    stage.add(REFERENCES[0]!, IMAGES[0]!);
    stage.add(REFERENCES[4]!, IMAGES[4]!);
    // While another connection is open the last to close does not fold the WAL in.
    const reader = new Database(stage.home.database, { readonly: true });
    reader.query("SELECT 1 FROM manifest").get();
    stage.add(REFERENCES[2]!, IMAGES[2]!);
    const files = new Map<string, Buffer>();
    for (const name of ["msb.db", "msb.db-wal"])
      files.set(name, readFileSync(join(dirname(stage.home.database), name)));
    reader.close();
    return { stage, files };
  }

  test("costs no file that an image needs, whatever runs on it", async () => {
    const { stage, files } = makeStage();
    using _ = stage;
    const database = dirname(stage.home.database);
    const restore = stage.keep();
    const canary = treeOf(stage.canary);
    const before = stage.files();
    // What goes with the one image that is removed, and no other image has.
    const own = new Set([...IMAGES[2]!.layers.slice(1).map(({ diffId }) => diffId), IMAGES[2]!.digest]);
    const isOwn = (path: string) =>
      path.includes(REFERENCES[2]!.key) || [...own].some((digest) => path.includes(digest.slice(7)));
    let isClean = true;
    for (let i = 0; i < CASES; i++) {
      const random = new Random(7_000_000 + i);
      const copies = new Map([...files].map(([name, bytes]) => [name, Buffer.from(bytes)]));
      const how = damage(random, copies);
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
  }, 600_000);
});
