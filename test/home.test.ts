import { describe, expect, test } from "bun:test";
import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { LarderError } from "../src/error.ts";
import { resolveHome } from "../src/home.ts";
import { TemporaryFolder } from "./larder.ts";

/** A home that is found by its variable, with a config file of this text. */
function configured(root: string, text: string | Uint8Array): Record<string, string> {
  mkdirSync(root, { recursive: true });
  writeFileSync(join(root, "config.json"), text);
  return { MSB_HOME: root };
}

function database(root: string): string {
  const path = join(root, "db", "msb.db");
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, root);
  return path;
}

function defaults(root: string) {
  return {
    root,
    database: join(root, "db", "msb.db"),
    cache: join(root, "cache"),
    snapshots: [join(root, "snapshots")],
  };
}

function refusal(work: () => unknown): LarderError {
  try {
    work();
  } catch (error) {
    if (error instanceof LarderError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("resolveHome", () => {
  test("takes --home before MSB_HOME before HOME", () => {
    using folder = new TemporaryFolder();
    const env = { MSB_HOME: join(folder.path, "variable"), HOME: join(folder.path, "user") };
    expect(resolveHome(join(folder.path, "flag"), env)).toEqual(defaults(join(folder.path, "flag")));
    expect(resolveHome(undefined, env)).toEqual(defaults(join(folder.path, "variable")));
    expect(resolveHome(undefined, { HOME: env.HOME })).toEqual(defaults(join(folder.path, "user", ".microsandbox")));
  });

  test("takes an empty MSB_HOME for none, as msb 0.6 does", () => {
    using folder = new TemporaryFolder();
    const env = { MSB_HOME: "", HOME: folder.path };
    expect(resolveHome(undefined, env).root).toBe(join(folder.path, ".microsandbox"));
  });

  test("asks passwd where HOME is not set", () => {
    expect(resolveHome(undefined, {}).root).toBe(join(homedir(), ".microsandbox"));
  });

  test("makes relative homes absolute, and takes a tilde literally", () => {
    expect(resolveHome("some/../home", {}).root).toBe(resolve("home"));
    expect(resolveHome(undefined, { MSB_HOME: "~/home" }).root).toBe(resolve("~", "home"));
  });

  test("lets the config move home, cache and snapshots", () => {
    using folder = new TemporaryFolder();
    const [start, moved, cache, snapshots] = ["start", "moved", "cache", "snaps"].map((name) =>
      join(folder.path, name),
    );
    const paths = { cache, snapshots, logs: "/elsewhere" };
    const env = configured(start!, JSON.stringify({ home: moved, paths }));
    expect(resolveHome(undefined, env)).toEqual({
      root: moved!,
      database: join(moved!, "db", "msb.db"),
      cache: cache!,
      snapshots: [snapshots!, join(moved!, "snapshots"), join(start!, "snapshots")],
    });
    configured(start!, JSON.stringify({ home: moved }));
    expect(resolveHome(undefined, env)).toEqual({
      ...defaults(moved!),
      snapshots: [join(moved!, "snapshots"), join(start!, "snapshots")],
    });
    configured(start!, JSON.stringify({ paths: { cache } }));
    expect(resolveHome(undefined, env)).toEqual({ ...defaults(start!), cache: cache! });
  });

  test("does not let the config's home override --home, but lets it move the cache", () => {
    using folder = new TemporaryFolder();
    const root = join(folder.path, "home");
    configured(root, JSON.stringify({ home: "/elsewhere", paths: { cache: "/var/cache/msb" } }));
    expect(resolveHome(root, {})).toEqual({ ...defaults(root), cache: "/var/cache/msb" });
  });

  test("reads the file that MSB_CONFIG_PATH names, and an empty one is none", () => {
    using folder = new TemporaryFolder();
    const root = join(folder.path, "home");
    configured(root, '{"paths":{"cache":"/own"}}');
    const other = join(folder.path, "other.json");
    writeFileSync(other, '{"paths":{"cache":"/other"}}');
    expect(resolveHome(root, { MSB_CONFIG_PATH: other }).cache).toBe("/other");
    expect(resolveHome(root, { MSB_CONFIG_PATH: "" }).cache).toBe("/own");
    expect(resolveHome(root, { MSB_CONFIG_PATH: join(folder.path, "missing") }).cache).toBe(join(root, "cache"));
  });

  test.each([
    "[]",
    "{}",
    '{"home":null,"paths":null}',
    '{"paths":{"cache":null}}',
    '{"unknown":{"deep":[1]},"database":{"url":"sqlite:///elsewhere.db"}}',
    // One value of the wrong type, and msb drops the whole file.
    '{"home":5,"paths":{"cache":"/elsewhere"}}',
    '{"home":"/elsewhere","paths":{"cache":5}}',
    '{"home":"/elsewhere","paths":{"snapshots":[]}}',
    '{"home":"/elsewhere","paths":[5]}',
    '{"home":"/elsewhere","paths":null}',
    '{"home":"/elsewhere","paths":"/elsewhere"}',
    '{"home":"/elsewhere","paths":{"cache":true}}',
  ])("keeps the defaults with %s", (text) => {
    using folder = new TemporaryFolder();
    expect(resolveHome(undefined, configured(folder.path, text))).toEqual(defaults(folder.path));
  });

  test.each([
    ["empty", ""],
    ["cut", '{"home":"/x"'],
    ["a byte order mark before it", '\ufeff{"home":"/x"}'],
    ["a trailing comma", '{"home":"/x",}'],
    ["a comment", '{/**/"home":"/x"}'],
    ["no JSON", "home = /x"],
    ["null", "null"],
    ["a text", '"/x"'],
    ["a number", "5"],
    ["bytes that are no text", Buffer.from('{"home":"/\xff"}', "latin1")],
  ])("refuses a config that is malformed: %s", (_, text) => {
    using folder = new TemporaryFolder();
    const env = configured(folder.path, text);
    const { code, message } = refusal(() => resolveHome(undefined, env));
    expect(code).toBe("failed");
    expect(message).toStartWith(`cannot read the configuration "${join(folder.path, "config.json")}": `);
  });

  test("fails on a configuration that is a pipe or a device, and does not wait for it", () => {
    using folder = new TemporaryFolder();
    const pipe = join(folder.path, "pipe");
    Bun.spawnSync(["mkfifo", pipe]);
    for (const path of [pipe, "/dev/zero"])
      expect(refusal(() => resolveHome(folder.path, { MSB_CONFIG_PATH: path })).message).toContain("no regular file");
  });

  test("fails on a configuration of more than 64 MiB, and does not read it", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "config.json");
    writeFileSync(path, "{}");
    truncateSync(path, 64 * 1024 * 1024 + 1);
    expect(() => resolveHome(folder.path, {})).toThrow(expect.objectContaining({ code: "EFBIG", path }));
  });

  test("refuses a path that no file can have", () => {
    using folder = new TemporaryFolder();
    const env = configured(folder.path, '{"paths":{"cache":"/x\\u0000"}}');
    expect(refusal(() => resolveHome(undefined, env)).message).toContain("NUL byte");
  });

  test("fails on a config that cannot be read, and does not take it for none", () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "config.json"));
    expect(() => resolveHome(folder.path, {})).toThrow();
  });

  describe("where the config moves home", () => {
    function moving(folder: TemporaryFolder) {
      const start = join(folder.path, "start");
      const moved = join(folder.path, "moved");
      return { start, moved, env: configured(start, JSON.stringify({ home: moved })) };
    }

    test("finds the database that an old msb left behind", () => {
      using folder = new TemporaryFolder();
      const { start, moved, env } = moving(folder);
      const left = database(start);
      expect(resolveHome(undefined, env)).toMatchObject({ root: moved, database: left });
    });

    test("finds the one that was moved along", () => {
      using folder = new TemporaryFolder();
      const { moved, env } = moving(folder);
      const there = database(moved);
      expect(resolveHome(undefined, env).database).toBe(there);
    });

    test("refuses where both are there and differ, and names both", () => {
      using folder = new TemporaryFolder();
      const { start, moved, env } = moving(folder);
      const [left, there] = [database(start), database(moved)];
      const { code, message } = refusal(() => resolveHome(undefined, env));
      expect(code).toBe("failed");
      expect(message).toContain(`"${left}"`);
      expect(message).toContain(`"${there}"`);
      expect(message).toContain("--home");
      expect(resolveHome(start, {}).database).toBe(left);
    });

    test.each(["hard link", "symbolic link", "linked folder"])("takes both for one where they are (%s)", (kind) => {
      using folder = new TemporaryFolder();
      const { start, moved, env } = moving(folder);
      const left = database(start);
      const there = join(moved, "db", "msb.db");
      mkdirSync(kind === "linked folder" ? moved : dirname(there), { recursive: true });
      if (kind === "hard link") linkSync(left, there);
      else if (kind === "symbolic link") symlinkSync(left, there);
      else symlinkSync(dirname(left), dirname(there));
      expect(resolveHome(undefined, env).database).toBe(there);
    });
  });
});
