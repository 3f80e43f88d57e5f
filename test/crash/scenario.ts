import { Database } from "bun:sqlite";
import {
  appendFileSync,
  cpSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { build, digestOf, type ImageSpec, noise } from "../interop/archive.ts";
import { load } from "../interop/msb.ts";
import { TemporaryFolder } from "../larder.ts";

// Each layer is another file of noise; number 1 is what the images share.
const layer = (seed: number) => ({ files: { [`opt/file-${seed}`]: noise(seed, 6000) } });

const IMAGES = {
  one: { tags: ["one:latest", "one:alias"], layers: [layer(1), layer(2)], config: { stopSignal: "SIGINT" } },
  two: { tags: ["two:latest"], layers: [layer(1), layer(3)], config: { labels: { team: "base" } } },
  moved: { tags: ["moved:latest"], layers: [layer(1), layer(4)] },
  // Takes the name of the one before, which stays behind untagged.
  mover: { tags: ["moved:latest"], layers: [layer(5)] },
  broken: { tags: ["broken:latest"], layers: [layer(1), layer(6)] },
  pinned: { tags: ["pinned:latest"], layers: [layer(7), layer(1)] },
  forgotten: { tags: ["forgotten:latest"], layers: [layer(8)] },
  fresh: { tags: ["fresh:latest"], layers: [layer(1), layer(9)] },
} satisfies Record<string, ImageSpec>;

/** The digests of the bench's images. */
export const DIGESTS = Object.fromEntries(
  Object.entries(IMAGES).map(([name, spec]) => [name, build(spec).manifest.digest]),
) as Record<keyof typeof IMAGES, string>;

const diffId = (name: keyof typeof IMAGES, position: number) => build(IMAGES[name]).layers[position]!.diffId;

/** The layer of `broken` that a repair throws away, since msb would reject it. */
export const BROKEN_LAYER = diffId("broken", 1);
/** A layer of `one` alone, whose artifact is sound. */
export const SOUND_LAYER = diffId("one", 1);
/** The image whose disk names an old place. */
export const MISLOCATED = DIGESTS.two;

const stem = (digest: string) => digest.replace(":", "_");

/** The metadata file of each name that occurs, by msb's rule: sha256 of the canonical reference. */
export function metadataName(reference: string): string {
  return `${digestOf(Buffer.from(`docker.io/library/${reference}`)).slice(7)}.json`;
}

/** A command of the bench, on a home that is made anew for each run. */
export interface Scenario {
  name: string;
  /** Whether it starts on the bench's store, or where there is nothing at all. */
  home: "store" | "none";
  /** Arguments; `home` and `--format json` are added. `input` is a file beside the home. */
  args(input: string): string[];
  /** How it ends where nothing goes wrong. */
  code: number;
  /** How many distinct states of the catalogue a crash may leave, the first and the last counted. */
  states: number;
}

/** Every command that writes. Grace is nothing: the store's files are all an hour old. */
export const SCENARIOS: Scenario[] = [
  {
    name: "persist into a new home",
    home: "none",
    args: (input) => ["persist", "--batch", input],
    code: 0,
    // No database, one without tables, an empty catalogue, one without larder's indexes: all hold no image.
    states: 2,
  },
  { name: "persist", home: "store", args: (input) => ["persist", "--batch", input], code: 0, states: 2 },
  {
    name: "rm",
    home: "store",
    args: () => ["rm", "one:alias", "one:latest", "two:latest"],
    code: 0,
    states: 2,
  },
  { name: "gc", home: "store", args: () => ["gc", "--grace", "0s"], code: 0, states: 3 },
  {
    name: "prune",
    home: "store",
    args: () => ["prune", "--unused", "--older-than", "0s", "--min-age", "0s", "--grace", "0s", "--keep", "two:*"],
    code: 0,
    states: 3,
  },
  // What was thrown away is missing until msb's next pull, and exits with 5.
  {
    name: "check --repair",
    home: "store",
    args: () => ["check", "--repair", "--grace", "0s"],
    code: 5,
    states: 3,
  },
];

/**
 * One place where homes are made for one run after the other: always at the same path, since msb writes absolute paths
 * into its disks.
 */
export class Stand implements Disposable {
  private readonly folder = new TemporaryFolder();
  /** Where everything of it lies. */
  readonly root = this.folder.path;
  readonly home = join(this.folder.path, "home");
  readonly input = join(this.folder.path, "batch.jsonl");
  readonly stdout = join(this.folder.path, "stdout");
  readonly stderr = join(this.folder.path, "stderr");
  private readonly template = join(this.folder.path, "template");

  private constructor() {}

  /** Builds the store once; `reset` copies it. */
  static async build(): Promise<Stand> {
    const stand = new Stand();
    await buildStore(stand.home);
    writeBatch(stand.home, stand.input);
    spoil(stand.home);
    age(stand.home);
    renameSync(stand.home, stand.template);
    return stand;
  }

  /** A place of its own for something beside the home. */
  beside(name: string): string {
    return join(this.folder.path, name);
  }

  /** Makes the home anew, as a scenario starts. */
  reset(home: Scenario["home"]): void {
    rmSync(this.home, { recursive: true, force: true });
    if (home === "store") this.restore();
  }

  /** Copies the store into the home, which may be there and empty. */
  restore(): void {
    // cp, since only it keeps the times of folders as well.
    Bun.spawnSync(["mkdir", "-p", this.home]);
    const { exitCode, stderr } = Bun.spawnSync(["cp", "-a", `${this.template}/.`, this.home]);
    if (exitCode !== 0) throw new Error(stderr.toString());
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

async function buildStore(home: string): Promise<void> {
  const { one, two, moved, mover, broken, pinned, forgotten, fresh } = IMAGES;
  await load(home, [one, two, moved, broken, pinned, forgotten, fresh]);
  await load(home, [mover]);
}

// Metadata as msb wrote it: of an image that is on record, and of one that is not. The latter leaves no trace but its
// layers, as after a removal.
function writeBatch(home: string, input: string): void {
  const manifests = join(home, "cache", "manifests");
  for (const reference of ["fresh:latest", "two:latest"]) {
    const metadata = JSON.parse(readFileSync(join(manifests, metadataName(reference)), "utf8"));
    appendFileSync(input, `${JSON.stringify({ reference, metadata })}\n`);
  }
}

// All that the commands have to do: what is to be collected, what is to be mended, what must stay.
function spoil(home: string): void {
  const cache = join(home, "cache");
  const path = (...parts: string[]) => join(cache, ...parts);
  // Opened and left open to the last, so that the newest rows stay in the write-ahead log as msb leaves them.
  const db = new Database(join(home, "db", "msb.db"), { readwrite: true });
  db.run("PRAGMA foreign_keys = ON");
  // Never on record; then an orphan layer whose image has gone, with its merged tree and disk as strays.
  for (const gone of ["fresh", "forgotten"] as const) {
    db.query("DELETE FROM image_ref WHERE reference = ?").run(`${gone}:latest`);
    db.query("DELETE FROM manifest WHERE digest = ?").run(DIGESTS[gone]);
    unlinkSync(path("manifests", metadataName(`${gone}:latest`)));
  }
  // Rows as older versions wrote them, and one that is lost.
  db.run("UPDATE config SET labels = NULL, stop_signal = NULL");
  db.query("DELETE FROM config WHERE manifest_id = (SELECT id FROM manifest WHERE digest = ?)").run(DIGESTS.one);
  const db2 = copyWithLog(home, db);
  truncateSync(path("layers", `${stem(BROKEN_LAYER)}.erofs`), 100);
  const disk = path("vmdk", `${stem(MISLOCATED)}.vmdk`);
  writeFileSync(disk, readFileSync(disk, "utf8").replaceAll(cache, "/srv/old/cache"));
  // A flat root that two images share, and one that nobody names.
  for (const folder of ["flat/refs", "flat/blobs", "flat/locks"]) mkdirSync(path(folder), { recursive: true });
  const blob = digestOf(noise(20, 4096));
  writeFileSync(path("flat/blobs", `${stem(blob)}.raw`), noise(20, 4096));
  writeFileSync(path("flat/blobs", `${stem(digestOf(noise(21, 4096)))}.raw`), noise(21, 4096));
  for (const name of ["one", "mover"] as const) {
    const ref = {
      schema: 1,
      manifest_digest: DIGESTS[name],
      derivation_digest: digestOf(Buffer.from("flat")),
      artifact_digest: blob,
      virtual_size_bytes: 4096,
    };
    writeFileSync(path("flat/refs", `${stem(DIGESTS[name])}.json`), JSON.stringify(ref));
  }
  // Strays, and stale staging with a folder in it.
  writeFileSync(path("layers", `${stem(digestOf(noise(22, 8)))}.erofs`), noise(22, 8192));
  writeFileSync(path("layers", "notes.txt"), "not msb's\n");
  writeFileSync(path("tmp", "load-0-1-0.blob"), noise(23, 5000));
  mkdirSync(path("tmp", `${stem(DIGESTS.forgotten)}.work`, "inner"), { recursive: true });
  writeFileSync(path("tmp", `${stem(DIGESTS.forgotten)}.work`, "inner", "file"), "scratch");
  mkdirSync(join(home, "snapshots", "snap-1"), { recursive: true });
  writeFileSync(
    join(home, "snapshots", "snap-1", "manifest.json"),
    JSON.stringify({ image: { manifest_digest: DIGESTS.pinned } }),
  );
  db2();
}

// The last connection to close folds the log into the database; what a killed process would have left is a copy.
function copyWithLog(home: string, db: Database): () => void {
  const folder = join(home, "db");
  const saved = join(home, "db-saved");
  cpSync(folder, saved, { recursive: true });
  return () => {
    db.close(true);
    rmSync(folder, { recursive: true });
    renameSync(saved, folder);
  };
}

function age(path: string): void {
  const stat = lstatSync(path);
  if (stat.isDirectory()) for (const name of readdirSync(path)) age(join(path, name));
  const hourAgo = Date.now() / 1000 - 3600;
  lutimesSync(path, hourAgo, hourAgo);
}
