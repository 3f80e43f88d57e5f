import { type Database, SQLiteError } from "bun:sqlite";
import { LarderError } from "../error.ts";
import { parseTimestamp } from "./timestamp.ts";

/** How long SQLite, and larder for msb's lease, wait for a writer before they give up with `busy`. */
export const BUSY_TIMEOUT_MS = 5000;

class LeaseHeld extends Error {}

/**
 * Runs `change` inside `BEGIN IMMEDIATE` … `COMMIT`. It must read and write no file and must not wait: all of msb
 * waits meanwhile. msb takes its install lease for a moment at every start (interop §2), so that one is waited for.
 * Throws `busy` when a writer or the lease stays in the way.
 */
export function writeTransaction<T>(db: Database, change: () => T): T {
  const run = db.transaction(() => {
    if (isLeased(db)) throw new LeaseHeld();
    const result = change();
    // An async change would be committed before it had run.
    if (result instanceof Promise) throw new TypeError("a transaction must not be async");
    return result;
  });
  for (const deadline = Date.now() + BUSY_TIMEOUT_MS; ; Bun.sleepSync(20)) {
    try {
      return run.immediate();
    } catch (error) {
      if (!(error instanceof LeaseHeld)) throw error;
      if (Date.now() >= deadline)
        throw new LarderError("busy", "an msb installation is in progress; try again when it is done");
    }
  }
}

// How long one transaction of many should last: msb takes the write lock at every start.
const BATCH_MS = 60;
const LEAST_ITEMS = 20;
// The next batch may need pages that this one did not.
const MOST_GROWTH = 4;

/** How many items one transaction takes, on this machine and this catalogue: as many as it gets done in time. */
export class BatchSize {
  size: number;

  /** `most` where an item takes no time worth the name, but memory. */
  constructor(
    first: number,
    private readonly most: number,
  ) {
    this.size = Math.min(first, most);
  }

  /** `writeTransaction` with a change of so many items, `size` at most. The wait for the write lock does not count. */
  run<T>(db: Database, items: number, change: () => T): T {
    let start = 0;
    const result = writeTransaction(db, () => {
      start = performance.now();
      return change();
    });
    const took = performance.now() - start;
    // What is left for the last one says little: most of its time is what every transaction takes.
    if (items < this.size) return result;
    const inTime = Math.round((items * BATCH_MS) / took);
    this.size = Math.min(Math.max(inTime, LEAST_ITEMS), MOST_GROWTH * items, this.most);
    return result;
  }
}

/**
 * Lets a connection keep 16 MiB of the pages that it changes, for what changes many rows: digests are spread over the
 * whole of their indexes, which the next transaction would read and write anew.
 */
export function keepPages(db: Database): void {
  db.run("PRAGMA cache_size = -16384");
}

/** Runs `look` on one consistent view of the database, without waiting for writers. */
export function readTransaction<T>(db: Database, look: () => T): T {
  return db.transaction(look).deferred();
}

/** A number that changes with every commit of another connection; see PRAGMA data_version. */
export function dataVersion(db: Database): bigint {
  return db.query<{ data_version: bigint }, []>("PRAGMA data_version").get()!.data_version;
}

function isLeased(db: Database): boolean {
  if (!db.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'maintenance_lease'").get()) return false;
  const lease = db
    .query<{ lease_expires_at: unknown }, []>(
      "SELECT lease_expires_at FROM maintenance_lease WHERE name = 'install_exclusive'",
    )
    .get();
  if (!lease) return false;
  const expires = parseTimestamp(String(lease.lease_expires_at));
  // A lease that cannot be read is taken to be held.
  return expires === undefined || expires.ms > Date.now();
}

// What SQLite's write-ahead log and its index take at their least, and a change of a few hundred images.
const ROOM = "about 1 MiB, and more for a change of thousands of images";

const SENTENCES: [prefix: string, code: "busy" | "damaged" | "failed", sentence: string][] = [
  ["SQLITE_BUSY", "busy", "another process is writing to it; try again"],
  ["SQLITE_LOCKED", "busy", "another process is writing to it; try again"],
  ["SQLITE_NOTADB", "damaged", "it is not a SQLite database (restore it from a backup, or move it away)"],
  ["SQLITE_CORRUPT", "damaged", "it is damaged (restore it from a backup)"],
  ["SQLITE_FULL", "failed", `no space is left on the device (SQLite's write-ahead log beside it needs ${ROOM})`],
  [
    "SQLITE_IOERR",
    "failed",
    `the device reported an input/output error, or no space is left for SQLite's files beside it (they need ${ROOM})`,
  ],
  [
    "SQLITE_READONLY",
    "failed",
    "it, or the folder it lies in, cannot be written (permissions, or a read-only file system)",
  ],
  [
    "SQLITE_CANTOPEN",
    "failed",
    "it, or SQLite's files beside it, cannot be opened (permissions, space, or a read-only file system)",
  ],
  ["SQLITE_PERM", "failed", "permission denied"],
  ["SQLITE_NOMEM", "failed", "there is not enough memory"],
];

/** Runs `work`, and turns SQLite's refusals into sentences about the database at `path`. */
export function explainSqlite<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw asCatalogueError(path, error);
  }
}

/** SQLite's refusal as a LarderError that names the database; any other error as it was. */
export function asCatalogueError(path: string, error: unknown): unknown {
  if (!(error instanceof SQLiteError)) return error;
  // Every table and column was there when it was opened: msb has begun to migrate since.
  if (/^no such (table|column)/.test(error.message))
    return new LarderError("busy", `msb is migrating the database "${path}"; try again when it is done`, error);
  const code = error.code ?? "";
  const known = SENTENCES.find(([prefix]) => code.startsWith(prefix));
  const sentence = known ? known[2] : `${error.message} (${code})`;
  return new LarderError(known ? known[1] : "failed", `cannot use the database "${path}": ${sentence}`, error);
}
