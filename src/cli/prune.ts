import { readFileSync } from "node:fs";
import { asLarderError, exitCode, LarderError } from "../error.ts";
import { parsePolicy } from "../input/policy.ts";
import { parseDuration } from "../input/units.ts";
import { withLarder } from "../larder.ts";
import { shortDigest } from "../oci/digest.ts";
import { type PruneReport, prune, shortOf } from "../ops/prune.ts";
import { openToSweep } from "../ops/strays.ts";
import { DEFAULT_GRACE_MS } from "../ops/sweep.ts";
import { renderTable } from "../output/table.ts";
import { count, formatSize } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { FILES_LEFT, sayDisk, sayNothing, sayUnaccounted, sayUnsafe } from "./disk.ts";
import { Interruption } from "./interruption.ts";
import { progressBar } from "./progress.ts";
import { complain, emit, isTerminal, say, sayAll, tableWidth } from "./terminal.ts";

const FLAGS = {
  unused: { type: "boolean", description: "rule: evict whatever nothing protects" },
  "older-than": { type: "string", valueHint: "AGE", description: "rule: evict what was not used for that long" },
  "keep-last": { type: "string", valueHint: "N", description: "rule: evict all but the newest N of each repository" },
  untagged: { type: "boolean", description: "rule: collect untagged images only" },
  "max-size": { type: "string", valueHint: "SIZE", description: "budget: the cache takes at most that much" },
  "min-free": {
    type: "string",
    valueHint: "SIZE|PERCENT",
    description: "budget: the file system of layers/ has at least that free",
  },
  high: {
    type: "string",
    valueHint: "PERCENT",
    description: "budget: evict nothing while less of the file system is used (with --low)",
  },
  low: { type: "string", valueHint: "PERCENT", description: "budget: from --high on, free down to that" },
  keep: { type: "string", valueHint: "GLOB", multiple: true, description: "never evict a reference that matches" },
  "keep-from": {
    type: "string",
    valueHint: "FILE",
    multiple: true,
    description: "the same from a file (- for standard input), one a line, # for comments",
  },
  "min-age": { type: "string", valueHint: "AGE", description: "never evict what was used more recently (default 10m)" },
  grace: { type: "string", valueHint: "DURATION", description: "how old a stray file must be (default 10m)" },
  "sweep-unrecorded": { type: "boolean", description: "sweep files of images that are not on record, too" },
  "dry-run": { type: "boolean", alias: "n", description: "show the plan with every reason, and change nothing" },
  "log-format": { type: "enum", options: ["text", "json"], description: "how evictions are logged on standard error" },
} as const;

export default defineCommand({
  name: "prune",
  summary: "Evict images by policy and budget, then collect",
  details:
    "At least one rule or budget is needed. An image must match every rule that is given; a budget then takes, least\nrecently used first, from what the rules left, --keep-last included. Never evicted is what --keep names (a glob for\nthe whole reference: * is any characters, / too, ? is one, all else itself), what a sandbox or snapshot\nneeds, what is younger than --min-age, and what a pull is at work on.\nAn untagged image goes whatever the rules, as with gc, once it is older than --min-age.\nAn image is used when one of its names is put on record (pulled, loaded), or a layer that no other image has is;\n--keep-last goes by when a name first came on record. What has no time that can be read counts as of now.\nAges: 90s 15m 12h 14d. Sizes: 1048576 500MB 20GiB (a bare number is bytes). Percentages: 15%, of the file system;\nas the kubelet counts, what is kept for root is not free.",
  flags: FLAGS,
  operands: { least: 0, most: 0 },
  examples: [
    "larder prune --older-than 14d --keep 'ghcr.io/acme/base:*' --dry-run",
    "larder prune --high 85% --low 70%",
    "larder prune --keep-last 3 --keep-from /etc/larder/keep --log-format json",
  ],
  exits: [
    [5, "the catalogue does not account for its cache, the database is damaged, or what is in use cannot be told"],
    [6, "the budget cannot be reached, or what has gone has freed too little"],
  ],
  async run({ flags, format, home }) {
    const policy = parsePolicy({ ...flags, keep: [...flags.keep, ...flags["keep-from"].flatMap(readKeeps)] });
    const grace = flags.grace === undefined ? DEFAULT_GRACE_MS : parseDuration(flags.grace);
    const larder = openToSweep(home(), { dryRun: flags["dry-run"], sweepUnrecorded: flags["sweep-unrecorded"] });
    if (!flags["sweep-unrecorded"]) sayNothing(larder, "prune");
    using interruption = new Interruption();
    const bar = progressBar("swept");
    const evictions: Eviction[] = [];
    const log = () => sayAll(evictions.map((eviction) => describeEviction(eviction, flags["log-format"] ?? "text")));
    const report = await withLarder(larder, (larder) =>
      prune(larder, {
        policy,
        grace,
        sweepUnrecorded: flags["sweep-unrecorded"],
        dryRun: flags["dry-run"],
        stopped: interruption.stopped,
        progress: bar.show,
        evicted: (decision) => evictions.push(decision),
      }),
    )
      .finally(bar.end)
      .catch((error) => {
        log();
        throw error;
      });
    // Who looks at a terminal has them in the table.
    const isSeen = format === "table" && isTerminal(1) && isTerminal(2);
    if (flags["log-format"] !== undefined || !isSeen) log();
    await emit(format, report, () => renderReport(report));
    const code = sayOutcome(report);
    interruption.explain(FILES_LEFT);
    return interruption.exitCode ?? code;
  },
});

