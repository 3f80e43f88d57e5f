import { Database, SQLiteError } from "bun:sqlite";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { isErrno, LarderError } from "../error.ts";
import { mayBeLocked } from "../host/flock.ts";
import { HeldFolder, whyAstray, whyUnadoptable } from "../host/ownership.ts";
import { readWholeAt } from "../host/read.ts";
import schema from "./schema.sql" with { type: "text" };
import { BUSY_TIMEOUT_MS, explainSqlite, writeTransaction } from "./write.ts";

// The tables and columns that larder reads or writes. They hold through all of msb's 27 migrations (interop §2), so
// a database is known by them, and never by its version or the text of its schema.
const SHAPE: Record<string, string> = {
  manifest:
    "id, digest, media_type, config_digest, architecture, os, variant, layer_count, total_size_bytes, created_at",
  image_ref: "id, reference, manifest_id, created_at, updated_at",
  config: "id, manifest_id, digest, env, cmd, entrypoint, working_dir, user, labels, stop_signal, created_at",
  layer: "id, diff_id, blob_digest, media_type, compressed_size_bytes, erofs_size_bytes, created_at, last_used_at",
  manifest_layer: "id, manifest_id, layer_id, position",
  sandbox: "id, name, config",
  sandbox_rootfs: "sandbox_id, manifest_id",
  snapshot_index: "name, digest, image_manifest_digest",
};

// larder's own, and the columns that they are on.
const INDEXES = {
  idx_manifest_layer_layer: "manifest_layer (layer_id)",
  idx_image_ref_manifest: "image_ref (manifest_id)",
  idx_sandbox_rootfs_manifest: "sandbox_rootfs (manifest_id)",
};

/**
 * Opens the catalogue for reading: writes nothing, waits for no writer, and for a lock up to `patienceMs`. Undefined
 * where there is no database, or one without any table. Throws `damaged` for a file that is no catalogue, `failed` where
 * it cannot be opened.
 */
export function openForReading(path: string, patienceMs = BUSY_TIMEOUT_MS): Database | undefined {
  if (!isThere(path)) return undefined;
  return explainSqlite(path, () => {
    const db = openReadOnly(path, patienceMs);
    return keepIf(db, () => hasSettledShape(db, path, patienceMs));
  });
}

/**
 * Opens the catalogue for writing: WAL, foreign keys on, five seconds of patience. Rows and schema stay as they are.
 * Undefined where there is no database, or one without any table. Throws `failed` where it must not be written to.
 */
export function openForWriting(path: string): Database | undefined {
  if (!isThere(path)) return undefined;
  const why = whyNoLog(path);
  if (why !== undefined) throw new LarderError("failed", why);
  return explainSqlite(path, () => {
    const db = open(path, "readwrite");
    return keepIf(db, () => {
      if (!hasSettledShape(db, path)) return false;
      const why = whyRefused(db, path);
      if (why !== undefined) throw new LarderError("failed", why);
      db.run("PRAGMA journal_mode = WAL");
      db.run("PRAGMA foreign_keys = ON");
      // Deletes are on the disk before a file goes; the default, but nothing here may rest on a default.
      db.run("PRAGMA synchronous = FULL");
      return true;
    });
  });
}

/**
 * Adds larder's three indexes where they are missing. What writes does it first, but not before it knows that it will: a
 * damaged database must stay as it is.
 */
export function addIndexes(db: Database): void {
  if (INDEXED.has(db)) return;
  const names = new Set(
    db
      .query<{ name: string }, []>("SELECT name FROM sqlite_master WHERE type = 'index'")
      .all()
      .map(({ name }) => name),
  );
  const missing = Object.entries(INDEXES).filter(([name]) => !names.has(name));
  if (missing.length > 0)
    writeTransaction(db, () => {
      for (const [name, columns] of missing) db.run(`CREATE INDEX IF NOT EXISTS ${name} ON ${columns}`);
    });
  INDEXED.add(db);
}

// Connections that have been asked: a server puts thousands of images on record through one.
const INDEXED = new WeakSet<Database>();

// SQLite makes the log and its index even to read, with the mode of the database, and gives them to its owner where it may.
// Where it may not, no msb of that owner's could write any more. Says why they must not be made, where they could be.
function whyNoLog(path: string): string | undefined {
  const folder = dirname(path);
  const why = isAllowed(path)
    ? whyUnadoptable(folder)
    : `cannot make "${path}-shm", which its owner could not use: this user may not write the database (run larder as its owner)`;
  if (why === undefined || [`${path}-wal`, `${path}-shm`].every((file) => existsSync(file))) return undefined;
  return isAllowed(folder) ? why : undefined;
}

