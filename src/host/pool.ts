import { loadLibc } from "./libc.ts";

// Where Bun reads the size of its thread pool, once, when it first has work for it. Without either it starts as many threads
// as there are processors, and two at least.
const VARIABLES = ["UV_THREADPOOL_SIZE", "GOMAXPROCS"] as const;
const LEAST = 8;

let isAsked = false;

/**
 * Gives Bun's thread pool eight threads also where there are fewer processors: what waits for a disk needs none. What the
 * environment says stays, and so does a pool that has begun to work.
 */
export function widenPool(): void {
  if (isAsked) return;
  isAsked = true;
  if (navigator.hardwareConcurrency >= LEAST || VARIABLES.some((name) => process.env[name] !== undefined)) return;
  try {
    const { setenv } = loadLibc({ setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" } });
    setenv(Buffer.from(`${VARIABLES[0]}\0`), Buffer.from(`${LEAST}\0`), 0);
  } catch {
    // It works as it is, too.
  }
}
