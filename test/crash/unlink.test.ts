import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { larder, run, TemporaryFolder } from "../larder.ts";
import { at, digestOf, erofs, Store } from "../store.ts";
import { hasTool } from "../tools.ts";

const KEPT = "docker.io/library/kept:1";
const GONE = "docker.io/library/gone:1";
const ALIAS = "docker.io/library/gone:2";

/** Two images that share a layer, one of them with two names and a flat root, and strays of several kinds. */
async function makeStore(): Promise<Store> {
  const store = await Store.make({
    kept: { references: [KEPT], layers: ["base", "top"], flat: "root of kept" },
    gone: { references: [GONE, ALIAS], layers: ["base", "own", "more"], flat: "root of gone" },
  });
  // The first write of larder to a catalogue adds its indexes; that is not what is killed here.
  await larder(store.path, "gc");
  return store;
}

const SIGKILLED = 128 + 9;

/** What takes an entry away; strace counts each for itself. */
const CALLS = ["unlink", "unlinkat"];

/** Runs larder and kills it where it makes the `n`th such call; strace dies of the same signal. */
function killedAt(call: string, n: number, home: string, args: string[]) {
  const inject = `inject=${call}:signal=KILL:when=${n}`;
  return run([...args, "--home", home], {
    under: ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${call}`, "-e", inject],
  });
}

/** Rows whose artifact is not there any more. */
function lostFiles(store: Store): string[] {
  const { manifests, layers } = store.rows();
  return [...layers.map(at.layer), ...manifests.flatMap((image) => [at.fsmeta(image), at.vmdk(image)])].filter(
    (path) => !store.has(path),
  );
}

/**
 * Kills `args` before each of its unlinks on a fresh copy of the store, and looks at what every kill leaves: how many
 * stray files, one number a kill, and whether gc asked for the operator's word before it took them.
 */
async function killEverywhere(store: Store, args: string[], left: string[]) {
  using pristine = new TemporaryFolder();
  const kills: { strays: number; asked: boolean }[] = [];
  // With the times of folders, too: scratch that looks young would hold everything up.
  const copy = (from: string, to: string) => Bun.$`cp -a ${from}/. ${to}`.quiet();
  await copy(store.path, pristine.path);
  for (const call of CALLS) {
    for (let n = 1; ; n++) {
      await Bun.$`rm -rf ${join(store.path, "cache")} ${join(store.path, "db")}`.quiet();
      await copy(pristine.path, store.path);
      const { code, stderr } = await killedAt(call, n, store.path, args);
      expect([0, SIGKILLED], stderr).toContain(code);
      const kill = await collectAfter(store, left);
      if (code === 0) break;
      kills.push(kill);
    }
  }
  return kills;
}

async function collectAfter(store: Store, left: string[]) {
  const strays = store.files().filter((path) => !left.includes(path) && !path.endsWith("/")).length;
  expect(store.unsound()).toEqual([]);
  expect(lostFiles(store)).toEqual([]);
  // A metadata file that outlived its rows makes the catalogue look lost, and then the operator has to say so.
  const { code, stderr } = await larder(store.path, "gc", "--grace", "0s");
  if (code === 5) {
    expect(stderr).toContain("--sweep-unrecorded");
    expect((await larder(store.path, "gc", "--grace", "0s", "--sweep-unrecorded")).code).toBe(0);
  } else expect(code, stderr).toBe(0);
  expect(store.files()).toEqual(left);
  expect(store.unsound()).toEqual([]);
  expect(lostFiles(store)).toEqual([]);
  return { strays, asked: code === 5 };
}

describe.if(hasTool("strace"))("a larder killed before any of its unlinks", () => {
  test("leaves strays at most: rm of the last names", async () => {
    using store = await makeStore();
    const kills = await killEverywhere(store, ["rm", GONE, ALIAS], store.filesOf("kept"));
    // Two metadata files, VMDK, fsmeta, flat ref and blob, and two layers, one less at each; then SQLite's log.
    expect(kills.map(({ strays }) => strays).filter((strays) => strays > 0)).toEqual([8, 7, 6, 5, 4, 3, 2, 1]);
    expect(kills.map(({ asked }) => asked).slice(0, 3)).toEqual([true, true, false]);
    expect(store.rows()).toMatchObject({ references: [KEPT], manifests: ["kept"], layers: ["base", "top"] });
  }, 60_000);

  test("leaves strays at most: gc", async () => {
    using store = await makeStore();
    store.sql("DELETE FROM image_ref WHERE reference IN (?, ?)", GONE, ALIAS);
    store.sql("INSERT INTO layer (diff_id, blob_digest) VALUES (?, 'x')", digestOf("orphan"));
    store.write(at.layer("orphan"), erofs("orphan"));
    store.write(at.layer("stray"));
    store.write("tmp/load-0-1-2.blob");
    store.write(`tmp/sha256_${"a".repeat(64)}.work/part`);
    store.age(`tmp/sha256_${"a".repeat(64)}.work`, 3_600_000);
    const kills = await killEverywhere(store, ["gc"], store.filesOf("kept"));
    // The same, an orphan and a stray layer, and what lies in tmp/: a file, and a folder with a file in it.
    expect(new Set(kills.map(({ strays }) => strays))).toEqual(new Set([12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]));
    expect(kills.length).toBeGreaterThanOrEqual(13);
    expect(store.rows()).toMatchObject({ references: [KEPT], manifests: ["kept"], layers: ["base", "top"] });
  }, 60_000);
});
