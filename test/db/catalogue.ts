import { Database } from "bun:sqlite";
import { join } from "node:path";
import { createCatalogue, openForWriting } from "../../src/db/open.ts";
import { TemporaryFolder } from "../larder.ts";

/** A real catalogue in a folder of its own, as larder creates and opens it; both are gone at the end of the block. */
export class TemporaryCatalogue {
  private readonly folder = new TemporaryFolder();
  readonly path = join(this.folder.path, "msb.db");
  readonly db: Database;

  constructor() {
    createCatalogue(this.path);
    this.db = openForWriting(this.path)!;
  }

  /** Runs statements that no caller of larder could make it run: damage, and other tools' rows. */
  run(sql: string, ...values: (string | number | bigint | Uint8Array | null)[]): void {
    this.db.query(sql).run(...values);
  }

  /** What a query finds, read on a connection of its own. */
  rows(sql: string): unknown[] {
    using db = new Database(this.path, { readonly: true });
    return db.query(sql).all();
  }

  /** A manifest row, and a reference to it where one is given; returns the manifest's row id. */
  manifest(digest: string | Uint8Array, reference?: string): number {
    const { id } = this.db
      .query<{ id: bigint }, [string | Uint8Array]>("INSERT INTO manifest (digest) VALUES (?) RETURNING id")
      .get(digest)!;
    if (reference !== undefined)
      this.run("INSERT INTO image_ref (reference, manifest_id) VALUES (?, ?)", reference, id);
    return Number(id);
  }

  /** A layer row, at the top of each of these manifests; returns its row id. */
  layer(diffId: string | Uint8Array, ...manifestIds: number[]): number {
    const { id } = this.db
      .query<{ id: bigint }, [string | Uint8Array]>(
        "INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'sha256:blob') RETURNING id",
      )
      .get(diffId)!;
    for (const manifestId of manifestIds) {
      this.run(
        `INSERT INTO manifest_layer (manifest_id, layer_id, position)
         VALUES (?1, ?2, (SELECT count(*) FROM manifest_layer WHERE manifest_id = ?1))`,
        manifestId,
        id,
      );
    }
    return Number(id);
  }

  [Symbol.dispose](): void {
    this.db.close();
    this.folder[Symbol.dispose]();
  }
}

/** A digest that tells its owner at a glance: one hex digit, 64 times. */
export function digest(hex: string): string {
  return `sha256:${hex.repeat(64)}`;
}
