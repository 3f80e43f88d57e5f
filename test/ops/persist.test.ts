import { expect, test } from "bun:test";
import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { closeLarder } from "../../src/larder.ts";
import { entryFor, persist } from "../../src/ops/persist.ts";
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
