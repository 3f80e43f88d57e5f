import { cpSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isMusl } from "../src/host/libc.ts";

/** A kind of host that larder is built for. */
export interface Target {
  name: string;
  /** What Bun's compiler calls it. */
  compile: Bun.Build.CompileTarget;
  /** The npm package that carries its runtime. */
  runtime: string;
}

/** Every target of a release. */
export const TARGETS: Target[] = [
  target("linux-x64", "bun-linux-x64", "bun-linux-x64"),
  target("linux-x64-baseline", "bun-linux-x64-baseline", "bun-linux-x64-baseline"),
  target("linux-x64-musl", "bun-linux-x64-musl", "bun-linux-x64-musl"),
  target("linux-x64-baseline-musl", "bun-linux-x64-baseline-musl", "bun-linux-x64-musl-baseline"),
  target("linux-arm64", "bun-linux-arm64", "bun-linux-aarch64"),
  target("linux-arm64-musl", "bun-linux-arm64-musl", "bun-linux-aarch64-musl"),
];

function target(name: string, compile: Target["compile"], runtime: string): Target {
  return { name, compile, runtime: `@oven/${runtime}` };
}

/** The target that this machine is, of those that `TARGETS` has. */
export function hostTarget(): string {
  return `linux-${process.arch}${isMusl() ? "-musl" : ""}`;
}

const PINNED = fileURLToPath(new URL("runtimes", import.meta.url));
const FETCHED = fileURLToPath(new URL("../dist/runtimes", import.meta.url));

/**
 * Fetches the runtimes of all targets from the package registry, as the lockfile in `runtimes/` pins them by version
 * and hash: for other systems than this one, and in a folder of their own, so that no ordinary install fetches them.
 */
export async function fetchRuntimes(): Promise<(target: Target) => string> {
  mkdirSync(FETCHED, { recursive: true });
  for (const name of ["package.json", "bun.lock"]) cpSync(`${PINNED}/${name}`, `${FETCHED}/${name}`);
  const install = [process.execPath, "install", "--frozen-lockfile", "--ignore-scripts", "--os=*", "--cpu=*"];
  const code = await Bun.spawn(install, { cwd: FETCHED, stdio: ["ignore", "ignore", "inherit"] }).exited;
  if (code !== 0) throw new Error(`cannot fetch the runtimes (bun install exited with ${code})`);
  return ({ runtime }) => `${FETCHED}/node_modules/${runtime}/bin/bun`;
}
