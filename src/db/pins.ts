import type { Database } from "bun:sqlite";
import { type Digest, digestsIn, isDigest } from "../oci/digest.ts";

//   sandbox ── name, config (JSON), in newer msb active_config (JSON)
//   sandbox_rootfs ── sandbox_id ──► sandbox
//                  ── manifest_id ──► manifest, written only once the VM has booted (interop §7 #29)
//   snapshot_index ── name, image_manifest_digest; rebuilt by msb from the manifests on disk

/** What forbids deleting a manifest. */
export interface Pin {
  kind: "sandbox" | "snapshot";
  name: string;
}

/** A snapshot found on disk: the image that it needs, or why that cannot be told. */
export interface SnapshotImage {
  name: string;
  digest?: Digest;
  trouble?: string;
}

/** All pins, and what could not be read: while there is any of that, nothing may be deleted. */
export interface Pins {
  byDigest: Map<string, Pin[]>;
  unreadable: string[];
}

/** Reads every pin in the catalogue that larder knows a kind of, and adds those of the snapshots on disk. */
export function readPins(db: Database, snapshots: SnapshotImage[]): Pins {
  const pins = new PinCollector();
  for (const { name, digest } of rootfsRows(db)) pins.add(digest, { kind: "sandbox", name: String(name) });
  for (const row of sandboxRows(db)) pins.addSandbox(row);
  for (const { name, digest } of snapshotRows(db)) pins.addSnapshot(String(name), digest);
  for (const { name, digest, trouble } of snapshots) {
    if (digest) pins.add(digest, { kind: "snapshot", name });
    else pins.unreadable.push(`snapshot "${name}" cannot be read: ${trouble}`);
  }
  return { byDigest: pins.byDigest, unreadable: pins.unreadable };
}

class PinCollector {
  readonly byDigest = new Map<string, Pin[]>();
  readonly unreadable: string[] = [];

  add(digest: unknown, pin: Pin): void {
    const key = String(digest);
    const pins = this.byDigest.get(key) ?? [];
    if (!pins.some((other) => other.kind === pin.kind && other.name === pin.name)) pins.push(pin);
    this.byDigest.set(key, pins);
  }

  addSnapshot(name: string, digest: unknown): void {
    if (isDigest(digest)) this.add(digest, { kind: "snapshot", name });
    else this.unreadable.push(`snapshot "${name}" cannot be read: its image digest is not a digest`);
  }

  /** Every digest in a sandbox's configuration pins: it may be about to boot, its rootfs row not yet written. */
  addSandbox(row: Record<string, unknown>): void {
    const name = String(row.name);
    for (const column of ["config", "active_config"]) {
      const value = row[column];
      if (value === null || value === undefined) continue;
      const digests = typeof value === "string" ? digestsInJson(value) : undefined;
      if (digests === undefined) this.unreadable.push(`sandbox "${name}" cannot be read: its ${column} is not JSON`);
      else for (const digest of digests) this.add(digest, { kind: "sandbox", name });
    }
  }
}

function digestsInJson(text: string): Digest[] | undefined {
  try {
    // Written anew, so that an escaped character cannot hide a digest.
    return digestsIn(JSON.stringify(JSON.parse(text)));
  } catch {
    return undefined;
  }
}

function rootfsRows(db: Database) {
  return db
    .query<{ name: unknown; digest: unknown }, []>(
      `SELECT coalesce(s.name, 'row ' || f.sandbox_id) AS name, m.digest AS digest
       FROM sandbox_rootfs AS f
       JOIN manifest AS m ON m.id = f.manifest_id
       LEFT JOIN sandbox AS s ON s.id = f.sandbox_id
       ORDER BY f.sandbox_id`,
    )
    .all();
}

function sandboxRows(db: Database) {
  return db.query<Record<string, unknown>, []>("SELECT * FROM sandbox ORDER BY id").all();
}

function snapshotRows(db: Database) {
  return db
    .query<{ name: unknown; digest: unknown }, []>(
      `SELECT coalesce(name, digest) AS name, image_manifest_digest AS digest
       FROM snapshot_index
       ORDER BY 1`,
    )
    .all();
}

/** Tables of kinds that larder does not know and that refer to manifests or layers, each as a sentence. */
export function findUnknownPins(db: Database): string[] {
  // A table cannot refer to another without naming it, so most need not be asked what they refer to.
  return db
    .query<{ name: string }, []>(
      `SELECT DISTINCT m.name AS name
       FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
       WHERE m.type = 'table'
         AND (m.sql LIKE '%manifest%' OR m.sql LIKE '%layer%')
         AND m.name NOT IN ('image_ref', 'config', 'manifest_layer', 'sandbox_rootfs')
         AND lower(f."table") IN ('manifest', 'layer')`,
    )
    .all()
    .map(({ name }) => `table "${name}" of a newer msb may need any image, and larder does not know it`);
}

/** Why it cannot be told what is in use, as a sentence, or undefined: nothing may be deleted then. */
export function whyUnknown({ unreadable }: Pins): string | undefined {
  return unreadable.length === 0 ? undefined : `what is in use cannot be told: ${unreadable.join("; ")}`;
}

/** Pins as a sentence names them: `sandbox "web-1", snapshot "base"`. */
export function namePins(pins: Pin[]): string {
  return pins.map(({ kind, name }) => `${kind} ${JSON.stringify(name)}`).join(", ");
}
