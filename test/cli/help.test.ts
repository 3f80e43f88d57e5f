import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { loadAll } from "../../src/cli/command.ts";
import { COMMANDS } from "../../src/cli/commands.ts";
import { run, TemporaryFolder } from "../larder.ts";

describe("larder --help", () => {
  test("says what larder is for, its commands, flags, an example and the exit codes", async () => {
    const { code, stdout, stderr } = await run(["--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toStartWith("Keeps the image store of a microsandbox host");
    for (const command of ["persist", "get", "list, ls", "inspect", "remove, rm", "gc"]) {
      expect(stdout).toMatch(new RegExp(`^ +${command}    \\S`, "m"));
    }
    for (const flag of ["--home=<DIR>", "--format=<table|json|jsonl>", "--help", "--version"]) {
      expect(stdout).toContain(flag);
    }
    expect(stdout).toMatch(/\nEXAMPLES\n\n {2}larder /);
    expect(codesIn(stdout)).toEqual([0, 1, 2, 3, 4, 5, 6, 75]);
  });

  test("knows every command by every name that it declares", async () => {
    const commands = await loadAll(COMMANDS);
    const names = commands.flatMap(({ name, aliases = [] }) => [name, ...aliases].map((each) => [each, name]));
    expect(names.length).toBeGreaterThan(commands.length);
    for (const [asked, name] of names)
      expect((await run([asked!, "--help"])).stdout).toContain(`USAGE larder ${name} `);
  });

  test.each<[command: string, flags: string[], codes: number[]]>([
    ["persist", ["--metadata=<FILE>", "--batch=<FILE>"], [0, 1, 2, 3, 5, 75]],
    ["get", [], [0, 1, 2, 3, 5, 75]],
    ["list", ["-a, --all", "-q, --quiet", "--filter=<KEY=VALUE>"], [0, 1, 2, 5, 75]],
    ["inspect", [], [0, 1, 2, 3, 5, 75]],
    ["remove", ["-f, --force", "-i, --ignore", "-n, --dry-run"], [0, 1, 2, 3, 4, 5, 75]],
    ["gc", ["--layers-only", "--grace=", "--dry-run"], [0, 1, 2, 5, 75]],
  ])("of %s says its purpose, flags, an example and exit codes", async (command, flags, codes) => {
    const { code, stdout, stderr } = await run([command, "--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    // The purpose is what the root's help says of the command.
    const purpose = new RegExp(`^ +${command}(?:, \\w+)?    (.*\\S)`, "m").exec((await run(["--help"])).stdout)?.[1];
    expect(stdout).toStartWith(`${purpose} (larder ${command} v`);
    expect(stdout).toContain(`\nUSAGE larder ${command} [OPTIONS]`);
    for (const flag of [...flags, "--home=<DIR>", "--format=<table|json|jsonl>", "-h, --help"]) {
      expect(stdout).toContain(flag);
    }
    expect(stdout).toMatch(/\nEXAMPLES\n\n(?: {2}.*larder .*\n)+\nEXIT CODES\n/);
    expect(codesIn(stdout)).toEqual(codes);
  });

  test("is plain text, also where a terminal asks for colour", async () => {
    const { stdout } = await run(["list", "--help"], { env: { FORCE_COLOR: "1", TERM: "xterm-256color" } });
    expect(stdout).not.toContain("\x1b");
  });

  test.each([
    [["list", "-h"]],
    [["--help", "list"]],
    [["-h", "ls"]],
    [["ls", "--help", "--format", "json"]],
    // A home that is not there, and a filter that would be refused, do not matter to who asks for help.
    [["--home", "/nonexistent", "list", "--filter", "x", "-h"]],
  ])("is shown by %j too", async (args) => {
    expect(await run(args)).toEqual(await run(["list", "--help"]));
  });

  test("needs no operand, and no home", async () => {
    using folder = new TemporaryFolder();
    const { code } = await run(["inspect", "--help"], { env: { MSB_HOME: join(folder.path, "missing") } });
    expect(code).toBe(0);
  });
});

/** The exit codes that a help text lists, in its order. */
function codesIn(help: string): number[] {
  const section = help.slice(help.indexOf("EXIT CODES"));
  return [...section.matchAll(/^ +(\d+) {2}\S/gm)].map(([, code]) => Number(code));
}
