import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LarderError } from "../../src/error.ts";
import { closeLarder } from "../../src/larder.ts";
import { entryFor, persist, persistEach } from "../../src/ops/persist.ts";
import { larder } from "../larder.ts";
import { at, Store } from "../store.ts";

const ONE = "ghcr.io/acme/one:1";

function makeStore(): Promise<Store> {
  return Store.make({ one: { references: [ONE], layers: ["own"] } });
}

test("persist puts no image on record that a removal has taken since its metadata was read", async () => {
  using store = await makeStore();
  const home = store.open();
  try {
    const entry = entryFor(home.home, ONE);
    expect((await larder(store.path, "rm", ONE)).code).toBe(0);
    expect(() => persist(home, [entry])).toThrow("was deleted meanwhile");
  } finally {
    closeLarder(home);
  }
  expect(store.rows()).toMatchObject({ references: [], manifests: [], layers: [] });
});

test("persistEach puts the others on record where the metadata of one was deleted or replaced", async () => {
  const names = [ONE, "ghcr.io/acme/two:1", "ghcr.io/acme/three:1"];
  using store = await Store.make({ one: { references: names, layers: ["own"] } });
  const home = store.open();
  try {
    const entries = names.map((name) => entryFor(home.home, name));
    store.sql("DELETE FROM image_ref");
    rmSync(join(store.cache, at.metadata(names[0]!)));
    chmodSync(join(store.cache, at.metadata(names[1]!)), 0o600);
    const outcomes = Array.from(persistEach(home, entries), ([, outcome]) =>
      outcome instanceof LarderError ? outcome.code : outcome.reference,
    );
    expect(outcomes).toEqual(["not_found", "busy", names[2]!]);
  } finally {
    closeLarder(home);
  }
  expect(store.rows().references).toEqual([names[2]!]);
});

test("persist asks to try again where the metadata was replaced since it was read", async () => {
  using store = await makeStore();
  const home = store.open();
  try {
    const entry = entryFor(home.home, ONE);
    const path = join(store.cache, at.metadata(ONE));
    copyFileSync(path, `${path}.part`);
    renameSync(`${path}.part`, path);
    expect(() => persist(home, [entry])).toThrow("was replaced meanwhile; try again");
    expect(persist(home, [entryFor(home.home, ONE)])).toHaveLength(1);
  } finally {
    closeLarder(home);
  }
});
