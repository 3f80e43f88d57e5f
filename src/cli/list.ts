import { parseFilters } from "../input/filter.ts";
import { openToRead, withLarder } from "../larder.ts";
import { shortDigest } from "../oci/digest.ts";
import { type Handle, list, tellUnreadable } from "../ops/images.ts";
import { type Column, printable, renderTable } from "../output/table.ts";
import { formatAge, formatSize } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { partsOf, printParts, say, tableWidth } from "./terminal.ts";

export default defineCommand({
  name: "list",
  aliases: ["ls"],
  summary: "List images, newest first",
  details: [
    "Filters, KEY=VALUE; all must hold. reference, label and digest may be repeated, as alternatives:",
    "  reference=GLOB        as typed or canonical; * matches any characters, / too",
    "  label=KEY[=VALUE]     a label of the image's config",
    "  pinned=true|false     needed by a sandbox or a snapshot",
    "  untagged=true         manifests that no reference names",
    "  until=AGE             put on record longer ago than 90s, 15m, 12h or 14d",
    "  digest=PREFIX         of the manifest, with or without sha256:",
  ].join("\n"),
  flags: {
    all: { type: "boolean", alias: "a", description: "show untagged manifests too" },
    quiet: { type: "boolean", alias: "q", description: "print references only" },
    filter: { type: "string", valueHint: "KEY=VALUE", multiple: true, description: "show only what matches" },
  },
  operands: { least: 0, most: 0 },
  examples: [
    "larder list",
    "larder ls -q --filter reference='ghcr.io/acme/*'",
    "larder list --format json --filter pinned=false --filter until=14d",
  ],
  exits: [[5, "the database is damaged, or is none; or what is in use cannot be told, and was asked for"]],
  async run({ flags, format, home }) {
    const filter = parseFilters(flags.filter);
    const { database, ...rest } = home();
    const larder = openToRead({ database, ...rest });
    // Only what is printed leaves the transaction: a slow reader must not keep msb from folding its write-ahead log in.
    let unknown: string[] = [];
    const render = (handles: Iterable<Handle>, unreadable: string[] = []) => {
      unknown = unreadable;
      const told = unreadable.length > 0 ? eachTold(handles, unreadable) : handles;
      if (format !== "table") return bytesOf(partsOf(format, told));
      return [flags.quiet ? renderNames(handles) : renderList(handles)];
    };
    const parts = larder ? await withLarder(larder, (larder) => list(larder, filter, flags.all, render)) : render([]);
    await printParts(parts);
    for (const trouble of unknown) say(`more may be in use than is shown: ${trouble}`);
    if (!larder) say(`No images (there is no catalogue at "${database}")`);
    else if (parts[0] === "" && !flags.quiet) say("No images");
    return 0;
  },
});

// A program that reads standard output alone must not take an image for unused.
function* eachTold(handles: Iterable<Handle>, unreadable: string[]): Generator<Handle> {
  for (const handle of handles) yield tellUnreadable(handle, unreadable);
}

// As text, a long list would make the engine's heap grow by several times its length.
function bytesOf(parts: Iterable<string>): Uint8Array[] {
  const encoder = new TextEncoder();
  return Array.from(parts, (part) => encoder.encode(part));
}

function renderNames(handles: Iterable<Handle>): string {
  let text = "";
  for (const handle of handles) text += `${nameOf(handle)}\n`;
  return text;
}

function nameOf(handle: Handle): string {
  return printable(handle.reference ?? handle.digest ?? "");
}

function renderList(handles: Iterable<Handle>): string {
  const now = Date.now();
  const rows: string[][] = [];
  const users: string[] = [];
  for (const handle of handles) {
    rows.push([
      `${handle.reference ?? "(untagged)"}${handle.damage.length > 0 ? " (damaged)" : ""}`,
      handle.digest === null ? "-" : shortDigest(handle.digest),
      handle.size_bytes === null ? "-" : formatSize(handle.size_bytes),
      handle.created_at === null ? "-" : formatAge(now - Date.parse(handle.created_at)),
    ]);
    users.push(handle.pinned_by.map(({ name }) => name).join(","));
  }
  if (rows.length === 0) return "";
  const columns: Column[] = [
    { title: "REFERENCE", shrinks: true },
    { title: "DIGEST" },
    { title: "SIZE", align: "right" },
    { title: "CREATED" },
  ];
  if (users.some((names) => names !== "")) {
    columns.push({ title: "IN USE BY", shrinks: true });
    for (const [i, row] of rows.entries()) row.push(users[i]!);
  }
  return renderTable(columns, rows, tableWidth());
}
