import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import {
  chownSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { addIndexes, createCatalogue, openForReading, openForWriting } from "../../src/db/open.ts";
import { LarderError } from "../../src/error.ts";
import { openIn, run, TemporaryFolder } from "../larder.ts";

// The tables of msb v0.4.4 with their columns in order.
const TABLES: Record<string, string> = {
  seaql_migrations: "version applied_at",
  sandbox: "id name config status created_at updated_at",
  run: "id sandbox_id pid status exit_code exit_signal termination_reason termination_detail signals_sent started_at terminated_at",
  sandbox_metric:
    "id sandbox_id cpu_percent memory_bytes disk_read_bytes disk_write_bytes net_rx_bytes net_tx_bytes sampled_at created_at",
  volume: "id name quota_mib size_bytes labels created_at updated_at",
  manifest: "id digest media_type config_digest architecture os variant layer_count total_size_bytes created_at",
  image_ref: "id reference manifest_id created_at updated_at",
  config: "id manifest_id digest env cmd entrypoint working_dir user labels stop_signal created_at",
  layer: "id diff_id blob_digest media_type compressed_size_bytes erofs_size_bytes created_at last_used_at",
  manifest_layer: "id manifest_id layer_id position",
  sandbox_rootfs: "id sandbox_id manifest_id mode upper_fstype created_at",
  snapshot_index:
    "digest name parent_digest image_ref image_manifest_digest format fstype artifact_path size_bytes created_at indexed_at child_count",
};
const INDEXES = [
  "idx_manifest_layers_manifest_position manifest_layer unique",
  "idx_sandbox_metrics_sandbox_sampled sandbox_metric plain",
  "idx_snapshot_index_image snapshot_index plain",
  "idx_snapshot_index_name snapshot_index unique",
  "idx_snapshot_index_parent snapshot_index plain",
];
const OWN_INDEXES = [
  "idx_image_ref_manifest image_ref plain",
  "idx_manifest_layer_layer manifest_layer plain",
  "idx_sandbox_rootfs_manifest sandbox_rootfs plain",
];
const MIGRATIONS = [
  "m20260305_000001_create_image_tables",
  "m20260305_000002_create_sandbox_tables",
  "m20260305_000003_create_storage_tables",
  "m20260305_000004_create_sandbox_images_table",
  "m20260410_000001_erofs_image_schema",
  "m20260501_000001_create_snapshot_index",
];

/** Runs statements on a database as any other tool would, and closes it, which folds the WAL in. */
function edit(path: string, ...statements: string[]): void {
  const db = new Database(path);
  for (const statement of statements) db.run(statement);
  db.close(true);
}

function ask<T = Record<string, unknown>>(path: string, sql: string): T[] {
  using db = new Database(path, { readonly: true });
  return db.query<T, []>(sql).all();
}

function indexesOf(path: string): string[] {
  return ask<{ name: string }>(
    path,
    `SELECT i.name || ' ' || t.name || iif(i."unique", ' unique', ' plain') AS name
     FROM sqlite_master AS t, pragma_index_list(t.name) AS i
     WHERE t.type = 'table' AND i.origin = 'c'
     ORDER BY 1`,
  ).map(({ name }) => name);
}

function create(folder: TemporaryFolder): string {
  const path = join(folder.path, "msb.db");
  createCatalogue(path);
  return path;
}

function refusal(work: () => unknown): LarderError {
  try {
    work();
  } catch (error) {
    if (error instanceof LarderError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

const OPENERS = [
  ["openForReading", openForReading],
  ["openForWriting", openForWriting],
] as const;

describe("createCatalogue", () => {
  test("makes the tables and columns of msb 0.4.4, and no others", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    const columns = ask<{ table: string; columns: string }>(
      path,
      `SELECT m.name AS "table", group_concat(c.name, ' ' ORDER BY c.cid) AS columns
       FROM sqlite_master AS m, pragma_table_info(m.name) AS c
       WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
       GROUP BY m.name`,
    );
    expect(Object.fromEntries(columns.map(({ table, columns }) => [table, columns]))).toEqual(TABLES);
    expect(indexesOf(path)).toEqual(INDEXES);
    expect(ask(path, "SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')")).toEqual([]);
  });

  test("makes msb's foreign keys, with what a delete does to them", () => {
    using folder = new TemporaryFolder();
    const keys = ask<{ key: string }>(
      create(folder),
      `SELECT m.name || '.' || f."from" || ' ' || f."table" || ' ' || f.on_delete AS key
       FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
       WHERE m.type = 'table'
       ORDER BY 1`,
    );
    expect(keys.map(({ key }) => key)).toEqual([
      "config.manifest_id manifest CASCADE",
      "image_ref.manifest_id manifest CASCADE",
      "manifest_layer.layer_id layer RESTRICT",
      "manifest_layer.manifest_id manifest CASCADE",
      "run.sandbox_id sandbox CASCADE",
      "sandbox_metric.sandbox_id sandbox CASCADE",
      "sandbox_rootfs.manifest_id manifest RESTRICT",
      "sandbox_rootfs.sandbox_id sandbox CASCADE",
    ]);
  });

  test("records the six migrations at this moment, in seconds", () => {
    using folder = new TemporaryFolder();
    const rows = ask<{ version: string; applied_at: number }>(create(folder), "SELECT * FROM seaql_migrations");
    expect(rows.map(({ version }) => version).sort()).toEqual(MIGRATIONS);
    for (const { applied_at } of rows) expect(Math.abs(Date.now() / 1000 - applied_at)).toBeLessThan(600);
  });

  test("leaves a WAL database that is sound, and no open file behind", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    expect(ask(path, "PRAGMA journal_mode")).toEqual([{ journal_mode: "wal" }]);
    expect(ask(path, "PRAGMA integrity_check")).toEqual([{ integrity_check: "ok" }]);
    expect(ask(path, "PRAGMA user_version")).toEqual([{ user_version: 0 }]);
    expect(statSync(path).mode & 0o777).toBe(0o644 & ~process.umask());
  });

  test("leaves a catalogue that is there as it is", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, "INSERT INTO manifest (digest) VALUES ('sha256:x')");
    createCatalogue(path);
    expect(ask(path, "SELECT digest FROM manifest")).toEqual([{ digest: "sha256:x" }]);
    expect(ask(path, "SELECT count(*) AS n FROM seaql_migrations")).toEqual([{ n: 6 }]);
  });

  test("fills an empty file", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "msb.db");
    writeFileSync(path, "");
    createCatalogue(path);
    expect(ask(path, "SELECT count(*) AS n FROM seaql_migrations")).toEqual([{ n: 6 }]);
  });

  test.each(["nothing", "an empty file"])("leaves a link to %s as it is", (what) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "msb.db");
    const target = join(folder.path, "elsewhere.db");
    if (what === "an empty file") writeFileSync(target, "");
    symlinkSync(target, path);
    expect(refusal(() => createCatalogue(path)).message).toContain("it is a link");
    expect(readlinkSync(path)).toBe(target);
  });

  test("does not touch a file that is no database", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "msb.db");
    writeFileSync(path, "precious notes, and enough of them to look like a header. ".repeat(100));
    const before = readFileSync(path);
    expect(refusal(() => createCatalogue(path)).code).toBe("damaged");
    expect(readFileSync(path)).toEqual(before);
  });

  test.if(process.geteuid?.() === 0)("gives the database to the owner of its folder", () => {
    using folder = new TemporaryFolder();
    chownSync(folder.path, 1234, 2345);
    const path = create(folder);
    openForWriting(path)!.close();
    for (const name of readdirSync(folder.path)) {
      const { uid, gid } = statSync(join(folder.path, name));
      expect([name, uid, gid]).toEqual([name, 1234, 2345]);
    }
  });
});