function isAllowed(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

// A connection that nobody receives must not stay open: it holds the file, and the file system that it lies on.
function keepIf(db: Database, accept: () => boolean): Database | undefined {
  let kept = false;
  try {
    kept = accept();
    return kept ? db : undefined;
  } finally {
    if (!kept) db.close();
  }
}

/**
 * Creates the catalogue of msb v0.4.4 at `path`, where none is: schema and six migration rows in one transaction.
 * It is made beside its place and moved there whole, so that a crash leaves no database without tables. The caller
 * holds msb's migration lock, and has made the folder.
 */
export function createCatalogue(path: string): void {
  explainSqlite(path, () => {
    if (isThere(path) && hasTables(path)) return;
    refuseLost(path);
    refuseLink(path);
    using folder = HeldFolder.open(dirname(path));
    const staged = `${path}.new`;
    // What a crash left of an earlier try, and of an empty database whose place this one takes.
    for (const file of [staged, `${staged}-journal`, `${staged}-wal`, `${staged}-shm`, `${path}-wal`, `${path}-shm`]) {
      folder.in(basename(file), (path) => rmSync(path, { force: true }));
    }
    // Made and handed to the folder's owner before SQLite sees it: its own files beside it take the owner of this one.
    closeSync(folder.create(basename(staged), constants.O_RDWR | constants.O_NOFOLLOW, 0o644));
    {
      using db = open(staged, "readwrite");
      db.transaction(() => db.run(schema)).immediate();
      db.run("PRAGMA journal_mode = WAL");
    }
    folder.in(basename(staged), (staged) => renameSync(staged, folder.at(basename(path))));
  });
}

/** The same catalogue in memory. */
export function emptyCatalogue(): Database {
  const db = new Database(":memory:", OPTIONS);
  db.run(schema);
  return db;
}

// The new catalogue would take the link's place, and leave alone what it leads to: a disk that is not mounted, say.
function refuseLink(path: string): void {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) return;
  throw new LarderError(
    "failed",
    `will not create the database "${path}": it is a link, and there is no catalogue where it leads (mount what it leads to, or remove the link)`,
  );
}

function hasTables(path: string): boolean {
  using db = open(path, "readwrite");
  return hasShape(db, path);
}

function isThere(path: string): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  // A pipe of that name would wait for a writer.
  if (stat && !stat.isFile())
    throw new LarderError(
      "failed",
      `cannot open the database "${path}": it is ${stat.isDirectory() ? "a directory" : "no regular file"}`,
    );
  return stat !== undefined;
}

const OPTIONS = { strict: true, safeIntegers: true } as const;

function open(path: string, mode: "readonly" | "readwrite", patienceMs = BUSY_TIMEOUT_MS): Database {
  const db = new Database(path, {
    ...OPTIONS,
    ...(mode === "readonly" ? { readonly: true } : { readwrite: true, create: false }),
  });
  db.run(`PRAGMA busy_timeout = ${patienceMs}`);
  return db;
}

function openReadOnly(path: string, patienceMs: number): Database {
  const why = whyNoLog(path);
  if (why !== undefined) {
    if (statSync(`${path}-wal`, { throwIfNoEntry: false })?.size) throw new LarderError("failed", why);
    return openImage(path);
  }
  const db = open(path, "readonly", patienceMs);
  try {
    db.query("SELECT 1 FROM sqlite_master").get();
    return db;
  } catch (error) {
    db.close();
    // SQLite reads a WAL database through a -shm file, which it must be able to make. Without one, on a read-only file
    // system or a full one, the main file alone can be read, and is all there is if the WAL is empty.
    if (!isReadOnlyRefusal(error) && !isSpaceRefusal(error)) throw error;
    const wal = statSync(`${path}-wal`, { throwIfNoEntry: false });
    if (wal && wal.size > 0) {
      if (!isReadOnlyRefusal(error)) throw error;
      throw new LarderError(
        "failed",
        `cannot read the database "${path}": its newest changes are in "${path}-wal", and SQLite must be able to write "${path}-shm" to read them (remount the file system writable, or copy the folder "${dirname(path)}" to a writable place and name that home with --home)`,
        error,
      );
    }
    return openImage(path);
  }
}

// A database without a WAL, read into memory. Bytes 18 and 19 of the header say "WAL", which memory cannot have.
function openImage(path: string): Database {
  const image = readFileSync(path);
  image.fill(1, 18, 20);
  return Database.deserialize(image, { ...OPTIONS, readonly: true });
}

function isReadOnlyRefusal(error: unknown): boolean {
  return hasCode(error, "SQLITE_CANTOPEN") || hasCode(error, "SQLITE_READONLY");
}

// No room for the index of the log.
function isSpaceRefusal(error: unknown): boolean {
  return hasCode(error, "SQLITE_IOERR_SHM") || hasCode(error, "SQLITE_FULL");
}

function hasCode(error: unknown, prefix: string): boolean {
  return error instanceof SQLiteError && error.code?.startsWith(prefix) === true;
}

/** The lock that msb holds while it creates or migrates a database (interop §2). */
export function migrationLock(path: string): string {
  return `${path}.migration.lock`;
}

