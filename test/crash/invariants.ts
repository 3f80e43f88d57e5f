import { Database } from "bun:sqlite";
import { cpSync, existsSync, lstatSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { digestOf } from "../interop/archive.ts";
import { msb } from "../interop/msb.ts";
import { larder } from "../larder.ts";
import { BROKEN_LAYER, DIGESTS, MISLOCATED, metadataName, type Stand } from "./scenario.ts";

// Everything here is worked out from plain SQL and the folder itself, and by nothing of larder's.

/** The catalogue's rows without ids and times, and the digest of every file of the cache but locks, by path. */
export interface State {
  /** Undefined where there is no database, or one without tables. */
  rows: Rows | undefined;
  files: Map<string, string>;
}

interface Rows {
  references: string[][];
  manifests: string[];
  /** Manifest and layer, by position. */
  junctions: string[][];
  layers: string[];
  /** Manifest and what is on record of its config. */
  configs: string[][];
  sizes: string[][];
}

const stem = (digest: string) => digest.replace(":", "_");

/** Reads a home without touching it: the database is copied with its log, and the copy is opened. */
export function readState(stand: Stand): State {
  return { rows: readRows(stand), files: readFiles(stand) };
}

function readRows(stand: Stand): Rows | undefined {
  const folder = join(stand.home, "db");
  if (!existsSync(join(folder, "msb.db"))) return undefined;
  const copy = stand.beside("db-copy");
  rmSync(copy, { recursive: true, force: true });
  cpSync(folder, copy, { recursive: true });
  using db = new Database(join(copy, "msb.db"), { readwrite: true });
  const all = (sql: string) => db.query(sql).values() as string[][];
  const first = (sql: string) => all(sql).map(([value]) => value!);
  const trouble = [
    ...first("PRAGMA integrity_check").filter((line) => line !== "ok"),
    ...all("PRAGMA foreign_key_check"),
  ];
  if (trouble.length > 0) throw new Error(`the database is damaged: ${trouble.join("; ")}`);
  if (first("SELECT name FROM sqlite_master WHERE name = 'manifest'").length === 0) return undefined;
  return {
    references: all(
      "SELECT r.reference, m.digest FROM image_ref r LEFT JOIN manifest m ON m.id = r.manifest_id ORDER BY 1",
    ),
    manifests: first("SELECT digest FROM manifest ORDER BY 1"),
    junctions: all(
      `SELECT m.digest, l.diff_id, j.position FROM manifest_layer j
       LEFT JOIN manifest m ON m.id = j.manifest_id LEFT JOIN layer l ON l.id = j.layer_id ORDER BY 1, 3`,
    ),
    layers: first("SELECT diff_id FROM layer ORDER BY 1"),
    configs: all(
      `SELECT m.digest, c.digest, c.env, c.labels, c.stop_signal FROM config c
       LEFT JOIN manifest m ON m.id = c.manifest_id ORDER BY 1`,
    ),
    sizes: all("SELECT diff_id, erofs_size_bytes FROM layer ORDER BY 1"),
  };
}

// Disks name the place of their cache: it is left out, so that two places can be compared.
function readFiles({ home, root }: Stand): Map<string, string> {
  const cache = join(home, "cache");
  const files = new Map<string, string>();
  const walk = (folder: string) => {
    for (const name of readdirSync(folder).sort()) {
      const path = join(folder, name);
      const stat = lstatSync(path);
      // The cache's own folders are no content; one inside tmp/ is.
      if (stat.isDirectory() && relative(cache, folder) === "tmp") files.set(relative(cache, path), "folder");
      if (stat.isDirectory()) walk(path);
      else if (!name.endsWith(".lock"))
        files.set(relative(cache, path), digestOf(Buffer.from(readFileSync(path, "latin1").replaceAll(root, ""))));
    }
  };
  if (existsSync(cache)) walk(cache);
  return files;
}

/** The catalogue as text, by which two states can be compared. */
export function rowsOf({ rows }: State): string {
  const isEmpty = rows === undefined || (rows.manifests.length === 0 && rows.layers.length === 0);
  return isEmpty ? "nothing" : JSON.stringify(rows);
}

/** The whole state as text. */
export function textOf(state: State): string {
  return JSON.stringify([rowsOf(state), [...state.files]]);
}

// The files that some row needs, by kind of row.
function neededFiles({ rows, files }: State, home: string): Set<string> {
  const needed = new Set<string>();
  if (!rows) return needed;
  for (const [reference] of rows.references) needed.add(`manifests/${metadataName(reference!)}`);
  for (const diffId of rows.layers) needed.add(`layers/${stem(diffId)}.erofs`);
  for (const digest of rows.manifests) {
    needed.add(`fsmeta/${stem(digest)}.erofs`).add(`vmdk/${stem(digest)}.vmdk`);
    const ref = `flat/refs/${stem(digest)}.json`;
    needed.add(ref);
    if (!files.has(ref)) continue;
    const { artifact_digest } = JSON.parse(readFileSync(join(home, "cache", ref), "utf8"));
    needed.add(`flat/blobs/${stem(artifact_digest)}.raw`);
  }
  return needed;
}

// The only files that a command may change although a row needs them, and only a repair does.
const MENDED = [`layers/${stem(BROKEN_LAYER)}.erofs`, `vmdk/${stem(MISLOCATED)}.vmdk`];

/** What must hold of a home at any moment, told from how it was before the command. */
export function expectNothingLost(stand: Stand, before: State, now: State, repairs: boolean): void {
  for (const path of neededFiles(now, stand.home)) {
    const content = before.files.get(path);
    if (content === undefined || now.files.get(path) === content) continue;
    if (repairs && MENDED.includes(path)) continue;
    throw new Error(`a row needs ${path}, and it ${now.files.has(path) ? "has changed" : "is gone"}`);
  }
  const disk = now.files.get(MENDED[1]!);
  if (repairs && disk === undefined) throw new Error("the disk that was to be written anew is gone");
  if (before.rows?.manifests.includes(DIGESTS.pinned) && !now.rows?.manifests.includes(DIGESTS.pinned))
    throw new Error("the image that a snapshot pins is gone");
  const known = new Set(now.rows?.manifests);
  for (const [reference, digest] of now.rows?.references ?? [])
    if (!known.has(digest!)) throw new Error(`${reference} names an image that is not on record`);
}

/** What a command printed as done must be done. */
export function expectReportedDone(stdout: string, { rows, files }: State, home: string): void {
  if (stdout.trim() === "") return;
  const report = JSON.parse(stdout);
  const names = new Map(rows?.references as [string, string][]);
  const still = (kind: string, what: string) => {
    throw new Error(`${kind} ${what} was reported as gone, and is there`);
  };
  if (Array.isArray(report)) {
    for (const { reference, digest } of report)
      if (names.get(reference) !== digest) throw new Error(`${reference} was reported as on record, and is not`);
    return;
  }
  for (const { reference } of report.removed ?? []) if (names.has(reference)) still("reference", reference);
  for (const reference of report.references ?? []) if (names.has(reference)) still("reference", reference);
  for (const digest of report.manifests ?? []) if (rows?.manifests.includes(digest)) still("manifest", digest);
  for (const diffId of report.layers ?? []) if (rows?.layers.includes(diffId)) still("layer", diffId);
  for (const { path } of report.files ?? []) if (files.has(relative(join(home, "cache"), path))) still("file", path);
}

/** gc then leaves no stray and takes nothing that is needed, and msb lists exactly what is on record. */
export async function expectRecovery(stand: Stand): Promise<void> {
  const { home } = stand;
  const before = readState(stand);
  const gc = await larder(home, "gc", "--grace", "0s");
  // Rule 2a: metadata that the crash left without its rows.
  const again = gc.code === 5 ? await larder(home, "gc", "--grace", "0s", "--sweep-unrecorded") : gc;
  if (gc.code === 5 && !gc.stderr.includes("--sweep-unrecorded")) throw new Error(`gc refused: ${gc.stderr}`);
  if (again.code !== 0) throw new Error(`gc after it exits with ${again.code}: ${again.stderr}`);
  const now = readState(stand);
  expectNothingLost(stand, before, now, false);
  const needed = neededFiles(now, home);
  const strays = [...now.files.keys()].filter((path) => !needed.has(path));
  if (strays.length > 0) throw new Error(`gc after it leaves ${strays.join(", ")}`);
  const { code, stdout, stderr } = await msb(home, "image", "ls", "--format", "json");
  if (code !== 0) throw new Error(`msb cannot list the catalogue: ${stderr}`);
  const listed = JSON.parse(stdout).map(({ reference }: { reference: string }) => reference);
  const onRecord = (now.rows?.references ?? []).map(([reference]) => reference);
  if (listed.sort().join() !== onRecord.sort().join())
    throw new Error(`msb lists ${listed.join(", ")}, and ${onRecord.join(", ")} are on record`);
  // What msb's start wrote in its turn.
  readState(stand);
}
