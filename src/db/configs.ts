import type { Database } from "bun:sqlite";
import type { ImageConfig } from "../oci/metadata.ts";
import { isStringMap, isStrings, type Row, RowReader } from "./row.ts";
import { writeTimestamp } from "./timestamp.ts";

//   config ── manifest_id  unique: one config a manifest
//          ── digest
//          ── env, cmd, entrypoint, labels  JSON text, NULL when there is none
//          ── working_dir, user, stop_signal, created_at

/** One config row. */
export interface ConfigRow {
  digest: string | null;
  env: string[];
  cmd: string[] | null;
  entrypoint: string[] | null;
  workingDir: string | null;
  user: string | null;
  labels: Record<string, string> | null;
  stopSignal: string | null;
  damage: string[];
}

/** The config of a manifest, or undefined. */
export function findConfig(db: Database, manifestId: number): ConfigRow | undefined {
  const row = db
    .query<Row, [number]>(
      `SELECT digest,
              env,
              cmd,
              entrypoint,
              working_dir,
              user,
              labels,
              stop_signal
       FROM config
       WHERE manifest_id = ?`,
    )
    .get(manifestId);
  if (!row) return undefined;
  const read = new RowReader(row);
  return {
    digest: read.text("digest"),
    env: read.json("env", isStrings) ?? [],
    cmd: read.json("cmd", isStrings),
    entrypoint: read.json("entrypoint", isStrings),
    workingDir: read.text("working_dir"),
    user: read.text("user"),
    labels: read.json("labels", isStringMap),
    stopSignal: read.text("stop_signal"),
    damage: read.damage,
  };
}

/** Puts a manifest's config on record; a row that says the same already is left as it is. */
export function upsertConfig(db: Database, manifestId: number, digest: string, config: ImageConfig, now: number): void {
  const values = [
    digest,
    config.env.length > 0 ? JSON.stringify(config.env) : null,
    config.cmd && JSON.stringify(config.cmd),
    config.entrypoint && JSON.stringify(config.entrypoint),
    config.working_dir,
    config.user,
    Object.keys(config.labels).length > 0 ? JSON.stringify(config.labels) : null,
    config.stop_signal,
  ];
  db.query(
    `INSERT INTO config (manifest_id, digest, env, cmd, entrypoint, working_dir, user, labels, stop_signal, created_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (manifest_id) DO UPDATE
     SET digest = excluded.digest,
         env = excluded.env,
         cmd = excluded.cmd,
         entrypoint = excluded.entrypoint,
         working_dir = excluded.working_dir,
         user = excluded.user,
         labels = excluded.labels,
         stop_signal = excluded.stop_signal
     WHERE (config.digest, config.env, config.cmd, config.entrypoint, config.working_dir, config.user, config.labels, config.stop_signal)
        IS NOT (excluded.digest, excluded.env, excluded.cmd, excluded.entrypoint, excluded.working_dir, excluded.user, excluded.labels, excluded.stop_signal)`,
  ).run(manifestId, ...values, writeTimestamp(now));
}
