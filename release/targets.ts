import { cpSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A kind of host that larder is built for. */
export interface Target {
  name: string;
  /** What Bun's compiler calls it. */
  compile: Bun.Build.CompileTarget;
  /** The npm package that carries its runtime. */
  runtime: string;
  arch: "x86_64" | "aarch64";
  /** Files beside the executable that must be on the host, by their sonames; the first is the loader. */
  needs: string[];
}

const GLIBC = ["libc.so.6", "libpthread.so.0", "libdl.so.2", "libm.so.6"];

/** Every target of a release. What they need is read from each executable as well, and must agree. */
export const TARGETS: Target[] = [
  target("linux-x64", "bun-linux-x64", "bun-linux-x64"),
  target("linux-x64-baseline", "bun-linux-x64-baseline", "bun-linux-x64-baseline"),
  target("linux-x64-musl", "bun-linux-x64-musl", "bun-linux-x64-musl"),
  target("linux-x64-baseline-musl", "bun-linux-x64-baseline-musl", "bun-linux-x64-musl-baseline"),
  target("linux-arm64", "bun-linux-arm64", "bun-linux-aarch64"),
  target("linux-arm64-musl", "bun-linux-arm64-musl", "bun-linux-aarch64-musl"),
];

function target(name: string, compile: Target["compile"], runtime: string): Target {
  const arch = name.includes("arm64") ? "aarch64" : "x86_64";
  const loader = arch === "aarch64" ? "ld-linux-aarch64.so.1" : "ld-linux-x86-64.so.2";
  const needs = name.endsWith("-musl") ? [`libc.musl-${arch}.so.1`, "libstdc++.so.6"] : [loader, ...GLIBC];
  return { name, compile, runtime: `@oven/${runtime}`, arch, needs };
}

/** The target that this machine is, of those that `TARGETS` has. */
export function hostTarget(): string {
  const libc = (process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined)?.header;
  return `linux-${process.arch}${libc?.glibcVersionRuntime === undefined ? "-musl" : ""}`;
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
