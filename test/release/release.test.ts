import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { release } from "../../release/release.ts";
import { hostTarget, TARGETS } from "../../release/targets.ts";
import { TemporaryFolder } from "../larder.ts";

const ROOT = join(import.meta.dir, "../..");
const MANIFEST = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
const NAME = `larder-${MANIFEST.version}-linux-${process.arch}`;

let folder: TemporaryFolder;
beforeAll(async () => {
  folder = new TemporaryFolder();
  // Of this machine's target alone, on the Bun that runs: nothing is fetched.
  for (const out of ["first", "second"]) {
    const host = TARGETS.filter(({ name }) => name === hostTarget());
    await release(host, join(folder.path, out), () => process.execPath);
  }
}, 60_000);
afterAll(() => folder[Symbol.dispose]());

function read(name: string): string {
  return readFileSync(join(folder.path, "first", name), "utf8");
}

describe("release", () => {
  test("gives the same bytes again", () => {
    expect(read("SHA256SUMS")).toBe(readFileSync(join(folder.path, "second/SHA256SUMS"), "utf8"));
  });

  test("makes a tarball and a bill of materials, and sums that sha256sum confirms", async () => {
    expect(readdirSync(join(folder.path, "first")).sort()).toEqual(
      ["SHA256SUMS", `${NAME}.cdx.json`, `${NAME}.tar.gz`].sort(),
    );
    const check = Bun.spawn(["sha256sum", "--check", "--strict", "SHA256SUMS"], { cwd: join(folder.path, "first") });
    expect({ code: await check.exited, text: await check.stdout.text() }).toEqual({
      code: 0,
      text: `${NAME}.tar.gz: OK\n${NAME}.cdx.json: OK\n`,
    });
  });

  test("packs what a host needs: it works where it is unpacked", async () => {
    using place = new TemporaryFolder();
    const tar = Bun.spawn(["tar", "-xzf", join(folder.path, "first", `${NAME}.tar.gz`), "-C", place.path]);
    expect(await tar.exited).toBe(0);
    expect(readdirSync(place.path)).toEqual([NAME]);
    const at = (path: string) => join(place.path, NAME, path);
    for (const path of [
      "LICENSE",
      "LICENSES.md",
      "README.md",
      "sbom.cdx.json",
      "man/man1/larder.1",
      "completions/larder.bash",
      "completions/_larder",
      "completions/larder.fish",
      "host/systemd/larder-prune.timer",
    ]) {
      expect(readFileSync(at(path), "utf8").length).toBeGreaterThan(100);
    }
    const version = Bun.spawn([at("larder"), "--version", "--format", "json"], { env: {} });
    expect(await version.stdout.json()).toMatchObject({ version: MANIFEST.version, target: hostTarget() });
    // The bill is of this very executable.
    const bill = JSON.parse(readFileSync(at("sbom.cdx.json"), "utf8"));
    const sum = new Bun.CryptoHasher("sha256").update(readFileSync(at("larder"))).digest("hex");
    expect(bill.metadata.component.hashes).toEqual([{ alg: "SHA-256", content: sum }]);
  });

  test("bills every package that is bundled, Bun and SQLite, each with version and licence", async () => {
    const bill = JSON.parse(read(`${NAME}.cdx.json`));
    expect(bill).toMatchObject({ bomFormat: "CycloneDX", specVersion: "1.6" });
    const versions = Object.fromEntries(
      bill.components.map(({ name, version }: { name: string; version: string }) => [name, version]),
    );
    expect(versions).toMatchObject({ ...MANIFEST.dependencies, [`@oven/bun-linux-${process.arch}`]: Bun.version });
    const { Database } = await import("bun:sqlite");
    using db = new Database(":memory:");
    expect(versions.sqlite).toBe((db.query("SELECT sqlite_version() AS v").get() as { v: string }).v);
    for (const { licenses, purl } of bill.components) {
      expect(purl).toStartWith("pkg:");
      expect(licenses).toHaveLength(1);
    }
    // Nothing that only the tests need.
    for (const name of Object.keys(MANIFEST.devDependencies)) expect(versions).not.toHaveProperty(name);
  });
});

describe("TARGETS", () => {
  test("are six, each with a runtime that is pinned to the version of this Bun", () => {
    expect(TARGETS.map(({ name }) => name).sort()).toEqual([
      "linux-arm64",
      "linux-arm64-musl",
      "linux-x64",
      "linux-x64-baseline",
      "linux-x64-baseline-musl",
      "linux-x64-musl",
    ]);
    const pins = JSON.parse(readFileSync(join(ROOT, "release/runtimes/package.json"), "utf8")).dependencies;
    const lock = readFileSync(join(ROOT, "release/runtimes/bun.lock"), "utf8");
    expect(Object.keys(pins).sort()).toEqual(TARGETS.map(({ runtime }) => runtime).sort());
    for (const [name, version] of Object.entries(pins)) {
      expect(version).toBe(Bun.version);
      expect(lock).toMatch(new RegExp(`"${name}@${Bun.version}", .*"sha512-[\\w+/]{86}=="`));
    }
  });
});
