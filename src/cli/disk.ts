import { exitCode } from "../error.ts";
import type { Larder } from "../larder.ts";
import type { DiskReport } from "../ops/report.ts";
import { count } from "../output/units.ts";
import { complain, say } from "./terminal.ts";

/** What becomes of the files that work left when it was stopped. */
export const FILES_LEFT =
  "what is left, the next gc takes (with --sweep-unrecorded where no image is on record any more)";

const SHOWN = 5;

/** Says on standard error which store was acted on, what was left for later, and what the system refused. */
export function sayDisk(report: DiskReport): void {
  say(`database ${report.database}, cache ${report.cache}`);
  const failures = [...Map.groupBy(report.failed, ({ reason }) => reason)];
  for (const [reason, files] of failures.slice(0, SHOWN))
    complain(files.length > 1 ? `${reason} (${count(files.length, "file")} left)` : reason);
  if (failures.length > SHOWN)
    complain(`${failures.length - SHOWN} more refusals of the system (--format json names them all)`);
  for (const { path, reason } of report.skipped.slice(0, SHOWN)) say(`left ${path}: ${reason}`);
  if (report.skipped.length > SHOWN)
    say(`left ${count(report.skipped.length - SHOWN, "more file")} (--format json names them all)`);
}

/** Says which rows were left because what they hold is no digest. */
export function sayUnsafe(rows: string[]): void {
  for (const row of rows) say(`left ${row}: it is no digest`);
}

/** Says of an opened home that there is nothing to do for a command that sweeps: neither a catalogue nor a file. */
export function sayNothing({ isMissing, home }: Larder, verb: string): void {
  if (isMissing) say(`Nothing to ${verb} (there is no catalogue at "${home.database}")`);
}

/** Says why only staging was swept, and returns the exit code for it. */
export function sayUnaccounted(unaccounted: string, isDry: boolean): number {
  complain(
    `the catalogue does not account for its cache: ${unaccounted}. Nothing beyond tmp/ ${isDry ? "would be" : "was"} swept`,
  );
  return exitCode("unaccounted");
}