describe.each(OPENERS)("%s", (_, open) => {
  test("finds nothing where no database is, and makes none", () => {
    using folder = new TemporaryFolder();
    expect(open(join(folder.path, "msb.db"))).toBeUndefined();
    expect(open(join(folder.path, "missing", "msb.db"))).toBeUndefined();
    expect(readdirSync(folder.path)).toEqual([]);
  });

  test("finds nothing in an empty file, and leaves it empty", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "msb.db");
    writeFileSync(path, "");
    expect(open(path)).toBeUndefined();
    expect(statSync(path).size).toBe(0);
  });

  test("finds nothing in a database without tables", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "msb.db");
    edit(path, "PRAGMA journal_mode = WAL", "CREATE TABLE x (y)", "DROP TABLE x");
    expect(open(path)).toBeUndefined();
  });

  test("refuses a folder", () => {
    using folder = new TemporaryFolder();
    const { code, message } = refusal(() => open(folder.path));
    expect(code).toBe("failed");
    expect(message).toBe(`cannot open the database "${folder.path}": it is a directory`);
  });

  test.each<[string, (path: string) => void]>([
    ["text", (path) => writeFileSync(path, "this is not a database, whatever its name says. ".repeat(100))],
    ["a header and nothing behind it", (path) => writeFileSync(path, readFileSync(path).subarray(0, 100))],
    ["zeros", (path) => writeFileSync(path, Buffer.alloc(8192))],
  ])("refuses a file that holds %s, and leaves it as it is", (_, damage) => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    damage(path);
    const before = readFileSync(path);
    const { code, message } = refusal(() => open(path));
    expect(code).toBe("damaged");
    expect(message).toStartWith(`cannot use the database "${path}": it is `);
    expect(readFileSync(path)).toEqual(before);
  });

  test("refuses a database that was cut short", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    truncateSync(path, 4096);
    const { code, message } = refusal(() => {
      const db = open(path);
      db?.query("SELECT * FROM manifest").all();
    });
    expect(code).toBe("damaged");
    expect(message).toContain(path);
  });

  test.each([
    ["DROP TABLE volume", undefined],
    ["ALTER TABLE sandbox DROP COLUMN updated_at", undefined],
    ["ALTER TABLE layer RENAME COLUMN diff_id TO diff", "layer.diff_id"],
    ["ALTER TABLE manifest DROP COLUMN variant", "manifest.variant"],
    ["ALTER TABLE image_ref DROP COLUMN updated_at", "image_ref.updated_at"],
    ["ALTER TABLE config DROP COLUMN labels", "config.labels"],
    ["ALTER TABLE sandbox DROP COLUMN config", "sandbox.config"],
    ["DROP TABLE manifest_layer", "manifest_layer.id"],
    ["DROP TABLE sandbox_rootfs", "sandbox_rootfs.sandbox_id"],
    ["DROP TABLE snapshot_index", "snapshot_index.name"],
  ])("knows a catalogue by the columns it needs: %s", (statement, missing) => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, statement);
    if (missing === undefined) {
      using db = open(path);
      expect(db).toBeDefined();
      return;
    }
    const { code, message } = refusal(() => open(path));
    expect(code).toBe("damaged");
    expect(message).toBe(`the database "${path}" is not a catalogue that larder knows: ${missing} is missing`);
    expect(indexesOf(path)).not.toContain(OWN_INDEXES[0]!);
  });

  test("keeps no file open where it gives no connection", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, "ALTER TABLE layer RENAME COLUMN diff_id TO diff");
    refusal(() => open(path));
    expect(openIn(folder.path)).toEqual([]);
  });

  test("takes a newer msb's catalogue: more tables, columns and migrations", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(
      path,
      "INSERT INTO seaql_migrations VALUES ('m20990101_000001_unknown', 1)",
      "ALTER TABLE sandbox_rootfs ADD COLUMN root_disk_kind text NOT NULL DEFAULT 'managed'",
      "CREATE TABLE cpu_allocation (id integer)",
      "PRAGMA user_version = 7",
    );
    using db = open(path);
    expect(db).toBeDefined();
    expect(ask(path, "SELECT count(*) AS n FROM seaql_migrations")).toEqual([{ n: 7 }]);
  });

  test("gives 64-bit integers as BigInt, and takes named parameters strictly", () => {
    using folder = new TemporaryFolder();
    using db = open(create(folder))!;
    expect(db.query("SELECT 9223372036854775807 AS n").get()).toEqual({ n: 9_223_372_036_854_775_807n });
    expect(() => db.query("SELECT $a").get({ b: 1 })).toThrow();
    expect(db.query("PRAGMA busy_timeout").get()).toEqual({ timeout: 5000n });
  });

  test("sees what another process committed and has not folded in", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    using other = new Database(path);
    other.run("INSERT INTO manifest (digest) VALUES ('sha256:new')");
    expect(statSync(`${path}-wal`).size).toBeGreaterThan(0);
    using db = open(path)!;
    expect(db.query("SELECT digest FROM manifest").all()).toEqual([{ digest: "sha256:new" }]);
  });
});

