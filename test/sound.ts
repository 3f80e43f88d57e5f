import { Database } from "bun:sqlite";
import { lstatSync, readdirSync, readFileSync, readlinkSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build, digestOf, type Image, type ImageSpec } from "./interop/archive.ts";
import { load } from "./interop/msb.ts";
import { larderJson, TemporaryFolder } from "./larder.ts";

const BASE = { files: { "etc/os-release": "ID=base\n", "bin/sh": "#!" } };

/** The images of a sound home: two that share a layer, and one whose root is flat. */
export const SPECS = {
  one: {
    tags: ["one:1"],
    layers: [BASE, { files: { one: "1" } }],
    config: { env: ["A=1"], cmd: ["sh"], labels: { team: "web" }, stopSignal: "SIGINT" },
    architecture: "arm64",
    variant: "v8",
  },
  two: { tags: ["two:1"], layers: [BASE, { files: { two: "2" } }] },
  flat: { tags: ["flat:1"], layers: [{ files: { flat: "3" } }] },
} satisfies Record<string, ImageSpec>;

/** The same images, built. */
export const IMAGES = {
  one: build(SPECS.one),
  two: build(SPECS.two),
  flat: build(SPECS.flat),
} satisfies Record<string, Image>;

/** A flat root is an ext4 image that only msb can make; its bytes do not matter to whoever compares digests. */
const FLAT_BLOB = new Uint8Array(8192).fill(7);

/** When everything in a sound home's cache was last written: long before any grace period. */
const HOUR_AGO = new Date(Date.now() - 3_600_000);

/** How msb writes a digest into a file name. */
export function stem(digest: string): string {
  return digest.replace(":", "_");
}

/** A home that msb made and larder mended, in which nothing is wrong. */
export class SoundHome {
  private readonly folder = new TemporaryFolder();

  /** Makes one with the real msb; copies of it are cheap. */
  static async make(): Promise<SoundHome> {
    const home = new SoundHome();
    await load(home.path, Object.values(SPECS));
    const { manifest } = IMAGES.flat;
    for (const file of [home.fsmeta(manifest.digest), home.vmdk(manifest.digest)]) rmSync(file);
    writeFileSync(home.flatBlob(digestOf(FLAT_BLOB)), FLAT_BLOB);
    writeFileSync(home.flatRef(manifest.digest), JSON.stringify(flatRef(manifest.digest)));
    home.age();
    await larderJson(home.path, ["check", "--repair"]);
    return home;
  }

  get path(): string {
    return this.folder.path;
  }

  get database(): string {
    return join(this.path, "db", "msb.db");
  }

  get cache(): string {
    return join(this.path, "cache");
  }

  /** The same home elsewhere; its disks name the files where they lie in the copy. */
  copy(): SoundHome {
    const copy = new SoundHome();
    Bun.spawnSync(["cp", "-a", `${this.path}/.`, copy.path]);
    for (const name of readdirSync(join(copy.cache, "vmdk"))) {
      const path = join(copy.cache, "vmdk", name);
      writeFileSync(path, readFileSync(path, "utf8").replaceAll(this.path, copy.path));
    }
    copy.age();
    return copy;
  }

  /** Makes everything in the cache older than any grace period. */
  age(): void {
    for (const { path } of this.entries()) if (!lstatSync(path).isSymbolicLink()) utimesSync(path, HOUR_AGO, HOUR_AGO);
  }

  layer = (diffId: string) => join(this.cache, "layers", `${stem(diffId)}.erofs`);
  fsmeta = (manifest: string) => join(this.cache, "fsmeta", `${stem(manifest)}.erofs`);
  vmdk = (manifest: string) => join(this.cache, "vmdk", `${stem(manifest)}.vmdk`);
  flatRef = (manifest: string) => join(this.cache, "flat", "refs", `${stem(manifest)}.json`);
  flatBlob = (artifact: string) => join(this.cache, "flat", "blobs", `${stem(artifact)}.raw`);
  /** By canonical reference. */
  metadata = (canonical: string) =>
    join(this.cache, "manifests", `${digestOf(Buffer.from(canonical)).slice("sha256:".length)}.json`);
  get flatBlobPath(): string {
    return this.flatBlob(digestOf(FLAT_BLOB));
  }

  /** Runs statements on the catalogue, unchecked, as damage does. */
  sql(statements: string): void {
    using db = new Database(this.database);
    db.run("PRAGMA foreign_keys = OFF");
    db.run(statements);
  }

  /** Empties a page of an index, which only SQLite's own check can see. */
  corrupt(): void {
    const name = "idx_manifest_layers_manifest_position";
    using db = new Database(this.database, { readonly: true });
    const { rootpage } = db
      .query<{ rootpage: number }, [string]>("SELECT rootpage FROM sqlite_master WHERE name = ?")
      .get(name)!;
    const bytes = readFileSync(this.database);
    // The count of cells, at byte 3 of the page (pages count from 1).
    bytes.writeUInt16BE(0, (rootpage - 1) * bytes.readUInt16BE(16) + 3);
    writeFileSync(this.database, bytes);
  }

  /** Every row of msb's five image tables, by table. */
  rows(): Record<string, unknown[]> {
    using db = new Database(this.database, { readonly: true });
    const tables = ["image_ref", "manifest", "config", "layer", "manifest_layer"];
    return Object.fromEntries(tables.map((table) => [table, db.query(`SELECT * FROM ${table} ORDER BY id`).all()]));
  }

  /** The same without ids and times, which a rebuilt row cannot have again. */
  facts(): unknown[] {
    using db = new Database(this.database, { readonly: true });
    return db
      .query(
        `SELECT r.reference, m.digest, m.config_digest, m.architecture, m.os, m.variant, m.layer_count, m.total_size_bytes,
                c.digest AS config, c.env, c.cmd, c.entrypoint, c.working_dir, c.user, c.labels, c.stop_signal,
                j.position, l.diff_id, l.blob_digest, l.media_type, l.compressed_size_bytes, l.erofs_size_bytes
         FROM image_ref AS r
         LEFT JOIN manifest AS m ON m.id = r.manifest_id
         LEFT JOIN config AS c ON c.manifest_id = m.id
         LEFT JOIN manifest_layer AS j ON j.manifest_id = m.id
         LEFT JOIN layer AS l ON l.id = j.layer_id
         ORDER BY r.reference, j.position`,
      )
      .all();
  }

  /** What lies in the cache, by path in it: a digest of the content, where a link points, or what else it is. */
  files(): Record<string, string> {
    const files = this.entries().filter(({ path, name }) => !name.endsWith(".lock") && !lstatSync(path).isDirectory());
    return Object.fromEntries(files.map(({ path, name }) => [name, describe(path)]));
  }

  private entries(): { path: string; name: string }[] {
    const names = readdirSync(this.cache, { recursive: true, encoding: "utf8" }).sort();
    return names.map((name) => ({ name, path: join(this.cache, name) }));
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

function describe(path: string): string {
  const stat = lstatSync(path);
  if (stat.isSymbolicLink()) return `-> ${readlinkSync(path)}`;
  return stat.isFile() ? digestOf(readFileSync(path)) : "special";
}

// As msb 0.6.18 writes it.
function flatRef(manifest: string) {
  return {
    schema: 1,
    manifest_digest: manifest,
    derivation_digest: `sha256:${"a".repeat(64)}`,
    artifact_digest: digestOf(FLAT_BLOB),
    materializer_abi: 2,
    uuid: "a2022530537a4a5387927201b71dffde",
    virtual_size_bytes: FLAT_BLOB.length,
    inode_count: 5,
    content_bytes: 5,
  };
}
