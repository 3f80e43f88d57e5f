import { unlessInterrupted } from "../error.ts";
import { openEmpty, openToPlan, openToWrite, withLarder } from "../larder.ts";
import { type RemoveReport, remove } from "../ops/remove.ts";
import { DEFAULT_GRACE_MS } from "../ops/sweep.ts";
import { printable } from "../output/table.ts";
import { count, formatSize } from "../output/units.ts";
import { defineCommand, firstFailure } from "./command.ts";
import { FILES_LEFT, sayDisk, sayUnsafe } from "./disk.ts";
import { Interruption } from "./interruption.ts";
import { complain, emit, say } from "./terminal.ts";

export default defineCommand({
  name: "remove",
  aliases: ["rm"],
  summary: "Drop references, and what nothing else needs",
  details:
    "An image in use by a sandbox or a snapshot keeps its last name. With --force the name goes and the data stays,\nuntagged, until nothing needs it. Other names of the same image are not affected.\nA digest removes an untagged image; of one with names it says which those are.\nA reference is matched as typed first, then by its canonical form: where both are on record, a second rm takes the other.",
  flags: {
    "reference...": { type: "positional", description: "the references to drop" },
    force: {
      type: "boolean",
      alias: "f",
      description: "drop the last name of an image in use; its data stays, untagged",
    },
    ignore: { type: "boolean", alias: "i", description: "a reference that is not there is no failure" },
    "dry-run": { type: "boolean", alias: "n", description: "show what would go, and change nothing" },
    quiet: { type: "boolean", alias: "q", description: "print the dropped references only; JSON stays whole" },
  },
  operands: { least: 1, most: Number.POSITIVE_INFINITY },
  examples: [
    "larder rm python:3.11",
    "larder rm --dry-run python:3.11 node:20",
    "larder rm --ignore --format json old:tag",
  ],
  exits: [
    [3, "no such image"],
    [4, "in use"],
    [5, "the database is damaged, or what is in use cannot be told, because a sandbox or snapshot cannot be read"],
  ],
  async run({ flags, operands, format, home }) {
    const where = home();
    const larder = flags["dry-run"] ? openToPlan(where) : openToWrite(where);
    if (!larder) say(`There is no catalogue at "${where.database}"`);
    using interruption = new Interruption();
    const report = await withLarder(larder ?? openEmpty(where), (larder) =>
      remove(larder, {
        references: operands,
        force: flags.force,
        ignoreMissing: flags.ignore,
        dryRun: flags["dry-run"],
        grace: DEFAULT_GRACE_MS,
        stopped: interruption.stopped,
      }),
    ).catch(unlessInterrupted);
    if (!report) {
      interruption.explain("nothing was removed");
      return interruption.exitCode;
    }
    await emit(format, report, () => renderReport(report, flags.quiet));
    for (const { message } of report.refused) complain(message);
    sayUnsafe(report.unsafe);
    sayDisk(report);
    interruption.explain(FILES_LEFT);
    if (interruption.exitCode !== undefined) return interruption.exitCode;
    return firstFailure(report.refused) || (report.failed.length > 0 ? 1 : 0);
  },
});

function renderReport(report: RemoveReport, quiet: boolean): string {
  const names = report.removed.map(
    ({ reference }) => `${quiet ? "" : report.dry_run ? "would remove  " : "removed  "}${printable(reference)}\n`,
  );
  if (quiet) return names.join("");
  const kept = report.untagged.map(
    ({ digest }) => `${report.dry_run ? "would keep" : "kept"}  ${printable(digest)}, untagged\n`,
  );
  const files = `${report.dry_run ? "would reclaim" : "reclaimed"}  ${formatSize(report.bytes_reclaimed)} in ${count(report.files.length, "file")}\n`;
  return [...names, ...kept, report.removed.length + report.manifests.length > 0 ? files : ""].join("");
}
