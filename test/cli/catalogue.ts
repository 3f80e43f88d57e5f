import { Database, type SQLQueryBindings } from "bun:sqlite";
import { existsSync, lstatSync, mkdirSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import schema from "../../src/db/schema.sql" with { type: "text" };

/** The `n`th digest of the tests. */
export function digest(n: number): string {
  return `sha256:${n.toString(16).padStart(64, "0")}`;
}

/** Where a home's database is. */
export function databaseOf(home: string): string {
  return join(home, "db", "msb.db");
}

interface ImageRows {
  /** Null leaves the manifest untagged. */
  reference: string | null;
  manifest: string;
  created?: string | null;
  used?: string | null;
  size?: bigint | number | null;
  labels?: string;
}

/** A home's database, written to and read from without larder. */
export class Catalogue {
  readonly db: Database;

  private constructor(path: string) {
    this.db = new Database(path, { readwrite: true, create: true, strict: true, safeIntegers: true });
    this.db.run("PRAGMA busy_timeout = 5000");
  }

  /** Makes a home with an empty catalogue, as msb 0.4.4 leaves it. */
  static create(home: string): Catalogue {
    mkdirSync(dirname(databaseOf(home)), { recursive: true });
    const catalogue = new Catalogue(databaseOf(home));
    catalogue.db.run("PRAGMA journal_mode = WAL");
    catalogue.db.run(schema);
    return catalogue;
  }

  static open(home: string): Catalogue {
    if (!existsSync(databaseOf(home))) throw new Error(`no database in ${home}`);
    return new Catalogue(databaseOf(home));
  }

  /** Puts an image on record: a name, and its manifest with one config where no such manifest is yet. */
  image({
    reference,
    manifest,
    created = "2026-01-02 03:04:05",
    used = created,
    size = 4096,
    labels,
  }: ImageRows): void {
    const inserted = this.db
      .query(
        `INSERT INTO manifest (digest, media_type, config_digest, architecture, os, layer_count, total_size_bytes, created_at)
         VALUES (?, 'application/vnd.oci.image.manifest.v1+json', ?, 'amd64', 'linux', 0, ?, ?)
         ON CONFLICT DO NOTHING`,
      )
      .run(manifest, digest(0xc0), size, created);
    const [{ id }] = this.rows("SELECT id FROM manifest WHERE digest = ?", manifest) as [{ id: bigint }];
    if (inserted.changes > 0)
      this.db
        .query("INSERT INTO config (manifest_id, digest, labels) VALUES (?, ?, ?)")
        .run(id, digest(0xc0), labels ?? null);
    if (reference === null) return;
    this.db
      .query("INSERT INTO image_ref (reference, manifest_id, created_at, updated_at) VALUES (?, ?, ?, ?)")
      .run(reference, id, created, used);
  }

  // biome-ignore lint/suspicious/noExplicitAny: a test reads the columns that its own SQL names
  rows(sql: string, ...values: SQLQueryBindings[]): any[] {
    return this.db.query(sql).all(...values);
  }

  /** What SQLite itself says of the file: `ok`, and no foreign key without its row. */
  check(): unknown[] {
    return [...this.rows("PRAGMA integrity_check"), ...this.rows("PRAGMA foreign_key_check")];
  }

  [Symbol.dispose](): void {
    this.db.close(true);
  }
}

/** What `Catalogue.check` returns for a sound database. */
export const SOUND = [{ integrity_check: "ok" }];

interface LayerSpec {
  blob: string;
  diff: string;
  /** Digits, pasted as they are: JSON's numbers have no upper bound, and JavaScript's have. */
  size?: string | null;
  mediaType?: string | null;
}

interface MetadataSpec {
  manifest?: string;
  config?: string;
  layers?: LayerSpec[];
  labels?: Record<string, string>;
  stopSignal?: string | null;
  /** The image's raw config, which makes the file one of msb 0.5.5 and later; without it, it is one of 0.4.4. */
  raw?: object;
}

/** A metadata document as msb writes it: compact, its keys in this order. */
export function metadata(spec: MetadataSpec = {}): string {
  const { manifest = digest(1), config = digest(2), labels = {}, stopSignal = null, raw } = spec;
  const layers = (spec.layers ?? [{ blob: digest(3), diff: digest(4) }]).map(
    ({ blob, diff, size = "100", mediaType = "application/vnd.oci.image.layer.v1.tar+gzip" }) =>
      `{"digest":"${blob}","media_type":${JSON.stringify(mediaType)},"size_bytes":${size},"diff_id":"${diff}"}`,
  );
  const documents = raw ? `"raw_manifest_json":"{}","raw_config_json":${JSON.stringify(JSON.stringify(raw))},` : "";
  const run = {
    env: ["PATH=/bin", "LANG=C"],
    cmd: ["serve", "--all"],
    entrypoint: ["/entry point"],
    working_dir: "/srv",
    user: "app",
    exposed_ports: ["80/tcp"],
    volumes: ["/data"],
    labels,
    stop_signal: stopSignal,
  };
  return `{"manifest_digest":"${manifest}","config_digest":"${config}",${documents}"config":${JSON.stringify(run)},"layers":[${layers.join(",")}]}`;
}

/**
 * Everything below a folder with its type, mode, owner and content, so that two states can be compared. The content is
 * read by another process: closing a file here would drop the locks that SQLite holds on it for an open `Catalogue`.
 */
export function snapshot(folder: string): Record<string, string> {
  const found: Record<string, string> = {};
  if (!existsSync(folder)) return found;
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()) {
    const stat = lstatSync(join(folder, name));
    // SQLite keeps locks in the one, also for those who only read; and opening a database makes the other, empty.
    if (name.endsWith("-shm") || (name.endsWith("-wal") && stat.size === 0)) continue;
    found[name] = `${stat.mode.toString(8)} ${stat.uid}:${stat.gid} ${stat.isFile() ? stat.size : ""}`;
  }
  const files = Object.keys(found).filter((name) => found[name]!.startsWith("100"));
  if (files.length === 0) return found;
  const { stdout } = Bun.spawnSync(["sha256sum", "--zero", "--", ...files], { cwd: folder });
  const sums = stdout.toString().split("\0");
  files.forEach((name, i) => {
    found[name] += ` ${sums[i]!.slice(0, 64)}`;
  });
  return found;
}
