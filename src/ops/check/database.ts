import type { Database } from "bun:sqlite";
import { migrationHistory } from "../../db/open.ts";
import { type Problem, problem } from "./problem.ts";

/** What SQLite itself finds: a damaged file, rows whose parent is gone, a history that msb would not accept. */
export function* checkDatabase(db: Database): Generator<Problem> {
  for (const { integrity_check } of db.query<{ integrity_check: string }, []>("PRAGMA integrity_check").all()) {
    if (integrity_check !== "ok") yield problem("database-corrupt", "database", integrity_check);
  }
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
