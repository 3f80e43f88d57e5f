import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, unlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { digestOf } from "../interop/archive.ts";
import { load } from "../interop/msb.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { PATIENCE, REFUSAL } from "./bench.ts";
import { fail } from "./injection.ts";
import { DIGESTS, metadataName, SOUND_LAYER, Stand } from "./scenario.ts";

// Bugs that the bench found, each as small as it can be shown.

const TRACED = `${REFUSAL ? ` (${REFUSAL})` : ""}`;

const LAYERS = [{ files: { "opt/file": "content" } }];

test("a removal waits for running work and then leaves the files to the next gc", async () => {
  using folder = new TemporaryFolder();
  const home = folder.path;
  await load(home, [
    { tags: ["one:latest"], layers: LAYERS },
    { tags: ["two:latest"], layers: [] },
  ]);
  const manifests = join(home, "cache", "manifests");
  const old = Date.now() / 1000 - 3600;
  for (const name of readdirSync(manifests)) utimesSync(join(manifests, name), old, old);
  // The scratch of a load that runs, by its age.
  mkdirSync(join(home, "cache", "tmp"), { recursive: true });
  const scratch = join(home, "cache", "tmp", "load-0-1-0.blob");
  writeFileSync(scratch, "");
  const report = await larderJson(home, ["rm", "one:latest"]);
  expect(report.files.map(({ kind }: { kind: string }) => kind)).toEqual(["metadata"]);
  expect(report.skipped.map(({ kind }: { kind: string }) => kind).sort()).toEqual(["fsmeta", "layer", "vmdk"]);
  for (const { reason } of report.skipped) expect(reason).toContain(scratch);
});

test(
  "a sweep of many batches goes on to its end",
  async () => {
    using folder = new TemporaryFolder();
    const home = folder.path;
    await load(home, [{ tags: ["one:latest"], layers: LAYERS }]);
    // With a lock to take for each, far more than fits into one transaction of 50 ms.
    const paths = Array.from({ length: 2500 }, (_, i) =>
      join(home, "cache", "layers", `${digestOf(Buffer.from(`stray ${i}`)).replace(":", "_")}.erofs`),
    );
    for (const path of paths) writeFileSync(path, "");
    const { code, stderr } = await larder(home, "gc", "--grace", "0s");
    expect(stderr).not.toContain("larder:");
    expect(code).toBe(0);
    expect(paths.filter(existsSync)).toEqual([]);
  },
  PATIENCE,
);