describe("openForReading", () => {
  test("cannot write, and adds no index", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    using db = openForReading(path)!;
    expect(() => db.run("DELETE FROM manifest")).toThrow("readonly");
    expect(indexesOf(path)).toEqual(INDEXES);
  });

  test("does not wait for a writer", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    using writer = new Database(path);
    writer.run("BEGIN IMMEDIATE");
    writer.run("INSERT INTO manifest (digest) VALUES ('sha256:new')");
    using db = openForReading(path)!;
    expect(db.query("SELECT * FROM manifest").all()).toEqual([]);
    writer.run("ROLLBACK");
  });

  test.each([
    ["missing", "DROP TABLE seaql_migrations"],
    ["empty", "DELETE FROM seaql_migrations"],
  ])("reads a catalogue whose migration table is %s", (_, statement) => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, statement);
    using db = openForReading(path);
    expect(db).toBeDefined();
  });

  test("reads while a downgrade is under way", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    mkdirSync(join(folder.path, "self-downgrade", "op"), { recursive: true });
    writeFileSync(join(folder.path, "self-downgrade", "op", "journal.json"), "{}");
    using db = openForReading(path);
    expect(db).toBeDefined();
  });
});

describe("openForWriting", () => {
  test("turns on WAL and foreign keys", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, "PRAGMA journal_mode = DELETE");
    using db = openForWriting(path)!;
    expect(db.query("PRAGMA journal_mode").get()).toEqual({ journal_mode: "wal" });
    expect(db.query("PRAGMA foreign_keys").get()).toEqual({ foreign_keys: 1n });
    expect(() => db.run("INSERT INTO image_ref (reference, manifest_id) VALUES ('x', 99)")).toThrow("FOREIGN KEY");
  });

  test("changes nothing, and needs no write lock", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    openForWriting(path)!.close();
    expect(indexesOf(path)).toEqual(INDEXES);
    using writer = new Database(path);
    writer.run("BEGIN IMMEDIATE");
    using db = openForWriting(path);
    expect(db).toBeDefined();
    writer.run("ROLLBACK");
  });

  test.each([
    ["missing", "DROP TABLE seaql_migrations"],
    ["empty", "DELETE FROM seaql_migrations"],
  ])("refuses a catalogue whose migration table is %s: msb will wipe it", (state, statement) => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    edit(path, statement, "INSERT INTO manifest (digest) VALUES ('sha256:x')");
    const { code, message } = refusal(() => openForWriting(path));
    expect(code).toBe("failed");
    expect(message).toContain(`"${path}"`);
    expect(message).toContain(`(table seaql_migrations) is ${state}`);
    expect(indexesOf(path)).toEqual(INDEXES);
    expect(ask(path, "SELECT digest FROM manifest")).toEqual([{ digest: "sha256:x" }]);
  });

  test.each<[string, string | undefined, boolean]>([
    ["done", '{"phase":"complete"}', true],
    ["without a journal", undefined, true],
    ["in another phase", '{"phase":"restoring"}', false],
    ["without a phase", "{}", false],
    ["of a wrong type", '{"phase":["complete"]}', false],
    ["null", "null", false],
    ["empty", "", false],
    ["cut", '{"phase":"comp', false],
  ])("heeds a downgrade's journal: %s", (_, text, allowed) => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    const operations = join(folder.path, "self-downgrade");
    for (const name of ["op-1", "op-2"]) mkdirSync(join(operations, name), { recursive: true });
    writeFileSync(join(operations, "op-1", "journal.json"), '{"phase":"complete"}');
    writeFileSync(join(operations, "not-a-folder"), "");
    const journal = join(operations, "op-2", "journal.json");
    if (text !== undefined) writeFileSync(journal, text);
    if (allowed) {
      using db = openForWriting(path);
      expect(db).toBeDefined();
      return;
    }
    const { code, message } = refusal(() => openForWriting(path));
    expect(code).toBe("failed");
    expect(message).toContain(`an msb downgrade is not finished ("${journal}")`);
    expect(indexesOf(path)).toEqual(INDEXES);
  });

  test("takes a journal that cannot be read for an open one", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    mkdirSync(join(folder.path, "self-downgrade", "op", "journal.json"), { recursive: true });
    expect(refusal(() => openForWriting(path)).code).toBe("failed");
  });

  test("takes a journal that is a pipe for an open one, and does not wait for it", async () => {
    using folder = new TemporaryFolder();
    create(folder);
    const operation = join(folder.path, "self-downgrade", "op");
    mkdirSync(operation, { recursive: true });
    Bun.spawnSync(["mkfifo", join(operation, "journal.json")]);
    mkdirSync(join(folder.path, "db"));
    for (const name of readdirSync(folder.path))
      if (name !== "db") renameSync(join(folder.path, name), join(folder.path, "db", name));
    const { code, stderr } = await run(["gc", "--home", folder.path], { under: ["timeout", "20"] });
    expect([code, stderr]).toEqual([1, expect.stringContaining("an msb downgrade is not finished")]);
  });

  test("follows a database that is linked into its place", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    const linked = join(folder.path, "linked.db");
    symlinkSync(path, linked);
    using db = openForWriting(linked);
    expect(db).toBeDefined();
  });
});

