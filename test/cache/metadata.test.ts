import { describe, expect, test } from "bun:test";
import {
  cpSync,
  lutimesSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { manifestNamedBy, readMetadataFile, type YoungMetadata, YoungMetadataFiles } from "../../src/cache/metadata.ts";
import { CachePaths } from "../../src/cache/paths.ts";
import { Random } from "../crash/random.ts";
import { TemporaryFolder } from "../larder.ts";
import { fillWithLocks, MANY } from "../store.ts";

const M = `sha256:${"1".repeat(64)}`;
const N = `sha512:${"2".repeat(128)}`;
const DIFF = `sha256:${"3".repeat(64)}`;

function document(manifest: string, diffIds: string[] = [DIFF]): string {
  return JSON.stringify({
    manifest_digest: manifest,
    config_digest: M,
    config: { env: [], exposed_ports: [], volumes: [], labels: {} },
    layers: diffIds.map((diff_id) => ({ digest: M, diff_id })),
  });
}

function cacheIn(folder: TemporaryFolder): { cache: CachePaths; manifests: string } {
  const manifests = join(folder.path, "manifests");
  mkdirSync(manifests);
  return { cache: new CachePaths(folder.path), manifests };
}

describe("readMetadataFile", () => {
  test("finds nothing where no cache is", () => {
    expect(readMetadataFile("/nowhere/at/all")).toBeUndefined();
  });

  test("names the file that is wrong", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "{}");
    expect(() => readMetadataFile(path)).toThrow(`${path}: manifest_digest: `);
  });

  test("does not follow a link", () => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "target"), document(M));
    symlinkSync(join(folder.path, "target"), join(folder.path, "link"));
    expect(() => readMetadataFile(join(folder.path, "link"))).toThrow("is a link");
  });
});

describe("manifestNamedBy", () => {
  test.each<[string, string, string | undefined]>([
    ["msb's own form", document(M), M],
    ["another algorithm", document(N), N],
    ["pretty print", JSON.stringify(JSON.parse(document(N)), null, 2), N],
    ["another order of keys", JSON.stringify(Object.fromEntries(Object.entries(JSON.parse(document(M))).reverse())), M],
    ["nothing", "", undefined],
    ["no JSON", "manifest_digest", undefined],
    ["no digest", document("tool:1"), undefined],
    ["a digest in upper case", document(`sha256:${"A".repeat(64)}`), undefined],
    ["a digest of a wrong length", document(`sha512:${"1".repeat(64)}`), undefined],
    ["a digest deeper inside", JSON.stringify({ x: { manifest_digest: M } }), undefined],
    ["a list", `[${document(M)}]`, undefined],
  ])("reads %s", (_, text, expected) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, text);
    expect<string | undefined>(manifestNamedBy(path)).toBe(expected);
  });

  test("says nothing of a missing file, a folder, or a link", () => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "target"), document(M));
    symlinkSync(join(folder.path, "target"), join(folder.path, "link"));
    for (const path of ["missing", "", "link"]) expect(manifestNamedBy(join(folder.path, path))).toBeUndefined();
  });
});

