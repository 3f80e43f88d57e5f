import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, run, TemporaryFolder } from "../larder.ts";
import { Catalogue, digest, metadata, snapshot } from "./catalogue.ts";
import { onTerminal } from "./pty.ts";

let folder: TemporaryFolder;
let home: string;
/** Enough images that no pipe holds the list of them. */
const MANY = 2000;

beforeAll(() => {
  folder = new TemporaryFolder();
  home = join(folder.path, "home");
  using catalogue = Catalogue.create(home);
  catalogue.db.transaction(() => {
    for (let i = 1; i <= MANY; i++) catalogue.image({ reference: `ghcr.io/acme/image-${i}:v1`, manifest: digest(i) });
  })();
});
afterAll(() => folder[Symbol.dispose]());

/** Runs a line of shell in which `larder` is the executable; `set -o pipefail` is bash's. */
async function shell(line: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = Bun.spawn(["bash", "-c", `larder() { ${EXECUTABLE} "$@"; }; HOME_DIR=$1\n${line}`, "bash", home], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

describe("standard output", () => {
  test.each(["table", "json", "jsonl"])("delivers all of a long %s to a slow reader", async (format) => {
    const { stdout } = await shell(`larder list --home "$HOME_DIR" --format ${format} | { sleep 0.2; cat; }`);
    expect(stdout.length).toBeGreaterThan(65536);
    expect(stdout.match(/ghcr\.io\/acme\/image-\d+:v1/g)?.length).toBe(format === "table" ? MANY : 2 * MANY);
    expect(stdout).toEndWith("\n");
  });

  test("delivers 50 MB of JSON to a slow pipe, to the last byte", async () => {
    const home = join(folder.path, "large");
    const label = "x".repeat(50_000_000);
    using catalogue = Catalogue.create(home);
    catalogue.image({ reference: "large:1", manifest: digest(1), labels: JSON.stringify({ label }) });
    const line = `${EXECUTABLE} inspect --format json large:1 --home ${home} | { sleep 0.2; cat; }`;
    const { code, stdout, stderr } = await shell(`set -o pipefail; ${line}`);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout).config.labels.label.length).toBe(label.length);
    expect(stdout).toEndWith("}\n");
  });

  test("has no colour, on a terminal neither", async () => {
    for (const env of [{}, { NO_COLOR: "1" }, { FORCE_COLOR: "1", CLICOLOR_FORCE: "1" }] as Record<string, string>[]) {
      const { code, screen } = await onTerminal(["list", "--home", home], { env: { TERM: "xterm-256color", ...env } });
      expect(code).toBe(0);
      expect(screen).not.toContain("\x1b");
    }
  });

  test("is one JSON document as json, and one a line as jsonl", async () => {
    const json = JSON.parse((await larder(home, "list", "--format", "json")).stdout);
    const { stdout } = await larder(home, "list", "--format", "jsonl");
    const lines = stdout.split("\n");
    expect(lines.pop()).toBe("");
    expect(lines).toHaveLength(MANY);
    expect(lines.map((line) => JSON.parse(line))).toEqual(json);
  });

  test.each(["table", "json", "jsonl"])("ends quietly where the reader of a %s has gone", async (format) => {
    const { stdout, stderr } = await shell(
      `larder list --home "$HOME_DIR" --format ${format} | head -n 1 >/dev/null; echo "\${PIPESTATUS[0]}"`,
    );
    expect({ stdout, stderr }).toEqual({ stdout: "0\n", stderr: "" });
  });

  test("that is full is a failure, told in a sentence", async () => {
    const { code, stdout, stderr } = await shell(`larder list --home "$HOME_DIR" >/dev/full`);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toBe("larder: standard output: write failed: no space is left on the device, or no inode\n");
  });

  test("that is closed sends nothing into the database", async () => {
    const before = snapshot(home);
    await shell(`larder list --home "$HOME_DIR" >&-`);
    await shell(`larder list --home "$HOME_DIR" >&- 2>&- <&-`);
    expect(snapshot(home)).toEqual(before);
    expect((await larder(home, "list", "-q")).stdout.split("\n")).toHaveLength(MANY + 1);
  });

  test("carries data only: what else there is to say goes to standard error", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const batch = `{"reference":"alpine","metadata":${metadata()}}\nnot JSON\n`;
    const persisted = await run(["persist", "--batch", "-", "--home", home, "--format", "jsonl"], { stdin: batch });
    expect(
      persisted.stdout
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toEqual([{ reference: "alpine", canonical: "docker.io/library/alpine:latest", digest: digest(1) }]);
    expect(persisted.stderr).toStartWith("larder: line 2: ");
    const shown = await larder(home, "inspect", "alpine", "absent", "--format", "json");
    expect(JSON.parse(shown.stdout)).toMatchObject([{ reference: "alpine" }]);
    expect(shown.stderr).toBe('larder: image not found: "absent"\n');
    const none = await larder(home, "list", "--filter", "reference=none");
    expect(none).toEqual({ code: 0, stdout: "", stderr: "No images\n" });
  });
});

