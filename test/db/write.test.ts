import { Database, SQLiteError } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { asCatalogueError, BatchSize, explainSqlite, readTransaction, writeTransaction } from "../../src/db/write.ts";
import { LarderError } from "../../src/error.ts";
import { TemporaryCatalogue } from "./catalogue.ts";

function refusal(work: () => unknown): LarderError {
  try {
    work();
  } catch (error) {
    if (error instanceof LarderError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** A moment in msb's text form, written here without larder's own code. */
function text(ms: number): string {
  return new Date(ms).toISOString().replace("T", " ").replace("Z", "");
}

/** msb's lease table as newer versions have it, with one row. */
function lease(catalogue: TemporaryCatalogue, name: string, expires: string | number | null): void {
  catalogue.run(
    "CREATE TABLE maintenance_lease (name text PRIMARY KEY, owner text, acquired_at datetime_text, lease_expires_at datetime_text)",
  );
  catalogue.run("INSERT INTO maintenance_lease (name, lease_expires_at) VALUES (?, ?)", name, expires);
}

const INSERT = "INSERT INTO manifest (digest) VALUES ('sha256:x')";
const DIGESTS = "SELECT digest FROM manifest";

describe("writeTransaction", () => {
  test("commits what the change did, and returns its result", () => {
    using catalogue = new TemporaryCatalogue();
    const result = writeTransaction(catalogue.db, () => {
      catalogue.run(INSERT);
      expect(catalogue.db.inTransaction).toBe(true);
      expect(catalogue.rows(DIGESTS)).toEqual([]);
      return "done";
    });
    expect(result).toBe("done");
    expect(catalogue.db.inTransaction).toBe(false);
    expect(catalogue.rows(DIGESTS)).toEqual([{ digest: "sha256:x" }]);
  });

  test("rolls back where the change throws, and passes on what it threw", () => {
    using catalogue = new TemporaryCatalogue();
    const thrown = new LarderError("in_use", "no");
    const run = () =>
      writeTransaction(catalogue.db, () => {
        catalogue.run(INSERT);
        throw thrown;
      });
    expect(run).toThrow(thrown);
    expect(catalogue.db.inTransaction).toBe(false);
    expect(catalogue.rows(DIGESTS)).toEqual([]);
  });

  test("refuses an async change and rolls it back", () => {
    using catalogue = new TemporaryCatalogue();
    const run = () =>
      writeTransaction(catalogue.db, async () => {
        catalogue.run(INSERT);
      });
    expect(run).toThrow("a transaction must not be async");
    expect(catalogue.db.inTransaction).toBe(false);
    expect(catalogue.rows(DIGESTS)).toEqual([]);
  });

  test("holds the write lock from its first moment", () => {
    using catalogue = new TemporaryCatalogue();
    using other = new Database(catalogue.path);
    writeTransaction(catalogue.db, () => {
      expect(() => other.run("BEGIN IMMEDIATE")).toThrow("locked");
    });
    other.run("BEGIN IMMEDIATE");
    other.run("ROLLBACK");
  });

  test("gives up with SQLite's own refusal where another writer stays", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.run("PRAGMA busy_timeout = 50");
    using other = new Database(catalogue.path);
    other.run("BEGIN IMMEDIATE");
    let ran = false;
    const run = () =>
      writeTransaction(catalogue.db, () => {
        ran = true;
      });
    expect(refusal(() => explainSqlite(catalogue.path, run)).code).toBe("busy");
    expect(ran).toBe(false);
    other.run("ROLLBACK");
  });

  test("waits for msb's install lease to run out", () => {
    using catalogue = new TemporaryCatalogue();
    const expires = Date.now() + 300;
    lease(catalogue, "install_exclusive", text(expires));
    writeTransaction(catalogue.db, () => catalogue.run(INSERT));
    expect(Date.now()).toBeGreaterThanOrEqual(expires);
    expect(catalogue.rows(DIGESTS)).toHaveLength(1);
  });

  test("waits for msb's install lease to be given back, and does not hold the write lock meanwhile", async () => {
    using catalogue = new TemporaryCatalogue();
    lease(catalogue, "install_exclusive", text(Date.now() + 3_600_000));
    const code = `
      const db = new (require("bun:sqlite").Database)(${JSON.stringify(catalogue.path)});
      db.run("PRAGMA busy_timeout = 4000");
      await Bun.sleep(200);
      db.run("DELETE FROM maintenance_lease");`;
    const other = Bun.spawn([process.execPath, "-e", code], { stdio: ["ignore", "ignore", "inherit"] });
    writeTransaction(catalogue.db, () => catalogue.run(INSERT));
    expect(await other.exited).toBe(0);
    expect(catalogue.rows("SELECT * FROM maintenance_lease")).toEqual([]);
    expect(catalogue.rows(DIGESTS)).toHaveLength(1);
  });

  // Both wait as long as larder does for anybody; side by side, so that it is waited for once.
  test("is busy where the lease stays, or cannot be read", async () => {
    const outcomes = await Promise.all(
      [text(Date.now() + 3_600_000), "not a time", null].map(async (expires) => {
        using catalogue = new TemporaryCatalogue();
        lease(catalogue, "install_exclusive", expires);
        const code = `
          const { openForWriting } = await import(${JSON.stringify(import.meta.resolve("../../src/db/open.ts"))});
          const { writeTransaction } = await import(${JSON.stringify(import.meta.resolve("../../src/db/write.ts"))});
          const db = openForWriting(${JSON.stringify(catalogue.path)});
          try {
            writeTransaction(db, () => db.run(${JSON.stringify(INSERT)}));
          } catch ({ code, message }) {
            console.log(JSON.stringify({ code, message }));
          }`;
        const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "inherit" });
        return { ...JSON.parse(await child.stdout.text()), rows: catalogue.rows(DIGESTS) };
      }),
    );
    expect(outcomes).toEqual(
      Array(3).fill({
        code: "busy",
        message: "an msb installation is in progress; try again when it is done",
        rows: [],
      }),
    );
  });

  test.each<[string, string, string | number]>([
    ["that ran out", "install_exclusive", "2026-01-01 00:00:00"],
    ["of another name", "install-exclusive", "2999-01-01 00:00:00"],
    ["of another kind", "downgrade", "2999-01-01 00:00:00"],
  ])("takes no notice of a lease %s", (_, name, expires) => {
    using catalogue = new TemporaryCatalogue();
    lease(catalogue, name, expires);
    writeTransaction(catalogue.db, () => catalogue.run(INSERT));
    expect(catalogue.rows(DIGESTS)).toHaveLength(1);
  });
});

