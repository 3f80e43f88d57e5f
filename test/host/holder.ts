import { dlopen, FFIType } from "bun:ffi";
import { closeSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Another process that holds locks, as msb does while it pulls. It lets go at the end of the block. */
export class LockHolder {
  private constructor(private readonly child: Bun.Subprocess<"pipe", "pipe", "inherit">) {}

  /** Returns once every lock is held; the files are made where they are missing. */
  static async hold(...paths: string[]): Promise<LockHolder> {
    const child = Bun.spawn([process.execPath, fileURLToPath(import.meta.url), ...paths], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    const reader = child.stdout.getReader();
    const { value } = await reader.read();
    if (new TextDecoder().decode(value) !== "held\n") throw new Error("the locks could not be taken");
    return new LockHolder(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child.stdin.end();
    await this.child.exited;
  }
}

// flock(2) called here, not through larder's own code, so that the two check each other.
async function main(paths: string[]): Promise<void> {
  const { symbols } = dlopen("libc.so.6", { flock: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 } });
  const files = paths.map((path) => openSync(path, "a"));
  if (files.some((fd) => symbols.flock(fd, 2 | 4) !== 0)) throw new Error("a lock is held already");
  await Bun.write(Bun.stdout, "held\n");
  await Bun.stdin.text();
  for (const fd of files) closeSync(fd);
}

if (import.meta.main) await main(process.argv.slice(2));
