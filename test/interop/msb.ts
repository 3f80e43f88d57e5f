import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type ImageSpec, writeArchive } from "./archive.ts";

/** The real peer's binary, from the platform package that `microsandbox` installs. */
export const MSB = fileURLToPath(
  new URL("bin/msb", import.meta.resolve(`@superradcompany/microsandbox-linux-${process.arch}-gnu/package.json`)),
);

/** How a command ended; a signal counts as 128 and its number. */
export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** Starts msb on a home without waiting for it, for tests that watch it work or kill it. */
export function start(home: string, ...args: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const { PATH } = process.env;
  return Bun.spawn([MSB, ...args], {
    // HOME is the home as well, so that no registry login or setting of the machine's user is read.
    env: { MSB_HOME: home, HOME: home, PATH, TZ: "UTC" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs msb on a home to its end, whatever the exit code. */
export async function msb(home: string, ...args: string[]): Promise<Outcome> {
  const child = start(home, ...args);
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

/** Runs msb with `--format json` and parses what it prints; fails with its stderr. */
export async function msbJson(home: string, ...args: string[]): Promise<unknown> {
  return JSON.parse(await output(home, ...args, "--format", "json"));
}

/** Loads images through an archive, adding `tag` to the first one; fails with msb's stderr. */
export async function load(home: string, images: ImageSpec[], tag?: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "larder-archive-"));
  try {
    const path = join(folder, "images.tar");
    await writeArchive(path, images);
    await output(home, "load", "-i", path, ...(tag === undefined ? [] : ["--tag", tag]));
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function output(home: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await msb(home, ...args);
  if (code !== 0) throw new Error(`msb ${args.join(" ")} exited with ${code}: ${stderr.trim()}`);
  return stdout;
}
