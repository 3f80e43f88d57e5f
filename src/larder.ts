import type { Database } from "bun:sqlite";
import { dirname } from "node:path";
import { CachePaths } from "./cache/paths.ts";
import {
  createCatalogue,
  emptyCatalogue,
  migrationLock,
  openForReading,
  openForWriting,
  whyUnwritable,
} from "./db/open.ts";
import { asCatalogueError, BUSY_TIMEOUT_MS } from "./db/write.ts";
import { LarderError } from "./error.ts";
import type { Home } from "./home.ts";
import { FileLock } from "./host/flock.ts";
import { makeFolder } from "./host/ownership.ts";

/** An open home: what every operation receives. `now` is in milliseconds since 1970. */
export interface Larder {
  home: Home;
  db: Database;
  cache: CachePaths;
  now: () => number;
  /** There is no catalogue: `db` is an empty one in its place. */
  isMissing?: true;
}

/**
 * Opens a home to read; undefined where no catalogue is. Nothing is created or changed. A locked database is waited
 * for up to `patienceMs`, now and later.
 */
export function openToRead(home: Home, patienceMs?: number): Larder | undefined {
  return wrap(home, openForReading(home.database, patienceMs));
}

/** An empty catalogue in memory, in place of one that is not there: what the cache holds can be looked at all the same. */
export function openEmpty(home: Home): Larder {
  return { ...wrap(home, emptyCatalogue())!, isMissing: true };
}

/** Opens a home to change; undefined where no catalogue is. */
export function openToWrite(home: Home): Larder | undefined {
  return wrap(home, openForWriting(home.database));
}

/**
 * Opens a home to plan a change, and reads only; undefined where no catalogue is. Throws what `openToWrite` throws of one that
 * must not be written to: a dry run must not promise what is refused then.
 */
export function openToPlan(home: Home): Larder | undefined {
  const larder = openToRead(home);
  if (!larder) return undefined;
  try {
    const why = whyUnwritable(larder.db, home.database);
    if (why === undefined) return larder;
    throw new LarderError("failed", why);
  } catch (error) {
    closeLarder(larder);
    throw asCatalogueError(home.database, error);
  }
}

/** Opens a home to change, and makes home and catalogue where they are missing, under msb's migration lock. */
export function openOrCreate(home: Home): Larder {
  const there = openToWrite(home);
  if (there) return there;
  makeFolder(dirname(home.database));
  makeFolder(home.cache);
  using _ = FileLock.wait(migrationLock(home.database), BUSY_TIMEOUT_MS);
  createCatalogue(home.database);
  return openToWrite(home)!;
}

function wrap(home: Home, db: Database | undefined): Larder | undefined {
  return db && { home, db, cache: new CachePaths(home.cache), now: Date.now };
}

/** Runs `work` on an open home, turns SQLite's refusals into sentences, and closes the home whatever happens. */
export async function withLarder<T>(larder: Larder, work: (larder: Larder) => T | Promise<T>): Promise<T> {
  try {
    return await work(larder);
  } catch (error) {
    throw asCatalogueError(larder.home.database, error);
  } finally {
    closeLarder(larder);
  }
}

/** Closes the catalogue; the last to leave lets SQLite fold the WAL into the database. */
export function closeLarder(larder: Larder): void {
  larder.db.close(true);
}
