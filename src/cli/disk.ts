import type { DiskReport } from "../ops/report.ts";
import { printable } from "../output/table.ts";
import { complain, say } from "./terminal.ts";

const SHOWN = 5;

/** Says on standard error which store was acted on, what was left for later, and what the system refused. */
export function sayDisk(report: DiskReport): void {
  say(`database ${report.database}, cache ${report.cache}`);
  for (const { reason } of report.failed) complain(reason);
  for (const { path, reason } of report.skipped.slice(0, SHOWN)) say(`left ${printable(path)}: ${printable(reason)}`);
  if (report.skipped.length > SHOWN)
    say(`left ${report.skipped.length - SHOWN} more files (--format json names them all)`);
}
