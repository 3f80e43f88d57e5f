import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { larder, run, TemporaryFolder } from "../larder.ts";
import { metadataOf } from "../store.ts";
import { Catalogue, digest, metadata, snapshot } from "./catalogue.ts";

/** Makes a home whose one image tells which home it is. */
function makeHome(home: string, reference: string): string {
  using catalogue = Catalogue.create(home);
  catalogue.image({ reference, manifest: digest(1) });
  return home;
}

describe("larder", () => {
  test("prints its name and version", async () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dir, "../../package.json"), "utf8"));
    expect(await run(["--version"])).toEqual({ code: 0, stdout: `larder ${version}\n`, stderr: "" });
  });

  test("without a command explains itself on standard error, as a usage error", async () => {
    const { code, stdout, stderr } = await run([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("USAGE");
  });

  // Every one of these must be refused before anything is opened, so the home that they name stays missing.
  const REFUSED: [args: string[], complaint: string][] = [
    [["lst"], 'unknown command "lst"'],
    [["toString"], 'unknown command "toString"'],
    [["constructor"], 'unknown command "constructor"'],
    [["__proto__"], 'unknown command "__proto__"'],
    [["List"], 'unknown command "List"'],
    [["--", "--help"], "-- can stand only after the command"],
    [["-"], 'unknown command "-"'],
    [[""], "an argument is empty"],
    [["--nope", "list"], "unknown flag --nope"],
    [["--all", "list"], "unknown flag --all"],
    [["--version", "list"], "--version stands alone"],
    [["list", "--version"], "unknown flag --version"],
    [["list", "--nope"], "unknown flag --nope"],
    [["list", "--nope=1"], "unknown flag --nope"],
    [["list", "--no-all"], "unknown flag --no-all"],
    [["list", "--constructor"], "unknown flag --constructor"],
    [["list", "--__proto__=1"], "unknown flag --__proto__"],
    [["list", "-z"], "unknown flag -z"],
    [["list", "-aqz"], "unknown flag -z"],
    [["list", "---all"], "unknown flag ---all"],
    [["list", "extra"], '"extra" is one too many'],
    [["list", ""], "an argument is empty"],
    [["list", "--all=true"], "--all takes no value"],
    [["list", "--all", "--all"], "--all is given twice"],
    [["list", "-q", "--quiet"], "--quiet is given twice"],
    [["list", "-qq"], "-q is given twice"],
    [["list", "--format", "xml"], '"xml"'],
    [["list", "--format", "JSON"], '"JSON"'],
    [["list", "--format="], "--format needs a value"],
    [["list", "--format", ""], "--format needs a value"],
    [["list", "--format", "--all"], "--format needs a value"],
    [["list", "--format"], "--format needs a value"],
    [["list", "--format", "json", "--format", "json"], "--format is given twice"],
    [["--format", "json", "list", "--format", "table"], "--format is given twice"],
    [["list", "--home", "elsewhere"], "--home is given twice"],
    [["list", "--filter", "alpine"], "is not KEY=VALUE"],
    [["list", "--filter", "reference="], "is not KEY=VALUE"],
    [["list", "--filter", "name=alpine"], 'unknown filter "name"'],
    [["list", "--filter", "toString=1"], 'unknown filter "toString"'],
    [["list", "--filter", "until=soon"], '"soon" is not a duration'],
    [["list", "--filter", "pinned=yes"], "must be true or false"],
    [["get"], "get needs a reference"],
    [["get", ""], "an argument is empty"],
    [["get", "a", "b"], '"b" is one too many'],
    [["inspect"], "inspect needs a reference"],
    [["inspect", "a", ""], "an argument is empty"],
    [["persist"], "persist needs either references or --batch FILE"],
    [["persist", "a", "--batch", "-"], "persist needs either references or --batch FILE"],
    [["persist", "--batch", "-", "--metadata", "-"], "--batch and --metadata exclude each other"],
    [["persist", "--metadata", "-"], "persist needs either references or --batch FILE"],
    [["persist", "a", "--quiet"], "unknown flag --quiet"],
    [["remove"], "remove needs a reference"],
    [["remove", "a", "--dryrun"], "did you mean --dry-run?"],
    [["gc", "extra"], '"extra" is one too many'],
  ];

  test.each(REFUSED)("refuses %j before it opens anything", async (args, complaint) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const { code, stdout, stderr } = await run(["--home", home, ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toStartWith("larder: ");
    expect(stderr).toContain(complaint);
    expect(existsSync(home)).toBe(false);
  });

  test("takes the flags of every command before and after the command's name", async () => {
    using folder = new TemporaryFolder();
    const home = makeHome(join(folder.path, "home"), "alpine:3");
    const expected = await run(["list", "--format", "json", "--home", home]);
    expect(JSON.parse(expected.stdout)).toMatchObject([{ reference: "alpine:3" }]);
    for (const args of [
      ["--home", home, "--format", "json", "list"],
      [`--home=${home}`, "list", "--format=json"],
      ["--format=json", "ls", "--home", home],
    ]) {
      expect(await run(args)).toEqual(expected);
    }
  });

  test("joins short flags", async () => {
    using folder = new TemporaryFolder();
    const home = makeHome(join(folder.path, "home"), "alpine:3");
    expect((await larder(home, "ls", "-aq")).stdout).toBe("alpine:3\n");
  });

  test("takes what follows -- as operands, --help included", async () => {
    using folder = new TemporaryFolder();
    const home = makeHome(join(folder.path, "home"), "alpine:3");
    const { code, stdout, stderr } = await run(["get", "--home", home, "--", "--help"]);
    expect({ code, stdout }).toEqual({ code: 3, stdout: "" });
    expect(stderr).toContain('"--help"');
  });

  test("ends with the first failure's code where several things fail", async () => {
    using folder = new TemporaryFolder();
    const home = makeHome(join(folder.path, "home"), "alpine:3");
    const cache = join(home, "cache", "manifests");
    mkdirSync(cache, { recursive: true });
    // sha256sum of docker.io/library/broken:latest.
    const key = "8c118fcb4cd3a179a9bce46020614b062d1ece96e0d429c1d91597de559d6727";
    writeFileSync(join(cache, `${key}.json`), "{");
    const { code, stderr } = await larder(home, "persist", "absent", "broken");
    expect(code).toBe(3);
    expect(stderr.trimEnd().split("\n")).toHaveLength(2);
    expect((await larder(home, "persist", "broken", "absent")).code).toBe(1);
  });

  test("does so where the last of them stops the transaction", async () => {
    using folder = new TemporaryFolder();
    const home = makeHome(join(folder.path, "home"), "alpine:3");
    const metadata = join(folder.path, "metadata.json");
    writeFileSync(metadata, JSON.stringify(metadataOf("one", ["layer"])));
    using db = new Database(join(home, "db", "msb.db"));
    db.run("CREATE TRIGGER full BEFORE INSERT ON image_ref BEGIN SELECT raise(ABORT, 'no more'); END");
    const { code, stdout, stderr } = await larder(home, "persist", "--metadata", metadata, "a:b:c", "one:1");
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr.trimEnd().split("\n")).toEqual([
      expect.stringContaining('"a:b:c"'),
      expect.stringContaining("no more"),
    ]);
  });
});

