import { describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { deleteGuarded, type Guard, isTarget, type Target, target } from "../../src/cache/delete.ts";
import { type CacheFile, CachePaths } from "../../src/cache/paths.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { digest } from "../db/catalogue.ts";
import { LockHolder } from "../host/holder.ts";
import { openIn, run, TemporaryFolder } from "../larder.ts";
import { Store } from "../store.ts";
import { hasTool } from "../tools.ts";

const GRACE = 600_000;
const [A, B, C] = ["a", "b", "c"].map(digest) as [Digest, Digest, Digest];

/** A cache with real files in it, and a guard that refuses nothing. */
class Cache {
  readonly folder = new TemporaryFolder();
  readonly paths = new CachePaths(join(this.folder.path, "cache"));
  /** What happened, in order. */
  readonly log: string[] = [];

  guard(more: Partial<Guard> = {}): Guard {
    return {
      cache: this.paths,
      now: Date.now,
      grace: GRACE,
      exclusively: (work) => {
        this.log.push("begin");
        work();
        this.log.push("commit");
      },
      wanted: ({ path }) => {
        this.log.push(`asked about ${path.slice(this.paths.root.length + 1)}`);
        return undefined;
      },
      ...more,
    };
  }

  /** Writes a file as old as msb's leftovers are, and makes a target of it. */
  put(file: CacheFile, content = "content"): Target {
    mkdirSync(dirname(file.path), { recursive: true });
    writeFileSync(file.path, content);
    utimesSync(file.path, 1_000_000_000, 1_000_000_000);
    return this.target(file);
  }

  target(file: CacheFile): Target {
    const made = target(file);
    if (!made || !isTarget(made)) throw new Error(`no target: ${file.path}`);
    return made;
  }

  /** Any other path of the cache, as a scan would classify it. */
  at(folder: "tmp" | "layers", name: string): CacheFile {
    return this.paths.classify(folder, name);
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

describe("target", () => {
  test("measures a file by its allocated blocks", () => {
    using cache = new Cache();
    const layer = cache.paths.layer(A);
    cache.put(layer, "x".repeat(5000));
    truncateSync(layer.path, 1 << 30);
    const stat = lstatSync(layer.path);
    expect(target(layer)).toEqual({
      ...layer,
      inode: stat.ino,
      mtimeMs: stat.mtimeMs,
      ctimeMs: stat.ctimeMs,
      bytes: stat.blocks * 512,
    });
    expect(stat.blocks * 512).toBeLessThan(1 << 20);
  });

  test("leaves out what is not there", () => {
    using cache = new Cache();
    expect(target(cache.paths.layer(A))).toBeUndefined();
  });

  test("takes a folder in tmp, and refuses one anywhere else", () => {
    using cache = new Cache();
    const work = cache.at("tmp", `${A.replace(":", "_")}.work`);
    const layer = cache.paths.layer(A);
    const foreign = cache.at("layers", "lost+found");
    for (const { path } of [work, layer, foreign]) mkdirSync(path, { recursive: true });
    expect(isTarget(target(work)!)).toBe(true);
    for (const { kind, path } of [layer, foreign]) {
      expect(target({ kind, path })).toEqual({
        kind,
        path,
        reason: "it is a folder, and larder did not expect one",
      });
    }
  });

  test("takes a link as a link", () => {
    using cache = new Cache();
    const layer = cache.paths.layer(A);
    mkdirSync(dirname(layer.path), { recursive: true });
    symlinkSync("/", layer.path);
    expect(cache.target(layer)).toMatchObject({ kind: "layer", inode: lstatSync(layer.path).ino });
  });
});

describe("deleteGuarded", () => {
  test("deletes files of every kind inside the transaction, asking about each, and leaves their locks", async () => {
    using cache = new Cache();
    const { paths } = cache;
    const files = [
      paths.metadata("f".repeat(64)),
      paths.vmdk(A),
      paths.fsmeta(A),
      paths.flatRef(A),
      paths.flatBlob(B),
      paths.layer(C),
    ];
    const targets = files.map((file) => cache.put(file));
    const report = await deleteGuarded(targets, cache.guard());
    expect(report).toEqual({
      deleted: targets.map(({ kind, path, bytes }) => ({ kind, path, bytes })),
      skipped: [],
      failed: [],
    });
    for (const { path, lock } of targets) {
      expect(existsSync(path)).toBe(false);
      if (lock) expect(lstatSync(lock)).toMatchObject({ size: 0 });
    }
    const asked = files.map(({ path }) => `asked about ${path.slice(paths.root.length + 1)}`);
    expect(cache.log.filter((entry) => entry.startsWith("asked"))).toEqual(asked);
    expect(cache.log[0]).toBe("begin");
    expect(cache.log.at(-1)).toBe("commit");
  });

  test("opens no transaction for nothing", async () => {
    using cache = new Cache();
    expect(await deleteGuarded([], cache.guard())).toEqual({ deleted: [], skipped: [], failed: [] });
    expect(cache.log).toEqual([]);
  });

  describe("skips, and says why,", () => {
    /** Runs a delete of one layer that a guard must refuse, and another that none does. */
    async function refuse(cache: Cache, guard: Partial<Guard> = {}, spared = [A, B]): Promise<string> {
      const layers = [A, B].map((diffId) => cache.target(cache.paths.layer(diffId)));
      const report = await deleteGuarded(layers, cache.guard(guard));
      expect(report.failed).toEqual([]);
      expect(report.skipped.map(({ path }) => path)).toEqual(spared.map((diffId) => cache.paths.layer(diffId).path));
      for (const diffId of [A, B]) {
        expect(existsSync(cache.paths.layer(diffId).path)).toBe(spared.includes(diffId));
      }
      return report.skipped[0]!.reason;
    }

    function withLayers(): Cache {
      const cache = new Cache();
      for (const diffId of [A, B]) cache.put(cache.paths.layer(diffId));
      return cache;
    }

    test("what a row wants", async () => {
      using cache = withLayers();
      const wanted = ({ digest }: CacheFile) => (digest === A ? "a row needs it" : undefined);
      expect(await refuse(cache, { wanted }, [A])).toBe("a row needs it");
      expect(existsSync(cache.paths.layer(A).lock!)).toBe(false);
    });

    test("what its own lock guards, held by another process", async () => {
      using cache = withLayers();
      const lock = cache.paths.layer(A).lock!;
      await using _ = await LockHolder.hold(lock);
      expect(await refuse(cache, {}, [A])).toBe(`its lock is held ("${lock}")`);
    });

    test("a vmdk while the fsmeta lock is held, which is a running stitch", async () => {
      using cache = new Cache();
      const vmdk = cache.put(cache.paths.vmdk(A));
      mkdirSync(dirname(vmdk.lock!), { recursive: true });
      await using _ = await LockHolder.hold(vmdk.lock!);
      const { skipped } = await deleteGuarded([vmdk], cache.guard());
      expect(skipped.map(({ reason }) => reason)).toEqual([`a pull or load is running ("${vmdk.lock}")`]);
      expect(existsSync(vmdk.path)).toBe(true);
    });

    test.each(["manifests/x.lock", "tmp/x.download.lock", "fsmeta/x.erofs.lock", "flat/locks/x.lock"])(
      "everything while %s is held",
      async (name) => {
        using cache = withLayers();
        const lock = join(cache.paths.root, name);
        mkdirSync(dirname(lock), { recursive: true });
        await using _ = await LockHolder.hold(lock);
        expect(await refuse(cache)).toBe(`a pull or load is running ("${lock}")`);
      },
    );

    test.each(["load-1-4242-0.blob", "x.work"])("everything while tmp/%s is young", async (name) => {
      using cache = withLayers();
      const scratch = join(cache.paths.root, "tmp", name);
      mkdirSync(scratch, { recursive: true });
      expect(await refuse(cache)).toBe(`a pull or load is running ("${scratch}")`);
      const layers = [A, B].map((diffId) => cache.target(cache.paths.layer(diffId)));
      const { deleted } = await deleteGuarded(layers, cache.guard({ now: () => Date.now() + GRACE + 1000 }));
      expect(deleted).toHaveLength(2);
    });

    test("all that a running pull may need while that cannot be told, and young metadata while a load runs", async () => {
      using cache = withLayers();
      const young = cache.put(cache.paths.metadata("k".repeat(64)));
      utimesSync(young.path, Date.now() / 1000, Date.now() / 1000);
      const scratch = join(cache.paths.root, "tmp", "load-1-1-1.blob");
      mkdirSync(dirname(scratch), { recursive: true });
      writeFileSync(scratch, "");
      // No more can be looked into than another user's folder can.
      rmSync(cache.paths.folder("fsmeta"), { recursive: true, force: true });
      writeFileSync(cache.paths.folder("fsmeta"), "");
      const targets = [cache.target(young), cache.target(cache.paths.layer(A))];
      const { deleted, skipped, failed } = await deleteGuarded(targets, cache.guard());
      expect(deleted).toEqual([]);
      expect(skipped.map(({ reason }) => reason)).toEqual([`a pull or load is running ("${scratch}")`]);
      expect(failed.map(({ path }) => path)).toEqual([cache.paths.layer(A).path]);
    });

    test.each<[string, (path: string) => void]>([
      ["written", (path) => writeFileSync(path, "new content")],
      ["touched", (path) => utimesSync(path, 1_100_000_000, 1_100_000_000)],
      [
        "replaced by one of the same age",
        (path) => {
          writeFileSync(`${path}.new`, "new content");
          utimesSync(`${path}.new`, 1_000_000_000, 1_000_000_000);
          renameSync(`${path}.new`, path);
        },
      ],
      [
        "replaced by a folder",
        (path) => {
          rmSync(path);
          mkdirSync(path);
        },
      ],
      [
        "replaced by a link",
        (path) => {
          rmSync(path);
          symlinkSync("/", path);
        },
      ],
    ])("what was %s since it was planned", async (_, change) => {
      using cache = withLayers();
      const layers = [A, B].map((diffId) => cache.target(cache.paths.layer(diffId)));
      change(layers[0]!.path);
      const report = await deleteGuarded(layers, cache.guard());
      expect(report.skipped).toEqual([{ kind: "layer", path: layers[0]!.path, reason: "it changed meanwhile" }]);
      expect(report.deleted.map(({ path }) => path)).toEqual([layers[1]!.path]);
      expect(lstatSync(layers[0]!.path)).toBeDefined();
    });
  });

  test("accepts that a file has gone already", async () => {
    using cache = new Cache();
    const layer = cache.put(cache.paths.layer(A));
    rmSync(layer.path);
    expect(await deleteGuarded([layer], cache.guard())).toMatchObject({ skipped: [], failed: [] });
  });

  test("removes a link as a link, and never what it points to", async () => {
    using cache = new Cache();
    using elsewhere = new TemporaryFolder();
    const precious = join(elsewhere.path, "precious");
    writeFileSync(precious, "x");
    const [layer, fsmeta, scratch] = [cache.paths.layer(A), cache.paths.fsmeta(A), cache.at("tmp", "link.part")];
    for (const [file, to] of [
      [layer, precious],
      [fsmeta, elsewhere.path],
      [scratch, elsewhere.path],
    ] as const) {
      mkdirSync(dirname(file.path), { recursive: true });
      symlinkSync(to, file.path);
    }
    const targets = [layer, fsmeta, scratch].map((file) => cache.target(file));
    const report = await deleteGuarded(targets, cache.guard());
    expect(report.deleted).toHaveLength(3);
    expect(targets.some(({ path }) => lstatSync(path, { throwIfNoEntry: false }))).toBe(false);
    expect(readFileSync(precious, "utf8")).toBe("x");
  });

  test("removes a folder in tmp with all in it, and follows no link inside", async () => {
    using cache = new Cache();
    using elsewhere = new TemporaryFolder();
    writeFileSync(join(elsewhere.path, "precious"), "x");
    const work = cache.at("tmp", "old-scratch");
    mkdirSync(join(work.path, "a", "b"), { recursive: true });
    writeFileSync(join(work.path, "a", "b", "file"), "");
    symlinkSync(elsewhere.path, join(work.path, "a", "folder-link"));
    symlinkSync(join(elsewhere.path, "precious"), join(work.path, "file-link"));
    const report = await deleteGuarded([cache.target(work)], cache.guard());
    expect(report.deleted.map(({ path }) => path)).toEqual([work.path]);
    expect(existsSync(work.path)).toBe(false);
    expect(readdirSync(elsewhere.path)).toEqual(["precious"]);
  });

  test("does not follow a link where the lock belongs, and reports the file as failed", async () => {
    using cache = new Cache();
    const layers = [A, B].map((diffId) => cache.put(cache.paths.layer(diffId)));
    symlinkSync(join(cache.folder.path, "elsewhere"), layers[0]!.lock!);
    const report = await deleteGuarded(layers, cache.guard());
    expect(report.failed).toEqual([
      { kind: "layer", path: layers[0]!.path, reason: expect.stringContaining("symbolic link") },
    ]);
    expect(report.deleted.map(({ path }) => path)).toEqual([layers[1]!.path]);
    expect(existsSync(join(cache.folder.path, "elsewhere"))).toBe(false);
  });

  test("holds the lock while it deletes, and no longer", async () => {
    using cache = new Cache();
    const layer = cache.put(cache.paths.layer(A));
    await deleteGuarded([layer], cache.guard());
    await using holder = await LockHolder.hold(layer.lock!);
    expect(holder).toBeDefined();
  });

  test("goes on in another transaction where one would last too long, and loses no file between them", async () => {
    using cache = new Cache();
    const targets = [A, B, C].map((diffId) => cache.put(cache.paths.layer(diffId)));
    // Each question takes longer than a batch may last.
    const slow = ({ path }: CacheFile) => {
      cache.log.push(`asked about ${path.slice(cache.paths.root.length + 1)}`);
      Bun.sleepSync(60);
      return undefined;
    };
    const report = await deleteGuarded(targets, cache.guard({ wanted: slow }));
    expect(report.deleted.map(({ path }) => path)).toEqual(targets.map(({ path }) => path));
    // On a slow machine a transaction may come too late for what was looked at before it, and is left at once.
    const log = cache.log.filter(
      (entry, i) => ![entry + cache.log[i + 1], cache.log[i - 1] + entry].includes("begincommit"),
    );
    expect(log).toEqual(
      [A, B, C].flatMap((diffId) => ["begin", `asked about layers/${diffId.replace(":", "_")}.erofs`, "commit"]),
    );
  });

  test("goes on in another transaction where many wait for their blocks, and leaves no descriptor open", async () => {
    using cache = new Cache();
    const targets = Array.from({ length: 1200 }, (_, i) => cache.put(cache.at("tmp", `part-${i}`)));
    const wanted = () => {
      cache.log.push("asked");
      return undefined;
    };
    const report = await deleteGuarded(targets, cache.guard({ wanted }));
    expect(report.deleted.map(({ path }) => path)).toEqual(targets.map(({ path }) => path));
    expect(readdirSync(cache.paths.folder("tmp"))).toEqual([]);
    const batches = cache.log
      .join(" ")
      .split("begin")
      .map((batch) => batch.split("asked").length - 1);
    expect(Math.max(...batches)).toBeLessThanOrEqual(512);
    expect(openIn(cache.folder.path)).toEqual([]);
  });

  test("stops between two transactions when asked to, and reports what it did", async () => {
    using cache = new Cache();
    const targets = [A, B, C].map((diffId) => cache.put(cache.paths.layer(diffId)));
    const slow = () => {
      Bun.sleepSync(60);
      return undefined;
    };
    const stopped = () => cache.log.includes("commit");
    const report = await deleteGuarded(targets, cache.guard({ wanted: slow, stopped }));
    expect(report.deleted.map(({ path }) => path)).toEqual([targets[0]!.path]);
    expect(targets.map(({ path }) => existsSync(path))).toEqual([false, true, true]);
    expect(await deleteGuarded(targets.slice(1), cache.guard({ stopped: () => true }))).toEqual({
      deleted: [],
      skipped: [],
      failed: [],
    });
  });

  test("takes metadata files at once while a pull forbids the others, and those where it ends soon", async () => {
    using cache = new Cache();
    const targets = [cache.put(cache.paths.metadata("k".repeat(64))), cache.put(cache.paths.layer(A))];
    const lock = join(cache.paths.root, "tmp", "x.download.lock");
    mkdirSync(dirname(lock), { recursive: true });
    const pull = await LockHolder.hold(lock);
    const endOfPull = (async () => {
      while (existsSync(targets[0]!.path)) await Bun.sleep(5);
      await pull[Symbol.asyncDispose]();
    })();
    const { deleted, skipped } = await deleteGuarded(targets, cache.guard());
    await endOfPull;
    expect(skipped).toEqual([]);
    expect(deleted.map(({ path }) => path)).toEqual(targets.map(({ path }) => path));
  });

  test("looks again for running work where the write lock was long in coming", async () => {
    using cache = new Cache();
    const layer = cache.put(cache.paths.layer(A));
    const scratch = join(cache.paths.root, "tmp", "load-1-1-1.blob");
    const exclusively = (work: () => void) => {
      if (!existsSync(scratch)) {
        // A load begins while larder waits for the lock.
        mkdirSync(dirname(scratch), { recursive: true });
        writeFileSync(scratch, "");
        Bun.sleepSync(60);
      }
      work();
    };
    const report = await deleteGuarded([layer], cache.guard({ exclusively }));
    expect(report.skipped.map(({ reason }) => reason)).toEqual([`a pull or load is running ("${scratch}")`]);
    expect(existsSync(layer.path)).toBe(true);
  });

  test("gets on, and sees work that runs, where the write lock is always long in coming", async () => {
    using cache = new Cache();
    const [layer, other] = [cache.put(cache.paths.layer(A)), cache.put(cache.paths.layer(B))];
    let begun = 0;
    const exclusively = (work: () => void) => {
      begun++;
      Bun.sleepSync(60);
      work();
    };
    const guard = cache.guard({ exclusively });
    expect((await deleteGuarded([layer], guard)).deleted.map(({ path }) => path)).toEqual([layer.path]);
    expect(begun).toBe(3);
    const scratch = join(cache.paths.root, "tmp", "load-1-1-1.blob");
    const busy = (work: () => void) => {
      if (++begun === 6) {
        mkdirSync(dirname(scratch), { recursive: true });
        writeFileSync(scratch, "");
      }
      Bun.sleepSync(60);
      work();
    };
    const report = await deleteGuarded([other], { ...guard, exclusively: busy });
    expect(report.skipped.map(({ reason }) => reason)).toEqual([`a pull or load is running ("${scratch}")`]);
    expect(existsSync(other.path)).toBe(true);
  });

  test("deletes nothing where no transaction can be had", async () => {
    using cache = new Cache();
    const layer = cache.put(cache.paths.layer(A));
    const exclusively = () => {
      throw new Error("busy");
    };
    await expect(deleteGuarded([layer], cache.guard({ exclusively }))).rejects.toThrow("busy");
    expect(existsSync(layer.path)).toBe(true);
  });

  // A power cut could bring a metadata file back whose rows are gone.
  test.if(hasTool("strace"))("syncs the folder of metadata before the first artifact goes", async () => {
    const names = ["docker.io/library/one:1", "docker.io/library/uno:1"];
    using store = await Store.make({ one: { references: names, layers: ["base", "top"] } });
    using folder = new TemporaryFolder();
    const log = join(folder.path, "calls");
    const under = ["strace", "-f", "-y", "-qq", "-o", log, "-e", "trace=fsync,unlink,unlinkat"];
    const { code, stderr } = await run(["rm", ...names, "--home", store.path], { under });
    expect(code, stderr).toBe(0);
    const calls = readFileSync(log, "utf8")
      .split("\n")
      .flatMap((line) => / (unlink|fsync)\w*\(.*\/cache\/(\w+)/.exec(line)?.slice(1).join(" ") ?? []);
    const artifacts = ["unlink vmdk", "unlink fsmeta", "unlink layers", "unlink layers"];
    expect(calls).toEqual(["unlink manifests", "unlink manifests", "fsync manifests", ...artifacts]);
  });
});
