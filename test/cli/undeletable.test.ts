import { describe, expect, test } from "bun:test";
import { chmodSync, chownSync, lstatSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openForReading } from "../../src/db/open.ts";
import { larder, run } from "../larder.ts";
import { Mounted, mountingRefused, runTool } from "../mount.ts";
import { IN_NAMESPACE, namespaceRefused } from "../namespace.ts";
import { at, Store } from "../store.ts";

const ONE = "ghcr.io/acme/one:1";
const GONE = "ghcr.io/acme/gone:1";
const isRoot = process.geteuid?.() === 0;
const mounting = mountingRefused();

/** Two images, and one that lost its name. */
async function makeStore(): Promise<Store> {
  const store = await Store.make({
    one: { references: [ONE], layers: ["base", "own"] },
    gone: { references: [GONE], layers: ["base", "theirs"] },
  });
  store.sql("DELETE FROM image_ref WHERE reference = ?", GONE);
  return store;
}

const COMMANDS = [
  ["rm", ONE],
  ["gc", "--sweep-unrecorded"],
  ["prune", "--unused", "--min-age", "0s", "--sweep-unrecorded"],
];

/** What stands in the way, until the block ends, and what larder runs under in it. */
type Obstacle = (store: Store) => { under: string[] } & Disposable;

const OBSTACLES: [what: string, refusal: string | undefined, says: string, obstacle: Obstacle][] = [
  [
    "folder may not be written",
    undefined,
    'cannot access "/cache/layers": permission denied',
    (store) => {
      const layers = join(store.cache, "layers");
      const under = store.asNobody();
      chmodSync(layers, 0o555);
      return { under, [Symbol.dispose]: () => chmodSync(layers, 0o755) };
    },
  ],
  [
    "folder is of a user whom the root of a user namespace does not know",
    namespaceRefused(),
    'cannot access "/cache/layers": permission denied',
    (store) => {
      for (const layer of ["base", "own", "theirs"]) writeFileSync(join(store.cache, at.layerLock(layer)), "");
      const under = [...store.asNobody(), ...IN_NAMESPACE];
      chownSync(join(store.cache, "layers"), 12345, 12345);
      return { under, [Symbol.dispose]() {} };
    },
  ],
  [
    "cache is on a read-only file system",
    mounting,
    "the file system is read-only",
    ({ cache }) => {
      const mounted = new Mounted(cache, "--bind", cache);
      runTool("mount", "-o", "remount,bind,ro", cache);
      return { under: [], [Symbol.dispose]: () => mounted[Symbol.dispose]() };
    },
  ],
  [
    "root may not give its locks to the home's owner",
    isRoot ? undefined : "needs root",
    'nothing was deleted, because files that would go cannot: can make nothing in "/cache/',
    (store) => {
      store.give(12345);
      runTool("find", store.cache, "-name", "*.lock", "-delete");
      // Without one, the log could not be given away either.
      const db = openForReading(store.database)!;
      return { under: ["setpriv", "--bounding-set=-chown", "--inh-caps=-chown"], [Symbol.dispose]: () => db.close() };
    },
  ],
  [
    "scratch folder may not be looked into",
    undefined,
    '/cache/tmp": permission denied',
    (store) => {
      const scratch = join(store.cache, "tmp");
      const under = store.asNobody();
      chmodSync(scratch, 0);
      return { under, [Symbol.dispose]: () => chmodSync(scratch, 0o755) };
    },
  ],
  [
    "lock of another pull may not be opened",
    isRoot ? undefined : "needs root",
    "cannot tell whether the lock",
    (store) => {
      const under = store.asNobody();
      const lock = join(store.cache, at.metadataLock("ghcr.io/acme/other:1"));
      writeFileSync(lock, "", { mode: 0o600 });
      return { under, [Symbol.dispose]() {} };
    },
  ],
  [
    "C library cannot be called",
    undefined,
    "cannot be called",
    () => ({ under: ["env", "BUN_JSC_useJIT=0"], [Symbol.dispose]() {} }),
  ],
];

function immutability(): string | undefined {
  if (!isRoot) return "needs root";
  const { exitCode, stderr } = Bun.spawnSync([
    "sh",
    "-c",
    'f=$(mktemp) && chattr +i "$f" && chattr -i "$f"; rm -f "$f"',
  ]);
  return exitCode === 0 ? undefined : stderr.toString().trim();
}

// Whatever could tell that something was changed, but for locks that were made and let go of.
function picture(store: Store): unknown {
  const files = store.files().map((path) => [path, lstatSync(join(store.cache, path)).ino]);
  return { rows: store.rows(), files };
}