describe("YoungMetadataFiles", () => {
  const GRACE = 600_000;
  const KEYS = ["a", "b", "c", "d", "e"].map((hex) => hex.repeat(64));

  function put(manifests: string, name: string, text: string, age: number): void {
    const path = join(manifests, name);
    writeFileSync(`${path}.new`, text);
    const time = (Date.now() - age) / 1000;
    utimesSync(`${path}.new`, time, time);
    renameSync(`${path}.new`, path);
  }

  test("reads those younger than grace, and only metadata", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    put(manifests, `${KEYS[0]}.json`, document(M, [DIFF, M]), 0);
    put(manifests, `${KEYS[1]}.json`, document(N), GRACE - 60_000);
    put(manifests, `${KEYS[2]}.json`, document(`sha256:${"4".repeat(64)}`), GRACE + 60_000);
    put(manifests, `${KEYS[3]}.json`, "cut", 0);
    put(manifests, `${KEYS[4]}.json.part`, document(`sha256:${"5".repeat(64)}`), 0);
    put(manifests, "other.json", document(`sha256:${"6".repeat(64)}`), 0);
    mkdirSync(join(manifests, `${KEYS[4]}.json`));
    const young = new YoungMetadataFiles(cache, Date.now, GRACE).read();
    expect([...young].sort((a, b) => a.manifest.localeCompare(b.manifest))).toEqual([
      { name: `${KEYS[0]}.json`, manifest: M, layers: [DIFF, M] },
      { name: `${KEYS[1]}.json`, manifest: N, layers: [DIFF] },
    ] as never);
  });

  test("finds none in a folder that has been still for longer than grace, and looks through a link to it", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    renameSync(manifests, `${manifests}.real`);
    symlinkSync(`${manifests}.real`, manifests);
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    const still = (Date.now() - GRACE - 1000) / 1000;
    lutimesSync(manifests, still, still);
    expect(new YoungMetadataFiles(cache, Date.now, GRACE).read()).toHaveLength(1);
    utimesSync(manifests, still, still);
    expect(new YoungMetadataFiles(cache, Date.now, GRACE).read()).toEqual([]);
  });

  const MEMORY = "/dev/shm";

  test.each<[string, number, string]>([
    ["of few names", 1, tmpdir()],
    ["of many names", MANY, tmpdir()],
    ["of many names, watched", MANY, MEMORY],
  ])("sees what another renamed into a folder %s between two deletes", (_, locks, parent) => {
    using folder = new TemporaryFolder(parent);
    const { cache, manifests } = cacheIn(folder);
    for (const key of KEYS.slice(0, 3)) put(manifests, `${key}.json`, document(M), 0);
    fillWithLocks(manifests, locks);
    using files = new YoungMetadataFiles(cache, Date.now, GRACE);
    files.readAhead();
    unlinkSync(join(manifests, `${KEYS[0]}.json`));
    put(manifests, `${KEYS[3]}.json`, document(N), 0);
    unlinkSync(join(manifests, `${KEYS[1]}.json`));
    const manifestsLeft = files.read().map(({ manifest }) => manifest as string);
    expect(manifestsLeft.sort()).toEqual([M, N]);
  });

  test.each<[string, boolean]>([
    ["is watched", false],
    ["another one takes the place of, which ends its watch", true],
  ])("sees what a fresh look sees, whatever happens to a folder that %s", (_, isReplaced) => {
    using folder = new TemporaryFolder(MEMORY);
    const { cache, manifests } = cacheIn(folder);
    fillWithLocks(manifests, MANY);
    const random = new Random(7);
    using files = new YoungMetadataFiles(cache, Date.now, GRACE);
    for (let step = 0; step < 60; step++) {
      for (let changes = random.below(4); changes > 0; changes--) {
        const name = `${random.pick(KEYS)}.json`;
        const text = random.pick([document(M), document(N), document(M, [M, DIFF]), "cut"]);
        if (random.chance(0.3)) rmSync(join(manifests, name), { force: true });
        else put(manifests, name, text, random.pick([0, 0, GRACE + 60_000]));
      }
      if (isReplaced && step === 20) {
        renameSync(manifests, `${manifests}.away`);
        cpSync(`${manifests}.away`, manifests, { recursive: true, preserveTimestamps: true });
      }
      if (random.chance(0.3)) files.readAhead();
      using fresh = new YoungMetadataFiles(cache, Date.now, GRACE);
      expect(byName(files.read())).toEqual(byName(fresh.read()));
    }
  });

  function byName(files: YoungMetadata[]): YoungMetadata[] {
    return files.toSorted((a, b) => a.name.localeCompare(b.name));
  }

  test("sees a file that was written in its place, in a folder that is watched", () => {
    using folder = new TemporaryFolder(MEMORY);
    const { cache, manifests } = cacheIn(folder);
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    fillWithLocks(manifests, MANY);
    using files = new YoungMetadataFiles(cache, Date.now, GRACE);
    expect(files.read().map(({ manifest }) => manifest as string)).toEqual([M]);
    writeFileSync(join(manifests, `${KEYS[0]}.json`), document(N));
    expect(files.read().map(({ manifest }) => manifest as string)).toEqual([N]);
  });

  /** Makes a folder of many, which looks still although a file is young that only a look at the whole would find. */
  function fillStill(manifests: string): void {
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    fillWithLocks(manifests, MANY);
    const still = (Date.now() - GRACE - 1000) / 1000;
    utimesSync(manifests, still, still);
  }

  test.each([
    ["is not read again", true, 0],
    ["is read again where nobody kept up with them", false, 1],
  ])("a still folder %s after more deletes of larder's own than the kernel keeps", (_, keepsUp, found) => {
    using folder = new TemporaryFolder(MEMORY);
    const { cache, manifests } = cacheIn(folder);
    fillStill(manifests);
    using files = new YoungMetadataFiles(cache, Date.now, GRACE);
    const most = Number(readFileSync("/proc/sys/fs/inotify/max_queued_events", "utf8"));
    for (let told = 0; told <= 2 * most; told += 3) {
      writeFileSync(join(manifests, "own"), "");
      unlinkSync(join(manifests, "own"));
      if (keepsUp && told % 3000 === 0) files.keepUp();
    }
    expect(files.read()).toHaveLength(found);
  });

  test("asks again for what it could not read, in a folder that is watched", () => {
    using folder = new TemporaryFolder(MEMORY);
    const { cache, manifests } = cacheIn(folder);
    fillWithLocks(manifests, MANY);
    let clock = Date.now;
    using files = new YoungMetadataFiles(cache, () => clock(), GRACE);
    expect(files.read()).toEqual([]);
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    clock = () => {
      throw new Error("no time");
    };
    expect(() => files.read()).toThrow("no time");
    expect(() => files.read()).toThrow("no time");
    clock = Date.now;
    expect(files.read()).toHaveLength(1);
  });

  test("does not look into a folder of many that was still when it was watched first", () => {
    using folder = new TemporaryFolder(MEMORY);
    const { cache, manifests } = cacheIn(folder);
    fillStill(manifests);
    using files = new YoungMetadataFiles(cache, Date.now, GRACE);
    unlinkSync(join(manifests, "0.lock"));
    expect(files.read()).toEqual([]);
    put(manifests, `${KEYS[1]}.json`, document(N), 0);
    expect(files.read().map(({ manifest }) => manifest as string)).toEqual([N]);
  });

  test("counts a time in the future as young", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    put(manifests, `${KEYS[0]}.json`, document(M), -3_600_000);
    expect(new YoungMetadataFiles(cache, Date.now, GRACE).read()).toHaveLength(1);
  });

  test("sees a file that was renamed into the folder since, at once", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    const files = new YoungMetadataFiles(cache, Date.now, GRACE);
    for (const [count, key] of KEYS.entries()) {
      expect(files.read()).toHaveLength(count);
      put(manifests, `${key}.json`, document(M), 0);
    }
    expect(files.read()).toHaveLength(KEYS.length);
  });

  test("sees one that came within the same tick of the clock", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    const files = new YoungMetadataFiles(cache, Date.now, GRACE);
    // One time for the folder before and after, which no clock has passed yet.
    const tick = Math.floor(Date.now() / 1000) + 60;
    utimesSync(manifests, tick, tick);
    expect(files.read()).toEqual([]);
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    utimesSync(manifests, tick, tick);
    expect(files.read()).toHaveLength(1);
  });

  test("sees one that came long after the folder had settled", () => {
    using folder = new TemporaryFolder();
    const { cache, manifests } = cacheIn(folder);
    const files = new YoungMetadataFiles(cache, Date.now, GRACE);
    const past = Date.now() / 1000 - 3600;
    utimesSync(manifests, past, past);
    expect([files.read(), files.read()]).toEqual([[], []]);
    put(manifests, `${KEYS[0]}.json`, document(M), 0);
    expect(files.read()).toHaveLength(1);
  });

  test("finds none where no cache is", () => {
    expect(new YoungMetadataFiles(new CachePaths("/nowhere/at/all"), Date.now, GRACE).read()).toEqual([]);
  });
});