describe("readTransaction", () => {
  test("sees one state throughout, whoever writes meanwhile", () => {
    using catalogue = new TemporaryCatalogue();
    using other = new Database(catalogue.path);
    const count = () => catalogue.db.query(DIGESTS).all().length;
    const counts = readTransaction(catalogue.db, () => {
      const before = count();
      other.run(INSERT);
      return [before, count()];
    });
    expect(counts).toEqual([0, 0]);
    expect(count()).toBe(1);
  });

  test("does not wait for a writer", () => {
    using catalogue = new TemporaryCatalogue();
    using other = new Database(catalogue.path);
    other.run("BEGIN IMMEDIATE");
    expect(readTransaction(catalogue.db, () => catalogue.db.query("SELECT 1 AS n").get())).toEqual({ n: 1n });
    other.run("ROLLBACK");
  });
});

describe("asCatalogueError", () => {
  test("leaves what is not SQLite's as it was", () => {
    for (const thrown of [new TypeError("x"), new LarderError("in_use", "x"), "x", undefined]) {
      expect(asCatalogueError("/db", thrown)).toBe(thrown);
    }
  });

  test("names the database, and keeps words that it has no sentence for", () => {
    using catalogue = new TemporaryCatalogue();
    const { code, message, cause } = refusal(() =>
      explainSqlite(catalogue.path, () => catalogue.run("INSERT INTO manifest (digest) VALUES (NULL)")),
    );
    expect(code).toBe("failed");
    expect(message).toBe(
      `cannot use the database "${catalogue.path}": NOT NULL constraint failed: manifest.digest (SQLITE_CONSTRAINT_NOTNULL)`,
    );
    expect(cause).toBeInstanceOf(SQLiteError);
  });

  test("calls a full device what it is", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.run("PRAGMA max_page_count = 1");
    const fill = () =>
      catalogue.run("INSERT INTO manifest (digest, media_type) VALUES ('x', ?)", "x".repeat(1_000_000));
    const { code, message } = refusal(() => explainSqlite(catalogue.path, fill));
    expect(code).toBe("failed");
    expect(message).toContain("no space is left on the device");
  });

  test("calls a damaged database damaged", () => {
    using catalogue = new TemporaryCatalogue();
    catalogue.db.query("PRAGMA wal_checkpoint(TRUNCATE)").all();
    const [{ page }] = catalogue.rows("SELECT rootpage AS page FROM sqlite_master WHERE name = 'manifest'") as [
      { page: number },
    ];
    const bytes = readFileSync(catalogue.path);
    writeFileSync(catalogue.path, bytes.fill(0xff, (page - 1) * 4096, page * 4096));
    const look = () => {
      using db = new Database(catalogue.path, { readonly: true });
      return db.query("SELECT * FROM manifest").all();
    };
    const { code, message } = refusal(() => explainSqlite(catalogue.path, look));
    expect(code).toBe("damaged");
    expect(message).toContain("it is damaged");
  });
});

