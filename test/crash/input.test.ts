import { SQLiteError } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { lstatSync, mkdirSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { readExtents, rewriteExtents } from "../../src/cache/artifact.ts";
import { CachePaths } from "../../src/cache/paths.ts";
import { parseTimestamp } from "../../src/db/timestamp.ts";
import { LarderError } from "../../src/error.ts";
import { parseDuration, parsePercent, parseSize } from "../../src/input/units.ts";
import type { Larder } from "../../src/larder.ts";
import { digestsIn, isDigest } from "../../src/oci/digest.ts";
import { matchGlob } from "../../src/oci/glob.ts";
import { parseMetadata, platformOf } from "../../src/oci/metadata.ts";
import { cacheKey, canonicalReference, isReference, spellings } from "../../src/oci/reference.ts";
import { check } from "../../src/ops/check/check.ts";
import { repair } from "../../src/ops/check/repair.ts";
import { df } from "../../src/ops/df.ts";
import { gc } from "../../src/ops/gc.ts";
import { list, toHandle } from "../../src/ops/images.ts";
import { inspect } from "../../src/ops/inspect.ts";
import { prune } from "../../src/ops/prune.ts";
import { remove } from "../../src/ops/remove.ts";
import { toJson } from "../../src/output/json.ts";
import { printable } from "../../src/output/table.ts";
import { IMAGES, pathOf, REFERENCES } from "./oracle.ts";
import { IS_LONG, printFigures, Random } from "./random.ts";
import { metadataOf, Stage, treeOf } from "./stage.ts";

const figures = { "hostile rows": 0, "fuzzed inputs": 0, "planted links": 0 };
afterAll(() => printFigures("input", figures));

const HEX = "0123456789abcdef".repeat(4);
const HOSTILE: [name: string, sql: string][] = [
  ["a way out", "'sha256:../../../canary/a'"],
  ["a way out through a folder", "'a/../../../canary/layers/b:x'"],
  ["an absolute path", "'/etc/passwd'"],
  ["a digest and a way out", `'sha256:${HEX}/../../../../canary/a'`],
  ["a digest with NUL", `'sha256:${HEX}' || char(0) || '/../x'`],
  ["NUL", "char(0)"],
  ["a digest with a line end", `'sha256:${HEX}' || char(10)`],
  ["upper case", `'SHA256:${HEX.toUpperCase()}'`],
  ["digits of another script", `'sha256:' || replace(hex(zeroblob(32)), '0', char(0xff10))`],
  ["a lone surrogate's bytes", "CAST(X'eda080' AS TEXT)"],
  ["not UTF-8", "CAST(X'fffe80' AS TEXT)"],
  ["1 MiB", "printf('%.*c', 1048576, 'x')"],
  ["a blob", "X'00ff'"],
  ["a fraction", "1e308"],
  ["not a number", "9e999"],
  ["the largest integer", "9223372036854775807"],
  ["the smallest integer", "-9223372036854775808"],
  ["nothing", "''"],
  ["null", "NULL"],
  ["JSON of another shape", `'{"a":[{"b":null}]}'`],
  ["deep JSON", "printf('%.*c', 20000, '[')"],
  ["an escape sequence", "char(27) || '[2J'"],
];

const TABLES = [
  "manifest",
  "image_ref",
  "config",
  "layer",
  "manifest_layer",
  "sandbox",
  "sandbox_rootfs",
  "snapshot_index",
];

// Columns that larder has no business with; the long form tries them too.
const UNREAD = [
  ...["status", "created_at", "updated_at"].map((column) => `sandbox.${column}`),
  ...["id", "mode", "upper_fstype", "created_at"].map((column) => `sandbox_rootfs.${column}`),
  ...["parent_digest", "image_ref", "format", "fstype", "artifact_path", "size_bytes", "created_at", "indexed_at"].map(
    (column) => `snapshot_index.${column}`,
  ),
  "snapshot_index.child_count",
];

/** Everything larder can be asked for, and then everything it can be told to do. */
const WORK: [name: string, work: (larder: Larder) => unknown][] = [
  [
    "list",
    (larder) =>
      list(larder, { labels: [{ key: "a" }], reference: ["*"] }, true, (rows, pins) =>
        toJson(Array.from(rows, (row) => toHandle(row, pins))),
      ),
  ],
  ["inspect", (larder) => toJson(inspect(larder, REFERENCES[2]!.typed))],
  ["df", (larder) => toJson(df(larder))],
  ["check", async (larder) => toJson(await check(larder, { deep: true, grace: 0 }))],
  ["gc --dry-run", (larder) => gc(larder, { grace: 0, sweepUnrecorded: true, dryRun: true })],
  ["check --repair", async (larder) => repair(larder, await check(larder, { deep: true, grace: 0 }), { grace: 0 })],
  [
    "rm --force",
    (larder) =>
      remove(larder, { references: [REFERENCES[2]!.typed], force: true, ignoreMissing: true, dryRun: false, grace: 0 }),
  ],
  ["gc", (larder) => gc(larder, { grace: 0, sweepUnrecorded: true, dryRun: false })],
  [
    "prune",
    (larder) =>
      prune(larder, {
        policy: { keep: ["*:9"], minAge: 0, unused: true },
        grace: 0,
        sweepUnrecorded: true,
        dryRun: false,
      }),
  ],
];

/** Fails for a throw that is no refusal in words: a TypeError is a crash, however it would be printed. */
async function refuses(work: () => unknown): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof LarderError || error instanceof SQLiteError)) throw error;
  }
}

