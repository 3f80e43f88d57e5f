import { Database } from "bun:sqlite";

// The least that a figure of the bench can cost: the same work on Bun and SQLite, with nothing checked.

async function main([what, path, ...rest]: string[]): Promise<void> {
  if (what === "hello") await Bun.write(Bun.stdout, "hello\n");
  if (what === "list") await list(path!);
  if (what === "get") await get(path!, rest[0]!);
  if (what === "inspect") await inspect(path!, rest[0]!);
  if (what === "write") write(path!);
  if (what === "prune") prune(path!);
  if (what === "persist") await persist(path!, rest[0]!, Number(rest[1]));
  if (what === "scan") await scan(path!);
  if (what === "memory") memory([path!, ...rest]);
}

const IMAGES = `
  SELECT r.reference, r.created_at, r.updated_at, m.id, m.digest, m.media_type, m.architecture, m.os, m.variant,
         m.layer_count, m.total_size_bytes
  FROM image_ref AS r JOIN manifest AS m ON m.id = r.manifest_id`;

async function list(path: string): Promise<void> {
  const db = new Database(path, { readonly: true });
  const rows = db.query(`${IMAGES} ORDER BY r.created_at DESC, r.id`).all();
  await Bun.write(Bun.stdout, JSON.stringify(rows, null, 2));
}

async function get(path: string, reference: string): Promise<void> {
  const db = new Database(path, { readonly: true });
  await Bun.write(Bun.stdout, JSON.stringify(db.query(`${IMAGES} WHERE r.reference = ?`).get(reference), null, 2));
}

async function inspect(path: string, reference: string): Promise<void> {
  const db = new Database(path, { readonly: true });
  const image = db.query<{ id: number }, [string]>(`${IMAGES} WHERE r.reference = ?`).get(reference)!;
  const config = db.query("SELECT * FROM config WHERE manifest_id = ?").get(image.id);
  const layers = db
    .query(
      `SELECT l.* FROM manifest_layer AS j JOIN layer AS l ON l.id = j.layer_id
       WHERE j.manifest_id = ? ORDER BY j.position`,
    )
    .all(image.id);
  await Bun.write(Bun.stdout, JSON.stringify({ ...image, config, layers }, null, 2));
}

// One small transaction, durable.
function write(path: string): void {
  const db = new Database(path);
  db.run("PRAGMA busy_timeout = 5000");
  db.run("BEGIN IMMEDIATE");
  db.run("UPDATE image_ref SET updated_at = updated_at WHERE id = (SELECT min(id) FROM image_ref)");
  db.run("COMMIT");
  db.close(true);
}

// Everything that no sandbox needs, in one transaction, with larder's indexes.
function prune(path: string): void {
  const db = new Database(path);
  db.run("PRAGMA foreign_keys = ON");
  db.run("BEGIN IMMEDIATE");
  db.run(
    "CREATE TEMP TABLE gone AS SELECT id FROM manifest WHERE id NOT IN (SELECT manifest_id FROM sandbox_rootfs WHERE manifest_id IS NOT NULL)",
  );
  db.run("DELETE FROM image_ref WHERE manifest_id IN gone");
  db.run("DELETE FROM manifest_layer WHERE manifest_id IN gone");
  db.run("DELETE FROM config WHERE manifest_id IN gone");
  db.run("DELETE FROM manifest WHERE id IN gone");
  db.run("DELETE FROM layer WHERE id NOT IN (SELECT layer_id FROM manifest_layer)");
  db.run("COMMIT");
  db.close(true);
}

interface Line {
  reference: string;
  metadata: { manifest_digest: string; config_digest: string; layers: { digest: string; diff_id: string }[] };
}

// Plain inserts into a catalogue that is there, so many images a transaction.
async function persist(path: string, batch: string, atOnce: number): Promise<void> {
  const db = new Database(path);
  db.run("PRAGMA foreign_keys = ON");
  // As larder puts images on record.
  db.run("PRAGMA synchronous = NORMAL");
  db.run("PRAGMA wal_autocheckpoint = 4000");
  db.run("PRAGMA cache_size = -16384");
  const time = "2026-01-01 00:00:00";
  const reference = db.query(
    "INSERT INTO image_ref (reference, manifest_id, created_at, updated_at) VALUES (?, ?, ?, ?)",
  );
  const manifest = db.query("INSERT INTO manifest (digest, layer_count, created_at) VALUES (?, ?, ?) RETURNING id");
  const config = db.query("INSERT INTO config (manifest_id, digest, created_at) VALUES (?, ?, ?)");
  const layer = db.query(
    `INSERT INTO layer (diff_id, blob_digest, created_at, last_used_at) VALUES (?, ?, ?, ?)
     ON CONFLICT (diff_id) DO UPDATE SET last_used_at = excluded.last_used_at RETURNING id`,
  );
  const junction = db.query("INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (?, ?, ?)");
  const lines = (await Bun.file(batch).text()).trimEnd().split("\n");
  for (let i = 0; i < lines.length; i += atOnce) {
    db.run("BEGIN IMMEDIATE");
    for (const line of lines.slice(i, i + atOnce)) {
      const { reference: name, metadata }: Line = JSON.parse(line);
      const { id } = manifest.get(metadata.manifest_digest, metadata.layers.length, time) as { id: number };
      config.run(id, metadata.config_digest, time);
      metadata.layers.forEach(({ diff_id, digest }, position) => {
        const row = layer.get(diff_id, digest, time, time) as { id: number };
        junction.run(id, row.id, position);
      });
      reference.run(name, id, time, time);
    }
    db.run("COMMIT");
  }
  db.close(true);
}

async function scan(path: string): Promise<void> {
  const { readdirSync } = await import("node:fs");
  let names = 0;
  for (const folder of ["manifests", "layers", "fsmeta", "vmdk", "tmp"])
    names += readdirSync(`${path}/${folder}`).length;
  await Bun.write(Bun.stdout, `${names}\n`);
}

// Peak memory of a command: its starter's own counts in it until it executes, so the starter must be small.
function memory(command: string[]): void {
  const { resourceUsage } = Bun.spawnSync(command, { stdout: Bun.file("/dev/null"), stderr: "ignore" });
  process.getBuiltinModule("node:fs").writeSync(1, `${resourceUsage.maxRSS}`);
}

main(process.argv.slice(2));
