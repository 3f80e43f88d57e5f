import type { Database } from "bun:sqlite";
import { parseTimestamp } from "../../db/timestamp.ts";
import { isDigest } from "../../oci/digest.ts";
import { type Problem, problem } from "./problem.ts";

interface Cell {
  subject: unknown;
  name: string;
  value: unknown;
}

/** Checks what every row of a table holds, by the column: times, and the digests that no image leads to. */
export function* checkRows(db: Database): Generator<Problem> {
  for (const { subject, name, value } of times(db)) {
    if (typeof value === "string" && parseTimestamp(value)) continue;
    yield problem(
      "timestamp-unreadable",
      show(subject),
      `${name} is not a time that msb can read: ${JSON.stringify(show(value))}`,
    );
  }
  for (const { subject, name, value } of digests(db)) {
    if (!isDigest(value))
      yield problem("digest-invalid", show(subject), `${name} is not a digest: ${JSON.stringify(show(value))}`);
  }
}

function show(value: unknown): string {
  return String(value).slice(0, 100);
}

function times(db: Database) {
  return db
    .query<Cell, []>(
      `SELECT reference AS subject, 'created_at' AS name, created_at AS value FROM image_ref WHERE created_at IS NOT NULL
       UNION ALL
       SELECT reference, 'updated_at', updated_at FROM image_ref WHERE updated_at IS NOT NULL
       UNION ALL
       SELECT digest, 'created_at', created_at FROM manifest WHERE created_at IS NOT NULL
       UNION ALL
       SELECT 'config row ' || id, 'created_at', created_at FROM config WHERE created_at IS NOT NULL
       UNION ALL
       SELECT 'layer ' || diff_id, 'created_at', created_at FROM layer WHERE created_at IS NOT NULL
       UNION ALL
       SELECT 'layer ' || diff_id, 'last_used_at', last_used_at FROM layer WHERE last_used_at IS NOT NULL`,
    )
    .iterate();
}

// A layer's diff ID is checked with the images that have it; here those that no image has.
function digests(db: Database) {
  return db
    .query<Cell, []>(
      `SELECT digest AS subject, 'config_digest' AS name, config_digest AS value
       FROM manifest
       WHERE config_digest IS NOT NULL
       UNION ALL
       SELECT 'layer ' || diff_id, 'blob_digest', blob_digest
       FROM layer
       UNION ALL
       SELECT 'layer row ' || id, 'diff_id', diff_id
       FROM layer
       WHERE NOT EXISTS (SELECT 1 FROM manifest_layer AS j WHERE j.layer_id = layer.id)`,
    )
    .iterate();
}
