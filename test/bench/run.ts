import { fileURLToPath } from "node:url";
import { EXECUTABLE } from "../../build.ts";
import { MSB } from "../interop/msb.ts";

const FLOOR_SOURCE = fileURLToPath(new URL("floor.ts", import.meta.url));
/** Where the floor's program is put. */
export const FLOOR = fileURLToPath(new URL("../../dist/floor", import.meta.url));

/** What one run took: milliseconds from its start to its end. */
export interface Run {
  ms: number;
}

/** Compiles the programs that do the least that a row needs, as larder itself is compiled. */
export async function buildFloor(): Promise<void> {
  await Bun.build({
    entrypoints: [FLOOR_SOURCE],
    minify: true,
    bytecode: true,
    compile: {
      outfile: FLOOR,
      autoloadBunfig: false,
      autoloadDotenv: false,
      autoloadTsconfig: false,
      autoloadPackageJson: false,
    },
  });
}

/** Runs larder on a home, its output thrown away; fails unless it exits with 0. */
export function runLarder(home: string, args: string[]): Run {
  return time([EXECUTABLE, ...args, "--home", home]);
}

/** The same under a command, such as strace. */
export function runLarderUnder(command: string[], home: string, args: string[]): Run {
  return time([...command, EXECUTABLE, ...args, "--home", home]);
}

export function runMsb(home: string, args: string[]): Run {
  return time([MSB, ...args], { MSB_HOME: home, HOME: home });
}

export function runFloor(args: string[]): Run {
  return time([FLOOR, ...args]);
}

export function time(command: string[], env: Record<string, string> = {}): Run {
  const start = performance.now();
  const { exitCode, stderr } = Bun.spawnSync(command, {
    env: { PATH: process.env.PATH ?? "", TZ: "UTC", ...env },
    stdin: "ignore",
    stdout: Bun.file("/dev/null"),
    stderr: "pipe",
  });
  const ms = performance.now() - start;
  if (exitCode !== 0) throw new Error(`${command.join(" ")} exited with ${exitCode}: ${stderr}`);
  return { ms };
}

/** Medians and spread of several runs. */
export interface Sample {
  runs: number;
  ms: number;
  /** Half the distance between the quartiles, as a part of the median. */
  spread: number;
}

/**
 * Lets the programs lie in the page cache as they do after a start of the host. One that was written just now lies there in
 * larger pieces: it starts a sixth sooner, and is charged for the whole of each piece that it touches.
 */
export function settlePrograms(): void {
  Bun.spawnSync(["sync"]);
  for (const path of [EXECUTABLE, FLOOR, MSB])
    Bun.spawnSync(["dd", `if=${path}`, "iflag=nocache", "count=0", "status=none"]);
}

/** The file system of a folder, and whether a delete waits for the disk to discard its blocks: it decides what one costs. */
export function describeDisk(folder: string): string {
  const { stdout } = Bun.spawnSync(["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", folder]);
  const [type, options] = stdout.toString().trim().split(/\s+/);
  return `${type} ${options?.split(",").includes("discard") ? "with" : "without"} discard`;
}

/** Peak memory of a command in bytes, the median of three runs. What takes less than the starter's 20 MiB shows those. */
export function peakMemory(command: string[], env: Record<string, string> = {}): number {
  const peaks = [1, 2, 3].map(() => {
    const { stdout } = Bun.spawnSync([FLOOR, "memory", ...command], { env: { PATH: process.env.PATH ?? "", ...env } });
    return Number(stdout.toString());
  });
  return peaks.sort((a, b) => a - b)[1]!;
}

export function sample(runs: Run[]): Sample {
  const ms = runs.map((run) => run.ms).sort((a, b) => a - b);
  const at = (part: number) => ms[Math.min(Math.floor(part * ms.length), ms.length - 1)]!;
  return {
    runs: runs.length,
    ms: at(0.5),
    spread: (at(0.75) - at(0.25)) / 2 / at(0.5),
  };
}

// msb's quadratic prune would take the bench beyond its twenty minutes: the table says where there are fewer runs.
const LONG_MS = 90_000;

/** Runs each in turn, `pairs` times over (A B A B), after one run of each that does not count. */
export function inTurn<K extends string>(
  pairs: number,
  what: Record<K, (turn: number) => Run>,
  warm = true,
): Record<K, Sample> {
  const names = Object.keys(what) as K[];
  const runs = Object.fromEntries(names.map((name) => [name, [] as Run[]])) as Record<K, Run[]>;
  const start = performance.now();
  for (let turn = warm ? -1 : 0; turn < pairs; turn++) {
    for (const name of names) {
      const run = what[name](turn + 1);
      if (turn >= 0) runs[name].push(run);
    }
    if (turn >= 0 && performance.now() - start > LONG_MS) break;
  }
  return Object.fromEntries(names.map((name) => [name, sample(runs[name])])) as Record<K, Sample>;
}
