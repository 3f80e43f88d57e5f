import { Database } from "bun:sqlite";
import { lstatSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { resolveHome } from "../../src/home.ts";
import { closeLarder, type Larder, openOrCreate, openToWrite } from "../../src/larder.ts";
import { canonicalReference } from "../../src/oci/reference.ts";
import { digestOf } from "../interop/archive.ts";
import { TemporaryFolder } from "../larder.ts";

export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** An image to put on record with its files. Ages in milliseconds before now; a negative one lies in the future. */
export interface StoreImage {
  /** None for an untagged image. */
  names?: string[];
  /** Names its digest; its first name if not given. */
  seed?: string;
  used?: number;
  created?: number;
  /** Layers by name, bottom to top, with their sizes in bytes. Equal names are one layer, whichever image has it. */
  layers?: Record<string, number>;
  /** Age of the layers' last use; that of the image if not given. */
  layersUsed?: number;
  /** Age of its files by their times. */
  filesAge?: number;
  /** Rows alone, for tests that need many. */
  bare?: boolean;
}

/** A home on the disk, with rows and files as msb leaves them: a store to prune, and to account for. */
export class Store implements Disposable {
  private readonly folder = new TemporaryFolder();
  readonly home = this.folder.path;
  readonly cache = join(this.home, "cache");
  /** A connection of its own, as another process has one. */
  readonly db: Database;

  constructor() {
    closeLarder(openOrCreate(resolveHome(this.home, {})));
    // As msb makes it at its first start: what has none of its folders is no cache.
    mkdirSync(join(this.cache, "layers"));
    this.db = new Database(join(this.home, "db", "msb.db"), { readwrite: true, create: false });
    this.db.run("PRAGMA busy_timeout = 5000");
    this.db.run("PRAGMA foreign_keys = ON");
  }

  [Symbol.dispose](): void {
    this.db.close();
    this.folder[Symbol.dispose]();
  }

  /** Opens the home to change it, as a command does; the caller closes it with `using`. */
  open(): { larder: Larder } & Disposable {
    const larder = openToWrite(resolveHome(this.home, {}))!;
    return { larder, [Symbol.dispose]: () => closeLarder(larder) };
  }

  /** Puts an image on record and its files in the cache; returns its digest. */
  image({ names = [], seed = names[0] ?? "untagged", used = 30 * DAY, created = used, ...rest }: StoreImage): string {
    const { layers = { [`${seed}-layer`]: 8192 }, layersUsed = used, filesAge = DAY } = rest;
    const digest = digestOf(Buffer.from(`manifest ${seed}`));
    const add = this.db.transaction(() => {
      const manifest = this.insert("manifest", {
        digest,
        config_digest: digestOf(Buffer.from(`config ${seed}`)),
        architecture: "amd64",
        os: "linux",
        layer_count: Object.keys(layers).length,
        total_size_bytes: 1,
        created_at: this.ago(created),
      });
      this.insert("config", { manifest_id: manifest, digest: digestOf(Buffer.from(`config ${seed}`)), env: "[]" });
      Object.keys(layers).forEach((name, position) => {
        this.insert("manifest_layer", { manifest_id: manifest, layer_id: this.layer(name, layersUsed), position });
      });
      for (const reference of names) {
        const times = { created_at: this.ago(created), updated_at: this.ago(used) };
        this.insert("image_ref", { reference, manifest_id: manifest, ...times });
      }
    });
    add.immediate();
    if (rest.bare) return digest;
    for (const [name, size] of Object.entries(layers)) this.file(this.layerPath(name), size, filesAge);
    this.file(this.fsmetaPath(digest), 4096, filesAge);
    this.file(this.vmdkPath(digest), 600, filesAge);
    for (const name of names) this.file(this.metadataPath(name), metadata(digest, seed, Object.keys(layers)), filesAge);
    return digest;
  }

  /** A second name of an image that is on record. */
  alias(digest: string, reference: string, used = 30 * DAY, created = used): void {
    const { id } = this.db.query<{ id: number }, [string]>("SELECT id FROM manifest WHERE digest = ?").get(digest)!;
    const times = { created_at: this.ago(created), updated_at: this.ago(used) };
    this.insert("image_ref", { reference, manifest_id: id, ...times });
    this.file(this.metadataPath(reference), metadata(digest, digest, []), DAY);
  }

  private layer(name: string, used: number): number {
    const diffId = layerDigest(name);
    const known = this.db.query<{ id: number }, [string]>("SELECT id FROM layer WHERE diff_id = ?").get(diffId);
    const times = { created_at: this.ago(used), last_used_at: this.ago(used) };
    return known?.id ?? this.insert("layer", { diff_id: diffId, blob_digest: diffId, ...times });
  }

  private insert(table: string, row: Record<string, string | number | null>): number {
    const columns = Object.keys(row);
    const sql = `INSERT INTO ${table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")}) RETURNING id`;
    return this.db.query<{ id: number }, (string | number | null)[]>(sql).get(...Object.values(row))!.id;
  }

  /** A moment in the past as msb writes it: UTC, no zone, nine digits. */
  ago(age: number): string {
    return `${new Date(Date.now() - age).toISOString().replace("T", " ").replace("Z", "")}000000`;
  }

  /** A file of this size or content under the cache, `age` old; returns its path. */
  file(path: string, content: number | string, age = DAY): string {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, typeof content === "number" ? Buffer.alloc(content, path) : content);
    const seconds = (Date.now() - age) / 1000;
    utimesSync(path, seconds, seconds);
    return path;
  }

  /** A sandbox whose virtual machine has booted: the row that names its image is there. */
  pinBySandbox(name: string, digest: string): void {
    const sandbox = this.insert("sandbox", { name, config: "{}", status: "running" });
    const { id } = this.db.query<{ id: number }, [string]>("SELECT id FROM manifest WHERE digest = ?").get(digest)!;
    this.insert("sandbox_rootfs", { sandbox_id: sandbox, manifest_id: id, mode: "layers" });
  }

  /** A sandbox that is about to boot: only its configuration names the image. */
  pinByConfig(name: string, digest: string): void {
    const config = JSON.stringify({ name, image: { Oci: { reference: "x", manifest_digest: digest } } });
    this.insert("sandbox", { name, config, status: "starting" });
  }

  pinBySnapshot(name: string, digest: string): void {
    this.db
      .query(
        `INSERT INTO snapshot_index
           (digest, name, image_ref, image_manifest_digest, format, fstype, artifact_path, created_at, indexed_at)
         VALUES (?, ?, 'x', ?, 'raw', 'ext4', ?, ?, ?)`,
      )
      .run(digestOf(Buffer.from(name)), name, digest, `/snapshots/${name}`, this.ago(DAY), this.ago(DAY));
  }

  layerPath(name: string): string {
    return join(this.cache, "layers", `${stem(layerDigest(name))}.erofs`);
  }

  fsmetaPath(digest: string): string {
    return join(this.cache, "fsmeta", `${stem(digest)}.erofs`);
  }

  vmdkPath(digest: string): string {
    return join(this.cache, "vmdk", `${stem(digest)}.vmdk`);
  }

  metadataPath(reference: string): string {
    const key = digestOf(Buffer.from(canonicalReference(reference))).slice("sha256:".length);
    return join(this.cache, "manifests", `${key}.json`);
  }

  /** A flat root: a sparse blob that the refs of these manifests name; returns the blob's path. */
  flat(seed: string, digests: string[], age = DAY): string {
    const artifact = digestOf(Buffer.from(`artifact ${seed}`));
    const blob = this.file(join(this.cache, "flat", "blobs", `${stem(artifact)}.raw`), 4096, age);
    truncateTo(blob, 256 * 1024 * 1024, age);
    for (const digest of digests) {
      const ref = {
        schema: 1,
        manifest_digest: digest,
        derivation_digest: digestOf(Buffer.from(`derivation ${seed}`)),
        artifact_digest: artifact,
        virtual_size_bytes: 256 * 1024 * 1024,
      };
      this.file(join(this.cache, "flat", "refs", `${stem(digest)}.json`), JSON.stringify(ref), age);
    }
    return blob;
  }

  references(): string[] {
    return this.db
      .query<{ reference: string }, []>("SELECT reference FROM image_ref ORDER BY reference")
      .all()
      .map(({ reference }) => reference);
  }

  count(table: string): number {
    return this.db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()!.n;
  }

  /** Everything in the home that a command could change: each file's path, size and times, and every row. */
  picture(): string {
    const tables = ["manifest", "image_ref", "config", "layer", "manifest_layer", "sandbox", "snapshot_index"];
    const rows = tables.map((table) => JSON.stringify(this.db.query(`SELECT * FROM ${table}`).all()));
    const files = filesUnder(this.cache).map((path) => {
      const { size, mtimeMs, ino } = lstatSync(path);
      return `${path} ${size} ${mtimeMs} ${ino}`;
    });
    return [...rows, ...files].join("\n");
  }
}

