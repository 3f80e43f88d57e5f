import { describe, expect, test } from "bun:test";
import { scanEverything } from "../../src/cache/scan.ts";
import { PinWatch } from "../../src/ops/pins.ts";
import { takeStock } from "../../src/ops/usage.ts";
import { DAY, Store } from "./prune-store.ts";

/** When each image was last used, in whole days before now; null where that is not known. */
function lastUses(store: Store): Record<string, number | null> {
  using home = store.open();
  const { usage } = takeStock(home.larder, new PinWatch(home.larder), 0, scanEverything);
  return Object.fromEntries(
    usage.images.map(({ manifest, lastUsed }) => [
      manifest.names[0]?.reference ?? "untagged",
      lastUsed === null ? null : Math.round((Date.now() - lastUsed) / DAY),
    ]),
  );
}

describe("takeStock", () => {
  test("takes the latest update of a manifest's references for its last use", () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], used: 9 * DAY, created: 90 * DAY, layersUsed: 80 * DAY });
    store.alias(digest, "acme/a:2", 4 * DAY, 70 * DAY);
    expect(lastUses(store)).toEqual({ "acme/a:1": 4 });
  });

  test("counts a layer's last use where no other manifest has that layer", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 9 * DAY, layersUsed: 2 * DAY, layers: { own: 4096 } });
    expect(lastUses(store)).toEqual({ "acme/a:1": 2 });
  });

  test("leaves a shared layer's last use out, since msb refreshes it for whoever loads it", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 9 * DAY, layersUsed: 0, layers: { base: 4096 } });
    store.image({ names: ["acme/b:1"], used: 5 * DAY, layers: { base: 4096 } });
    expect(lastUses(store)).toEqual({ "acme/a:1": 9, "acme/b:1": 5 });
  });

  test("leaves a layer out that an untagged image shares", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 9 * DAY, layersUsed: 0, layers: { base: 4096 } });
    store.image({ seed: "untagged", created: 7 * DAY, layers: { base: 4096 } });
    expect(lastUses(store)).toEqual({ "acme/a:1": 9, untagged: 7 });
  });

  test("counts a layer that one manifest has twice as its own", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 9 * DAY, layersUsed: 3 * DAY, layers: { own: 4096 } });
    store.db.run(
      "INSERT INTO manifest_layer (manifest_id, layer_id, position) SELECT manifest_id, layer_id, 1 FROM manifest_layer",
    );
    expect(lastUses(store)).toEqual({ "acme/a:1": 3 });
  });

  test("knows no last use where a time is on record that cannot be read", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 2 * DAY, created: 400 * DAY });
    store.db.run("UPDATE image_ref SET updated_at = 'Mon Nov 23 16:00:00 2026'");
    expect(lastUses(store)).toEqual({ "acme/a:1": null });
  });

  test("does not make an image older by a layer that was last used before it", () => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 2 * DAY, layersUsed: 50 * DAY });
    expect(lastUses(store)).toEqual({ "acme/a:1": 2 });
  });

  test.each([
    ["has no time", "NULL", null],
    ["holds what msb cannot read", "'yesterday'", null],
    ["holds a number", "17", null],
  ])("does not know the last use where updated_at %s and created_at too", (_, value, expected) => {
    using store = new Store();
    store.image({ names: ["acme/a:1"], used: 9 * DAY });
    store.db.run(`UPDATE image_ref SET updated_at = ${value}, created_at = ${value}`);
    expect(lastUses(store)).toEqual({ "acme/a:1": expected });
  });

  test("goes by created_at where updated_at is missing, and is unknown where one of several names is", () => {
    using store = new Store();
    const digest = store.image({ names: ["acme/a:1"], used: 2 * DAY, created: 9 * DAY, layersUsed: 20 * DAY });
    store.db.run("UPDATE image_ref SET updated_at = NULL");
    expect(lastUses(store)).toEqual({ "acme/a:1": 9 });
    store.alias(digest, "acme/a:2");
    store.db.run("UPDATE image_ref SET updated_at = 'x', created_at = 'x' WHERE reference = 'acme/a:2'");
    expect(lastUses(store)).toEqual({ "acme/a:1": null });
  });

  test("reads the time forms that msb reads", () => {
    using store = new Store();
    const day = new Date(Date.now() - 5 * DAY).toISOString();
    for (const [i, text] of [day, day.slice(0, 19), `${day.slice(0, 19)}+09:00`, `${day.slice(0, 19)}.1`].entries()) {
      store.image({ names: [`acme/i${i}:1`], layersUsed: 90 * DAY });
      store.db.query("UPDATE image_ref SET updated_at = ? WHERE reference = ?").run(text, `acme/i${i}:1`);
    }
    expect(lastUses(store)).toEqual({ "acme/i0:1": 5, "acme/i1:1": 5, "acme/i2:1": 5, "acme/i3:1": 5 });
  });
});
