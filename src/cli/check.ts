import { existsSync } from "node:fs";
import { exitCode, LarderError, unlessInterrupted } from "../error.ts";
import { parseDuration } from "../input/units.ts";
import { type CheckReport, examine } from "../ops/check/report.ts";
import { DEFAULT_GRACE_MS } from "../ops/sweep.ts";
import { printable } from "../output/table.ts";
import { count } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { Interruption } from "./interruption.ts";
import { progressBar } from "./progress.ts";
import { complain, emit, say } from "./terminal.ts";

export default defineCommand({
  name: "check",
  summary: "Compare catalogue and disk, and name each problem",
  details:
    "Damage exits with 5; a note (an untagged image, a stray file) does not. --repair mends what loses nothing: rows from\nthe metadata msb keeps, sizes, labels and platform, artifacts that msb would reject, disks that name an old place,\nstray files. It never deletes a row, and leaves a damaged database alone. What changed inside a layer no check sees:\nEROFS has a checksum of its superblock alone, and no digest of the artifact is on record.",
  flags: {
    deep: { type: "boolean", description: "read artifacts too: superblock checksums, flat blobs, raw documents" },
    repair: { type: "boolean", description: "mend what can be mended without losing anything" },
    "dry-run": { type: "boolean", alias: "n", description: "with --repair: list what it would do, and change nothing" },
    grace: { type: "string", valueHint: "DURATION", description: "how old a stray file must be (default 10m)" },
  },
  operands: { least: 0, most: 0 },
  examples: [
    "larder check",
    "larder check --repair --dry-run",
    "larder check --deep --format json | jq '.problems[] | select(.severity == \"damage\")'",
  ],
  exits: [[5, "damage found, or left after a repair; or a cache without a catalogue"]],
  async run({ flags, format, home }) {
    if (flags["dry-run"] && !flags.repair) throw new LarderError("usage", "--dry-run goes with --repair");
    const where = home();
    const grace = flags.grace === undefined ? DEFAULT_GRACE_MS : parseDuration(flags.grace);
    using interruption = new Interruption();
    const bar = progressBar("checked");
    const report = await examine(where, {
      deep: flags.deep,
      mends: flags.repair,
      dryRun: flags["dry-run"],
      grace,
      progress: bar.show,
      stopped: interruption.stopped,
    })
      .finally(bar.end)
      .catch(unlessInterrupted);
    const isRepair = flags.repair && !flags["dry-run"];
    // Half of what there is to find would look like all of it.
    if (!report) {
      interruption.explain(isRepair ? "nothing was mended" : "nothing is known of what was not checked yet");
      return interruption.exitCode;
    }
    if (!existsSync(where.database)) say(`there is no catalogue at "${where.database}"`);
    await emit(format, report, () => renderReport(report));
    say(`database ${report.database}, cache ${report.cache}`);
    if (report.failure !== null) complain("not everything could be mended; the report says of each problem why");
    if (isRepair) {
      interruption.explain("what was not mended yet, the next repair mends");
      if (interruption.exitCode !== undefined) return interruption.exitCode;
    }
    if (report.damage > 0) return exitCode("damaged");
    return report.failure === null ? 0 : exitCode(report.failure);
  },
});

// Damage line by line; of notes, which a healthy host has many of, a count each and one example.
function renderReport({ problems, damage, notes }: CheckReport): string {
  const lines = problems.filter(({ severity }) => severity === "damage").map(renderProblem);
  const groups = Map.groupBy(
    problems.filter(({ severity }) => severity === "note"),
    ({ code, repair }) => `${code} ${repair}`,
  );
  for (const [, [first, ...rest]] of groups) {
    lines.push(`${renderProblem(first!)}${rest.length > 0 ? `        and ${rest.length} more like it\n` : ""}`);
  }
  return `${lines.join("")}${damage} damaged, ${count(notes, "note")}\n`;
}

function renderProblem({
  severity,
  code,
  subject,
  message,
  advice,
  repair,
  remedy,
  left,
}: CheckReport["problems"][number]): string {
  const fate = {
    possible: `--repair: ${remedy}`,
    planned: `planned: ${remedy}`,
    done: `done: ${remedy ?? "mended"}`,
    left: `left: ${left}`,
  };
  return `${severity.padEnd(6)}  ${code}  ${printable(subject)}: ${printable(message)}\n        ${printable(repair === null ? advice : fate[repair])}\n`;
}
