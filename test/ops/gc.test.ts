import { describe, expect, test } from "bun:test";
import { LarderError } from "../../src/error.ts";
import { type GcOptions, gc } from "../../src/ops/gc.ts";
import { DEFAULT_GRACE_MS } from "../../src/ops/sweep.ts";
import { at, digestOf, erofs, metadataOf, Store } from "../store.ts";

const KEPT = "docker.io/library/kept:1";
const LOST = "docker.io/library/lost:1";

const options: GcOptions = {
  grace: DEFAULT_GRACE_MS,
  layersOnly: false,
  sweepUnrecorded: false,
  dryRun: false,
};

async function makeUntagged(): Promise<Store> {
  const store = await Store.make({
    kept: { references: [KEPT], layers: ["base", "top"] },
    lost: { references: [LOST], layers: ["base", "own"] },
  });
  store.sql("DELETE FROM image_ref WHERE reference = ?", LOST);
  return store;
}

/** Options under which something happens between the plan and the first transaction. */
function meanwhile(change: () => void): GcOptions {
  let asked = false;
  return {
    ...options,
    stopped() {
      if (!asked) change();
      asked = true;
      return false;
    },
  };
}

describe("gc", () => {
  const claims: [what: string, claim: (store: Store) => void][] = [
    [
      "got a name",
      (store) =>
        store.sql(
          "INSERT INTO image_ref (reference, manifest_id) SELECT ?, id FROM manifest WHERE digest = ?",
          LOST,
          digestOf("lost"),
        ),
    ],
    ["was booted by a sandbox", (store) => store.sandbox("web", "{}", "lost")],
    ["is about to be booted by a sandbox", (store) => store.sandbox("web", `{"image":"${digestOf("lost")}"}`)],
    ["was indexed for a snapshot", (store) => store.snapshotRow("base", digestOf("lost"))],
  ];

  test.each(claims)("spares an image that %s since the plan, with all its files", async (_, claim) => {
    using store = await makeUntagged();
    using larder = store.open();
    const report = await gc(
      larder,
      meanwhile(() => claim(store)),
    );
    expect(report).toMatchObject({ manifests: [], layers: [] });
    expect(store.rows()).toMatchObject({ manifests: ["kept", "lost"], layers: ["base", "own", "top"] });
    for (const path of [at.layer("own"), at.fsmeta("lost"), at.vmdk("lost")]) expect(store.has(path)).toBe(true);
    expect(store.unsound()).toEqual([]);
  });

  test("keeps the files of an image that it spares, although the row of a layer holds no digest", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    store.sql("UPDATE layer SET diff_id = 'nodigest' WHERE diff_id = ?", digestOf("own"));
    const attempt = gc(
      larder,
      meanwhile(() => store.sandbox("web", "{}", "lost")),
    );
    const error = await attempt.catch((error: unknown) => error);
    expect(error).toMatchObject({ code: "damaged", message: expect.stringContaining(digestOf("lost")) });
    expect(store.has(at.layer("own"))).toBe(true);
  });

  test("spares an orphan layer that an image got since the plan", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("orphan"));
    store.write(at.layer("orphan"), erofs("orphan"));
    const report = await gc(
      larder,
      meanwhile(() =>
        store.sql(
          "INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT m.id, l.id, 9 FROM manifest AS m, layer AS l WHERE m.digest = ? AND l.diff_id = ?",
          digestOf("kept"),
          digestOf("orphan"),
        ),
      ),
    );
    expect(report.layers).toEqual([digestOf("own")]);
    expect(report.skipped).toMatchObject([{ kind: "layer", reason: "a row needs it" }]);
    expect(store.has(at.layer("orphan"))).toBe(true);
  });

  test("refuses when a pin became unreadable since the plan", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    const files = store.files();
    const attempt = gc(
      larder,
      meanwhile(() => store.sandbox("web", "{")),
    );
    const error = await attempt.catch((error: unknown) => error);
    expect(error).toBeInstanceOf(LarderError);
    expect(error).toMatchObject({ code: "damaged", message: expect.stringContaining('sandbox "web"') });
    expect(store.rows().manifests).toEqual(["kept", "lost"]);
    expect(store.files()).toEqual(files);
  });

  test("does nothing when it is stopped before it began", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    const [rows, files] = [store.rows(), store.files()];
    expect(await gc(larder, { ...options, stopped: () => true })).toMatchObject({ manifests: [], files: [] });
    expect(store.rows()).toEqual(rows);
    expect(store.files()).toEqual(files);
  });

  test("collects many images in several transactions, with layers that they share across them", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    const count = 1200;
    larder.db.transaction(() => {
      const manifest = larder.db.query("INSERT INTO manifest (digest) VALUES (?) RETURNING id");
      const layer = larder.db.query("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x') RETURNING id");
      const junction = larder.db.query("INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (?, ?, ?)");
      const { id: shared } = layer.get(digestOf("shared by all")) as { id: bigint };
      for (let i = 0; i < count; i++) {
        const { id } = manifest.get(digestOf(`image ${i}`)) as { id: bigint };
        const { id: own } = layer.get(digestOf(`layer ${i}`)) as { id: bigint };
        junction.run(id, shared, 0);
        junction.run(id, own, 1);
      }
    })();
    store.write(at.layer("shared by all"));
    const plan = await gc(larder, { ...options, dryRun: true });
    const report = await gc(larder, options);
    expect(report.manifests).toHaveLength(count + 1);
    expect(report.layers).toHaveLength(count + 2);
    expect(report).toEqual({ ...plan, dry_run: false });
    expect(store.rows()).toMatchObject({ manifests: ["kept"], layers: ["base", "top"], junctions: 2 });
    expect(store.files()).toEqual(store.filesOf("kept"));
    expect(store.unsound()).toEqual([]);
  });

  test("collects what a name left behind when it moved to another image", async () => {
    using store = await Store.make({
      kept: { references: [KEPT], layers: ["base", "top"] },
      lost: { references: [LOST], layers: ["base", "own"] },
    });
    using larder = store.open();
    await store.persist([{ reference: LOST, metadata: metadataOf("kept", ["base", "top"]) }]);
    expect(await gc(larder, options)).toMatchObject({ manifests: [digestOf("lost")], layers: [digestOf("own")] });
    expect(store.files()).toEqual([...store.filesOf("kept"), at.metadata(LOST)].sort());
  });

  test("spares in use what the rows alone do not show: a snapshot on disk", async () => {
    using store = await makeUntagged();
    using larder = store.open();
    store.snapshotOnDisk("base", JSON.stringify({ image: { manifest_digest: digestOf("lost") } }));
    expect(await gc(larder, options)).toMatchObject({ manifests: [], layers: [] });
    expect(store.rows().manifests).toEqual(["kept", "lost"]);
  });
});