/** Puts a value into the last row of a table; false for what the schema itself forbids, such as text for a row id. */
function plant({ db }: Larder, table: string, column: string, sql: string): boolean {
  db.run("PRAGMA foreign_keys = OFF");
  try {
    db.run(`UPDATE ${table} SET ${column} = ${sql} WHERE rowid = (SELECT max(rowid) FROM ${table})`);
    return true;
  } catch {
    return false;
  } finally {
    db.run("PRAGMA foreign_keys = ON");
  }
}

function outsideOf(stage: Stage): Record<string, string> {
  const tree = treeOf(stage.folder);
  return Object.fromEntries(Object.entries(tree).filter(([path]) => !/^(?:home\/(?:cache|db)|kept)\//.test(path)));
}

describe("a hostile row", () => {
  test.each(TABLES)(
    "in %s makes no crash, and no file outside the cache is touched",
    async (table) => {
      using stage = new Stage().fill();
      stage.use(({ db }) => {
        db.run("INSERT INTO sandbox (id, name, config, status) VALUES (1, 'web', '{}', 'Running')");
        db.run("INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) VALUES (1, 1, 'ro')");
        db.run(
          `INSERT INTO snapshot_index (digest, name, image_ref, image_manifest_digest, format, fstype, artifact_path, created_at, indexed_at)
         VALUES ('d', 'base', 'one', '${IMAGES[0]!.digest}', 'raw', 'ext4', '/x', '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
        );
      });
      const restore = stage.keep();
      const before = outsideOf(stage);
      const columns = stage.use(({ db }) =>
        db.query<{ name: string }, []>(`SELECT name FROM pragma_table_info('${table}')`).all(),
      );
      for (const { name: column } of columns) {
        if (!IS_LONG && UNREAD.includes(`${table}.${column}`)) continue;
        for (const [what, sql] of HOSTILE) {
          restore();
          await stage.useAsync(async (larder) => {
            if (!plant(larder, table, column, sql)) return;
            figures["hostile rows"]++;
            for (const [name, work] of WORK) {
              try {
                await refuses(() => work(larder));
              } catch (error) {
                throw new Error(`${table}.${column} holds ${what}: larder ${name} crashed`, { cause: error });
              }
            }
          });
          expect(outsideOf(stage)).toEqual(before);
        }
      }
    },
    60_000,
  );
});

describe("a link in the cache", () => {
  const image = IMAGES[2]!;
  const places = {
    "as a layer on record": pathOf("layers", image.layers[1]!.diffId, ".erofs"),
    "as a merged tree on record": pathOf("fsmeta", image.digest, ".erofs"),
    "as a disk on record": pathOf("vmdk", image.digest, ".vmdk"),
    "as a metadata file on record": `manifests/${REFERENCES[2]!.key}.json`,
    "as a stray layer": pathOf("layers", `sha256:${HEX}`, ".erofs"),
    "as a stray metadata file": `manifests/${HEX}.json`,
    "as a stray flat ref": pathOf("flat/refs", `sha256:${HEX}`, ".json"),
    "as a stray flat blob": pathOf("flat/blobs", `sha256:${HEX}`, ".raw"),
    "as staging": "tmp/load-1-2-3.blob",
    "as a stitch's folder": `tmp/sha256_${HEX}.work`,
    "as a foreign file": "layers/readme",
    "as a layer's lock": pathOf("layers", image.layers[1]!.diffId, ".erofs.lock"),
    "as a merged tree's lock": pathOf("fsmeta", image.digest, ".erofs.lock"),
    "as a metadata file's lock": `manifests/${REFERENCES[2]!.key}.lock`,
    "as the folder of layers": "layers",
    "as the folder of metadata": "manifests",
    "as the folder of merged trees": "fsmeta",
    "as the folder of disks": "vmdk",
    "as the staging folder": "tmp",
    "as the flat folder": "flat",
    "as the folder of flat blobs": "flat/blobs",
  };
  const pointsTo = { "a file": "a", "a folder": "layers", nothing: "missing" };
  const cases = Object.entries(places).flatMap(([where, path]) =>
    Object.entries(pointsTo).map(([what, to]): [string, string, string, string] => [where, what, path, to]),
  );

  test.each(cases)("%s to %s is removed as a link or left, and never followed", async (_where, _what, path, to) => {
    using stage = new Stage().fill();
    for (const folder of ["refs", "blobs"]) mkdirSync(join(stage.home.cache, "flat", folder), { recursive: true });
    stage.write("tmp/old.part", "x", 1e9);
    const full = join(stage.home.cache, path);
    rmSync(full, { recursive: true, force: true });
    symlinkSync(relative(dirname(full), join(stage.canary, to)), full);
    figures["planted links"]++;
    const before = outsideOf(stage);
    for (const [, work] of WORK) {
      await refuses(() => stage.useAsync(async (larder) => work(larder))).catch((error: unknown) => {
        // The system's own refusals are sentences too: see asLarderError.
        if (!(error instanceof Error && "syscall" in error)) throw error;
      });
    }
    // Rows are followed by name into a folder that is linked elsewhere, and find the locks that stand there.
    const after = Object.entries(outsideOf(stage)).filter(([path]) => !path.endsWith(".lock"));
    expect(Object.fromEntries(after)).toEqual(before);
    expect(lstatSync(full, { throwIfNoEntry: false })?.isSymbolicLink() ?? true).toBe(true);
  });

  test("in place of the folder of layers keeps what lies behind it and has no row", async () => {
    using stage = new Stage().fill();
    const layers = join(stage.home.cache, "layers");
    const elsewhere = join(stage.folder, "elsewhere");
    stage.write(pathOf("layers", `sha256:${HEX}`, ".erofs"), "another home's", 1e9);
    stage.write("layers/notes.txt", "somebody's", 1e9);
    renameSync(layers, elsewhere);
    symlinkSync(elsewhere, layers);
    for (const [, work] of WORK) await refuses(() => stage.useAsync(async (larder) => work(larder)));
    const left = Object.keys(treeOf(elsewhere)).filter((path) => !path.endsWith(".lock"));
    expect(left).toEqual(expect.arrayContaining(["notes.txt", `sha256_${HEX}.erofs`]));
  });
});

const FUZZ = IS_LONG ? 400_000 : 25_000;

/** Changes a text in a few places: bytes swapped, cut, doubled, or replaced by what parsers stumble over. */
function mutate(random: Random, text: string): string {
  const odd = [
    "\0",
    "/",
    "..",
    ":",
    "@",
    "\\",
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    "-",
    "_",
    ".",
    "é",
    "\ud800",
    "\u2028",
    "１",
    " ",
    "\n",
  ];
  const words = [
    "null",
    "1e999",
    "-1",
    "18446744073709551616",
    "1.0",
    "true",
    '"__proto__"',
    "[[",
    "sha256:",
    "\ufeff",
  ];
  let result = text;
  for (let n = 1 + random.below(4); n > 0; n--) {
    const at = random.below(result.length + 1);
    const length = random.below(8);
    const insert = random.chance(0.3) ? result.slice(at, at + length) : random.pick(random.chance(0.7) ? odd : words);
    result =
      result.slice(0, at) + (random.chance(0.8) ? insert : "") + result.slice(at + (random.chance(0.6) ? length : 0));
  }
  return result;
}

/** The digest grammar once more, character by character. */
function looksLikeDigest(text: string): boolean {
  const digits = new Map([
    ["sha256", 64],
    ["sha384", 96],
    ["sha512", 128],
  ]);
  const colon = text.indexOf(":");
  const hex = text.slice(colon + 1);
  return (
    digits.get(text.slice(0, colon)) === hex.length && [...hex].every((digit) => "0123456789abcdef".includes(digit))
  );
}

describe("a fuzzed input", () => {
  const full = {
    ...metadataOf(IMAGES[3]!),
    config: {
      env: ["A=b"],
      cmd: ["sh"],
      entrypoint: null,
      working_dir: "/",
      user: "1",
      exposed_ports: ["80/tcp"],
      volumes: ["/v"],
      labels: { a: "b" },
      stop_signal: "SIGTERM",
    },
    raw_config_json: '{"architecture":"amd64","os":"linux"}',
  };

  test("of metadata parses, or is refused with its source and the place", () => {
    const random = new Random(1);
    const valid = JSON.stringify(full);
    for (let i = 0; i < FUZZ; i++) {
      const text = mutate(random, valid);
      try {
        const metadata = parseMetadata(text, "fuzz.json");
        platformOf(metadata);
        // What is accepted holds nothing that could lead out of the cache.
        for (const { diff_id, digest } of metadata.layers)
          expect(looksLikeDigest(diff_id) && looksLikeDigest(digest)).toBe(true);
        expect(looksLikeDigest(metadata.manifest_digest)).toBe(true);
      } catch (error) {
        if (!(error instanceof LarderError && error.message.startsWith("fuzz.json: "))) throw error;
      }
      figures["fuzzed inputs"]++;
    }
  }, 120_000);

  test("of references has one canonical form, which all of its spellings lead to", () => {
    const random = new Random(2);
    const cache = new CachePaths("/cache");
    const seeds = [
      ...REFERENCES.map(({ typed }) => typed),
      `a/b@sha256:${HEX}`,
      `x.io:5000/a__b/c-d:T_1@sha512:${HEX}${HEX}`,
      "Foo/bar",
    ];
    for (let i = 0; i < FUZZ; i++) {
      const text = mutate(random, random.pick(seeds));
      figures["fuzzed inputs"]++;
      if (!isReference(text)) {
        expect(() => canonicalReference(text)).toThrow(LarderError);
        continue;
      }
      const canonical = canonicalReference(text);
      expect(canonical).not.toMatch(/[\s\0\\]|\/\/|(?:^|\/)\.\.?\//);
      expect(cache.metadata(cacheKey(text)).path).toMatch(/^\/cache\/manifests\/[0-9a-f]{64}\.json$/);
      const same = spellings(canonical);
      expect(same.map(canonicalReference)).toEqual(same.map(() => canonical));
    }
  }, 120_000);

  test("of digests is one by its grammar only, and names a file inside the cache", () => {
    const random = new Random(3);
    const cache = new CachePaths("/cache");
    const seeds = [`sha256:${HEX}`, `sha384:${HEX}${HEX.slice(32)}`, `sha512:${HEX}${HEX}`];
    for (let i = 0; i < FUZZ; i++) {
      const text = random.chance(0.1) ? random.pick(seeds) : mutate(random, random.pick(seeds));
      figures["fuzzed inputs"]++;
      expect(isDigest(text)).toBe(looksLikeDigest(text));
      if (!isDigest(text)) continue;
      for (const { path, lock } of [cache.layer(text), cache.fsmeta(text), cache.vmdk(text), cache.flatBlob(text)]) {
        expect(path).toMatch(/^\/cache\/(?:layers|fsmeta|vmdk|flat\/blobs)\/[a-z0-9_]+\.[a-z]+$/);
        expect(lock ?? "/cache/").toStartWith("/cache/");
      }
    }
  }, 120_000);

  test("of file names is classified, and a file of msb's stays what it is called", () => {
    const random = new Random(4);
    const cache = new CachePaths("/cache");
    const folders = ["manifests", "vmdk", "fsmeta", "flat/refs", "flat/blobs", "layers", "tmp"] as const;
    const seeds = [
      `sha256_${HEX}.erofs`,
      `sha256_${HEX}.vmdk`,
      `${HEX}.json`,
      `sha256_${HEX}.raw`,
      `sha256_${HEX}.download.lock`,
    ];
    for (let i = 0; i < FUZZ; i++) {
      const folder = random.pick(folders);
      const name = mutate(random, random.pick(seeds)).replaceAll(/[/\0\ud800]/g, "");
      figures["fuzzed inputs"]++;
      if (name === "" || name === "." || name === "..") continue;
      const { path, kind, digest, lock } = cache.classify(folder, name);
      expect(path).toBe(`/cache/${folder}/${name}`);
      if (digest !== undefined) expect([looksLikeDigest(digest), kind]).toEqual([true, kind]);
      expect(lock ?? "/cache/").toMatch(/^\/cache\/(?!.*\/\.\.\/)/);
    }
  }, 120_000);

  test("of durations, sizes, percentages and times is a finite number or refused", () => {
    const random = new Random(5);
    for (let i = 0; i < FUZZ; i++) {
      const text = mutate(random, random.pick(["90s", "14d", "20GiB", "500MB", "15%", "2026-01-02 03:04:05.678"]));
      figures["fuzzed inputs"]++;
      for (const parse of [parseDuration, parseSize, parsePercent]) {
        try {
          const value = parse(text);
          expect(Number.isFinite(value) && value >= 0).toBe(true);
        } catch (error) {
          if (!(error instanceof LarderError && error.code === "usage")) throw error;
        }
      }
      const time = parseTimestamp(text);
      expect(Number.isFinite(time?.ms ?? 0)).toBe(true);
      expect(printable(text)).not.toMatch(/\p{Cc}/u);
    }
  }, 120_000);
});

describe("an expression", () => {
  const LENGTH = 20_000;
  const shapes = [
    "a",
    "-",
    "_",
    ".",
    "/",
    ":",
    "@",
    "a-",
    "a_",
    "a__",
    "a.",
    "a/",
    "a:",
    "A",
    "A.",
    "A-",
    "é",
    "0",
    "a@",
    "sha256:",
    "a--",
    "ab.c-",
    "*a",
    " ",
  ];
  const ends = ["", "!", "/", ":", "@", "-", "A", "\n"];
  const heads = ["", "a", "a/", "a.b/", "a:", "a@sha256:"];
  const texts = shapes.flatMap((shape) =>
    heads.flatMap((head) => ends.map((end) => head + shape.repeat(Math.ceil(LENGTH / shape.length)) + end)),
  );

  // None of these would end within the test's own limit if one of them were more than linear.
  test("stays linear on 20,000 characters of any shape", () => {
    for (const text of texts) {
      isReference(text);
      isDigest(text);
      digestsIn(text);
      parseTimestamp(text);
      printable(text);
      rewriteExtents(text, (path) => path);
      for (const parse of [parseDuration, parseSize, parsePercent]) expect(() => parse(text)).toThrow(LarderError);
    }
    for (const text of texts.filter((_, i) => i % 40 === 0)) matchGlob("*a*b*", text);
    using stage = new Stage();
    for (const [i, text] of texts.entries()) {
      if (i % 40 !== 0) continue;
      stage.write("vmdk/x", `RW 1 FLAT "${text}`, 0);
      expect(readExtents(join(stage.home.cache, "vmdk/x"))).toEqual([]);
    }
  }, 30_000);
});
