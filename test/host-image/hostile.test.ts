import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { Catalogue, digest } from "../cli/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";
import { at, Store } from "../store.ts";
import { hasTool } from "../tools.ts";

let folder: TemporaryFolder;
let home: string;

beforeAll(() => {
  folder = new TemporaryFolder();
  home = join(folder.path, "home");
  mkdirSync(join(folder.path, "trap"));
  using catalogue = Catalogue.create(home);
  catalogue.image({ reference: "alpine:3", manifest: digest(1) });
  writeFileSync(inTrap("preload.js"), `require("node:fs").writeFileSync(${JSON.stringify(inTrap("marker"))}, "ran");`);
});
afterAll(() => folder[Symbol.dispose]());

function inTrap(name: string): string {
  return join(folder.path, "trap", name);
}

/** Every variable by which Bun, Node or a library in the executable could be made to do something else. */
const VARIABLES: [name: string, value: () => string][] = [
  ["BUN_BE_BUN", () => "1"],
  ["BUN_OPTIONS", () => `--preload=${inTrap("preload.js")}`],
  ["BUN_OPTIONS", () => `--require ${inTrap("preload.js")}`],
  ["BUN_OPTIONS", () => `--eval 'require("${inTrap("preload.js")}")'`],
  ["BUN_OPTIONS", () => "--inspect-wait=127.0.0.1:1"],
  ["BUN_INSPECT", () => `ws+unix://${inTrap("inspect.sock")}?wait=1`],
  ["BUN_INSPECT", () => "127.0.0.1:0/x?break=1"],
  ["BUN_INSPECT_PRELOAD", () => inTrap("preload.js")],
  ["BUN_INSPECT_CONNECT_TO", () => "ws://127.0.0.1:1/"],
  ["BUN_INSPECT_NOTIFY", () => `unix://${inTrap("notify.sock")}`],
  ["BUN_BYTECODE_ORDER_OUT", () => inTrap("order")],
  ["BUN_BYTECODE_ORDER_NAMES_OUT", () => inTrap("names")],
  ["BUN_BYTECODE_DIGEST_OUT", () => inTrap("digest")],
  ["BUN_WATCHER_TRACE", () => inTrap("watcher")],
  ["BUN_TRACE", () => inTrap("trace")],
  ["BUN_TMPDIR", () => inTrap("tmp")],
  ["BUN_INSTALL", () => inTrap("install")],
  ["BUN_RUNTIME_TRANSPILER_CACHE_PATH", () => inTrap("transpiled")],
  ["NODE_OPTIONS", () => `--require ${inTrap("preload.js")}`],
  ["NODE_OPTIONS", () => "--no-such-option"],
  ["NODE_PATH", () => inTrap("")],
  ["NODE_COMPILE_CACHE", () => inTrap("compiled")],
  ["NODE_EXTRA_CA_CERTS", () => inTrap("preload.js")],
  ["NODE_REDIRECT_WARNINGS", () => inTrap("warnings")],
  ["NODE_DEBUG", () => "fs,module"],
  ["NODE_ENV", () => "test"],
  ["JSC_PROFILER_PATH", () => inTrap("profile")],
  ["JSC_dumpOptions", () => "1"],
  ["NODE_CHANNEL_FD", () => "0"],
  ["SQLITE_TMPDIR", () => inTrap("sqlite")],
];

