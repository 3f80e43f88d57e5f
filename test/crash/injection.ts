import { closeSync, openSync, readFileSync } from "node:fs";
import { EXECUTABLE } from "../../build.ts";
import type { Stand } from "./scenario.ts";

/** The system calls that change something on a disk. An open counts only where it may create or cut a file. */
const CHANGING = [
  "unlink",
  "unlinkat",
  "rmdir",
  "rename",
  "renameat",
  "renameat2",
  "mkdir",
  "mkdirat",
  "write",
  "pwrite64",
  "writev",
  "pwritev",
  "pwritev2",
  "fsync",
  "fdatasync",
  "ftruncate",
  "truncate",
  "fallocate",
  "copy_file_range",
  "sendfile",
  "link",
  "linkat",
  "symlink",
  "symlinkat",
];
const OPENING = ["open", "openat", "openat2", "creat"];
/** Calls that only look; a fault in one must not be taken for an answer. */
const LOOKING = ["read", "pread64", "getdents64"];

/**
 * One place where a run can be struck: the `count`th call of its kind on a path. Paths make it sure that the call is
 * larder's own, and not one of the runtime's, and no other thread counts along.
 */
export interface Boundary {
  call: string;
  path: string;
  count: number;
  changes: boolean;
  /** Whether the call fails by itself, such as the removal of what is not there. */
  fails: boolean;
}

/** Where to strike. */
export type Place = Pick<Boundary, "call" | "path" | "count">;

/** How a run ended; `code` is undefined where it was killed. */
export interface Strike {
  code: number | undefined;
  stdout: string;
  stderr: string;
  /** Whether what was to be injected was. */
  struck: boolean;
}

/** Why no process can be traced here, or undefined. */
export function tracingRefused(): string | undefined {
  const { exitCode, stderr } = Bun.spawnSync(["strace", "-f", "-o", "/dev/null", "true"]);
  return exitCode === 0 ? undefined : `no privilege to trace processes (ptrace): ${stderr.toString().trim()}`;
}

/** Runs a command to its end, and lists its boundaries in order. */
export async function trace(stand: Stand, args: string[]): Promise<Strike & { boundaries: Boundary[] }> {
  const names = [...CHANGING, ...OPENING, ...LOOKING].map((name) => `?${name}`);
  const { log, ...strike } = await run(stand, args, ["--seccomp-bpf", "-y", "-e", `trace=${names.join()}`]);
  return { ...strike, boundaries: findBoundaries(log, stand) };
}

/** Runs a command and kills it before it makes the boundary's call. */
export function kill(stand: Stand, args: string[], at: Place): Promise<Strike> {
  return strike(stand, args, at, "signal=KILL", ({ code }) => code === undefined);
}

/** Runs a command and lets the boundary's call fail. */
export function fail(stand: Stand, args: string[], at: Place, errno: string): Promise<Strike> {
  // The filter in the kernel makes it faster; it cannot be had where a signal is injected.
  return strike(stand, args, at, `error=${errno}`, ({ log }) => log.includes("(INJECTED)"));
}

async function strike(
  stand: Stand,
  args: string[],
  { call, path, count }: Place,
  what: string,
  isStruck: (ended: Strike & { log: string }) => boolean,
): Promise<Strike> {
  const options = ["-P", path, "-e", `trace=${call}`, "-e", `inject=${call}:${what}:when=${count}`];
  const ended = await run(stand, args, options);
  const { log: _, ...outcome } = ended;
  return { ...outcome, struck: isStruck(ended) };
}

async function run(stand: Stand, args: string[], options: string[]): Promise<Strike & { log: string }> {
  const logPath = stand.beside("strace.log");
  // Files, not pipes: a path by which the writes to them can be told from the runtime's own.
  const output = [openSync(stand.stdout, "w"), openSync(stand.stderr, "w")] as const;
  const command = [EXECUTABLE, ...args, "--format", "json", "--home", stand.home];
  const child = Bun.spawn(
    ["strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", logPath, ...options, ...command],
    {
      env: { PATH: process.env.PATH ?? "", TZ: "UTC", HOME: stand.beside("nobody") },
      stdin: "ignore",
      stdout: output[0],
      stderr: output[1],
    },
  );
  await child.exited;
  for (const fd of output) closeSync(fd);
  // strace ends as its child did: killed by a signal, there is no exit code.
  const code = child.signalCode === null ? (child.exitCode ?? undefined) : undefined;
  // The runtime sets the room for standard output aside before it writes: what it did not get to is NUL.
  const [log, stdout, stderr] = [logPath, stand.stdout, stand.stderr].map((path) =>
    readFileSync(path, "utf8").replaceAll("\0", ""),
  );
  return { code, stdout: stdout!, stderr: stderr!, struck: false, log: log! };
}

const CALL = /^\d+ +(\w+)\((.*)$/;

function findBoundaries(log: string, { home, stdout, stderr }: Stand): Boundary[] {
  const counts = new Map<string, number>();
  const boundaries: Boundary[] = [];
  for (const line of log.split("\n")) {
    const [, call, rest = ""] = CALL.exec(line) ?? [];
    if (call === undefined) continue;
    const paths = pathsOf(rest).filter(
      (path) => path.startsWith(`${home}/`) || path === home || path === stdout || path === stderr,
    );
    for (const path of paths) counts.set(`${call} ${path}`, (counts.get(`${call} ${path}`) ?? 0) + 1);
    const [path] = paths;
    // A call that found nothing has changed nothing.
    if (path === undefined || rest.includes(" = -1 ENOENT ")) continue;
    const changes = OPENING.includes(call) ? /O_CREAT|O_TRUNC/.test(rest) : CHANGING.includes(call);
    boundaries.push({ call, path, count: counts.get(`${call} ${path}`)!, changes, fails: / = -1 E/.test(rest) });
  }
  return boundaries;
}

// The paths by which strace -P knows a call: those it names (as "/path"), and those of its descriptors (as 5</path>).
function pathsOf(rest: string): string[] {
  const [head] = rest.split(/\) += /);
  const named = [...head!.matchAll(/"([^"]*)"/g)].map(([, path]) => path!);
  const open = /^\d+<([^>]*)>/.exec(head!)?.[1];
  return [...new Set([...(open === undefined ? [] : [open]), ...named.filter((path) => path.startsWith("/"))])];
}
