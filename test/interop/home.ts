import { Database } from "bun:sqlite";
import { existsSync, lutimesSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { build, digestOf, type ImageSpec } from "./archive.ts";

// What a home holds, and what it ought to hold. The second is worked out from the specs alone, so that it can be held
// against what msb or larder left behind.

/** The rows of a catalogue by what they mean, without ids and times. */
export interface Rows {
  /** Manifest digest by reference as typed. */
  references: Record<string, string>;
  /** Diff IDs, bottom to top, by manifest digest. */
  manifests: Record<string, string[]>;
  /** Config digest by manifest digest. */
  configs: Record<string, string>;
  /** Diff IDs, sorted. */
  layers: string[];
}

/** The rows that these images need, named by their tags; `untagged` are manifests without a name. */
export function rowsOf(images: ImageSpec[], untagged: ImageSpec[] = []): Rows {
  const rows: Rows = { references: {}, manifests: {}, configs: {}, layers: [] };
  const diffIds = new Set<string>();
  for (const spec of [...images, ...untagged]) {
    const { manifest, config, layers } = build(spec);
    if (!untagged.includes(spec)) for (const tag of spec.tags) rows.references[tag] = manifest.digest;
    rows.manifests[manifest.digest] = layers.map(({ diffId }) => diffId);
    rows.configs[manifest.digest] = config.digest;
    for (const { diffId } of layers) diffIds.add(diffId);
  }
  rows.layers = [...diffIds].sort();
  return rows;
}

/** The files that these images need, as `readFiles` returns them. */
export function filesOf(images: ImageSpec[], untagged: ImageSpec[] = []): string[] {
  const files = new Set(images.flatMap(({ tags }) => tags.map((tag) => `manifests/${keyOf(tag)}.json`)));
  for (const spec of [...images, ...untagged]) for (const file of artifactsOf(spec)) files.add(file);
  return [...files].sort();
}

/** The artifacts of one image, its layers last. */
export function artifactsOf(spec: ImageSpec): string[] {
  const { manifest, layers } = build(spec);
  const stem = manifest.digest.replace(":", "_");
  return [`fsmeta/${stem}.erofs`, `vmdk/${stem}.vmdk`, ...layers.map(({ diffId }) => layerFile(diffId))];
}

/** A layer's file in the cache. */
export function layerFile(diffId: string): string {
  return `layers/${diffId.replace(":", "_")}.erofs`;
}

/** The key of a reference's metadata file. */
export function keyOf(reference: string): string {
  return digestOf(Buffer.from(canonicalOf(reference))).slice("sha256:".length);
}

/** The canonical form of the few kinds of reference that the interop tests use. */
export function canonicalOf(reference: string): string {
  const name = reference.includes("/") ? reference : `docker.io/library/${reference}`;
  return /:[^/]*$/.test(name) ? name : `${name}:latest`;
}

/** Opens a home's catalogue to look at, or to change behind everybody's back. */
export function openCatalogue(home: string): Database {
  const db = new Database(join(home, "db", "msb.db"), { readwrite: true, create: false });
  db.run("PRAGMA busy_timeout = 5000");
  db.run("PRAGMA foreign_keys = ON");
  return db;
}

/** Changes a home's catalogue by one statement. */
export function change(home: string, sql: string, ...values: (string | number | null)[]): void {
  using db = openCatalogue(home);
  db.prepare(sql).run(...values);
}

/** Reads one query from a home's catalogue. */
export function select<T>(home: string, sql: string): T[] {
  using db = openCatalogue(home);
  return db.prepare<T, []>(sql).all();
}

export function readRows(home: string): Rows {
  using db = openCatalogue(home);
  const rows: Rows = { references: {}, manifests: {}, configs: {}, layers: [] };
  for (const { digest } of db.query<{ digest: string }, []>("SELECT digest FROM manifest").all())
    rows.manifests[digest] = [];
  const references = db.query<{ reference: string; digest: string }, []>(
    "SELECT r.reference, m.digest FROM image_ref AS r LEFT JOIN manifest AS m ON m.id = r.manifest_id",
  );
  for (const { reference, digest } of references.all()) rows.references[reference] = digest;
  const junctions = db.query<{ digest: string; diff_id: string }, []>(
    `SELECT m.digest, l.diff_id
     FROM manifest_layer AS j
     LEFT JOIN manifest AS m ON m.id = j.manifest_id
     LEFT JOIN layer AS l ON l.id = j.layer_id
     ORDER BY j.position`,
  );
  for (const { digest, diff_id } of junctions.all()) rows.manifests[digest]!.push(diff_id);
  const configs = db.query<{ manifest: string; config: string }, []>(
    "SELECT m.digest AS manifest, c.digest AS config FROM config AS c LEFT JOIN manifest AS m ON m.id = c.manifest_id",
  );
  for (const { manifest, config } of configs.all()) rows.configs[manifest] = config;
  rows.layers = db
    .query<{ diff_id: string }, []>("SELECT diff_id FROM layer ORDER BY diff_id")
    .all()
    .map(({ diff_id }) => diff_id);
  return rows;
}

/** Every file in the cache but locks, by its path from there, sorted. */
export function readFiles(home: string): string[] {
  return entriesOf(home).filter((path) => !path.endsWith(".lock"));
}

/** Every lock file in the cache, by its path from there, sorted. */
export function readLocks(home: string): string[] {
  return entriesOf(home).filter((path) => path.endsWith(".lock"));
}

function entriesOf(home: string): string[] {
  const cache = join(home, "cache");
  if (!existsSync(cache)) return [];
  return readdirSync(cache, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(home.length + "/cache/".length))
    .sort();
}

/** What is wrong with a catalogue and its cache, a sentence each: what SQLite finds, and rows whose files are gone. */
export function problems(home: string): string[] {
  const files = new Set(readFiles(home));
  using db = openCatalogue(home);
  const integrity = db.query<{ integrity_check: string }, []>("PRAGMA integrity_check").all();
  return [
    ...integrity.map((row) => row.integrity_check).filter((line) => line !== "ok"),
    ...db
      .query<{ table: string; parent: string }, []>("PRAGMA foreign_key_check")
      .all()
      .map(({ table, parent }) => `a row of ${table} has no ${parent}`),
    ...db
      .query<{ diff_id: string }, []>("SELECT DISTINCT diff_id FROM layer JOIN manifest_layer ON layer_id = layer.id")
      .all()
      .filter(({ diff_id }) => !files.has(layerFile(diff_id)))
      .map(({ diff_id }) => `layer ${diff_id} has no file`),
  ];
}

/** Writes a file into a home's cache. */
export function plant(home: string, path: string, content: string | Uint8Array = "planted"): void {
  const full = join(home, "cache", path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, content);
}

/** Makes everything in a home's cache an hour old, which is past any grace that larder gives by itself. */
export function age(home: string): void {
  const hourAgo = Date.now() / 1000 - 3600;
  const cache = join(home, "cache");
  for (const path of readdirSync(cache, { recursive: true, encoding: "utf8" }))
    lutimesSync(join(cache, path), hourAgo, hourAgo);
}

/** Length of a file in a home's cache. */
export function lengthOf(home: string, path: string): number {
  return statSync(join(home, "cache", path)).size;
}

/** Puts a sandbox on record, as one that booted from an image when `image` is given. */
export function addSandbox(home: string, name: string, image?: ImageSpec, config: object = {}): void {
  change(home, "INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'Stopped')", name, JSON.stringify(config));
  if (!image) return;
  change(
    home,
    `INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode)
     SELECT s.id, m.id, 'layered' FROM sandbox AS s, manifest AS m WHERE s.name = ? AND m.digest = ?`,
    name,
    build(image).manifest.digest,
  );
}

/** Indexes a snapshot of an image, as msb 0.6 does. */
export function indexSnapshot(home: string, name: string, image: ImageSpec): void {
  change(
    home,
    `INSERT INTO snapshot_index (digest, name, scope, state_kind, image_ref, image_manifest_digest, artifact_path, created_at, indexed_at)
     VALUES (?, ?, 'disk', 'disk', ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
    digestOf(Buffer.from(name)),
    name,
    image.tags[0] ?? "",
    build(image).manifest.digest,
    join(home, "snapshots", name),
  );
}

/** Writes a snapshot's descriptor, which is all that larder reads of it. */
export function writeSnapshot(home: string, name: string, image: ImageSpec): void {
  const folder = join(home, "snapshots", name);
  mkdirSync(folder, { recursive: true });
  const { digest } = build(image).manifest;
  const descriptor = { schema: 1, image: { reference: image.tags[0], manifest_digest: digest } };
  writeFileSync(join(folder, "snapshot.json"), JSON.stringify(descriptor));
}
