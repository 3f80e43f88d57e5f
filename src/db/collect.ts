import type { Database } from "bun:sqlite";
import { isDigest } from "../oci/digest.ts";
import { deleteOrphans, layersOf } from "./layers.ts";
import { deleteManifests } from "./manifests.ts";

/** Deletes manifests and the layers that only they had, and returns those layers' diff IDs. */
export function collectManifests(db: Database, ids: number[]): string[] {
  if (ids.length === 0) return [];
  // A row whose diff ID is no digest is left and reported: nothing may be built on it (interop §7 #19).
  const layers = layersOf(db, ids).filter(({ diffId }) => isDigest(diffId));
  deleteManifests(db, ids);
  return deleteOrphans(
    db,
    layers.map(({ id }) => id),
  );
}