function truncateTo(path: string, length: number, age: number): void {
  Bun.spawnSync(["truncate", "-s", String(length), path]);
  const seconds = (Date.now() - age) / 1000;
  utimesSync(path, seconds, seconds);
}

/** The diff ID of a layer by the name that a case gives it. */
export function layerDigest(name: string): string {
  return digestOf(Buffer.from(`layer ${name}`));
}

/** A digest as file names hold it. */
export function stem(digest: string): string {
  return digest.replace(":", "_");
}

function metadata(digest: string, seed: string, layers: string[]): string {
  return JSON.stringify({
    manifest_digest: digest,
    config_digest: digestOf(Buffer.from(`config ${seed}`)),
    raw_manifest_json: "{}",
    raw_config_json: "{}",
    config: { env: [], exposed_ports: [], volumes: [], labels: {} },
    layers: layers.map((name) => ({ digest: layerDigest(name), size_bytes: 1, diff_id: layerDigest(name) })),
  });
}

/** Every file below a folder that is no folder itself, sorted. */
export function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/**
 * Blocks on the disk of everything in a cache, in bytes, each inode once. The cache's own folders are not part of
 * the account, and what is made inside `tmp/` is.
 */
export function allocatedIn(cache: string): number {
  const seen = new Set<string>();
  const walk = (path: string): number => {
    const { dev, ino, blocks } = lstatSync(path);
    if (seen.has(`${dev}:${ino}`)) return 0;
    seen.add(`${dev}:${ino}`);
    if (!lstatSync(path).isDirectory()) return blocks * 512;
    return readdirSync(path).reduce(
      (sum, name) => sum + walk(join(path, name)),
      OWN_FOLDERS.has(path) ? 0 : blocks * 512,
    );
  };
  const OWN_FOLDERS = new Set(
    ["", "manifests", "layers", "fsmeta", "vmdk", "flat", "flat/refs", "flat/blobs", "flat/locks", "tmp"].map((name) =>
      join(cache, name),
    ),
  );
  return walk(cache);
}
