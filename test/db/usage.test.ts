import { describe, expect, test } from "bun:test";
import { type DoomedLayer, unneededLayers } from "../../src/db/layers.ts";
import { listUsage, unneededOf } from "../../src/db/usage.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const [A, B, C] = ["a", "b", "c"].map(digest) as [string, string, string];

const CATALOGUES: [name: string, fill: (catalogue: TemporaryCatalogue) => void][] = [
  ["that is empty", () => {}],
  [
    "of images that share layers",
    (catalogue) => {
      const [one, two] = [catalogue.manifest(digest("1"), "one:1"), catalogue.manifest(digest("2"), "two:1")];
      catalogue.run("INSERT INTO image_ref (reference, manifest_id) VALUES ('one:2', ?)", one);
      catalogue.layer(A, one, two);
      catalogue.layer(B, one);
      catalogue.layer(C, two, two);
    },
  ],
  [
    "with untagged images and orphan layers",
    (catalogue) => {
      catalogue.layer(A, catalogue.manifest(digest("1")));
      catalogue.layer(B);
      catalogue.layer("../../x");
    },
  ],
  [
    "whose layers are held for a manifest that is not there",
    (catalogue) => {
      catalogue.run("PRAGMA foreign_keys = OFF");
      const one = catalogue.manifest(digest("1"), "one:1");
      catalogue.layer(A, 77);
      catalogue.layer(B, one, 77);
      catalogue.layer(C, one);
    },
  ],
  [
    "with a second row of a needed layer",
    (catalogue) => {
      catalogue.run("PRAGMA foreign_keys = OFF");
      catalogue.run("DROP TABLE layer");
      catalogue.run("CREATE TABLE layer (id INTEGER PRIMARY KEY, diff_id, blob_digest, last_used_at)");
      catalogue.layer(A, catalogue.manifest(digest("1"), "one:1"));
      catalogue.layer(B, catalogue.manifest(digest("2"), "two:1"));
      catalogue.layer(A);
    },
  ],
];

describe("unneededOf", () => {
  test.each(CATALOGUES)("finds the layers that `unneededLayers` does, in a catalogue %s", (_, fill) => {
    using catalogue = new TemporaryCatalogue();
    fill(catalogue);
    const read = listUsage(catalogue.db);
    const named = (layers: DoomedLayer[]) => layers.map(({ id, diffId }) => `${id} ${diffId}`);
    for (const going of [[], [1], [2], [1, 2]])
      expect(named(unneededOf(read, going))).toEqual(named(unneededLayers(catalogue.db, going)));
  });
});
