import { describe, expect, test } from "bun:test";
import {
  deleteManifests,
  hasAnyManifest,
  hasManifest,
  listManifestDigests,
  referencesOf,
  untaggedAmong,
  untaggedManifests,
  upsertManifest,
} from "../../src/db/manifests.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const A = digest("a");
const B = digest("b");
const C = digest("c");
const FIELDS = { configDigest: "sha256:config", layerCount: 2, totalSizeBytes: 2n ** 63n - 1n };
const ARM = { architecture: "arm64", os: "linux", variant: "v8" };
const HOST = { architecture: "amd64", os: "linux", variant: null };

const STORED = `SELECT id, digest, media_type, config_digest, architecture, os, variant, layer_count,
                       CAST(total_size_bytes AS TEXT) AS size, created_at
                FROM manifest`;
const FIRST = {
  id: 1,
  digest: A,
  media_type: null,
  config_digest: "sha256:config",
  ...ARM,
  layer_count: 2,
  size: "9223372036854775807",
  created_at: "1970-01-01 00:00:01.000000000",
};

describe("upsertManifest", () => {
  test("adds a manifest with the platform that its config states", () => {
    using catalogue = new TemporaryCatalogue();
    expect(upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 1000)).toBe(1);
    expect(catalogue.rows(STORED)).toEqual([FIRST]);
  });

  test("takes the host's platform for a new row where none is stated", () => {
    using catalogue = new TemporaryCatalogue();
    upsertManifest(catalogue.db, A, FIELDS, undefined, HOST, 1000);
    expect(catalogue.rows(STORED)).toEqual([{ ...FIRST, ...HOST }]);
  });

  test("keeps the row's platform where none is stated, and corrects a wrong one", () => {
    using catalogue = new TemporaryCatalogue();
    upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 1000);
    upsertManifest(catalogue.db, A, FIELDS, undefined, HOST, 2000);
    expect(catalogue.rows(STORED)).toEqual([FIRST]);
    upsertManifest(catalogue.db, A, FIELDS, { ...ARM, architecture: "riscv64", variant: null }, HOST, 3000);
    expect(catalogue.rows(STORED)).toEqual([{ ...FIRST, architecture: "riscv64", variant: null }]);
  });

  test("updates in place: its id, date and media type stay", () => {
    using catalogue = new TemporaryCatalogue();
    upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 1000);
    catalogue.run("UPDATE manifest SET media_type = 'x/y'");
    const changed = { configDigest: "sha256:other", layerCount: 3, totalSizeBytes: 5n };
    expect(upsertManifest(catalogue.db, A, changed, ARM, HOST, 2000)).toBe(1);
    expect(catalogue.rows(STORED)).toEqual([
      { ...FIRST, media_type: "x/y", config_digest: "sha256:other", layer_count: 3, size: "5" },
    ]);
  });

  test("writes nothing where nothing changed", () => {
    using catalogue = new TemporaryCatalogue();
    upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 1000);
    catalogue.run("CREATE TRIGGER guard BEFORE UPDATE ON manifest BEGIN SELECT RAISE(ABORT, 'written'); END");
    expect(upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 2000)).toBe(1);
    expect(() => upsertManifest(catalogue.db, A, { ...FIELDS, layerCount: 3 }, ARM, HOST, 2000)).toThrow("written");
  });

  test.each(["config_digest", "architecture", "os", "variant", "layer_count", "total_size_bytes"])(
    "mends a %s of the wrong type",
    (column) => {
      using catalogue = new TemporaryCatalogue();
      upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 1000);
      catalogue.run(`UPDATE manifest SET ${column} = ?`, Buffer.from("x"));
      upsertManifest(catalogue.db, A, FIELDS, ARM, HOST, 2000);
      expect(catalogue.rows(STORED)).toEqual([FIRST]);
    },
  );
});

describe("hasManifest and hasAnyManifest", () => {
  test("tell what is on record", () => {
    using catalogue = new TemporaryCatalogue();
    expect([hasAnyManifest(catalogue.db), hasManifest(catalogue.db, A)]).toEqual([false, false]);
    catalogue.manifest(A);
    expect([hasAnyManifest(catalogue.db), hasManifest(catalogue.db, A)]).toEqual([true, true]);
    expect(hasManifest(catalogue.db, B)).toBe(false);
  });
});

describe("referencesOf", () => {
  test("gives the names of these manifests, by row id", () => {
    using catalogue = new TemporaryCatalogue();
    const a = catalogue.manifest(A, "a:1");
    const b = catalogue.manifest(B, "b:1");
    catalogue.run("INSERT INTO image_ref (reference, manifest_id, updated_at) VALUES ('a:2', ?, '2026-01-01')", a);
    expect(referencesOf(catalogue.db, [a, 99])).toEqual([
      { id: 1, manifestId: a, reference: "a:1", updatedAt: null },
      { id: 3, manifestId: a, reference: "a:2", updatedAt: "2026-01-01" },
    ]);
    expect(referencesOf(catalogue.db, [a, b])).toHaveLength(3);
    expect(referencesOf(catalogue.db, [])).toEqual([]);
  });
});

describe("untaggedManifests", () => {
  test("finds those without a name, among all or among some", () => {
    using catalogue = new TemporaryCatalogue();
    const a = catalogue.manifest(A, "a:1");
    const [b, c] = [catalogue.manifest(B), catalogue.manifest(C)];
    expect(untaggedManifests(catalogue.db)).toEqual([
      { id: b, digest: B },
      { id: c, digest: C },
    ]);
    expect(untaggedAmong(catalogue.db, [a, c])).toEqual([{ id: c, digest: C }]);
    expect(untaggedAmong(catalogue.db, [])).toEqual([]);
  });
});

describe("deleteManifests", () => {
  test("takes configs and junctions along, and leaves layers and others alone", () => {
    using catalogue = new TemporaryCatalogue();
    const [a, b] = [catalogue.manifest(A), catalogue.manifest(B)];
    catalogue.layer(digest("1"), a, b);
    catalogue.run("INSERT INTO config (manifest_id, digest) VALUES (?, 'x'), (?, 'x')", a, b);
    deleteManifests(catalogue.db, [a, 99]);
    expect(listManifestDigests(catalogue.db)).toEqual([B]);
    expect(catalogue.rows("SELECT manifest_id FROM config")).toEqual([{ manifest_id: b }]);
    expect(catalogue.rows("SELECT manifest_id FROM manifest_layer")).toEqual([{ manifest_id: b }]);
    expect(catalogue.rows("SELECT id FROM layer")).toHaveLength(1);
    expect(catalogue.rows("PRAGMA foreign_key_check")).toEqual([]);
  });

  test("does not delete what a sandbox boots from", () => {
    using catalogue = new TemporaryCatalogue();
    const a = catalogue.manifest(A);
    catalogue.run("INSERT INTO sandbox (name, config, status) VALUES ('web', '{}', 'running')");
    catalogue.run("INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) VALUES (1, ?, 'oci')", a);
    expect(() => deleteManifests(catalogue.db, [a])).toThrow("FOREIGN KEY");
    expect(listManifestDigests(catalogue.db)).toEqual([A]);
  });
});
