import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { run, TemporaryFolder } from "../larder.ts";
import { Store } from "../store.ts";
import { hasTool } from "../tools.ts";

// System calls are what a script loop pays for, and can be counted on a noisy machine, where time cannot be measured.
// Only those are counted that the work decides, and not the runtime's threads: futex, mmap, epoll, its own wake-ups.
const CALLS = [
  ...["open", "openat", "close", "stat", "lstat", "fstat", "newfstatat", "statx", "readlink", "getdents64"],
  ...["pread64", "pwrite64", "fcntl", "flock", "ftruncate", "fsync", "fdatasync", "unlink", "unlinkat", "rename"],
];

// To change one of these numbers, say in the commit what larder does more, and why that is worth it in every run.
const RECORDED = {
  "list of a small home": 143,
  "rm of one image": 508,
};

async function count(args: string[]): Promise<number> {
  using folder = new TemporaryFolder();
  const log = join(folder.path, "calls");
  const under = ["strace", "-f", "-q", "-c", "-o", log, "-e", `trace=${CALLS.map((call) => `?${call}`).join(",")}`];
  const { code, stderr } = await run(args, { under });
  if (code !== 0) throw new Error(`larder ${args.join(" ")} exited with ${code}: ${stderr}`);
  // "% time  seconds  usecs/call  calls  errors  syscall", where errors may be blank.
  const calls = readFileSync(log, "utf8").matchAll(/^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$/gm);
  return [...calls].reduce((sum, [, n, name]) => sum + (name === "total" ? 0 : Number(n)), 0);
}

function judge(what: keyof typeof RECORDED, counted: number): void {
  expect(counted).toBeGreaterThan(0);
  const most = Math.floor(RECORDED[what] * 1.2);
  const advice = `${what} makes ${counted} system calls, and ${RECORDED[what]} are on record: find what it does more, or record the new number in ${import.meta.path} with a reason`;
  expect(counted, advice).toBeLessThanOrEqual(most);
}

describe.if(hasTool("strace"))("system calls", () => {
  const images = Object.fromEntries(
    [1, 2, 3].map((i) => [
      `image ${i}`,
      { references: [`registry.example.com/image:${i}`], layers: ["base", `own ${i}`] },
    ]),
  );

  test("of a list of a small home do not grow by more than a fifth", async () => {
    using store = await Store.make(images);
    judge("list of a small home", await count(["list", "--home", store.path]));
  });

  test("of a removal of one image do not grow by more than a fifth", async () => {
    using store = await Store.make(images);
    judge("rm of one image", await count(["rm", "registry.example.com/image:2", "--home", store.path]));
  });
});