// A mounted file system is the only honest one: root writes through any permission.
const MOUNT = mountable();

describe.if(MOUNT !== undefined)("on a read-only file system", () => {
  const { path: mount } = MOUNT ?? { path: "" };
  const path = join(mount, "msb.db");

  async function remount(mode: "ro" | "rw"): Promise<void> {
    await Bun.$`mount -o remount,${mode} ${mount}`.quiet();
  }

  afterAll(async () => {
    await Bun.$`umount ${mount}`.quiet();
    rmSync(mount, { recursive: true, force: true });
  });

  test("openForReading reads a catalogue that was folded in", async () => {
    createCatalogue(path);
    edit(path, "INSERT INTO manifest (digest, total_size_bytes) VALUES ('sha256:x', 9007199254740993)");
    expect(readdirSync(mount)).toEqual(["msb.db"]);
    await remount("ro");
    using db = openForReading(path)!;
    expect(db.query("SELECT digest, total_size_bytes AS size FROM manifest").all()).toEqual([
      { digest: "sha256:x", size: 9_007_199_254_740_993n },
    ]);
    expect(() => db.run("DELETE FROM manifest")).toThrow();
  });

  test("openForWriting fails and says why", () => {
    const { code, message } = refusal(() => openForWriting(path));
    expect(code).toBe("failed");
    expect(message).toContain(`cannot use the database "${path}"`);
    expect(message).toContain("read-only file system");
  });

  test("openForReading says what is needed where the newest changes are in a WAL alone", async () => {
    await remount("rw");
    const live = new Database(path);
    live.run("INSERT INTO manifest (digest) VALUES ('sha256:in-the-wal')");
    const [main, wal] = [readFileSync(path), readFileSync(`${path}-wal`)];
    live.close(true);
    writeFileSync(path, main);
    writeFileSync(`${path}-wal`, wal);
    rmSync(`${path}-shm`, { force: true });
    await remount("ro");
    const { code, message } = refusal(() => openForReading(path));
    expect(code).toBe("failed");
    expect(message).toContain(`its newest changes are in "${path}-wal"`);
    expect(message).toContain("remount the file system writable");
    expect(readFileSync(`${path}-wal`)).toEqual(wal);
  });
});

/** A small file system of its own, where this process may mount one. */
function mountable(): TemporaryFolder | undefined {
  const folder = new TemporaryFolder();
  const { exitCode } = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder.path]);
  if (exitCode === 0) return folder;
  folder[Symbol.dispose]();
  return undefined;
}

describe("addIndexes", () => {
  test("adds larder's three where one is missing, and writes only then", () => {
    using folder = new TemporaryFolder();
    const path = create(folder);
    using db = openForWriting(path)!;
    addIndexes(db);
    expect(indexesOf(path)).toEqual([...INDEXES, ...OWN_INDEXES].sort());
    const [before] = ask(path, "PRAGMA schema_version");
    {
      using writer = new Database(path);
      writer.run("BEGIN IMMEDIATE");
      addIndexes(db);
      writer.run("ROLLBACK");
    }
    expect(ask(path, "PRAGMA schema_version")).toEqual([before!]);
    edit(path, "DROP INDEX idx_image_ref_manifest");
    using next = openForWriting(path)!;
    addIndexes(next);
    expect(indexesOf(path)).toEqual([...INDEXES, ...OWN_INDEXES].sort());
  });
});