// msb commits each step of a migration by itself, so a sound catalogue looks like none half-way through: while the
// lock is held it is waited for, and it is looked at once more after that.
function hasSettledShape(db: Database, path: string, patienceMs = BUSY_TIMEOUT_MS): boolean {
  let lastLook = false;
  for (const deadline = Date.now() + patienceMs; ; ) {
    try {
      return hasShape(db, path);
    } catch (error) {
      // What may not be opened is no migration's doing, and then perhaps its lock may not be either.
      if (isReadOnlyRefusal(error)) throw error;
      if (!mayBeLocked(migrationLock(path))) {
        if (lastLook) throw error;
        lastLook = true;
      } else if (Date.now() < deadline) {
        lastLook = false;
        Bun.sleepSync(20);
      } else throw new LarderError("busy", `msb is migrating the database "${path}"; try again when it is done`, error);
    }
  }
}

/** Whether the database has every table and column; false if it has no table at all; throws `damaged` in between. */
function hasShape(db: Database, path: string): boolean {
  if (areTables(db) && Object.entries(SHAPE).every(([table, columns]) => canSelect(db, table, columns))) return true;
  const present = db
    .query<{ name: string }, []>(
      `SELECT m.name || '.' || c.name AS name
       FROM sqlite_master AS m, pragma_table_info(m.name) AS c
       WHERE m.type = 'table'`,
    )
    .all()
    .map(({ name }) => name);
  if (present.length === 0) return refuseLost(path);
  const wanted = Object.entries(SHAPE).flatMap(([table, columns]) =>
    columns.split(", ").map((column) => `${table}.${column}`),
  );
  const missing = wanted.find((name) => !present.includes(name));
  if (missing === undefined) return true;
  throw new LarderError(
    "damaged",
    `the database "${path}" is not a catalogue that larder knows: ${missing} is missing`,
  );
}

function areTables(db: Database): boolean {
  const tables = db.query<{ name: string }, []>("SELECT name FROM sqlite_master WHERE type = 'table'").all();
  const names = new Set(tables.map(({ name }) => name));
  return Object.keys(SHAPE).every((table) => names.has(table));
}

// Only compiled, never run: a tenth of the time that listing every table's columns takes, and nearly always enough.
function canSelect(db: Database, table: string, columns: string): boolean {
  try {
    db.prepare(`SELECT ${columns} FROM ${table}`).finalize();
    return true;
  } catch (error) {
    if (error instanceof SQLiteError && error.code === "SQLITE_ERROR") return false;
    throw error;
  }
}

// msb leaves everything in the WAL (interop §1). One that holds something, and gives not one table, has lost it all.
function refuseLost(path: string): false {
  const wal = statSync(`${path}-wal`, { throwIfNoEntry: false });
  if (!wal || wal.size === 0) return false;
  throw new LarderError(
    "damaged",
    `the database "${path}" is lost: its write-ahead log "${path}-wal" holds no table that can be read (restore both from a backup, or move both away to begin anew)`,
  );
}

/** Whether msb's history of migrations is there. Without it msb wipes the catalogue, or refuses it (interop §2). */
export function migrationHistory(db: Database): "there" | "empty" | "missing" {
  if (!db.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'").get())
    return "missing";
  return db.query("SELECT 1 FROM seaql_migrations LIMIT 1").get() ? "there" : "empty";
}

// Why a catalogue must not be written to, as a sentence: msb itself would refuse to start, or would wipe it (interop §2).
function whyRefused(db: Database, path: string): string | undefined {
  const astray = whyAstray(path);
  if (astray !== undefined) return astray;
  const history = migrationHistory(db);
  // msb re-migrates such a database from nothing at its next start, and every image is gone.
  if (history !== "there")
    return `will not write to the database "${path}": its migration history (table seaql_migrations) is ${history}, and the next msb to start will wipe it (restore the history, or the database, from a backup first)`;
  const journal = findOpenDowngrade(path);
  return (
    journal &&
    `will not write to the database "${path}": an msb downgrade is not finished ("${journal}"); let msb finish it first`
  );
}

/**
 * Why `openForWriting` would refuse a catalogue that is open, as a sentence, or undefined. What tells it may be another user's:
 * then whoever writes is refused, and not who only looks.
 */
export function whyUnwritable(db: Database, path: string): string | undefined {
  try {
    return whyRefused(db, path);
  } catch (error) {
    if (isErrno(error, "EACCES")) return undefined;
    throw error;
  }
}

// A downgrade that stopped half-way: msb refuses every command until it is finished.
function findOpenDowngrade(path: string): string | undefined {
  const folder = join(dirname(path), "self-downgrade");
  let operations: string[];
  try {
    operations = readdirSync(folder);
  } catch (error) {
    if (isErrno(error, "ENOENT") || isErrno(error, "ENOTDIR")) return undefined;
    throw error;
  }
  return operations
    .map((operation) => join(folder, operation, "journal.json"))
    .find((journal) => phaseOf(journal) !== "complete");
}

function phaseOf(journal: string): unknown {
  let text: string;
  try {
    text = Buffer.from(readWholeAt(journal)).toString();
  } catch (error) {
    if (isErrno(error, "EACCES")) throw error;
    // No journal, no downgrade; an unreadable one may be an open one.
    return isErrno(error, "ENOENT") || isErrno(error, "ENOTDIR") ? "complete" : undefined;
  }
  try {
    return JSON.parse(text)?.phase;
  } catch {
    return undefined;
  }
}
