import type { Database } from "bun:sqlite";
import { findInexactIds } from "../../db/integrity.ts";
import { migrationHistory } from "../../db/open.ts";
import { type Problem, problem } from "./problem.ts";

/** What SQLite itself finds: a damaged file, ids too large, rows whose parent is gone, a history that msb would not accept. */
export function* checkDatabase(db: Database): Generator<Problem> {
  const found = db.query<{ integrity_check: string }, []>("PRAGMA integrity_check").all();
  const damage = found.filter(({ integrity_check }) => integrity_check !== "ok");
  for (const { integrity_check } of damage) yield problem("database-corrupt", "database", integrity_check);
  const inexact = damage.length === 0 ? findInexactIds(db) : undefined;
  if (inexact !== undefined) yield problem("database-corrupt", "database", inexact);
  const orphans = db
    .query<{ table: string; rowid: bigint | null; parent: string }, []>("PRAGMA foreign_key_check")
    .all();
  for (const { table, rowid, parent } of orphans) {
    yield problem("foreign-key", `${table} row ${rowid}`, `its ${parent} row does not exist`);
  }
  const history = migrationHistory(db);
  if (history !== "there")
    yield problem("migrations-missing", "seaql_migrations", `the migration history is ${history}`);
}

/** Whether the file itself is damaged, so that nothing may be concluded from it, still less deleted. */
export function isCorrupt(problems: Problem[]): boolean {
  return problems.some(({ code }) => code === "database-corrupt" || code === "schema-unknown");
}
