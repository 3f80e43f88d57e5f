import { describe, expect, test } from "bun:test";
import { existsSync, lstatSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { allocatedIn, DAY, filesUnder, MINUTE, stem } from "../ops/prune-store.ts";
import { hasTool } from "../tools.ts";
import { digestOf, type ImageSpec, noise, writeArchive } from "./archive.ts";
import { change, openCatalogue } from "./home.ts";
import { load, MSB, msb, msbJson } from "./msb.ts";

const REPOSITORIES = ["acme/app", "acme/db", "ghcr.io/acme/web"];
const BASE = { files: { "lib/base": noise(1, 100_000) } };

/** Twelve images of three repositories. All share a base, those of one repository a runtime too. */
const IMAGES: ImageSpec[] = REPOSITORIES.flatMap((repository, r) =>
  [1, 2, 3, 4].map((version) => ({
    tags: [`${repository}:${version}`],
    layers: [
      BASE,
      { files: { [`lib/runtime-${r}`]: noise(10 + r, 60_000) } },
      { files: { "bin/main": noise(100 + 10 * r + version, 30_000 + 4096 * version) } },
    ],
    config: { cmd: [repository, String(version)] },
  })),
);
const REFERENCES = IMAGES.flatMap(({ tags }) => tags);

/**
 * A home that msb has loaded, a day of age between one image and the next: the first named is the oldest. An hour more,
 * so that a dry run and the run after it round every age alike.
 */
class LoadedHome implements Disposable {
  private readonly folder = new TemporaryFolder();
  readonly path = this.folder.path;
  readonly cache = join(this.path, "cache");

  static async make(extra: ImageSpec[] = []): Promise<LoadedHome> {
    const home = new LoadedHome();
    await load(home.path, [...IMAGES, ...extra]);
    REFERENCES.forEach((reference, i) => {
      home.age(reference, (REFERENCES.length - i) * DAY + 60 * MINUTE);
    });
    home.ageFiles();
    return home;
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }

  change(sql: string, ...values: (string | number)[]): void {
    change(this.path, sql, ...values);
  }

  private rows<T>(sql: string, ...values: string[]): T[] {
    using db = openCatalogue(this.path);
    return db.query<T, string[]>(sql).all(...values);
  }

  /** Makes an image that old, with the layers that it has. A shared layer is as young as its youngest image. */
  age(reference: string, age: number): void {
    const time = `${new Date(Date.now() - age).toISOString().replace("T", " ").replace("Z", "")}000000`;
    this.change("UPDATE image_ref SET created_at = ?1, updated_at = ?1 WHERE reference = ?2", time, reference);
    this.change(
      `UPDATE layer SET last_used_at = ?
       WHERE id IN (SELECT j.layer_id FROM manifest_layer AS j, image_ref AS r
                    WHERE j.manifest_id = r.manifest_id AND r.reference = ?)`,
      time,
      reference,
    );
  }

  ageFiles(): void {
    for (const path of filesUnder(this.cache)) utimesSync(path, Date.now() / 1000 - 3600, Date.now() / 1000 - 3600);
  }

  digest(reference: string): string {
    return this.rows<{ digest: string }>(
      "SELECT m.digest FROM manifest AS m JOIN image_ref AS r ON r.manifest_id = m.id WHERE r.reference = ?",
      reference,
    )[0]!.digest;
  }

  /** The artifacts that an image needs: its layers, its merged tree, its disk and its metadata. */
  artifacts(reference: string): string[] {
    const manifest = stem(this.digest(reference));
    const layers = this.rows<{ diff_id: string }>(
      `SELECT l.diff_id
       FROM layer AS l, manifest_layer AS j, image_ref AS r
       WHERE l.id = j.layer_id AND j.manifest_id = r.manifest_id AND r.reference = ?`,
      reference,
    );
    const canonical = reference.startsWith("ghcr.io/") ? reference : `docker.io/${reference}`;
    const key = digestOf(Buffer.from(canonical)).slice("sha256:".length);
    return [
      ...layers.map(({ diff_id }) => join(this.cache, "layers", `${stem(diff_id)}.erofs`)),
      join(this.cache, "fsmeta", `${manifest}.erofs`),
      join(this.cache, "vmdk", `${manifest}.vmdk`),
      join(this.cache, "manifests", `${key}.json`),
    ];
  }

  /** Blocks that these images take together, in bytes. */
  allocated(references: string[]): number {
    const files = new Set(references.flatMap((reference) => this.artifacts(reference)));
    return [...files].reduce((sum, path) => sum + lstatSync(path).blocks * 512, 0);
  }
}

function hashes(paths: string[]): Record<string, string> {
  return Object.fromEntries(paths.map((path) => [path, digestOf(readFileSync(path))]));
}

/**
 * Prunes, and holds msb to what is left: it lists and inspects the kept images and no other, their artifacts are byte
 * for byte what they were, and of the others nothing is left in the cache.
 */
async function expectLeft(home: LoadedHome, kept: string[], args: string[]) {
  const gone = REFERENCES.filter((reference) => !kept.includes(reference));
  const before = hashes(kept.flatMap((reference) => home.artifacts(reference)));
  expect(Object.keys(before).length).toBeGreaterThan(kept.length);
  const others = gone.flatMap((reference) => home.artifacts(reference)).filter((path) => !(path in before));
  const plan = await larderJson(home.path, ["prune", ...args, "--dry-run"]);
  const report = await larderJson(home.path, ["prune", ...args]);
  expect([...report.references].sort()).toEqual([...gone].sort());
  expect(report.decisions).toEqual(plan.decisions);
  expect(report.files).toEqual(plan.files);
  const listed = (await msbJson(home.path, "image", "ls")) as { reference: string }[];
  expect(listed.map(({ reference }) => reference).sort()).toEqual([...kept].sort());
  for (const reference of kept) {
    const detail = (await msbJson(home.path, "image", "inspect", reference)) as { layers: object[] };
    expect(detail.layers).toHaveLength(3);
  }
  if (gone[0]) expect((await msb(home.path, "image", "inspect", gone[0])).stderr).toContain("not found");
  expect(hashes(Object.keys(before))).toEqual(before);
  for (const path of others) expect([path, existsSync(path)]).toEqual([path, false]);
  expect(filesUnder(home.cache).filter((path) => !path.endsWith(".lock"))).toEqual(Object.keys(before).sort());
  return report;
}

describe("larder prune on a home that msb loaded", () => {
  test("keeps within a budget, least recently used first", async () => {
    using home = await LoadedHome.make();
    const kept = REFERENCES.slice(5);
    const budget = home.allocated(kept);
    await expectLeft(home, kept, ["--max-size", String(budget)]);
    expect(allocatedIn(home.cache)).toBe(budget);
  });

  test("takes one image more for one byte less, and spares the next one that is then not needed", async () => {
    using home = await LoadedHome.make();
    // The sixth, acme/db:2, is larger than the fifth and newer: with it gone, the fifth may stay.
    const budget = home.allocated(REFERENCES.slice(5)) - 1;
    await expectLeft(home, ["acme/db:1", ...REFERENCES.slice(6)], ["--max-size", String(budget)]);
  });

  test("leaves msb an image complete enough to save, and loads anew what went", async () => {
    using home = await LoadedHome.make();
    const kept = REFERENCES.slice(8);
    await expectLeft(home, kept, ["--older-than", "108h"]);
    using folder = new TemporaryFolder();
    for (const reference of kept) {
      const saved = await msb(home.path, "save", "-o", join(folder.path, "image.tar"), reference);
      expect([saved.code, saved.stderr]).toEqual([0, saved.stderr]);
    }
    await load(home.path, IMAGES.slice(0, 2));
    const listed = (await msbJson(home.path, "image", "ls")) as { reference: string }[];
    expect(listed).toHaveLength(kept.length + 2);
    expect(existsSync(home.artifacts(REFERENCES[0]!)[0]!)).toBe(true);
  });

  test("evicts by age, to the image", async () => {
    using home = await LoadedHome.make();
    // Ages are 12 days to 1 day; half a day keeps clear of the run's own time.
    await expectLeft(home, REFERENCES.slice(7), ["--older-than", "132h"]);
  });

  test("keeps the newest of each repository", async () => {
    using home = await LoadedHome.make();
    const kept = REPOSITORIES.flatMap((repository) => [`${repository}:3`, `${repository}:4`]);
    await expectLeft(home, kept, ["--keep-last", "2"]);
  });

  test("keeps what a glob and a list name", async () => {
    using home = await LoadedHome.make();
    const list = join(home.path, "keep");
    writeFileSync(list, "# by its canonical form\ndocker.io/acme/db:2\n");
    await expectLeft(
      home,
      ["acme/app:1", "acme/db:1", "acme/db:2", "ghcr.io/acme/web:1"],
      ["--unused", "--keep", "*:1", "--keep-from", list],
    );
  });

  const PINS: [string, (home: LoadedHome, digest: string) => void][] = [
    [
      "a sandbox's row",
      (home, digest) => {
        home.change("INSERT INTO sandbox (name, config, status) VALUES ('web-1', '{}', 'Running')");
        home.change(
          `INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode)
           SELECT s.id, m.id, 'layers' FROM sandbox AS s, manifest AS m WHERE m.digest = ?`,
          digest,
        );
      },
    ],
    [
      "a sandbox's configuration alone",
      (home, digest) =>
        home.change(
          "INSERT INTO sandbox (name, config, status) VALUES ('web-1', ?, 'Starting')",
          JSON.stringify({ name: "web-1", image: { Oci: { reference: "x" } }, manifest_digest: digest }),
        ),
    ],
    [
      "a sandbox's active configuration alone",
      (home, digest) =>
        home.change(
          "INSERT INTO sandbox (name, config, active_config, status) VALUES ('web-1', '{}', ?, 'Running')",
          JSON.stringify({ rootfs: [{ lower: digest }] }),
        ),
    ],
    [
      "a snapshot's row",
      (home, digest) =>
        home.change(
          `INSERT INTO snapshot_index
             (digest, name, scope, state_kind, image_ref, image_manifest_digest, artifact_path, created_at, indexed_at)
           VALUES ('sha256:s', 'web-1', 'local', 'disk', 'x', ?, '/nowhere', datetime('now'), datetime('now'))`,
          digest,
        ),
    ],
    [
      "a snapshot on the disk that no row names",
      (home, digest) => {
        const folder = join(home.path, "snapshots", "web-1");
        mkdirSync(folder, { recursive: true });
        writeFileSync(join(folder, "manifest.json"), JSON.stringify({ image: { manifest_digest: digest } }));
      },
    ],
  ];
  test.each(PINS)("keeps what %s needs, whatever the policy", async (_, pin) => {
    using home = await LoadedHome.make();
    pin(home, home.digest("acme/db:2"));
    const report = await expectLeft(home, ["acme/db:2"], ["--unused"]);
    const decision = report.decisions.find(({ action }: { action: string }) => action === "keep");
    expect(decision.reason).toMatch(/^in use by (sandbox|snapshot) "web-1"$/);
  });

  test("keeps what is pinned from a budget out of reach, and exits 6", async () => {
    using home = await LoadedHome.make();
    PINS[0]![1](home, home.digest("acme/app:1"));
    const left = home.allocated(["acme/app:1"]);
    const { code, stderr } = await larder(home.path, "prune", "--max-size", "1000");
    expect(code).toBe(6);
    expect(stderr).toContain(`(${left - 1000} bytes)`);
    expect(allocatedIn(home.cache)).toBe(left);
    expect((await msb(home.path, "image", "inspect", "acme/app:1")).code).toBe(0);
  });

  test("protects what msb has loaded just now", async () => {
    using home = await LoadedHome.make();
    await load(home.path, [IMAGES[0]!]);
    // Loaded again: the row's time is new, though the image is the oldest.
    const report = await larderJson(home.path, ["prune", "--unused"]);
    expect(report.decisions[0]).toMatchObject({ reference: REFERENCES[0], action: "keep", cause: "min-age" });
    expect(await msbJson(home.path, "image", "ls")).toMatchObject([{ reference: REFERENCES[0] }]);
  });

  test("does not take a shared layer's refreshing for a use of every image that has it", async () => {
    using home = await LoadedHome.make();
    // msb sets last_used_at of the base for whoever is loaded; the other images stay as old as they are.
    home.change(
      `UPDATE layer SET last_used_at = ? WHERE (SELECT count(*) FROM manifest_layer WHERE layer_id = layer.id) > 1`,
      `${new Date(Date.now() - MINUTE).toISOString().replace("T", " ").replace("Z", "")}000000`,
    );
    await expectLeft(home, REFERENCES.slice(7), ["--older-than", "132h"]);
  });

  test("collects what a moved tag left untagged, once it is old enough", async () => {
    using home = await LoadedHome.make();
    const old = home.artifacts("acme/app:4");
    await load(home.path, [{ ...IMAGES[3]!, layers: [BASE, { files: { "bin/other": noise(77, 20_000) } }] }]);
    const young = await larderJson(home.path, ["prune", "--untagged", "--min-age", "1h"]);
    expect(young.manifests).toEqual([]);
    for (const path of old) expect([path, existsSync(path)]).toEqual([path, true]);
    home.change("UPDATE manifest SET created_at = '2020-01-01 00:00:00.000000000'");
    home.change("UPDATE layer SET last_used_at = '2020-01-01 00:00:00.000000000'");
    home.ageFiles();
    const report = await larderJson(home.path, ["prune", "--untagged"]);
    expect(report.manifests).toHaveLength(1);
    expect(report.references).toEqual([]);
    expect(existsSync(old.find((path) => path.includes("/fsmeta/"))!)).toBe(false);
    expect(await msbJson(home.path, "image", "ls")).toHaveLength(REFERENCES.length);
    expect(((await msbJson(home.path, "image", "inspect", "acme/app:4")) as { layers: [] }).layers).toHaveLength(2);
  });

  test("agrees with the disk about a home that msb loaded", async () => {
    using home = await LoadedHome.make();
    const report = await larderJson(home.path, ["df"]);
    const { own_bytes, shared_bytes, unattributed_bytes } = report.attribution;
    expect(report.total.allocated_bytes).toBe(allocatedIn(home.cache));
    expect(own_bytes + shared_bytes).toBe(allocatedIn(home.cache));
    expect([unattributed_bytes, report.total.reclaimable_bytes]).toEqual([0, 0]);
    expect(report.kinds.find(({ kind }: { kind: string }) => kind === "layer").files).toBe(1 + 3 + 12);
    expect(own_bytes).toBe(
      REFERENCES.reduce(
        (sum, reference) =>
          sum + home.allocated(REFERENCES) - home.allocated(REFERENCES.filter((other) => other !== reference)),
        0,
      ),
    );
  });

  test("lets msb list images while it evicts thousands", async () => {
    using home = await LoadedHome.make();
    fillWithThousands(home);
    const kept = REFERENCES.slice(0, 3);
    const keeps = kept.flatMap((reference) => ["--keep", reference]);
    const before = hashes(kept.flatMap((reference) => home.artifacts(reference)));
    const child = Bun.spawn([EXECUTABLE, "prune", "--unused", ...keeps, "--home", home.path], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    let running = true;
    const ended = child.exited.finally(() => {
      running = false;
    });
    let beside = 0;
    do {
      const { code, stdout, stderr } = await msb(home.path, "image", "ls", "-q");
      expect([code, stderr]).toEqual([0, ""]);
      const listed = new Set(stdout.trim().split("\n"));
      for (const reference of kept) expect(listed.has(reference)).toBe(true);
      beside++;
    } while (running);
    expect(await ended).toBe(0);
    expect(beside).toBeGreaterThan(1);
    expect((await msb(home.path, "image", "ls", "-q")).stdout.trim().split("\n").sort()).toEqual([...kept].sort());
    expect(hashes(Object.keys(before))).toEqual(before);
    expect(filesUnder(join(home.cache, "vmdk"))).toHaveLength(kept.length);
  }, 60_000);
});

/** Two thousand more images, each with a layer of its own, a shared one and a disk. */
function fillWithThousands(home: LoadedHome): void {
  const rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
  const time = "'2020-01-01 00:00:00.000000000'";
  home.change(
    `${rows} INSERT INTO manifest (id, digest, config_digest, layer_count, created_at)
     SELECT 1000 + i, 'sha256:' || printf('%064x', i), 'sha256:' || printf('%064x', i), iif(i = 1, 1, 2), ${time} FROM n`,
  );
  home.change(
    `${rows} INSERT INTO image_ref (reference, manifest_id, created_at, updated_at)
     SELECT 'bulk/i' || i || ':1', 1000 + i, ${time}, ${time} FROM n`,
  );
  home.change(
    `${rows} INSERT INTO layer (id, diff_id, blob_digest, created_at, last_used_at)
     SELECT 1000 + i, 'sha256:' || printf('%064x', i), 'sha256:' || printf('%064x', i), ${time}, ${time} FROM n`,
  );
  home.change(
    `${rows} INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT 1000 + i, 1000 + i, 0 FROM n`,
  );
  home.change(
    `${rows} INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT 1000 + i, 1001, 1 FROM n WHERE i > 1`,
  );
  for (let i = 1; i <= 2000; i++) {
    const hex = i.toString(16).padStart(64, "0");
    writeFileSync(join(home.cache, "layers", `sha256_${hex}.erofs`), "x");
    writeFileSync(join(home.cache, "vmdk", `sha256_${hex}.vmdk`), "x");
  }
  home.ageFiles();
}

describe.skipIf(!hasTool("strace"))("an image that msb loads again, all of whose layers are in the cache", () => {
  const [OLD] = REFERENCES as [string];

  /** Starts the load, and waits until it has written the metadata file. Its rows follow two seconds later. */
  async function startLoad(home: LoadedHome): Promise<Bun.Subprocess> {
    const archive = join(home.path, "image.tar");
    await writeArchive(archive, [IMAGES[0]!]);
    const metadata = home.artifacts(OLD).at(-1)!;
    const before = lstatSync(metadata).ino;
    // With its layers there, it is the first file that the load renames into its place.
    const delay = [
      "-e",
      "trace=rename,renameat,renameat2",
      "-e",
      "inject=rename,renameat,renameat2:delay_exit=2000000:when=1",
    ];
    const child = Bun.spawn(["strace", "-f", "-qq", "-o", "/dev/null", ...delay, MSB, "load", "-i", archive], {
      env: { MSB_HOME: home.path, HOME: home.path, PATH: process.env.PATH, TZ: "UTC" },
      stdio: ["ignore", "ignore", "inherit"],
    });
    while (lstatSync(metadata, { throwIfNoEntry: false })?.ino === before) await Bun.sleep(5);
    return child;
  }

  test("is left alone by prune", async () => {
    using home = await LoadedHome.make();
    const files = home.artifacts(OLD);
    const loading = await startLoad(home);
    const report = await larderJson(home.path, ["prune", "--unused", "--min-age", "0s"]);
    expect(loading.exitCode).toBeNull();
    expect(await loading.exited).toBe(0);
    expect(report.decisions.filter(({ action }: { action: string }) => action === "keep")).toMatchObject([
      { reference: OLD, cause: "locked" },
    ]);
    expect(files.filter((path) => !existsSync(path))).toEqual([]);
    expect((await larderJson(home.path, ["check"])).damage).toBe(0);
  });

  test("is removed by rm once its rows are there, and leaves nothing behind", async () => {
    using home = await LoadedHome.make();
    const [own] = home.artifacts(OLD).filter((path) => path.includes("/fsmeta/"));
    const loading = await startLoad(home);
    const report = await larderJson(home.path, ["rm", OLD]);
    expect(await loading.exited).toBe(0);
    expect(report.removed).toHaveLength(1);
    expect(existsSync(own!)).toBe(false);
    expect((await larderJson(home.path, ["check"])).damage).toBe(0);
    expect((await msbJson(home.path, "image", "ls")) as unknown[]).toHaveLength(REFERENCES.length - 1);
  });
});
