import type { ImageRow } from "../db/images.ts";
import type { Pins } from "../db/pins.ts";
import { parseFilters } from "../input/filter.ts";
import { openToRead, withLarder } from "../larder.ts";
import { shortDigest } from "../oci/digest.ts";
import { damageOf, type Handle, list, pinsOf, toHandle } from "../ops/images.ts";
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
    "  label=KEY[=VALUE]     a label of the image's config (msb up to 0.6.8 stores none; check --repair adds them)",
    "  pinned=true|false     needed by a sandbox or a snapshot",
    "  untagged=true         manifests that no reference names",
    "  until=AGE             put on record longer ago than 90s, 15m, 12h or 14d",
    "  digest=PREFIX         of the manifest, with or without sha256:",
  ].join("\n"),
  flags: {
    all: { type: "boolean", alias: "a", description: "show untagged manifests too, after the others" },
    quiet: {
      type: "boolean",
      alias: "q",
      description: "print references only, of untagged manifests digests; JSON stays whole",
    },
    filter: { type: "string", valueHint: "KEY=VALUE", multiple: true, description: "show only what matches" },
  },
  operands: { least: 0, most: 0 },
  examples: [
    "larder list",
    "larder ls -q --filter reference='ghcr.io/acme/*'",
    "larder list --format json --filter pinned=false --filter until=14d",
  ],
  exits: [
    [5, "the database is damaged, or the file is no database; or what is in use cannot be told, and was asked for"],
  ],
  async run({ flags, format, home }) {
    const filter = parseFilters(flags.filter);
    const where = home();
    const larder = openToRead(where);
    // Only what is printed leaves the transaction: a slow reader must not keep msb from folding its write-ahead log in.
    let unreadable: string[] = [];
    const render = (rows: Iterable<ImageRow>, pins: Pins) => {
      unreadable = pins.unreadable;
      if (format !== "table") return bytesOf(partsOf(format, eachHandle(rows, pins)));
      return [flags.quiet ? renderNames(rows) : renderList(rows, pins)];
    };
    const nothing: Pins = { byDigest: new Map(), unreadable: [] };
    const parts = larder
      ? await withLarder(larder, (larder) => list(larder, filter, flags.all, render))
      : render([], nothing);
    await printParts(parts);
    if (!flags.quiet) for (const trouble of unreadable) say(`more may be in use than is shown: ${trouble}`);
    if (!larder) say(`No images (there is no catalogue at "${where.database}")`);
    else if (parts[0] === "" && !flags.quiet) say("No images");
    return 0;
  },
});

function* eachHandle(rows: Iterable<ImageRow>, pins: Pins): Generator<Handle> {
  for (const row of rows) yield toHandle(row, pins);
}

// As text, a long list would make the engine's heap grow by several times its length.
function bytesOf(parts: Iterable<string>): Uint8Array[] {
  const encoder = new TextEncoder();
  return Array.from(parts, (part) => encoder.encode(part));
}

function renderNames(rows: Iterable<ImageRow>): string {
  let text = "";
  for (const { reference, digest } of rows) text += `${printable(reference ?? digest ?? "")}\n`;
  return text;
}

// Of the rows, and not of handles: what a table does not show takes a tenth of its time to make.
function renderList(images: Iterable<ImageRow>, pins: Pins): string {
  const now = Date.now();
  const rows: string[][] = [];
  const users: string[] = [];
  for (const image of images) {
    const { id, reference, digest, sizeBytes, createdAt } = image;
    rows.push([
      `${reference ?? (id === null ? "(untagged)" : "(unreadable)")}${damageOf(image).length > 0 ? " (damaged)" : ""}`,
      digest === null ? "-" : shortDigest(digest),
      sizeBytes === null ? "-" : formatSize(sizeBytes),
      createdAt === null ? "-" : formatAge(now - createdAt.ms),
    ]);
    users.push(
      pinsOf(image, pins)
        .map(({ name }) => name)
        .join(","),
    );
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
