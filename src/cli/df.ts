import { openEmpty, openToRead, withLarder } from "../larder.ts";
import { shortDigest } from "../oci/digest.ts";
import { type DfReport, df } from "../ops/df.ts";
import { dfMetrics } from "../output/df-metrics.ts";
import { toPrometheus } from "../output/prometheus.ts";
import { renderTable } from "../output/table.ts";
import { bar, formatAge, formatSize } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { emit, isTerminal, print, say, tableWidth } from "./terminal.ts";

const BAR = 10;

export default defineCommand({
  name: "df",
  summary: "Show what the cache holds, what is shared, what can be reclaimed",
  details:
    "Sizes but LENGTH (in JSON: bytes) are allocated blocks, so a sparse file counts what it takes. Every byte is counted\nonce: what one image needs, what several share and what belongs to none add up to the total. RECLAIMABLE is what\n`larder gc` would free now if nothing were being pulled and the database were sound.",
  flags: {
    verbose: { type: "boolean", alias: "v", description: "show every image with its own and its shared bytes" },
    format: {
      type: "enum",
      options: ["table", "json", "jsonl", "prometheus"],
      description: "how to print: a table for people, one JSON document or line, or gauges for Prometheus",
    },
  },
  operands: { least: 0, most: 0 },
  examples: [
    "larder df",
    "larder df -v",
    "larder df --format json | jq .total.reclaimable_bytes",
    "larder df --format prometheus > /var/lib/node_exporter/larder.prom",
  ],
  exits: [[5, "the database is damaged, or the file is no database"]],
  async run({ flags, format, home }) {
    const where = home();
    const larder = openToRead(where);
    if (!larder) say(`There is no catalogue at "${where.database}": nothing accounts for what the cache holds`);
    const report = await withLarder(larder ?? openEmpty(where), df);
    if (format === "prometheus") await print(toPrometheus(dfMetrics(report)));
    else await emit(format, report, () => renderKinds(report) + (flags.verbose ? `\n${renderImages(report)}` : ""));
    if (larder && report.refused !== null) say(`larder gc would refuse: ${report.refused}`);
    return 0;
  },
});

function renderKinds({ kinds, total, file_system }: DfReport): string {
  const bars = isTerminal(1);
  const row = (name: string, { files, bytes, allocated_bytes, reclaimable_bytes }: DfReport["total"]) => [
    name,
    String(files),
    formatSize(bytes),
    formatSize(allocated_bytes),
    formatSize(reclaimable_bytes),
    ...(bars ? [bar(allocated_bytes, total.allocated_bytes, BAR)] : []),
  ];
  const columns = ["FILES", "LENGTH", "ON DISK", "RECLAIMABLE"].map((title) => ({ title, align: "right" as const }));
  const table = renderTable(
    [{ title: "KIND" }, ...columns, ...(bars ? [{ title: "" }] : [])],
    [...kinds.map(({ kind, ...figures }) => row(kind.replace("_", " "), figures)), row("total", total)],
    tableWidth(),
  );
  const { total_bytes, used_bytes, free_bytes } = file_system;
  const percent = total_bytes === 0 ? 0 : Math.round((100 * used_bytes) / total_bytes);
  return `${table}\nfile system  ${formatSize(total_bytes)}, ${formatSize(used_bytes)} used (${percent}%), ${formatSize(free_bytes)} free\n`;
}

function renderImages({ images, attribution }: DfReport): string {
  const now = Date.now();
  const rows = images.map(({ digest, references, own_bytes, shared_bytes, last_used_at, pinned_by }) => [
    nameOf(references),
    shortDigest(digest),
    formatSize(own_bytes),
    formatSize(shared_bytes),
    last_used_at === null ? "-" : formatAge(now - Date.parse(last_used_at)),
    pinned_by.map(({ name }) => name).join(","),
  ]);
  const columns = [
    { title: "IMAGE", shrinks: true },
    { title: "DIGEST" },
    { title: "OWN", align: "right" as const },
    { title: "SHARED", align: "right" as const },
    { title: "LAST USED" },
    { title: "IN USE BY" },
  ];
  const { own_bytes, shared_bytes, unattributed_bytes } = attribution;
  const sums = `own ${formatSize(own_bytes)} + shared, counted once, ${formatSize(shared_bytes)} + without an image ${formatSize(unattributed_bytes)}\n`;
  return `${renderTable(columns, rows, tableWidth())}${sums}`;
}

// One name and how many more: names cut together would read as one that is not there.
function nameOf([first, ...others]: string[]): string {
  return first === undefined ? "(untagged)" : `${first}${others.length > 0 ? ` (+${others.length})` : ""}`;
}
