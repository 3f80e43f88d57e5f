import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { run, TemporaryFolder } from "../larder.ts";
import { hasTool } from "../tools.ts";
import { Catalogue, digest } from "./catalogue.ts";

let folder: TemporaryFolder;
let home: string;
let env: Record<string, string>;
const REFERENCES = ["ghcr.io/acme/web:v1", "localhost:5000/tool:latest", "python:3.11", "python:3.12"];

beforeAll(async () => {
  folder = new TemporaryFolder();
  home = join(folder.path, "home of images");
  using catalogue = Catalogue.create(home);
  for (const [i, reference] of REFERENCES.entries()) catalogue.image({ reference, manifest: digest(i + 1) });
  // Nothing of the user's own: no start-up files, no catalogue, and larder by its name.
  const bin = join(folder.path, "bin");
  mkdirSync(bin);
  symlinkSync(EXECUTABLE, join(bin, "larder"));
  env = { PATH: `${bin}:/usr/bin:/bin`, HOME: folder.path, MSB_HOME: home, TERM: "dumb", LC_ALL: "C.UTF-8" };
  mkdirSync(join(folder.path, "site"));
  for (const [shell, file] of Object.entries(FILES)) {
    const { code, stdout, stderr } = await run(["completion", shell]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    writeFileSync(join(folder.path, file), stdout);
  }
});
afterAll(() => folder[Symbol.dispose]());

const FILES = { bash: "larder.bash", zsh: "site/_larder", fish: "larder.fish" };
type Shell = keyof typeof FILES;

const START: Record<Shell, (folder: string) => { command: string[]; setUp: string }> = {
  bash: (folder) => ({ command: ["bash", "--norc", "--noprofile", "-i"], setUp: `source ${folder}/larder.bash` }),
  zsh: (folder) => ({
    command: ["zsh", "-f", "-i"],
    setUp: `fpath=(${folder}/site $fpath); autoload -Uz compinit; compinit -u -d ${folder}/dump; bindkey '^I' expand-or-complete`,
  }),
  fish: (folder) => ({ command: ["fish", "--no-config", "-i"], setUp: `source ${folder}/larder.fish` }),
};

/**
 * What an interactive shell makes of lines in which `⇥` is the Tab key: the arguments of each, as a program that takes
 * larder's place for the name `larder` sees them after Enter.
 */
async function type(shell: Shell, lines: string[]): Promise<string[][]> {
  const { command, setUp } = START[shell](folder.path);
  const seen = join(folder.path, `seen-${shell}-${crypto.randomUUID()}`);
  const ready = `${seen}.ready`;
  const screen: string[] = [];
  const child = Bun.spawn(command, {
    cwd: folder.path,
    // Completion asks for references, which larder itself must answer: all else is only noted.
    env: { ...env, SEEN: seen, PATH: `${dirname(stubFor(seen))}:${env.PATH}` },
    terminal: { cols: 200, rows: 50, data: (_, bytes) => void screen.push(Buffer.from(bytes).toString()) },
  });
  try {
    const send = (text: string) => child.terminal!.write(text);
    send(`${setUp}\recho ok >${ready}\r`);
    await until(() => Bun.file(ready).size > 0, screen);
    for (const [i, line] of lines.entries()) {
      for (const part of line.split(/(⇥)/)) send(part === "⇥" ? "\t" : part);
      send("\r");
      await until(() => linesOf(seen).length > i, screen);
    }
  } finally {
    child.kill("SIGKILL");
    await child.exited;
    child.terminal?.close();
  }
  return linesOf(seen).map((line) => line.split("\x1f").slice(0, -1));
}

function stubFor(seen: string): string {
  const stub = join(`${seen}.bin`, "larder");
  mkdirSync(dirname(stub));
  const text = `#!/bin/sh\n[ "$1 $2" = "list -q" ] && exec ${EXECUTABLE} "$@"\n{ printf '%s\\037' "$@"; echo; } >>"$SEEN"\n`;
  writeFileSync(stub, text, { mode: 0o755 });
  return stub;
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n").slice(0, -1);
  } catch {
    return [];
  }
}

