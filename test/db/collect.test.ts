import { describe, expect, test } from "bun:test";
import { collectManifests } from "../../src/db/collect.ts";
import { listDiffIds } from "../../src/db/layers.ts";
import { listManifestDigests } from "../../src/db/manifests.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const [A, B, C, D] = ["a", "b", "c", "d"].map(digest) as [string, string, string, string];

describe("collectManifests", () => {
  test("deletes manifests and the layers that only they had", () => {
    using catalogue = new TemporaryCatalogue();
    const [one, two, three] = ["1", "2", "3"].map((hex) => catalogue.manifest(digest(hex))) as [number, number, number];
    catalogue.layer(A, one, three);
    catalogue.layer(B, one, two);
    catalogue.layer(C, two, two);
    catalogue.layer(D);
    expect(collectManifests(catalogue.db, [one, two]).sort()).toEqual([B, C]);
    expect(listManifestDigests(catalogue.db)).toEqual([digest("3")]);
    expect(listDiffIds(catalogue.db).sort()).toEqual([A, D]);
    expect(catalogue.rows("PRAGMA foreign_key_check")).toEqual([]);
    expect(collectManifests(catalogue.db, [])).toEqual([]);
  });

  test.each(["a/../b:x", "/etc/passwd", A.toUpperCase(), ""])("leaves a layer whose diff ID is %p", (diffId) => {
    using catalogue = new TemporaryCatalogue();
    const manifest = catalogue.manifest(digest("1"));
    catalogue.layer(diffId, manifest);
    catalogue.layer(B, manifest);
    expect(collectManifests(catalogue.db, [manifest])).toEqual([B]);
    expect(listDiffIds(catalogue.db)).toEqual([diffId]);
  });
});