async function list(env: Record<string, string>, cwd = "/", executable = EXECUTABLE) {
  const child = Bun.spawn([executable, "list", "-q", "--home", home], {
    env,
    cwd,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: 30_000,
  });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

const UNMOVED = { code: 0, stdout: "alpine:3\n", stderr: "" };

describe("a hostile variable", () => {
  test.each(VARIABLES.map(([name, value]) => [name, value] as const))("%s changes nothing", async (name, value) => {
    expect(await list({ [name]: value() })).toEqual(UNMOVED);
    expect(readdirSync(inTrap(""))).toEqual(["preload.js"]);
  });

  test.each(["BUN_BE_BUN", "BUN_OPTIONS", "BUN_INSPECT"])(
    "%s is not obeyed under the name that took its place",
    async (name) => {
      for (const first of ["\x01", "=", ""]) {
        const command = ["env", "-i", `${first}${name.slice(1)}=--preload=${inTrap("preload.js")}`, EXECUTABLE];
        const child = Bun.spawn([...command, "list", "-q", "--home", home], { stdout: "pipe", stderr: "ignore" });
        expect(await child.stdout.text()).toBe("alpine:3\n");
      }
      expect(existsSync(inTrap("marker"))).toBe(false);
    },
  );

  test("would be obeyed by the Bun that is inside, which is why the build changes it", async () => {
    const env = { BUN_OPTIONS: `--preload=${inTrap("preload.js")}` };
    const child = Bun.spawn([process.execPath, "-e", "0"], { env: { ...env, HOME: folder.path }, cwd: "/" });
    await child.exited;
    expect(existsSync(inTrap("marker"))).toBe(true);
    rmSync(inTrap("marker"));
  });
});

describe("a hostile folder", () => {
  test("changes nothing, from the folder itself and from one below it", async () => {
    using trap = new TemporaryFolder();
    const marker = join(trap.path, "marker");
    const code = `require("node:fs").writeFileSync(${JSON.stringify(marker)}, "ran");`;
    const files: Record<string, string> = {
      "preload.js": code,
      "bunfig.toml": 'preload = ["./preload.js"]\n[run]\npreload = ["./preload.js"]\n[install]\nauto = "force"\n',
      ".bunfig.toml": 'preload = ["./preload.js"]\n',
      ".env": "BUN_OPTIONS=--preload=./preload.js\nMSB_HOME=/trap\nLARDER_DEBUG=1\n",
      ".npmrc": "registry=http://127.0.0.1:1/\n",
      "package.json": '{"main":"./preload.js","imports":{"#x":"./preload.js"},"workspaces":["*"]}',
      "tsconfig.json": '{"compilerOptions":{"paths":{"*":["./preload.js"]}}}',
      "jsconfig.json": '{"compilerOptions":{"paths":{"*":["./preload.js"]}}}',
      "node_modules/valibot/index.js": code,
      "node_modules/valibot/package.json": '{"name":"valibot","version":"9.9.9","main":"index.js"}',
      "node_modules/citty/index.js": code,
      "node_modules/bun/index.js": code,
      "main.js": code,
      "larder.js": code,
      "libc.so.6": "not a library",
      "icudt78l.dat": "not ICU's data",
    };
    mkdirSync(join(trap.path, "below"));
    for (const [name, text] of Object.entries(files)) await Bun.write(join(trap.path, name), text);
    for (const cwd of [trap.path, join(trap.path, "below")]) {
      expect(await list({}, cwd)).toEqual(UNMOVED);
      // With the folder for HOME and configuration too, and help, which loads more of what is inside.
      expect(await list({ HOME: cwd, XDG_CONFIG_HOME: cwd, PWD: cwd }, cwd)).toEqual(UNMOVED);
      const help = Bun.spawn([EXECUTABLE, "--help"], { cwd, env: {}, stdout: "pipe", stderr: "pipe" });
      expect(await help.stdout.text()).toStartWith("Keeps the image store");
    }
    expect(existsSync(marker)).toBe(false);
  });
});

// The engine calls it by way of a compiler, and takes a library that it cannot load from the current folder.
describe.if(hasTool("strace"))("where the C library cannot be called", () => {
  test.each([
    ["without a compiler", "export BUN_JSC_useJIT=0"],
    ["for want of address space", "ulimit -v 2000000"],
  ])("%s, none is looked for in the current folder, and no file is deleted", async (_, handicap) => {
    using trap = new TemporaryFolder();
    using store = await Store.make({ image: { references: ["acme/app:1"], layers: ["one"] } });
    const log = join(store.path, "opened");
    const line = `${handicap}; exec strace -f -q -o "$1" -e trace=open,openat "$2" rm acme/app:1 --home "$3"`;
    const child = Bun.spawn(["bash", "-c", line, "bash", log, EXECUTABLE, store.path], {
      cwd: trap.path,
      stdout: "pipe",
      stderr: "pipe",
    });
    const [code, stderr] = await Promise.all([child.exited, child.stderr.text()]);
    expect(code).toBe(1);
    expect(stderr).toContain("the C library libc.so.6 cannot be called: ");
    const opened = readFileSync(log, "utf8");
    expect(opened).toContain("msb.db");
    expect(opened).not.toContain(trap.path);
    expect(existsSync(join(store.cache, at.layer("one")))).toBe(true);
  });
});