async function until(isDone: () => boolean, screen: string[]): Promise<void> {
  for (let tries = 0; !isDone(); tries++) {
    if (tries === 1000)
      throw new Error(`the shell does not go on; it shows ${JSON.stringify(screen.join("").slice(-2000))}`);
    await Bun.sleep(10);
  }
}

// What is typed, and the arguments that it becomes. One that continues is told from a plain typing error by its end.
const CASES: [typed: string, becomes: string[]][] = [
  ["larder insp⇥ x", ["inspect", "x"]],
  ["larder get gh⇥", ["get", "ghcr.io/acme/web:v1"]],
  // The colon, where bash cuts a word.
  ["larder rm python:3.12⇥", ["rm", "python:3.12"]],
  ["larder get localhost:5⇥", ["get", "localhost:5000/tool:latest"]],
  ["larder inspect python:3.11 gh⇥", ["inspect", "python:3.11", "ghcr.io/acme/web:v1"]],
  ["larder list --form⇥ jsonl", ["list", "--format", "jsonl"]],
  ["larder df --format prom⇥", ["df", "--format", "prometheus"]],
  ["larder prune --older⇥ 14d", ["prune", "--older-than", "14d"]],
  ["larder prune --unused --log-format t⇥", ["prune", "--unused", "--log-format", "text"]],
  ["larder persist --batch site/_l⇥", ["persist", "--batch", "site/_larder"]],
  ["larder completion z⇥", ["completion", "zsh"]],
  ["larder --serve --allow-w⇥", ["--serve", "--allow-writes"]],
  ["larder --vers⇥", ["--version"]],
];

describe.each(["bash", "zsh", "fish"] as const)("larder completion %s", (shell) => {
  test.skipIf(!hasTool(shell))("prints a script that completes in the shell itself", async () => {
    const results = await type(
      shell,
      CASES.map(([typed]) => typed),
    );
    expect(results.map((becomes) => becomes.map((word) => word.replace(/=$/, "")))).toEqual(
      CASES.map(([, becomes]) => becomes),
    );
  });

  test.skipIf(!hasTool(shell))("asks the home that is on the line", async () => {
    const other = join(folder.path, `other-${shell}`);
    using catalogue = Catalogue.create(other);
    catalogue.image({ reference: "debian:12", manifest: digest(9) });
    expect(await type(shell, [`larder get --home ${other} deb⇥`])).toEqual([["get", "--home", other, "debian:12"]]);
  });

  test.skipIf(!hasTool(shell))("offers nothing, and says nothing, where there is no catalogue", async () => {
    const [words] = await type(shell, [`larder get --home ${join(folder.path, "none")} py⇥`]);
    expect(words?.at(-1)).toBe("py");
  });
});

test.skipIf(!hasTool("bash"))("larder completion bash offers no name that bash would run", async () => {
  const other = join(folder.path, "hostile");
  const marker = join(folder.path, "marker");
  using catalogue = Catalogue.create(other);
  for (const [i, reference] of [`one$(touch\${IFS}${marker})`, `two\`touch\${IFS}${marker}\``, "six;echo"].entries())
    catalogue.image({ reference, manifest: digest(i + 1) });
  const lines = ["one", "two", "six"].map((word) => `larder get --home ${other} ${word}⇥`);
  expect((await type("bash", lines)).map((words) => words.at(-1))).toEqual(["one", "two", "six"]);
  expect(existsSync(marker)).toBe(false);
});

describe("larder completion", () => {
  test("refuses a shell that it does not know", async () => {
    expect(await run(["completion", "tcsh"])).toEqual({
      code: 2,
      stdout: "",
      stderr:
        'larder: no completion for "tcsh" (bash, zsh, fish)\n(larder completion --help shows what can be given)\n',
    });
  });

  test("needs no home", async () => {
    expect((await run(["completion", "bash"], { env: { MSB_HOME: "/nonexistent" } })).code).toBe(0);
  });
});