describe.skipIf(REFUSAL !== undefined)(`a call that fails${TRACED}`, () => {
  const stem = (digest: string) => digest.replace(":", "_");

  test("does not set free the flat blob that an unread ref names", async () => {
    using stand = await Stand.build();
    stand.reset("store");
    const refs = join(stand.home, "cache", "flat", "refs");
    const ref = join(refs, `${stem(DIGESTS.mover)}.json`);
    unlinkSync(join(refs, `${stem(DIGESTS.one)}.json`));
    const { artifact_digest } = await Bun.file(ref).json();
    for (const count of [1, 2]) {
      const at = { call: "openat", path: ref, count };
      const { struck, code, stderr } = await fail(stand, ["gc", "--grace", "0s"], at, "EMFILE");
      expect({ struck, code }).toEqual({ struck: true, code: 1 });
      expect(stderr).toContain(`cannot open "${ref}": too many files are open`);
      expect(existsSync(join(stand.home, "cache", "flat", "blobs", `${stem(artifact_digest)}.raw`))).toBe(true);
    }
  });

  test("does not hide the metadata file that shows a catalogue to be lost", async () => {
    using stand = await Stand.build();
    stand.reset("store");
    {
      using db = new Database(join(stand.home, "db", "msb.db"));
      db.run("PRAGMA foreign_keys = ON");
      db.query("DELETE FROM image_ref WHERE reference = 'two:latest'").run();
      db.query("DELETE FROM manifest WHERE digest = ?").run(DIGESTS.two);
    }
    const path = join(stand.home, "cache", "manifests", metadataName("two:latest"));
    const at = { call: "openat", path, count: 1 };
    const { struck, code, stderr } = await fail(stand, ["gc", "--grace", "0s"], at, "EIO");
    expect({ struck, code }).toEqual({ struck: true, code: 1 });
    expect(stderr).toContain(`cannot open "${path}": the device reported an input/output error`);
    expect(existsSync(join(stand.home, "cache", "fsmeta", `${stem(DIGESTS.two)}.erofs`))).toBe(true);
  });

  test.each([
    ["pread64", `fsmeta/${stem(DIGESTS.one)}.erofs`],
    ["read", `vmdk/${stem(DIGESTS.one)}.vmdk`],
    ["openat", `layers/${stem(SOUND_LAYER)}.erofs`],
    ["openat", `manifests/${metadataName("nobody:1")}`],
  ])("in %s of %s is one problem among those that check names", async (call, file) => {
    using stand = await Stand.build();
    stand.reset("store");
    const path = join(stand.home, "cache", file);
    if (!existsSync(path)) {
      writeFileSync(path, "nobody's");
      utimesSync(path, 0, 0);
    }
    const missing = join(stand.home, "cache", "vmdk", `${stem(DIGESTS.two)}.vmdk`);
    unlinkSync(missing);
    const { struck, code, stdout } = await fail(stand, ["check"], { call, path, count: 1 }, "EIO");
    const messages = JSON.parse(stdout).problems.map(({ message }: { message: string }) => message);
    expect(messages).toContainEqual(expect.stringContaining(`"${missing}" does not exist`));
    expect({ struck, code }).toEqual({ struck: true, code: 5 });
    expect(messages).toContain(
      `cannot ${call === "openat" ? "open" : "read"} "${path}": the device reported an input/output error`,
    );
  });

  test("on a flat ref hides no other problem, and lets no repair say that it mended what it could not see", async () => {
    using stand = await Stand.build();
    const path = join(stand.home, "cache", "flat", "refs", `${stem(DIGESTS.mover)}.json`);
    let fresh = 0;
    for (const count of [1, 2, 3, 4, 5, 6]) {
      stand.reset("store");
      writeFileSync(path, "{");
      using db = new Database(join(stand.home, "db", "msb.db"));
      db.run("UPDATE manifest SET layer_count = 9");
      const { stdout } = await fail(
        stand,
        ["check", "--repair", "--grace", "0s"],
        { call: "openat", path, count },
        "EIO",
      );
      const problems: { code: string; repair: string | null }[] = JSON.parse(stdout).problems;
      const codes = problems.map(({ code }) => code);
      expect(codes).toContain("layer-count-mismatch");
      expect(problems.filter(({ code, repair }) => code === "flat-ref-unreadable" && repair === "done")).toEqual([]);
      if (codes.includes("flat-ref-unreadable") && codes.includes("file-unreadable")) fresh++;
    }
    expect(fresh).toBeGreaterThan(0);
  });

  test("for want of room for a lock file is tried again, once others have made room", async () => {
    using stand = await Stand.build();
    const file = join(stand.home, "cache", "manifests", metadataName("two:latest"));
    const lock = file.replace(/json$/, "lock");
    let survived = 0;
    for (const count of [1, 2, 3, 4, 5, 6, 7, 8]) {
      stand.reset("store");
      if (existsSync(lock)) unlinkSync(lock);
      const { struck, code } = await fail(stand, ["rm", "two:latest"], { call: "openat", path: lock, count }, "ENOSPC");
      using db = new Database(join(stand.home, "db", "msb.db"));
      const rows = db.query("SELECT 1 FROM manifest WHERE digest = ?").all(DIGESTS.two);
      // Rows that went without it would make the next gc take the catalogue for lost.
      expect(existsSync(file)).toBe(rows.length > 0);
      if (struck && code === 0) survived++;
    }
    expect(survived).toBeGreaterThan(0);
  });

  test("names the database in what a repair could not mend", async () => {
    using stand = await Stand.build();
    stand.reset("store");
    const database = join(stand.home, "db", "msb.db");
    const at = { call: "fsync", path: `${database}-wal`, count: 2 };
    const { struck, stdout } = await fail(stand, ["check", "--repair", "--grace", "0s"], at, "EIO");
    expect(struck).toBe(true);
    const left = JSON.parse(stdout).problems.map(({ left }: { left: string | null }) => left);
    expect(left).toContainEqual(expect.stringContaining(`cannot use the database "${database}": the device reported`));
  });
});
