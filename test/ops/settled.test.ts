import { expect, test } from "bun:test";
import { awaitSettled } from "../../src/ops/settled.ts";
import { DEFAULT_GRACE_MS } from "../../src/ops/sweep.ts";
import { at, Store } from "../store.ts";

const NAME = "docker.io/library/one:1";

test("awaitSettled waits for rows that are to follow a metadata file, and no longer once it is stopped", async () => {
  using store = await Store.make({ one: { references: [NAME], layers: [] } });
  // Loaded again just now: the file is newer than its rows.
  store.age(at.metadata(NAME), -1000);
  using larder = store.open();
  let looks = 0;
  const look = () => {
    looks++;
    return [NAME];
  };
  const stopped = () => looks === 2;
  expect(await awaitSettled(larder, look, { grace: DEFAULT_GRACE_MS, stopped })).toEqual(new Map());
  expect(looks).toBe(2);
});
