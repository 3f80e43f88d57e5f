import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXECUTABLE } from "../build.ts";
import type { Outcome } from "./interop/msb.ts";

/** A folder that is gone again at the end of the block that made it. */
export class TemporaryFolder {
  readonly path: string;

  constructor(parent = tmpdir()) {
    this.path = mkdtempSync(join(parent, "larder-test-"));
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** How to start larder, where a test needs more than a home and arguments. */
export interface Start {
  env?: Record<string, string>;
  cwd?: string;
  stdin?: string | Uint8Array;
  /** A command that runs the executable, such as `strace -f …`. */
  under?: string[];
}

/** Runs the compiled executable to its end, whatever the exit code. It gets no variable but those in `env`. */
export async function run(args: string[], { env = {}, cwd, stdin = "", under = [] }: Start = {}): Promise<Outcome> {
  const child = Bun.spawn([...under, EXECUTABLE, ...args], {
    env: { PATH: process.env.PATH ?? "", TZ: "UTC", ...env },
    stdin: typeof stdin === "string" ? new TextEncoder().encode(stdin) : stdin,
    stdout: "pipe",
    stderr: "pipe",
    ...(cwd === undefined ? {} : { cwd }),
  });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

/** Runs larder again for as long as it answers that others are busy with the home (75), as its callers should. */
export async function runUntilFree(...[args, options]: Parameters<typeof run>): Promise<Outcome> {
  for (;;) {
    const outcome = await run(args, options);
    if (outcome.code !== 75) return outcome;
  }
}

/** A field of what the kernel says of a process, such as `State`; undefined where it has ended. */
export function processStatus(pid: number, field: string): string | undefined {
  const path = `/proc/${pid}/status`;
  return existsSync(path) ? new RegExp(`^${field}:\\s+(.*)$`, "m").exec(readFileSync(path, "utf8"))?.[1] : undefined;
}

/** What of a folder this process has open, by name, empty for itself; ` (deleted)` is behind what has no name any more. */
export function openIn(folder: string): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      return path === folder || path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : [];
    } catch {
      // The descriptor by which the list itself was read.
      return [];
    }
  });
}

/** Runs larder on a home. */
export function larder(home: string, ...args: string[]): Promise<Outcome> {
  return run([...args, "--home", home]);
}

/** Runs larder with `--format json` and parses what it prints; fails with its stderr unless it exits with `expected`. */
// biome-ignore lint/suspicious/noExplicitAny: a test reads what it expects, and fails where it is not there
export async function larderJson(home: string, args: string[], expected = 0): Promise<any> {
  const { code, stdout, stderr } = await larder(home, ...args, "--format", "json");
  if (code !== expected) throw new Error(`larder ${args.join(" ")} exited with ${code}: ${stderr.trim()}`);
  return JSON.parse(stdout);
}
