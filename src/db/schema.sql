-- The catalogue as microsandbox v0.4.4 leaves it: every statement reads in sqlite_master as msb's own does.
-- Run inside one transaction, and only where no database exists: the schema is msb's, and larder never migrates it.
--
--   image_ref ──► manifest ──► config          (one config a manifest)
--                    │
--                    └──► manifest_layer ──► layer   (position 0 is the bottom)
--                    ▲
--   sandbox ──► sandbox_rootfs                 (a pin)
--   snapshot_index.image_manifest_digest       (a pin by digest, no foreign key)
CREATE TABLE "seaql_migrations" ( "version" varchar NOT NULL PRIMARY KEY, "applied_at" bigint NOT NULL );
CREATE TABLE "sandbox" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" text NOT NULL UNIQUE, "config" text NOT NULL, "status" text NOT NULL, "created_at" datetime_text, "updated_at" datetime_text );
CREATE TABLE "run" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "sandbox_id" integer NOT NULL, "pid" integer, "status" text NOT NULL, "exit_code" integer, "exit_signal" integer, "termination_reason" text, "termination_detail" text, "signals_sent" text, "started_at" datetime_text, "terminated_at" datetime_text, FOREIGN KEY ("sandbox_id") REFERENCES "sandbox" ("id") ON DELETE CASCADE );
CREATE TABLE "sandbox_metric" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "sandbox_id" integer NOT NULL, "cpu_percent" float, "memory_bytes" bigint, "disk_read_bytes" bigint, "disk_write_bytes" bigint, "net_rx_bytes" bigint, "net_tx_bytes" bigint, "sampled_at" datetime_text, "created_at" datetime_text, FOREIGN KEY ("sandbox_id") REFERENCES "sandbox" ("id") ON DELETE CASCADE );
CREATE INDEX "idx_sandbox_metrics_sandbox_sampled" ON "sandbox_metric" ("sandbox_id", "sampled_at");
CREATE TABLE "volume" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" text NOT NULL UNIQUE, "quota_mib" integer, "size_bytes" bigint, "labels" text, "created_at" datetime_text, "updated_at" datetime_text );
CREATE TABLE "manifest" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "digest" text NOT NULL UNIQUE, "media_type" text, "config_digest" text, "architecture" text, "os" text, "variant" text, "layer_count" integer, "total_size_bytes" bigint, "created_at" datetime_text );
CREATE TABLE "image_ref" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "reference" text NOT NULL UNIQUE, "manifest_id" integer NOT NULL, "created_at" datetime_text, "updated_at" datetime_text, FOREIGN KEY ("manifest_id") REFERENCES "manifest" ("id") ON DELETE CASCADE );
CREATE TABLE "config" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "manifest_id" integer NOT NULL UNIQUE, "digest" text NOT NULL, "env" text, "cmd" text, "entrypoint" text, "working_dir" text, "user" text, "labels" text, "stop_signal" text, "created_at" datetime_text, FOREIGN KEY ("manifest_id") REFERENCES "manifest" ("id") ON DELETE CASCADE );
CREATE TABLE "layer" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "diff_id" text NOT NULL UNIQUE, "blob_digest" text NOT NULL, "media_type" text, "compressed_size_bytes" bigint, "erofs_size_bytes" bigint, "created_at" datetime_text, "last_used_at" datetime_text );
CREATE TABLE "manifest_layer" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "manifest_id" integer NOT NULL, "layer_id" integer NOT NULL, "position" integer NOT NULL, FOREIGN KEY ("manifest_id") REFERENCES "manifest" ("id") ON DELETE CASCADE, FOREIGN KEY ("layer_id") REFERENCES "layer" ("id") ON DELETE RESTRICT );
CREATE UNIQUE INDEX "idx_manifest_layers_manifest_position" ON "manifest_layer" ("manifest_id", "position");
CREATE TABLE "sandbox_rootfs" ( "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "sandbox_id" integer NOT NULL UNIQUE, "manifest_id" integer, "mode" text NOT NULL, "upper_fstype" text, "created_at" datetime_text, FOREIGN KEY ("sandbox_id") REFERENCES "sandbox" ("id") ON DELETE CASCADE, FOREIGN KEY ("manifest_id") REFERENCES "manifest" ("id") ON DELETE RESTRICT );
CREATE TABLE "snapshot_index" ( "digest" text NOT NULL PRIMARY KEY, "name" text, "parent_digest" text, "image_ref" text NOT NULL, "image_manifest_digest" text NOT NULL, "format" text NOT NULL, "fstype" text NOT NULL, "artifact_path" text NOT NULL, "size_bytes" bigint, "created_at" datetime_text NOT NULL, "indexed_at" datetime_text NOT NULL, "child_count" integer NOT NULL DEFAULT 0 );
CREATE UNIQUE INDEX idx_snapshot_index_name ON snapshot_index (name) WHERE name IS NOT NULL;
CREATE INDEX "idx_snapshot_index_parent" ON "snapshot_index" ("parent_digest");
CREATE INDEX "idx_snapshot_index_image" ON "snapshot_index" ("image_manifest_digest");
INSERT INTO "seaql_migrations" ("version", "applied_at") VALUES
  ('m20260305_000001_create_image_tables', CAST(strftime('%s','now') AS INTEGER)),
  ('m20260305_000002_create_sandbox_tables', CAST(strftime('%s','now') AS INTEGER)),
  ('m20260305_000003_create_storage_tables', CAST(strftime('%s','now') AS INTEGER)),
  ('m20260305_000004_create_sandbox_images_table', CAST(strftime('%s','now') AS INTEGER)),
  ('m20260410_000001_erofs_image_schema', CAST(strftime('%s','now') AS INTEGER)),
  ('m20260501_000001_create_snapshot_index', CAST(strftime('%s','now') AS INTEGER));
