import type { Database } from "bun:sqlite";
import { LarderError } from "../error.ts";
import { layersWithoutDigest } from "./layers.ts";

// What is named and what is pinned: each row is compared with its indexes.
const COMPARED = ["image_ref", "manifest", "sandbox", "sandbox_rootfs", "snapshot_index"];

/**
 * Throws `damaged` where pages of the database file are damaged, or an index says other than its table does, of what is
 * named and what is pinned, or ids are too large. For what deletes files; it reads all of the database, 0.1 s at 20,000
 * images of 12 layers, and keeps no writer waiting.
 *
 * To compare the rows of `layer` and `manifest_layer` with their indexes would take three times as long as all the rest, so
 * of those only pages and counts are looked at. An index of theirs may then say other than its table does: who needs a
 * layer is asked of the table by the plan (`unneededLayers`, `layersOnlyOf`) and of the index by what applies it
 * (`deleteOrphans`), and nothing goes that either of them still needs.
 */
export function refuseDamage(db: Database, path: string): void {
  refuseUnlessOk(db, path, "quick_check(1)");
  for (const table of COMPARED) refuseUnlessOk(db, path, `integrity_check(${table})`);
  const inexact = findInexactIds(db);
  if (inexact !== undefined) refuse(path, inexact);
}

/** Where rows are that larder would take for others, or undefined: as numbers, ids beyond 2^53 are not exact. */
export function findInexactIds(db: Database): string | undefined {
  const found = db
    .query<{ name: string }, [number]>(
      `SELECT 'manifest' AS name FROM manifest WHERE id > ?1 OR id < -?1
       UNION ALL
       SELECT 'image_ref' FROM image_ref WHERE id > ?1 OR id < -?1
       UNION ALL
       SELECT 'layer' FROM layer WHERE id > ?1 OR id < -?1
       LIMIT 1`,
    )
    .get(Number.MAX_SAFE_INTEGER);
  return found ? `table ${found.name} has row ids beyond 2^53` : undefined;
}

function refuseUnlessOk(db: Database, path: string, check: string): void {
  const [found] = Object.values(db.query<Record<string, string>, []>(`PRAGMA ${check}`).get()!);
  if (found !== "ok") refuse(path, found!);
}

function refuse(path: string, damage: string): never {
  throw new LarderError(
    "damaged",
    `nothing was deleted, because the database "${path}" is damaged: ${damage.replace(/^\*\*\*.*\*\*\*\n/, "").replaceAll("\n", "; ")} (restore it from a backup)`,
  );
}

/** Throws `damaged` where the rows of a layer are lost; see `findLostLayer`. */
export function refuseLostLayers(db: Database, path: string, leaving: number[] = []): void {
  const digest = findLostLayer(db, leaving);
  if (digest !== undefined) refuseFor(path, `lacks a layer of ${digest}`);
}

/** Throws `damaged` where nothing tells which file a layer is; see `findUnnamedLayer`. */
export function refuseUnnamedLayers(db: Database, path: string, leaving: number[] = []): void {
  const digest = findUnnamedLayer(db, leaving);
  if (digest !== undefined) refuseFor(path, `has a layer of ${digest} by a diff ID that is no digest`);
}

function refuseFor(path: string, damage: string): never {
  throw new LarderError(
    "damaged",
    `no file was deleted, because the database "${path}" ${damage} (\`larder check --repair\` rebuilds it, or remove that image)`,
  );
}

/**
 * The digest of an image that lacks the row of a layer, or has fewer layers on record than it counts; undefined where
 * there is none. That layer's file would look like nobody's. `leaving` are the row ids of manifests that go, and so need
 * nothing any more.
 */
export function findLostLayer(db: Database, leaving: number[] = []): string | undefined {
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
  return lost === null ? undefined : String(lost.digest);
}

/** The same of an image that has a layer by a diff ID that is no digest. */
export function findUnnamedLayer(db: Database, leaving: number[]): string | undefined {
  const unnamed = layersWithoutDigest(db);
  if (unnamed.length === 0) return undefined;
  const damaged = db
    .query<{ digest: unknown }, [string, string]>(
      `SELECT m.digest AS digest
       FROM manifest_layer AS j
       JOIN manifest AS m ON m.id = j.manifest_id
       WHERE j.layer_id IN (SELECT value FROM json_each(?))
         AND m.id NOT IN (SELECT value FROM json_each(?))
       LIMIT 1`,
    )
    .get(JSON.stringify(unnamed), JSON.stringify(leaving));
  return damaged === null ? undefined : String(damaged.digest);
}