// An unreadable list must not count as an empty one: it would evict what it protects.
function readKeeps(path: string): string[] {
  const text = readText(path);
  // What a generator that failed, or a full disk, leaves of one.
  if (text.trim() === "")
    throw new LarderError(
      "failed",
      `the list "${path}" is empty (where nothing is to be kept, let a # comment say so)`,
    );
  const keeps = text
    .split("\n")
    .map((line) => line.replace(/#.*/, "").trim())
    .filter((line) => line !== "");
  if (keeps.length === 0) say(`the list "${path}" names nothing to keep`);
  return keeps;
}

function readText(path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(path === "-" ? 0 : path));
  } catch (error) {
    throw new LarderError("failed", `cannot read the list "${path}": ${asLarderError(error).message}`, error);
  }
}

function describeEviction({ reference, digest, cause, reason, bytes }: Eviction, format: string): string {
  if (format === "json") return JSON.stringify({ event: "evicted", reference, digest, cause, reason, bytes });
  return `evicted ${reference ?? "(untagged)"} ${digest} ${formatSize(bytes)}: ${reason}`;
}

type Eviction = PruneReport["decisions"][number];

function renderReport(report: PruneReport): string {
  const shown = report.decisions.filter(({ action }) => report.dry_run || action === "evict");
  const rows = shown.map(({ action, reference, digest, bytes, reason }) => [
    action === "evict" && !report.dry_run ? "evicted" : action,
    reference ?? "(untagged)",
    shortDigest(digest),
    action === "evict" ? formatSize(bytes) : "",
    reason,
  ]);
  const columns = [
    { title: "" },
    { title: "IMAGE", shrinks: true },
    { title: "DIGEST" },
    { title: "FREES", align: "right" as const },
    { title: "WHY" },
  ];
  const table = rows.length > 0 ? renderTable(columns, rows, tableWidth()) : "";
  return `${table}${report.dry_run ? "would reclaim" : "reclaimed"}  ${formatSize(report.bytes_reclaimed)} in ${count(report.files.length, "file")}\n`;
}

function sayOutcome(report: PruneReport): number {
  sayKept(report);
  for (const text of report.unmatched_keeps) say(`nothing on record matches --keep ${JSON.stringify(text)}`);
  for (const { digest, reason } of report.spared) say(`kept ${digest}: ${reason}`);
  sayUnsafe(report.unsafe);
  sayDisk(report);
  if (report.unaccounted !== null) return sayUnaccounted(report.unaccounted, report.dry_run);
  if (report.target && report.target.missing > 0) {
    const { missing, left } = report.target;
    const stays = report.decisions.some(({ action }) => action === "keep")
      ? "what is left is in use, kept or too young"
      : "no image is left";
    const more = left > 0 ? `; ${formatSize(left)} more (${left} bytes) are in files that were left` : "";
    complain(
      `the target cannot be reached: ${formatSize(missing)} are missing (${missing} bytes), and ${stays}${more}`,
    );
    return report.failed.length > 0 ? 1 : exitCode("unreachable");
  }
  const short = report.target ? shortOf(report.target) : 0;
  if (short > 0) {
    const { waits_for } = report.target!;
    const where =
      waits_for === null
        ? `in files that ${report.dry_run ? "would be" : "were"} left`
        : `and a pull or load is running ("${waits_for}"): until it ends no image goes for a budget`;
    complain(
      `the target ${report.dry_run ? "would not be" : "was not"} reached: ${formatSize(short)} are missing (${short} bytes), ${where}`,
    );
  }
  if (report.failed.length > 0) return 1;
  const { lacking = 0 } = report.target ?? {};
  if (lacking > 0) {
    complain(
      `the target was not reached: the file system still lacks ${formatSize(lacking)} (${lacking} bytes) although what it asked for has gone (what is compressed, or what a snapshot or a copy has too, does not become free; or others have written)`,
    );
    return exitCode("unreachable");
  }
  return short > 0 ? exitCode("busy") : 0;
}

// Why nothing went: a dry run says it of each image.
function sayKept({ decisions, dry_run, unaccounted }: PruneReport): void {
  if (dry_run || unaccounted !== null || decisions.some(({ action }) => action === "evict")) return;
  const causes = Map.groupBy(decisions, ({ cause }) => cause);
  const kept = [...causes].map(([cause, { length }]) => `${length} ${cause}`).join(", ");
  // Of what stayed although it was to go, the lines that follow give the reason.
  const hint = [...causes.keys()].some((cause) => cause !== "changed") ? " (--dry-run gives every reason)" : "";
  if (kept !== "") say(`nothing was evicted: ${kept}${hint}`);
}
