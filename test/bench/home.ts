import { Database } from "bun:sqlite";
import {
  closeSync,
  copyFileSync,
  futimesSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { digestOf, erofs, metadataOf } from "../store.ts";
import { runLarder, runMsb } from "./run.ts";

// Images as msb leaves them: 12 layers each, of which 7 belong to a base that 50 images share and 5 are its own.

const OWN = 5;
const BASE = 7;
const SHARING = 50;
const HOUR_AGO = Date.now() / 1000 - 3600;
const FOLDERS = ["manifests", "layers", "fsmeta", "vmdk", "tmp"];

export function referenceOf(i: number): string {
  return `registry.example.com/team-${i % 40}/service-${i}:1.${i % 7}.0`;
}

export function layersOf(i: number): string[] {
  const base = Math.floor(i / SHARING);
  return [
    ...Array.from({ length: BASE }, (_, k) => `base ${base} ${k}`),
    ...Array.from({ length: OWN }, (_, k) => `layer ${i} ${k}`),
  ];
}

function imageOf(i: number): string {
  return `image ${i}`;
}

function metadataText(i: number): string {
  return JSON.stringify(metadataOf(imageOf(i), layersOf(i)));
}

/** The lines that put images on record. */
export function batchOf(images: number): string {
  return Array.from(
    { length: images },
    (_, i) => `{"reference":"${referenceOf(i)}","metadata":${metadataText(i)}}\n`,
  ).join("");
}

/** What a home is made for: `larder` has its three indexes, as after its first write; `msb` has none of them. */
export type Owner = "larder" | "msb";

/** Where workshops are made. */
export const WORKSHOPS = process.env.LARDER_BENCH_DIR ?? tmpdir();

/** Where the bench keeps its homes; gone at the end. Catalogues are made once each, and copied. */
export class Workshop {
  readonly path = mkdtempSync(join(WORKSHOPS, "larder-bench-"));
  private readonly templates = new Set<string>();
  private made = 0;

  /** A fresh home with so many images, the first `pinned` of them in use by a sandbox each. */
  home(owner: Owner, images: number, { pinned = 0, files = false } = {}): string {
    const template = this.template(owner, images, pinned);
    const home = join(this.path, `home-${this.made++}`);
    mkdirSync(join(home, "db"), { recursive: true });
    copyFileSync(template, join(home, "db", "msb.db"));
    for (const folder of FOLDERS) mkdirSync(join(home, "cache", folder), { recursive: true });
    if (files) fill(join(home, "cache"), images);
    return home;
  }

  empty(): string {
    const home = join(this.path, `home-${this.made++}`);
    mkdirSync(home);
    return home;
  }

  remove(home: string): void {
    rmSync(home, { recursive: true, force: true });
  }

  private template(owner: Owner, images: number, pinned: number): string {
    const path = join(this.path, `${owner}-${images}-${pinned}.db`);
    if (!this.templates.has(path)) {
      this.makeTemplate(path, owner, images, pinned);
      this.templates.add(path);
    }
    return path;
  }

  private makeTemplate(path: string, owner: Owner, images: number, pinned: number): void {
    const home = this.empty();
    const batch = join(home, "batch.jsonl");
    writeText(batch, batchOf(images));
    runLarder(home, ["persist", "--batch", batch, "--format", "jsonl"]);
    const db = join(home, "db", "msb.db");
    // msb migrates it to its own version at its first start.
    runMsb(home, ["image", "ls", "-q"]);
    {
      using catalogue = new Database(db);
      catalogue.run("PRAGMA foreign_keys = ON");
      for (const table of ["image_ref", "manifest", "layer", "config"])
        catalogue.run(
          `UPDATE ${table} SET created_at = strftime('%Y-%m-%d %H:%M:%S.123456789', 'now', '-1 day', id || ' seconds')`,
        );
      catalogue.run("UPDATE image_ref SET updated_at = created_at");
      catalogue.run("UPDATE layer SET last_used_at = created_at");
      if (pinned > 0) pin(catalogue, pinned);
      if (owner === "msb")
        for (const index of ["manifest_layer_layer", "image_ref_manifest", "sandbox_rootfs_manifest"])
          catalogue.run(`DROP INDEX IF EXISTS idx_${index}`);
      catalogue.run("VACUUM");
      catalogue.run("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    copyFileSync(db, path);
    this.remove(home);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

// Every second image, so that what stays and what goes lie among each other.
function pin(db: Database, pinned: number): void {
  db.run(
    `INSERT INTO sandbox (name, config, status)
     SELECT 'sandbox-' || id, '{}', 'Stopped' FROM manifest WHERE id % 2 = 0 ORDER BY id LIMIT ${pinned}`,
  );
  db.run(
    `INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode)
     SELECT s.id, m.id, 'layered' FROM sandbox AS s JOIN manifest AS m ON s.name = 'sandbox-' || m.id`,
  );
}

/** Writes the artifacts of the first images, and their lock files, as pulls of an hour ago leave them. */
export function fill(cache: string, images: number): void {
  const artifact = erofs("bench").subarray(0, 4096);
  const layers = new Set<string>();
  for (let i = 0; i < images; i++) {
    const stem = digestOf(imageOf(i)).replace(":", "_");
    const key = new Bun.CryptoHasher("sha256").update(referenceOf(i)).digest("hex");
    put(join(cache, "manifests", `${key}.json`), metadataText(i));
    put(join(cache, "manifests", `${key}.lock`));
    put(join(cache, "fsmeta", `${stem}.erofs`), artifact);
    put(join(cache, "fsmeta", `${stem}.erofs.lock`));
    put(join(cache, "vmdk", `${stem}.vmdk`), "# Disk DescriptorFile\n");
    for (const layer of layersOf(i)) layers.add(layer);
  }
  for (const layer of layers) putLayer(cache, layer, artifact);
  settle(cache);
}

/** Makes the cache look as if nothing had been pulled for an hour. */
export function settle(cache: string): void {
  utimesSync(join(cache, "manifests"), HOUR_AGO, HOUR_AGO);
}

/** Layers that no row knows, with their locks. */
export function fillStrays(cache: string, count: number): void {
  const artifact = erofs("bench").subarray(0, 4096);
  for (let i = 0; i < count; i++) putLayer(cache, `stray ${i}`, artifact);
}

/** Locks of downloads, which msb never deletes. */
export function fillDownloadLocks(cache: string, count: number): void {
  for (let i = 0; i < count; i++) put(join(cache, "tmp", `${digestOf(`blob ${i}`).replace(":", "_")}.download.lock`));
}

function putLayer(cache: string, layer: string, artifact: Uint8Array): void {
  const path = join(cache, "layers", `${digestOf(layer).replace(":", "_")}.erofs`);
  put(path, artifact);
  put(`${path}.lock`);
}

function put(path: string, content?: string | Uint8Array): void {
  const fd = openSync(path, "w", 0o644);
  if (content !== undefined) writeSync(fd, content as Uint8Array);
  futimesSync(fd, HOUR_AGO, HOUR_AGO);
  closeSync(fd);
}

function writeText(path: string, text: string): void {
  const fd = openSync(path, "w");
  writeSync(fd, text);
  closeSync(fd);
}