for (const [what, refusal, says, obstacle] of OBSTACLES)
  describe.skipIf(refusal !== undefined)(`while a ${what}${refusal ? ` (${refusal})` : ""}`, () => {
    test.each(COMMANDS)("%s takes no row whose files would have to stay", async (...args) => {
      using store = await makeStore();
      const before = picture(store);
      {
        using there = obstacle(store);
        const { code, stdout, stderr } = await run([...args, "--home", store.path], { under: there.under });
        expect([code, stdout]).toEqual([1, ""]);
        expect(stderr.replaceAll(store.path, "")).toContain(says);
      }
      expect(picture(store)).toEqual(before);
      expect((await larder(store.path, ...args)).code).toBe(0);
      expect(picture(store)).not.toEqual(before);
    });
  });

const immutable = immutability();

describe.skipIf(immutable !== undefined)(`of an immutable metadata file${immutable ? ` (${immutable})` : ""}`, () => {
  const STUCK = "ghcr.io/acme/stuck:1";

  /** One image whose metadata file cannot go, and one beside it. */
  async function makeStuck(): Promise<Store> {
    const store = await Store.make({
      stuck: { references: [STUCK], layers: ["base", "stuck"] },
      one: { references: [ONE], layers: ["base", "own"] },
    });
    runTool("chattr", "+i", join(store.cache, at.metadata(STUCK)));
    return store;
  }

  test.each([
    [["rm", STUCK, ONE], 1],
    [["prune", "--unused", "--min-age", "0s"], 0],
  ])("%s leaves the image, and takes the others", async (args, code) => {
    using store = await makeStuck();
    const ended = await larder(store.path, ...args);
    runTool("chattr", "-i", join(store.cache, at.metadata(STUCK)));
    expect(ended).toMatchObject({ code, stderr: expect.stringContaining("it is immutable (chattr -i lets it)") });
    expect(store.rows().references).toEqual([STUCK]);
    expect(store.files()).toEqual(store.filesOf("stuck"));
    expect((await larder(store.path, ...args.filter((arg) => arg !== ONE))).code).toBe(0);
    expect(store.files()).toEqual([]);
  });

  test("prune does not point to a dry run, which does not know of it", async () => {
    using store = await makeStuck();
    const { stderr } = await larder(store.path, "prune", "--unused", "--min-age", "0s", "--keep", ONE);
    const alone = await larder(store.path, "rm", ONE);
    const { stderr: last } = await larder(store.path, "prune", "--unused", "--min-age", "0s");
    runTool("chattr", "-i", join(store.cache, at.metadata(STUCK)));
    expect(stderr).toContain("1 changed, 1 keep (--dry-run gives every reason)");
    expect(alone.code).toBe(0);
    expect(last).toContain("nothing was evicted: 1 changed\nkept sha256:");
  });

  test("gc leaves an untagged image that it is about", async () => {
    using store = await makeStuck();
    store.sql("DELETE FROM image_ref WHERE reference = ?", STUCK);
    const { code } = await larder(store.path, "gc", "--sweep-unrecorded");
    runTool("chattr", "-i", join(store.cache, at.metadata(STUCK)));
    expect(code).toBe(1);
    expect(store.rows().manifests).toEqual(["one", "stuck"]);
    expect(store.files()).toEqual(store.filesOf("one", "stuck"));
  });
});

test("a stray that cannot be deleted keeps no image from being evicted", async () => {
  using store = await Store.make({ one: { references: [ONE], layers: ["own"] } });
  store.write(at.flatBlob("stray"));
  const under = store.asNobody();
  const blobs = join(store.cache, "flat", "blobs");
  chmodSync(blobs, 0o555);
  const prune = ["prune", "--unused", "--min-age", "0s", "--home", store.path];
  const { code, stderr } = await run(prune, { under });
  chmodSync(blobs, 0o755);
  expect([code, stderr]).toEqual([1, expect.stringContaining("permission denied")]);
  expect(store.rows().references).toEqual([]);
  expect(store.files()).toEqual([at.flatBlob("stray")]);
});

test.skipIf(!isRoot)(
  "a lock that may not be opened costs its own file, whichever of its folder it is (needs root)",
  async () => {
    using store = await Store.make({ one: { references: [ONE], layers: ["base", "own"] } });
    const under = store.asNobody();
    const lock = join(store.cache, at.layerLock("base"));
    writeFileSync(lock, "", { mode: 0o600 });
    const { code, stderr } = await run(["rm", ONE, "--home", store.path], { under });
    expect([code, stderr]).toEqual([1, expect.stringContaining("permission denied")]);
    expect(store.files()).toEqual([at.layer("base")]);
  },
);

test.skipIf(!isRoot)("a service with the right to pass over modes deletes (needs root)", async () => {
  using store = await Store.make({ one: { references: [ONE], layers: ["own"] } });
  store.give(4000);
  const rights = "+dac_override,+dac_read_search,+fowner";
  const under = ["setpriv", "--reuid=5000", "--clear-groups", `--inh-caps=${rights}`, `--ambient-caps=${rights}`];
  expect((await run(["rm", ONE, "--home", store.path], { under })).code).toBe(0);
  expect(store.files()).toEqual([]);
});
