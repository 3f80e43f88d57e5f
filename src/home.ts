import { existsSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { asLarderError, isErrno, LarderError } from "./error.ts";
import { mastersOf, OR_CHOWN } from "./host/ownership.ts";
import { readWholeAt } from "./host/read.ts";

/** Where one store's things are; every path absolute. */
export interface Home {
  root: string;
  database: string;
  cache: string;
  /** Every folder that snapshots may lie in: what one of them needs must stay, whichever of them msb means. */
  snapshots: string[];
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
 * Throws `usage` where none is named and the user has none, `failed` for a config that is not JSON, where a user's config
 * sends root to what is another's, and where two databases could be meant.
 */
export function resolveHome(flag: string | undefined, env: Environment): Home {
  const start = resolve(flag ?? (env.MSB_HOME || join(env.HOME || homeOfUser(), ".microsandbox")));
  const configuration = env.MSB_CONFIG_PATH || join(start, "config.json");
  const config = readConfig(configuration);
  const home = flag === undefined ? config.home : undefined;
  for (const path of [home, config.cache, config.snapshots]) if (path !== undefined) refuseAstray(configuration, path);
  const root = home === undefined ? start : resolve(home);
  return {
    root,
    database: findDatabase(start, root),
    cache: resolve(config.cache ?? join(root, "cache")),
    snapshots: findSnapshots(start, root, config),
  };
}

// Root reads, makes and deletes files where the configuration says: a user must not send it to what is another's.
function refuseAstray(configuration: string, path: string): void {
  const owners = mastersOf(path)?.users ?? [];
  const stranger = mastersOf(configuration)?.users.find((user) => !owners.includes(user));
  if (stranger === undefined) return;
  const orOwn = owners.length > 0 ? "" : OR_CHOWN;
  const remedy = existsSync(path) ? orOwn : ", or mount or make the other, as that user's: it is not there";
  throw new LarderError(
    "failed",
    `will not follow the configuration "${configuration}" to "${path}" as root: user ${stranger} can change the one, and does not own the other (run larder as that user${remedy})`,
  );
}

// As passwd has it, in which the user of a container is often missing.
function homeOfUser(): string {
  try {
    return process.getBuiltinModule("node:os").homedir();
  } catch (error) {
    throw new LarderError(
      "usage",
      "no home is known: HOME is not set, and the user has no entry in passwd (give --home, or set MSB_HOME)",
      error,
    );
  }
}

// msb up to 0.5.7 moves only the cache to a configured `home` and leaves the database where it was; later ones
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

// Where the configuration moves them, the default as well: a msb that finds a value wrong which larder does not know
// drops the whole file, and goes on with the defaults.
function findSnapshots(start: string, root: string, config: Config): string[] {
  const moved = config.snapshots === undefined ? [] : [resolve(config.snapshots)];
  return [...new Set([...moved, join(root, "snapshots"), join(start, "snapshots")])];
}

function readConfig(path: string): Config {
  let bytes: Uint8Array;
  try {
    bytes = readWholeAt(path, `the configuration "${path}"`);
  } catch (error) {
    if (isErrno(error, "ENOENT") || isErrno(error, "ENOTDIR")) return {};
    throw error;
  }
  let document: unknown;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), onlyDigits);
    if (document === null || typeof document !== "object") throw new TypeError("it holds no JSON object");
  } catch (error) {
    // msb itself refuses to start on it, and a tool that deletes must not guess which cache was meant.
    throw new LarderError("failed", `cannot read the configuration "${path}": ${asLarderError(error).message}`, error);
  }
  return pickPaths(document);
}

// To msb `1.0`, `1e3` and `-0` are no counts. TypeScript's library does not know the third argument yet.
function onlyDigits(_key: string, value: unknown, context?: { source?: string }): unknown {
  return typeof value === "number" && !/^\d+$/.test(context?.source ?? "") ? Number.NaN : value;
}

type Check = (value: unknown) => boolean;

const isBoolean: Check = (value) => typeof value === "boolean";
const isText: Check = (value) => typeof value === "string";
const isOptional =
  (check: Check): Check =>
  (value) =>
    value === null || check(value);
const isCount =
  (most: number): Check =>
  (value) =>
    Number.isInteger(value) && (value as number) <= most;
const isLevel: Check = (value) => ["error", "warn", "info", "debug", "trace"].includes(value as string);
const U32 = 2 ** 32 - 1;
// Rounded: the numbers next to it are 2048 and more away.
const U64 = 2 ** 64 - 2048;

// What msb 0.6.18 reads, and takes in each place. A value that it does not take makes it drop the whole file and use its
// defaults (interop §1); so must larder, or the two would keep different stores.
const PATHS = ["cache", "snapshots", "sandboxes", "volumes", "logs", "secrets", "msb", "libkrunfw"];
const CHECKS: Record<string, Check> = {
  home: isOptional(isText),
  log_level: isOptional(isLevel),
  paths: holds(Object.fromEntries(PATHS.map((name) => [name, isOptional(isText)]))),
  database: holds({
    url: isOptional(isText),
    max_connections: isCount(U32),
    connect_timeout_secs: isCount(U64),
    busy_timeout_secs: isCount(U64),
  }),
  sandbox_defaults: holds({
    cpus: isCount(255),
    memory_mib: isCount(U32),
    shell: isText,
    workdir: isOptional(isText),
    metrics_sample_interval_ms: isOptional(isCount(U64)),
    oci: holds({ upper_size_mib: isOptional(isCount(U32)), root_disk: isOptional(isObject) }),
  }),
  registries: holds({
    hosts: holdsEach(holds({ insecure: isBoolean, auth: isOptional(isObject) })),
    ca_certs: isOptional(isText),
  }),
  runtime: holds({ block_writeback: isText, placement_profiles: isObject }),
  metrics: holds({}),
};

// An object whose members pass, those that it names; msb takes an empty list for one, too.
function holds(checks: Record<string, Check>): Check {
  return (value) => {
    if (Array.isArray(value)) return value.length === 0;
    return isObject(value) && Object.entries(checks).every(([name, check]) => !(name in value) || check(value[name]));
  };
}

// The same, whatever its members are called.
function holdsEach(check: Check): Check {
  return (value) => (isObject(value) ? Object.values(value).every(check) : holds({})(value));
}

function pickPaths(document: unknown): Config {
  if (!isObject(document) || !holds(CHECKS)(document)) return {};
  const paths = isObject(document.paths) ? document.paths : {};
  const config: Config = {};
  for (const [name, value] of [
    ["home", document.home],
    ["cache", paths.cache],
    ["snapshots", paths.snapshots],
  ] as const) {
    if (typeof value !== "string") continue;
    if (value.includes("\0")) throw new LarderError("failed", `the configuration's path for ${name} holds a NUL byte`);
    config[name] = value;
  }
  return config;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
