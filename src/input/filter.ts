import { LarderError } from "../error.ts";
import type { Filter } from "../ops/images.ts";
import { parseDuration } from "./units.ts";

/** Parses `--filter` values; throws `usage`. */
export function parseFilters(texts: string[]): Filter {
  const filter: Filter = {};
  for (const text of texts) {
    const equals = text.indexOf("=");
    const key = equals < 0 ? text : text.slice(0, equals);
    const value = equals < 0 ? "" : text.slice(equals + 1);
    if (value === "") throw new LarderError("usage", `--filter ${JSON.stringify(text)} is not KEY=VALUE`);
    addFilter(filter, key, value);
  }
  return filter;
}

function addFilter(filter: Filter, key: string, value: string): void {
  if (key === "reference") filter.reference = [...(filter.reference ?? []), value];
  else if (key === "digest") filter.digest = [...(filter.digest ?? []), value];
  else if (key === "label") filter.labels = [...(filter.labels ?? []), parseLabel(value)];
  else if (Object.hasOwn(filter, key)) throw new LarderError("usage", `--filter ${key} is given twice`);
  else if (key === "until") filter.until = parseDuration(value);
  else if (key === "pinned") filter.pinned = parseBoolean(key, value);
  else if (key === "untagged") filter.untagged = parseBoolean(key, value);
  else
    throw new LarderError(
      "usage",
      `unknown filter ${JSON.stringify(key)} (known: reference, label, pinned, untagged, until, digest)`,
    );
}

function parseLabel(text: string): { key: string; value?: string } {
  const equals = text.indexOf("=");
  return equals < 0 ? { key: text } : { key: text.slice(0, equals), value: text.slice(equals + 1) };
}

function parseBoolean(key: string, text: string): boolean {
  if (text === "true" || text === "false") return text === "true";
  throw new LarderError("usage", `--filter ${key}=${text}: must be true or false`);
}
