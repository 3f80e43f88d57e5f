import type { Database } from "bun:sqlite";
import { LarderError } from "../error.ts";

// To compare each row of a table with its indexes takes SQLite 0.3 s at 20,000 images of 12 layers. What is decided over
// the largest tables is asked twice instead, of the table (NOT INDEXED) and of an index, and nothing goes that either of
// them still needs. Their rows and entries are only counted.
const LAYERS = ["layer", "manifest_layer"];
const NAMES = ["image_ref", "manifest"];
const PINS = ["sandbox", "sandbox_rootfs", "snapshot_index"];

/**
 * Throws `damaged` where the database file is damaged. For what decides over the whole catalogue which files to delete;
 * it reads all of the database, 0.1 s at 20,000 images, and keeps no writer waiting.
 */
export function refuseDamaged(db: Database, path: string): void {
  refuse(path, check(db, "quick_check(1)"));
  for (const table of [...PINS, ...NAMES]) refuse(path, check(db, `integrity_check(${table})`));
  for (const table of LAYERS) refuse(path, findUncounted(db, table));
}

/** The same for a removal of a few images, which asks twice who else has their names and layers: in a tenth of the time. */
export function refuseDamagedTables(db: Database, path: string): void {
  for (const table of PINS) refuse(path, check(db, `integrity_check(${table})`));
  for (const table of [...NAMES, ...LAYERS]) refuse(path, findUncounted(db, table));
}

function check(db: Database, pragma: string): string | undefined {
  const [found] = Object.values(db.query<Record<string, string>, []>(`PRAGMA ${pragma}`).get()!);
  return found === "ok" ? undefined : found;
}

// An index that has lost the entry of a row lets the next writer make the same row again.
function findUncounted(db: Database, table: string): string | undefined {
  const count = (how: string) => db.query<{ n: bigint }, []>(`SELECT count(*) AS n FROM ${table} ${how}`).get()!.n;
  const rows = count("NOT INDEXED");
  const short = db
    .query<{ name: string }, [string]>("SELECT name FROM pragma_index_list(?) WHERE NOT partial")
    .all(table)
    .find(({ name }) => count(`INDEXED BY "${name}"`) !== rows);
  return short && `index ${short.name} has not as many entries as table ${table} has rows`;
}

function refuse(path: string, damage: string | undefined): void {
  if (damage === undefined) return;
  throw new LarderError(
    "damaged",
    `nothing was deleted, because the database "${path}" is damaged: ${damage.replace(/^\*\*\*.*\*\*\*\n/, "").replaceAll("\n", "; ")} (restore it from a backup)`,
  );
}

/**
 * Throws `damaged` where an image lacks the row of a layer, or fewer layers are on record than it counts: that layer's
 * file would look like nobody's. `leaving` are the row ids of manifests that go, and so need nothing any more.
 */
export function refuseLostLayers(db: Database, path: string, leaving: number[] = []): void {
  const lost = db
    .query<{ digest: unknown }, [string]>(
      `WITH leaving (id) AS MATERIALIZED (SELECT value FROM json_each(?))
       SELECT m.digest AS digest
       FROM manifest AS m
       WHERE m.id NOT IN (SELECT id FROM leaving)
         AND m.layer_count > (SELECT count(*) FROM manifest_layer AS j WHERE j.manifest_id = m.id)
       UNION ALL
       SELECT m.digest
       FROM manifest_layer AS j
       JOIN manifest AS m ON m.id = j.manifest_id
       WHERE j.layer_id NOT IN (SELECT id FROM layer)
         AND m.id NOT IN (SELECT id FROM leaving)
       LIMIT 1`,
    )
    .get(JSON.stringify(leaving));
  if (lost === null) return;
  throw new LarderError(
    "damaged",
    `nothing was deleted, because the database "${path}" lacks a layer of ${lost.digest} (\`larder check --repair\` rebuilds it, or remove that image)`,
  );
}
