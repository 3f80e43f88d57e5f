import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Run } from "./run.ts";

// SQLite's write lock is byte 120 of the -shm file, locked by fcntl: strace sees it come and go, and sees nothing else.
const CALL =
  /^(\d+) +([\d.]+) fcntl\(\d+, F_(?:OFD_)?SETLKW?, \{l_type=F_(WRLCK|UNLCK), l_whence=SEEK_SET, l_start=(\d+), l_len=(\d+)\}\) += 0/;

/** The longest time, in milliseconds, that what `run` starts under the given command holds a catalogue's write lock. */
export function longestWriteLock(
  { path }: { path: string },
  run: (under: string[]) => Run,
): { longest: number; count: number; run: Run } {
  const log = join(path, "fcntl.log");
  const result = run(["strace", "-f", "--seccomp-bpf", "-ttt", "-e", "trace=fcntl", "-o", log]);
  const since = new Map<string, number>();
  let longest = 0;
  let count = 0;
  for (const line of readFileSync(log, "utf8").split("\n")) {
    const [, process, time, type, start, length] = CALL.exec(line) ?? [];
    if (!process || Number(start) > 120 || Number(start) + Number(length) <= 120) continue;
    const begin = since.get(process);
    if (type === "WRLCK") since.set(process, Number(time));
    else if (begin !== undefined) {
      longest = Math.max(longest, (Number(time) - begin) * 1000);
      count++;
      since.delete(process);
    }
  }
  return { longest, count, run: result };
}
