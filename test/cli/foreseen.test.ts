import { expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { larder, run } from "../larder.ts";
import { at, digestOf, holdLock, metadataOf, Store, YOUNG } from "../store.ts";

const GONE = "ghcr.io/acme/gone:1";
const KEPT = "ghcr.io/acme/kept:1";
const OTHER = "ghcr.io/acme/other:1";

function makeStore(): Promise<Store> {
  return Store.make({
    gone: { references: [GONE], layers: ["base", "own"], flat: "root" },
    kept: { references: [KEPT], layers: ["base"] },
  });
}

const RM = ["rm", GONE];
const PRUNE = ["prune", "--unused", "--min-age", "0s", "--keep", KEPT];
const BUDGET = ["prune", "--max-size", "0", "--min-age", "0s"];

/** What a home is like, and what is held meanwhile. */
type State = (store: Store) => Partial<AsyncDisposable> | Promise<AsyncDisposable> | undefined;

const STATES: [what: string, code: number, state: State, ...commands: string[][]][] = [
  [
    "a metadata file written just now names the image, whose flat ref keeps its blob",
    0,
    (store) => void store.write(at.metadata(OTHER), JSON.stringify(metadataOf("gone", ["base", "own"])), YOUNG),
    RM,
    PRUNE,
  ],
  [
    "the metadata file is about an image that a snapshot needs",
    0,
    (store) => {
      store.snapshotRow("golden", digestOf("kept"));
      store.write(at.metadata(GONE), JSON.stringify(metadataOf("kept", ["base"])));
      return undefined;
    },
    RM,
    PRUNE,
  ],
  ["a layer's own lock is held", 0, (store) => holdLock(join(store.cache, at.layerLock("own"))), RM],
  [
    "a stray's own lock is held",
    0,
    (store) => {
      store.write(at.layer("stray"));
      return holdLock(join(store.cache, at.layerLock("stray")));
    },
    ["gc"],
  ],
  [
    "a layer's own lock is held, and a budget misses it",
    75,
    (store) => holdLock(join(store.cache, at.layerLock("own"))),
    BUDGET,
  ],
  [
    "the history of migrations is gone",
    1,
    (store) => void store.sql("DELETE FROM seaql_migrations"),
    RM,
    PRUNE,
    ["gc"],
  ],
  [
    "a downgrade of msb is not finished",
    1,
    (store) => {
      const folder = join(store.path, "db", "self-downgrade", "one");
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "journal.json"), '{"phase":"started"}');
      return undefined;
    },
    RM,
    PRUNE,
    ["gc"],
  ],
];

const CASES = STATES.flatMap(([what, code, state, ...commands]) =>
  commands.map((command): [string, string, number, State, string[]] => [command.join(" "), what, code, state, command]),
);

test.each(CASES)("a dry run plans what `%s` then does where %s", async (_name, _what, code, state, command) => {
  using store = await makeStore();
  const held = await state(store);
  const args = [...command, "--format", "json"];
  const plan = await larder(store.path, ...args, "--dry-run");
  const done = await larder(store.path, ...args);
  await held?.[Symbol.asyncDispose]?.();
  expect([plan.code, done.code]).toEqual([code, code]);
  if (done.stdout === "") expect(plan).toEqual(done);
  else expect({ ...JSON.parse(plan.stdout), dry_run: false }).toEqual(JSON.parse(done.stdout));
});

test("who may not look for a downgrade of msb may read and plan, and not write", async () => {
  using store = await makeStore();
  store.write(at.layer("stray"));
  const under = store.asNobody();
  const folder = join(store.path, "db", "self-downgrade");
  mkdirSync(folder, { mode: 0 });
  if (under.length > 0) chownSync(folder, 65534, 65534);
  for (const [code, ...args] of [
    [0, "df"],
    [0, "gc", "-n"],
    [0, "rm", "-n", GONE],
    [1, "gc"],
  ] as const) {
    const ended = await run([...args, "--home", store.path], { under });
    expect([args, ended.code]).toEqual([args, code]);
  }
  chmodSync(folder, 0o755);
  expect(store.has(at.layer("stray"))).toBe(true);
});

test("check --repair plans and does nothing while a downgrade of msb is not finished, and says that gc does not either", async () => {
  using store = await makeStore();
  store.write(at.layer("stray"));
  const folder = join(store.path, "db", "self-downgrade", "one");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "journal.json"), '{"phase":"started"}');
  for (const [repair, extra] of [[null, ["--dry-run"]] as const, ["left", []] as const]) {
    const { stdout } = await larder(store.path, "check", "--repair", ...extra, "--format", "json");
    const strays = JSON.parse(stdout).problems.filter(({ code }: { code: string }) => code === "stray-file");
    expect(strays).toMatchObject([{ repair, advice: expect.stringContaining("until msb has finished its downgrade") }]);
  }
  expect(store.has(at.layer("stray"))).toBe(true);
});
