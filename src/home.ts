import { readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { isErrno, LarderError } from "./error.ts";

/** Where one store's things are; every path absolute. */
export interface Home {
  root: string;
  database: string;
  cache: string;
  snapshots: string;
}

type Environment = Record<string, string | undefined>;

interface Config {
  home?: string;
  cache?: string;
  snapshots?: string;
}

/**
 * Finds the home as msb does (interop §1): `--home`, else a non-empty `MSB_HOME`, else `~/.microsandbox`; then
 * what `config.json` moves. A `home` inside it never overrides `--home`.
 * Throws `failed` for a config that is not JSON, and where two databases could be meant.
 */
export function resolveHome(flag: string | undefined, env: Environment): Home {
  const start = resolve(
    flag ?? (env.MSB_HOME || join(env.HOME || process.getBuiltinModule("node:os").homedir(), ".microsandbox")),
  );
  const config = readConfig(env.MSB_CONFIG_PATH || join(start, "config.json"));
  const root = flag === undefined && config.home !== undefined ? resolve(config.home) : start;
  return {
    root,
    database: findDatabase(start, root),
    cache: resolve(config.cache ?? join(root, "cache")),
    snapshots: resolve(config.snapshots ?? join(root, "snapshots")),
  };
}

// msb up to 0.5.5 moves only the cache to a configured `home` and leaves the database where it was; later ones
// move both (interop §7 #30).
function findDatabase(start: string, root: string): string {
  const moved = join(root, "db", "msb.db");
  if (root === start) return moved;
  const left = join(start, "db", "msb.db");
  const there = statSync(moved, { throwIfNoEntry: false });
  const here = statSync(left, { throwIfNoEntry: false });
  if (!here) return moved;
  if (!there) return left;
  if (here.ino === there.ino && here.dev === there.dev) return moved;
  throw new LarderError(
    "failed",
    `two databases could be meant: "${left}" and "${moved}" (config.json moves home; name one with --home)`,
  );
}

function readConfig(path: string): Config {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if (isErrno(error, "ENOENT") || isErrno(error, "ENOTDIR")) return {};
    // This one comes from the read, which knows no path.
    if (isErrno(error, "EISDIR"))
      throw new LarderError("failed", `cannot read the configuration "${path}": it is a directory`, error);
    throw error;
  }
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    if (document === null || typeof document !== "object") throw new TypeError("it holds no JSON object");
  } catch (error) {
    // msb itself refuses to start on it, and a tool that deletes must not guess which cache was meant.
    throw new LarderError(
      "failed",
      `cannot read the configuration "${path}": ${error instanceof Error ? error.message : error}`,
      error,
    );
  }
  return pickPaths(document);
}

// A value of the wrong type makes msb drop the whole file and use its defaults (interop §1); so must larder, or the
// two would keep different stores.
function pickPaths(document: unknown): Config {
  if (!isObject(document)) return {};
  const paths = document.paths ?? {};
  if (!isObject(paths)) return {};
  const config: Config = {};
  for (const [name, value] of [
    ["home", document.home],
    ["cache", paths.cache],
    ["snapshots", paths.snapshots],
  ] as const) {
    if (value === undefined || value === null) continue;
    if (typeof value !== "string") return {};
    if (value.includes("\0")) throw new LarderError("failed", `the configuration's path for ${name} holds a NUL byte`);
    config[name] = value;
  }
  return config;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
