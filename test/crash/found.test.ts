import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { digestOf } from "../interop/archive.ts";
import { load } from "../interop/msb.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";

// Bugs that the bench found, each as small as it can be shown.

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

test("a sweep of many batches goes on to its end", async () => {
  using folder = new TemporaryFolder();
  const home = folder.path;
  await load(home, [{ tags: ["one:latest"], layers: LAYERS }]);
  // With a lock to take for each, far more than fits into one transaction of 50 ms.
  const paths = Array.from({ length: 4000 }, (_, i) =>
    join(home, "cache", "layers", `${digestOf(Buffer.from(`stray ${i}`)).replace(":", "_")}.erofs`),
  );
  for (const path of paths) writeFileSync(path, "");
  const { code, stderr } = await larder(home, "gc", "--grace", "0s");
  expect(stderr).not.toContain("larder:");
  expect(code).toBe(0);
  expect(paths.filter(existsSync)).toEqual([]);
});
