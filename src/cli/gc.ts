import { parseDuration } from "../input/units.ts";
import { withLarder } from "../larder.ts";
import { type GcReport, gc } from "../ops/gc.ts";
import { openToSweep } from "../ops/strays.ts";
import { DEFAULT_GRACE_MS } from "../ops/sweep.ts";
import { renderTable } from "../output/table.ts";
import { formatSize } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { FILES_LEFT, sayDisk, sayNothing, sayUnaccounted, sayUnsafe } from "./disk.ts";
import { Interruption } from "./interruption.ts";
import { progressBar } from "./progress.ts";
import { emit } from "./terminal.ts";

export default defineCommand({
  name: "gc",
  summary: "Collect orphan layers, untagged images and stray files",
  details:
    "An image in use is never touched. A file that no row accounts for goes once it is older than the grace period,\nand only while no pull or load runs. Where the catalogue does not account for the cache (a fresh database, a cache\nshared by two homes) only tmp/ is swept, and where there is none at all, nothing.",
  flags: {
    "layers-only": { type: "boolean", description: "orphan layers alone" },
    grace: { type: "string", valueHint: "DURATION", description: "how old a stray file must be (default 10m)" },
    "sweep-unrecorded": { type: "boolean", description: "sweep files of images that are not on record, too" },
    "dry-run": { type: "boolean", alias: "n", description: "show what would go, and change nothing" },
  },
  operands: { least: 0, most: 0 },
  examples: ["larder gc", "larder gc --dry-run", "larder gc --format json | jq .bytes_reclaimed"],
  exits: [
    [5, "the catalogue does not account for its cache, the database is damaged, or what is in use cannot be told"],
  ],
  async run({ flags, format, home }) {
    const grace = flags.grace === undefined ? DEFAULT_GRACE_MS : parseDuration(flags.grace);
    const larder = openToSweep(home(), { dryRun: flags["dry-run"], sweepUnrecorded: flags["sweep-unrecorded"] });
    if (!flags["sweep-unrecorded"]) sayNothing(larder, "collect");
    using interruption = new Interruption();
    const bar = progressBar("swept");
    const report = await withLarder(larder, (larder) =>
      gc(larder, {
        layersOnly: flags["layers-only"],
        sweepUnrecorded: flags["sweep-unrecorded"],
        dryRun: flags["dry-run"],
        grace,
        stopped: interruption.stopped,
        progress: bar.show,
      }),
    ).finally(bar.end);
    await emit(format, report, () => renderReport(report));
    const code = sayOutcome(report);
    interruption.explain(FILES_LEFT);
    return interruption.exitCode ?? code;
  },
});

function sayOutcome(report: GcReport): number {
  sayUnsafe(report.unsafe);
  sayDisk(report);
  if (report.unaccounted !== null) return sayUnaccounted(report.unaccounted, report.dry_run);
  return report.failed.length > 0 ? 1 : 0;
}

function renderReport(report: GcReport): string {
  const kinds = new Map<string, { files: number; bytes: number }>();
  for (const { kind, bytes } of report.files) {
    const total = kinds.get(kind) ?? { files: 0, bytes: 0 };
    kinds.set(kind, { files: total.files + 1, bytes: total.bytes + bytes });
  }
  const rows = [
    ["untagged images", String(report.manifests.length), ""],
    ["layer rows", String(report.layers.length), ""],
    ...[...kinds].map(([kind, { files, bytes }]) => [
      `${kind.replace("_", " ")} files`,
      String(files),
      formatSize(bytes),
    ]),
    [report.dry_run ? "would reclaim" : "reclaimed", String(report.files.length), formatSize(report.bytes_reclaimed)],
  ];
  return renderTable([{ title: "WHAT" }, { title: "COUNT", align: "right" }, { title: "SIZE", align: "right" }], rows);
}
