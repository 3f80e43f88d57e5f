import { loadLibc } from "./libc.ts";

// Where Bun reads the size of its thread pool, once, when it first has work for it. Without it there are as many threads as
// processors.
const VARIABLE = "UV_THREADPOOL_SIZE";
const LEAST = 8;

/**
 * Gives Bun's thread pool eight threads also where there are fewer processors: what waits for a disk needs none. What the
 * environment says stays, and so does a pool that has begun to work.
 */
export function widenPool(): void {
  if (navigator.hardwareConcurrency >= LEAST) return;
  try {
    const { setenv } = loadLibc({ setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" } });
    setenv(cString(VARIABLE), cString(String(LEAST)), 0);
  } catch {
    // It works as it is, too.
  }
}

function cString(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}
