import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../larder.ts";

const ROOT = join(import.meta.dir, "../..");

describe("larder --version", () => {
  test("tells as JSON what the executable is and was made of", async () => {
    const { code, stdout, stderr } = await run(["--version", "--format", "json"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
    const build = JSON.parse(stdout);
    expect(build).toEqual({
      name: "larder",
      version: manifest.version,
      commit: expect.stringMatching(/^(?:[0-9a-f]{40}(?:-modified)?|unknown)$/),
      target: `linux-${process.arch}`,
      bun: manifest.devDependencies["@types/bun"],
      sqlite: expect.stringMatching(/^3\.\d+\.\d+$/),
      schema: {
        creates: { msb: "0.4.4", migration: "m20260501_000001_create_snapshot_index" },
        newest_known: { msb: "0.7.2", migration: "m20260910_000001_snapshot_groups" },
      },
    });
    // The newest migration that a catalogue of larder's own has.
    expect(readFileSync(join(ROOT, "src/db/schema.sql"), "utf8")).toContain(`('${build.schema.creates.migration}'`);
  });

  test("reads no home", async () => {
    const env = { MSB_HOME: "/nonexistent" };
    expect((await run(["--format", "json", "--version"], { env })).code).toBe(0);
  });
});
