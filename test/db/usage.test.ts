import { describe, expect, test } from "bun:test";
import { listUsage, type Rows, readRows, storedRows } from "../../src/db/usage.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const [A, B, C] = ["a", "b", "c"].map(digest) as [string, string, string];

/** What rows answer, of images that go by these row ids. */
function answers(rows: Rows, going: number[]) {
  return {
    untagged: rows.untagged().map(({ id, digest }) => `${id} ${digest}`),
    names: rows
      .namesOf(going)
      .map(({ id, manifestId }) => `${id} ${manifestId}`)
      .sort(),
    unneeded: rows.unneeded(going).map(({ id, diffId }) => `${id} ${diffId}`),
  };
}

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

describe("readRows", () => {
  test.each(CATALOGUES)("answers as the tables do of a catalogue %s", (_, fill) => {
    using catalogue = new TemporaryCatalogue();
    fill(catalogue);
    const read = readRows(listUsage(catalogue.db));
    for (const going of [[], [1], [2], [1, 2]])
      expect(answers(read, going)).toEqual(answers(storedRows(catalogue.db), going));
  });
});