describe("explainSqlite", () => {
  test("returns what the work returned", () => {
    expect(explainSqlite("/db", () => 5)).toBe(5);
  });
});

describe("BatchSize", () => {
  test("grows fourfold at most, and no further than it may, while transactions are short", () => {
    using catalogue = new TemporaryCatalogue();
    const batches = new BatchSize(100, 2000);
    // A machine that stalls may take long for nothing, and is asked again.
    for (let before = 100; batches.size < 2000; before = batches.size) {
      expect(batches.run(catalogue.db, before, () => "done")).toBe("done");
      expect(batches.size).toBeLessThanOrEqual(4 * before);
    }
    expect(batches.size).toBe(2000);
  });

  test("starts no larger than it may grow", () => {
    expect(new BatchSize(5000, 2000).size).toBe(2000);
  });

  test("learns nothing from a batch that was not full, however long it takes", () => {
    using catalogue = new TemporaryCatalogue();
    const batches = new BatchSize(100, 500);
    batches.run(catalogue.db, 99, () => Bun.sleepSync(120));
    expect(batches.size).toBe(100);
    batches.run(catalogue.db, 1, () => {});
    expect(batches.size).toBe(100);
  });

  test("shrinks to what gets done in time, but not to nothing", () => {
    using catalogue = new TemporaryCatalogue();
    const batches = new BatchSize(100, 500);
    batches.run(catalogue.db, batches.size, () => Bun.sleepSync(120));
    expect(batches.size).toBeLessThanOrEqual(50);
    batches.run(catalogue.db, batches.size, () => Bun.sleepSync(400));
    expect(batches.size).toBe(20);
  });

  test("does not count the wait for another's transaction", async () => {
    using catalogue = new TemporaryCatalogue();
    const holder = `
      import { Database } from "bun:sqlite";
      const db = new Database(process.argv[1]);
      db.run("BEGIN IMMEDIATE");
      console.log("holds");
      await Bun.sleep(1000);
      db.run("COMMIT");`;
    const child = Bun.spawn([process.execPath, "-e", holder, catalogue.path], { stdout: "pipe" });
    await child.stdout.getReader().read();
    const batches = new BatchSize(100, 500);
    batches.run(catalogue.db, batches.size, () => {});
    // With the wait it would be 20.
    expect(batches.size).toBeGreaterThan(20);
    await child.exited;
  });
});
