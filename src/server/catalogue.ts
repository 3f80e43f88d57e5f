import { constants } from "bun:sqlite";
import { statSync } from "node:fs";
import { measure } from "../cache/file.ts";
import { readSnapshots } from "../cache/snapshots.ts";
import { asCatalogueError, dataVersion } from "../db/write.ts";
import type { Home } from "../home.ts";
import { closeLarder, type Larder } from "../larder.ts";

/** How long the thread that answers everybody waits for a locked database. */
export const PATIENCE_MS = 500;

type Open = (home: Home) => Larder | undefined;

/** An open home that stays warm between requests, and is opened anew when the database is replaced or vanishes. */
export class WarmHome {
  private larder: Larder | undefined;
  private identity = "";
  /** The data version is the connection's own, and starts again with each. */
  private opened = 0;

  constructor(
    private readonly home: Home,
    private readonly open: Open,
  ) {}

  /** Runs `work` on the home; undefined where there is no catalogue. A failed connection is not used again. */
  use<T>(work: (larder: Larder | undefined) => T): T {
    try {
      return work(this.current());
    } catch (error) {
      const explained = asCatalogueError(this.home.database, error);
      if (explained !== error) this.close();
      throw explained;
    }
  }

  private current(): Larder | undefined {
    const identity = identify(this.home.database);
    if (this.larder && identity === this.identity) return this.larder;
    this.close();
    this.larder = this.open(this.home);
    this.opened++;
    // Closed after another file took its name, this connection would take that one's write-ahead log away.
    this.larder?.db.fileControl(constants.SQLITE_FCNTL_PERSIST_WAL, 1);
    this.identity = identify(this.home.database);
    return this.larder;
  }

  /**
   * What the catalogue's answers depend on, as a short text: the file, the version that other connections' commits
   * move on, and the snapshots on disk. Undefined where there is no catalogue.
   */
  state(): string | undefined {
    return this.use((larder) => {
      if (!larder) return undefined;
      return `${this.opened}-${this.identity}-${dataVersion(larder.db)}-${snapshotState(larder.home.snapshots)}`;
    });
  }

  close(): void {
    if (this.larder) closeLarder(this.larder);
    this.larder = undefined;
  }
}

// The index of the log counts too: who copies a backup over the file keeps its inode, and takes away the log beside it. Where
// none is, the file was read into memory, and whoever wrote to it since may have taken the index away again.
function identify(database: string): string {
  const file = statSync(database, { throwIfNoEntry: false });
  if (!file) return "";
  const index = statSync(`${database}-shm`, { throwIfNoEntry: false });
  const beside = index ? [index.dev, index.ino] : [file.size, file.mtimeMs];
  return [file.dev, file.ino, ...beside].join("-");
}

// What the snapshots pin is a part of each answer. They are few, and read whole: the time of a folder does not tell
// that a descriptor inside was rewritten.
function snapshotState(folders: string[]): string {
  if (!folders.some(measure)) return "0";
  const snapshots = readSnapshots(...folders);
  return snapshots.length === 0 ? "0" : Bun.hash(JSON.stringify(snapshots)).toString(36);
}
