import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { EXECUTABLE } from "../build.ts";
import { Catalogue, digest, metadata, snapshot } from "./cli/catalogue.ts";
import { run, TemporaryFolder } from "./larder.ts";

describe("build", () => {
  test("makes one executable file", () => {
    const stat = statSync(EXECUTABLE);
    expect(stat.isFile()).toBe(true);
    expect(stat.mode & 0o111).toBe(0o111);
  });

  test("makes one that does not name the folder it was built in, so that it is the same from another", () => {
    expect(readFileSync(EXECUTABLE).includes(dirname(dirname(EXECUTABLE)))).toBe(false);
  });

  test("makes one that neither runs nor obeys what lies in the current folder or above it", async () => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    using catalogue = Catalogue.create(at("home"));
    catalogue.image({ reference: "alpine:3", manifest: digest(1) });
    writeFileSync(at("preload.ts"), `await Bun.write(${JSON.stringify(at("marker"))}, "ran");`);
    const hostile: Record<string, string> = {
      "bunfig.toml": `preload = ["${at("preload.ts")}"]\n[run]\npreload = ["${at("preload.ts")}"]\n`,
      ".env": `MSB_HOME=${at("trap")}\nLARDER_DEBUG=1\nBUN_OPTIONS=--preload=${at("preload.ts")}\n`,
      ".env.local": `MSB_HOME=${at("trap")}\n`,
      ".env.production": `MSB_HOME=${at("trap")}\n`,
      "tsconfig.json": `{ "extends": "./absent.json", "compilerOptions": { "paths": { "*": ["${at("preload.ts")}"] } } }`,
      "package.json": `{ "name": "trap", "version": "6.6.6", "type": "commonjs", "preload": "${at("preload.ts")}" }`,
    };
    mkdirSync(at("below"));
    for (const [name, text] of Object.entries(hostile)) writeFileSync(at(name), text);
    const before = snapshot(folder.path);
    // From the folder itself, and from one below it: Bun looks upwards too.
    for (const cwd of [folder.path, at("below")]) {
      expect(await run(["--version"], { cwd })).toEqual(await run(["--version"], { cwd: "/" }));
      const env = { HOME: at("user") };
      // Had .env been read, MSB_HOME would name the trap.
      expect((await run(["list"], { cwd, env })).stderr).toContain(at("user/.microsandbox/db/msb.db"));
      expect(await run(["list", "-q", "--home", at("home")], { cwd })).toMatchObject({ code: 0, stdout: "alpine:3\n" });
      // Had LARDER_DEBUG been read, a stack would follow.
      expect((await run(["get", "absent", "--home", at("home")], { cwd })).stderr.trimEnd()).not.toContain("\n");
    }
    expect(snapshot(folder.path)).toEqual(before);
  });

  test("makes one that carries all it needs: it works in an empty environment, and where it cannot find Bun", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const start = { cwd: "/", stdin: metadata(), env: { PATH: "/nonexistent" } };
    expect((await run(["persist", "alpine", "--metadata", "-", "--home", home], start)).code).toBe(0);
    expect((await run(["list", "-q", "--home", home], start)).stdout).toBe("alpine\n");
  });
});
