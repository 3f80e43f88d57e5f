import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { TemporaryFolder } from "../larder.ts";

const MODULE = fileURLToPath(new URL("../../src/host/pool.ts", import.meta.url));

// Reads of a pipe in which nothing is: each keeps a thread of the pool waiting, and there are more than it has threads.
const SCRIPT = `
  const { openSync, read, readdirSync, readFileSync, writeSync } = require("node:fs");
  const [, fifo, expected] = process.argv;
  require("${MODULE}").widenPool();
  const pipe = openSync(fifo, "r+");
  for (let i = 0; i < 20; i++) read(pipe, Buffer.alloc(1), 0, 1, null, () => {});
  const isOfPool = (task) => readFileSync("/proc/self/task/" + task + "/comm", "latin1").startsWith("Bun Pool");
  const threads = () => readdirSync("/proc/self/task").filter(isOfPool).length;
  for (const deadline = Date.now() + 10_000; threads() < expected && Date.now() < deadline; ) await Bun.sleep(10);
  await Bun.sleep(200);
  console.log(threads());
  writeSync(pipe, Buffer.alloc(20));`;

/** How many threads the pool of a process on one processor comes to, waiting a while for so many. */
function countThreads(expected: number, env: Record<string, string> = {}): number {
  using folder = new TemporaryFolder();
  const fifo = join(folder.path, "fifo");
  Bun.spawnSync(["mkfifo", fifo]);
  const command = ["taskset", "-c", "0", process.execPath, "-e", SCRIPT, fifo, String(expected)];
  const { stdout } = Bun.spawnSync(command, { env: { PATH: process.env.PATH, ...env }, stderr: "inherit" });
  return Number(stdout.toString());
}

describe("widenPool", () => {
  test("gives the pool eight threads where there are fewer processors", () => {
    expect(countThreads(8)).toBe(8);
  });

  test.each(["UV_THREADPOOL_SIZE", "GOMAXPROCS"])("leaves it as large as %s says", (name) => {
    expect(countThreads(3, { [name]: "3" })).toBe(3);
  });
});
