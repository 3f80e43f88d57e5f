import { namePins } from "../db/pins.ts";
import { openToRead, withLarder } from "../larder.ts";
import { get, type Handle, notFound } from "../ops/images.ts";
import { renderFields } from "../output/table.ts";
import { formatSize } from "../output/units.ts";
import { defineCommand } from "./command.ts";
import { emit } from "./terminal.ts";

export default defineCommand({
  name: "get",
  summary: "Show what is on record of one image",
  details:
    "The reference is matched as typed first, then by its canonical form: `python` finds `docker.io/library/python:latest`.\nAn image is found by its whole digest too, an untagged one only so.",
  flags: { reference: { type: "positional", description: "the image" } },
  operands: { least: 1, most: 1 },
  examples: ["larder get python:3.12", "larder get --format json python:3.12 | jq .size_bytes"],
  exits: [
    [3, "no such image"],
    [5, "the database is damaged, or the file is no database"],
  ],
  async run({ operands: [reference], format, home }) {
    const where = home();
    const larder = openToRead(where);
    if (!larder) throw notFound(reference!, where.database);
    const handle = await withLarder(larder, (larder) => get(larder, reference!));
    await emit(format, handle, () => renderFields(handleFields(handle)));
    return 0;
  },
});

// By a name that cannot be read.
function isNamed({ damage }: Handle): boolean {
  return damage.some((what) => what.startsWith("reference "));
}

/** A handle as names and values. */
export function handleFields(handle: Handle): [string, string][] {
  const fields: [string, string | null][] = [
    ["Reference", handle.reference ?? (isNamed(handle) ? "(unreadable)" : "(untagged)")],
    ["Canonical", handle.canonical],
    ["Digest", handle.digest],
    ["Platform", [handle.os, handle.architecture, handle.variant].filter((part) => part !== null).join("/") || null],
    ["Media type", handle.media_type],
    [
      "Size",
      handle.size_bytes === null ? null : `${formatSize(handle.size_bytes)} (${handle.size_bytes} bytes compressed)`,
    ],
    ["Layers", handle.layer_count === null ? null : String(handle.layer_count)],
    ["Created", handle.created_at],
    ["Last used", handle.last_used_at],
    ["Pinned by", handle.pinned_by.length > 0 ? namePins(handle.pinned_by) : null],
    ["Damage", handle.damage.length > 0 ? handle.damage.join("; ") : null],
  ];
  return fields.filter((field): field is [string, string] => field[1] !== null);
}