describe("standard error", () => {
  test("does not pass on a terminal's control characters from files", async () => {
    const hostile = "\x1b]0;owned\x07\x9b31m\u202e";
    for (const [text, code] of [
      [metadata({ manifest: "sha256:@" }).replace("@", JSON.stringify(hostile).slice(1, -1)), 1],
      [metadata({ labels: { [hostile]: "x" } }).replace(':"x"', ":5"), 1],
      [hostile, 1],
    ] as const) {
      using folder = new TemporaryFolder();
      const outcome = await run(["persist", "alpine", "--metadata", "-", "--home", folder.path], { stdin: text });
      expect(outcome).toMatchObject({ code, stdout: "" });
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
      expect(outcome.stderr.trimEnd()).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
    }
    using other = new TemporaryFolder();
    writeFileSync(join(other.path, "config.json"), JSON.stringify({ paths: { cache: join(other.path, hostile) } }));
    for (const command of [["gc", "-n"], ["check"], ["df"], ["prune", "--unused", "-n"], ["list"]]) {
      const { stderr } = await larder(other.path, ...command);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
      expect(stderr.replaceAll("\n", "")).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
    }
    const { stderr } = await larder(home, "get", hostile);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
    expect(stderr.trimEnd()).not.toMatch(/[\x00-\x1f\x7f-\x9f\u202e]/);
  });

  test("shows no progress of what is over in a moment", async () => {
    using folder = new TemporaryFolder();
    const lines = Array.from({ length: 450 }, (_, i) => `{"reference":"i:${i}","metadata":${metadata()}}\n`).join("");
    const input = join(folder.path, "batch.jsonl");
    const output = join(folder.path, "output");
    await Bun.write(input, lines);
    const args = ["persist", "--batch", input, "--home", join(folder.path, "home")];
    const show = async () => {
      const start = performance.now();
      const shown = await onTerminal(args, { wiring: `>${output}` });
      return { ...shown, isMoment: performance.now() - start < 1000 };
    };
    let shown = await show();
    // A slow disk may make it a long one.
    for (let tries = 0; tries < 9 && !shown.isMoment; tries++) shown = await show();
    const { code, screen } = shown;
    // What is over in a moment needs none; interruption.test.ts has what takes longer.
    expect({ code, screen }).toEqual({ code: 0, screen: "" });
    expect(readFileSync(output, "utf8").trimEnd().split("\n")).toHaveLength(450);
    expect((await run(args)).stderr).toBe("");
  });

  test("has no stack trace unless LARDER_DEBUG is 1", async () => {
    for (const value of ["", "0", "true"]) {
      const { stderr } = await run(["get", "absent", "--home", home], { env: { LARDER_DEBUG: value } });
      expect(stderr).toBe('larder: image not found: "absent"\n');
    }
    const { code, stderr } = await run(["get", "absent", "--home", home], { env: { LARDER_DEBUG: "1" } });
    expect(code).toBe(3);
    expect(stderr).toMatch(/^larder: image not found: "absent"\n.*\n\s+at /);
  });
});

describe("a table on a terminal", () => {
  const LONG = "registry.example.com/organisation/team/application-with-a-long-name:v1.22.333-rc4";
  // Each character of this tag takes two columns.
  const WIDE = `app:${"日本".repeat(30)}`;
  let home: string;
  beforeAll(() => {
    home = join(folder.path, "table");
    using catalogue = Catalogue.create(home);
    const size = 2n ** 63n - 1n;
    catalogue.image({ reference: LONG, manifest: digest(1), size });
    catalogue.image({ reference: WIDE, manifest: digest(2), created: "2026-01-01 00:00:00" });
    const sandbox = catalogue.db.query("INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'running')");
    for (let i = 0; i < 20; i++) sandbox.run(`sandbox-of-the-web-tier-${i}`, JSON.stringify({ image: digest(1) }));
  });

  test.each<[columns: number, env: Record<string, string>]>([
    [80, {}],
    [100, {}],
    [80, { COLUMNS: "80" }],
    [132, { COLUMNS: "132" }],
  ])("is at most %p columns wide with %j", async (columns, env) => {
    // What COLUMNS says counts for more than the terminal, which is made narrower here.
    const { code, screen } = await onTerminal(["list", "--home", home], {
      env,
      columns: "COLUMNS" in env ? 60 : columns,
    });
    expect(code).toBe(0);
    const lines = screen.trimEnd().split("\n");
    expect(lines).toHaveLength(3);
    expect(lines.map((line) => Bun.stringWidth(line)).filter((width) => width > columns)).toEqual([]);
    // It uses the room that there is.
    expect(Math.max(...lines.map((line) => Bun.stringWidth(line)))).toBeGreaterThan(columns - 2);
    // The beginning and the tag's end of a cut reference remain, and the digest is never cut.
    expect(lines[1]).toMatch(/^regi.*….*rc4 {2}/);
    expect(lines[1]).toContain("  sha256:000000000000  ");
    expect(lines[2]).toMatch(/^app:日.*….*日本 +sha256:000000000000 /);
  });

  test("keeps its columns one below the other, also behind wide characters", async () => {
    const { screen } = await onTerminal(["list", "--home", home]);
    const starts = screen
      .trimEnd()
      .split("\n")
      .map((line) => Bun.stringWidth(line.slice(0, line.search(/DIGEST|sha256:/))));
    expect(new Set(starts).size).toBe(1);
  });

  test("survives a terminal too narrow for it", async () => {
    const { code, screen } = await onTerminal(["list", "--home", home], { columns: 20 });
    expect(code).toBe(0);
    expect(screen).toContain("sha256:000000000000");
  });

  test("is not cut where standard output is no terminal", async () => {
    const { stdout } = await run(["list", "--home", home], { env: { COLUMNS: "40" } });
    expect(stdout).toContain(`\n${LONG}  `);
    expect(stdout).toContain(`\n${WIDE}  sha256:`);
  });

  test("says nothing but the notice on standard error where there is no image", async () => {
    using folder = new TemporaryFolder();
    Catalogue.create(folder.path)[Symbol.dispose]();
    const errors = join(folder.path, "errors");
    const { code, screen } = await onTerminal(["list", "--home", folder.path], { wiring: `2>${errors}` });
    expect({ code, screen }).toEqual({ code: 0, screen: "" });
    expect(readFileSync(errors, "utf8")).toBe("No images\n");
  });
});