describe("the home", () => {
  let folder: TemporaryFolder;
  let path: (name: string) => string;
  beforeAll(() => {
    folder = new TemporaryFolder();
    path = (name) => join(folder.path, name);
    makeHome(path("flag"), "from:flag");
    makeHome(path("env"), "from:env");
    makeHome(path("user/.microsandbox"), "from:user");
  });
  afterAll(() => folder[Symbol.dispose]());

  test.each<[what: string, args: string[], env: (at: typeof path) => Record<string, string>, reference: string]>([
    ["--home", ["--home", "flag"], () => ({}), "from:flag"],
    ["--home over MSB_HOME", ["--home", "flag"], (at) => ({ MSB_HOME: at("env") }), "from:flag"],
    ["MSB_HOME", [], (at) => ({ MSB_HOME: at("env"), HOME: at("user") }), "from:env"],
    ["a relative MSB_HOME, from the current folder", [], (at) => ({ MSB_HOME: "./env", HOME: at("user") }), "from:env"],
    ["HOME where MSB_HOME is unset", [], (at) => ({ HOME: at("user") }), "from:user"],
    ["HOME where MSB_HOME is empty", [], (at) => ({ MSB_HOME: "", HOME: at("user") }), "from:user"],
  ])("is %s", async (_, args, env, reference) => {
    const { code, stdout } = await run(["list", "-q", ...args], { env: env(path), cwd: folder.path });
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${reference}\n` });
  });

  test.each<[string, Record<string, string>]>([
    ["unset", {}],
    ["empty", { HOME: "" }],
  ])("is the passwd entry's where HOME is %s", async (_, env) => {
    const entry = readFileSync("/etc/passwd", "utf8")
      .split("\n")
      .map((line) => line.split(":"))
      .find(([, , uid]) => uid === String(process.getuid?.()));
    const home = join(entry![5]!, ".microsandbox");
    expect(await run(["list"], { env, cwd: folder.path })).toEqual(await run(["list", "--home", home]));
  });

  const CONFIGURED: [what: string, config: (at: typeof path) => unknown, database: string, cache: string][] = [
    ["home, which moves both", (at) => ({ home: at("moved") }), "moved/db/msb.db", "moved/cache"],
    ["paths.cache", (at) => ({ paths: { cache: at("elsewhere") } }), "here/db/msb.db", "elsewhere"],
    [
      "home and paths.cache",
      (at) => ({ home: at("moved"), paths: { cache: at("elsewhere") } }),
      "moved/db/msb.db",
      "elsewhere",
    ],
    ["nulls", () => ({ home: null, paths: { cache: null } }), "here/db/msb.db", "here/cache"],
    ["unknown keys only", () => ({ database: { url: "sqlite://x" }, runtime: {} }), "here/db/msb.db", "here/cache"],
    // One value of the wrong type makes msb drop the whole file.
    ["a cache that is no text", (at) => ({ home: at("moved"), paths: { cache: 5 } }), "here/db/msb.db", "here/cache"],
    ["a home that is no text", (at) => ({ home: [], paths: { cache: at("x") } }), "here/db/msb.db", "here/cache"],
    ["paths that are no object", (at) => ({ home: at("moved"), paths: 5 }), "here/db/msb.db", "here/cache"],
    ["paths that are an empty list", (at) => ({ home: at("moved"), paths: [] }), "moved/db/msb.db", "moved/cache"],
    ["a document that is no object", () => ["home"], "here/db/msb.db", "here/cache"],
  ];

  test.each(CONFIGURED)("follows a config.json with %s", async (_, config, database, cache) => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    mkdirSync(at("here"));
    writeFileSync(at("here/config.json"), JSON.stringify(config(at)));
    const env = { MSB_HOME: at("here") };
    expect((await run(["list"], { env })).stderr).toContain(`"${at(database)}"`);
    expect((await run(["persist", "alpine"], { env })).stderr).toContain(`"${at(cache)}"`);
    // The same document from elsewhere.
    writeFileSync(at("other.json"), JSON.stringify(config(at)));
    mkdirSync(at("plain"));
    const named = await run(["list"], { env: { MSB_HOME: at("plain"), MSB_CONFIG_PATH: at("other.json") } });
    expect(named.stderr).toContain(`"${at(database.replace("here/", "plain/"))}"`);
  });

  test("is not moved from --home by the config.json inside it, whose cache still counts", async () => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    mkdirSync(at("here"));
    writeFileSync(at("here/config.json"), JSON.stringify({ home: at("moved"), paths: { cache: at("elsewhere") } }));
    expect((await larder(at("here"), "list")).stderr).toContain(`"${at("here/db/msb.db")}"`);
    expect((await larder(at("here"), "persist", "alpine")).stderr).toContain(`"${at("elsewhere")}"`);
  });

  test("is read from MSB_CONFIG_PATH alone where that is set, even if nothing is there", async () => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    mkdirSync(at("here"));
    writeFileSync(at("here/config.json"), JSON.stringify({ home: at("moved") }));
    const env = { MSB_HOME: at("here"), MSB_CONFIG_PATH: at("missing.json") };
    expect((await run(["list"], { env })).stderr).toContain(`"${at("here/db/msb.db")}"`);
  });

  test.each([
    ["empty", ""],
    ["cut off", '{"home": "/sr'],
    ["ends with a comma", '{"home": "/srv",}'],
    ["starts with a byte order mark", "\ufeff{}"],
    ["is no JSON", "home: /srv"],
  ])("is not guessed when config.json %s", async (_, text) => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "config.json"), text);
    for (const command of [["list"], ["get", "a"], ["inspect", "a"], ["persist", "a"]]) {
      const { code, stdout, stderr } = await larder(folder.path, ...command);
      expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
      expect(stderr).toStartWith(`larder: cannot read the configuration "${folder.path}/config.json": `);
    }
    expect(Object.keys(snapshot(folder.path))).toEqual(["config.json"]);
  });

  test("is not guessed when config.json is a folder", async () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "config.json"));
    const { code, stderr } = await larder(folder.path, "list");
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: `larder: cannot read the configuration "${folder.path}/config.json": it is a directory\n`,
    });
  });

  test("is not guessed between two databases, of which msb 0.5.5 uses one and later ones the other", async () => {
    using folder = new TemporaryFolder();
    const at = (name: string) => join(folder.path, name);
    makeHome(at("here"), "from:here");
    writeFileSync(at("here/config.json"), JSON.stringify({ home: at("moved") }));
    const env = { MSB_HOME: at("here") };
    // Only the old place has one: msb 0.5.5 left it there.
    expect((await run(["list", "-q"], { env })).stdout).toBe("from:here\n");
    makeHome(at("moved"), "from:moved");
    const { code, stdout, stderr } = await run(["list"], { env });
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toContain(at("here/db/msb.db"));
    expect(stderr).toContain(at("moved/db/msb.db"));
  });
});

describe("a missing home", () => {
  test.each<[args: string[], code: number, stdout: string]>([
    [["list"], 0, ""],
    [["list", "-q"], 0, ""],
    [["list", "-a", "--format", "json"], 0, "[]\n"],
    [["list", "--format", "jsonl"], 0, ""],
    [["get", "alpine"], 3, ""],
    [["get", "alpine", "--format", "json"], 3, ""],
    [["inspect", "alpine"], 3, ""],
    [["inspect", "alpine", "debian", "--format", "json"], 3, "[]\n"],
  ])("is told by %j, and stays missing", async (args, code, stdout) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const outcome = await larder(home, ...args);
    expect(outcome).toMatchObject({ code, stdout });
    expect(outcome.stderr).toContain(`there is no catalogue at "${home}/db/msb.db"`);
    expect(existsSync(home)).toBe(false);
  });

  test("is told of every image that inspect was to show", async () => {
    using folder = new TemporaryFolder();
    const { stderr } = await larder(join(folder.path, "home"), "inspect", "alpine", "debian");
    expect(stderr.match(/image not found: "\w+"/g)).toEqual(['image not found: "alpine"', 'image not found: "debian"']);
  });

  test.each<[what: string, args: string[], stdin: string, code: number]>([
    ["a reference without metadata", ["persist", "alpine"], "", 3],
    ["a reference that is none", ["persist", "Alpine", "--metadata", "-"], metadata(), 1],
    ["references that are none", ["persist", "Alpine", "x:::", "--metadata", "-"], metadata(), 1],
    ["metadata that is no JSON", ["persist", "alpine", "--metadata", "-"], "{", 1],
    ["a digest that is none", ["persist", "alpine", "--metadata", "-"], metadata({ manifest: "sha256:12" }), 1],
    ["a metadata file that is missing", ["persist", "alpine", "--metadata", "/nonexistent/m.json"], "", 1],
    ["a metadata file that is a folder", ["persist", "alpine", "--metadata", "/"], "", 1],
    ["a batch file that is missing", ["persist", "--batch", "/nonexistent/b.jsonl"], "", 1],
    ["a batch file that is a folder", ["persist", "--batch", "/"], "", 1],
    ["a batch of bad lines", ["persist", "--batch", "-"], "{}\nx\n", 1],
    ["an empty batch", ["persist", "--batch", "-"], "", 0],
  ])("is not made for %s", async (_, args, stdin, code) => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    const outcome = await run([...args, "--home", home], { stdin });
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr === "").toBe(code === 0);
    expect(existsSync(home)).toBe(false);
  });

  test("is not made where a link of its name leads nowhere, as to a disk that is not mounted", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    symlinkSync(join(folder.path, "unmounted"), home);
    const { code, stderr } = await run(["persist", "x:1", "--metadata", "-", "--home", home], { stdin: metadata() });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^larder: cannot mkdir "[^"]+": something else is in its place \(a link that leads nowhere/);
    expect(existsSync(join(folder.path, "unmounted"))).toBe(false);
  });
});
