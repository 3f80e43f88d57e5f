import { LarderError } from "../error.ts";
import type { PrunePolicy } from "../ops/prune-plan.ts";
import { parseDuration, parsePercent, parseSize } from "./units.ts";

/** A policy as it is typed: the command's flags by their names. */
export interface PolicyText {
  keep: string[];
  unused?: boolean | undefined;
  untagged?: boolean | undefined;
  "older-than"?: string | undefined;
  "keep-last"?: string | undefined;
  "max-size"?: string | undefined;
  "min-free"?: string | undefined;
  high?: string | undefined;
  low?: string | undefined;
  "min-age"?: string | undefined;
}

const DEFAULT_MIN_AGE_MS = 10 * 60 * 1000;

/** Parses a policy; throws `usage`, naming what is accepted. */
export function parsePolicy(text: PolicyText): PrunePolicy {
  const criteria = parseCriteria(text);
  if (Object.keys(criteria).length === 0) {
    throw new LarderError(
      "usage",
      "prune needs a rule (--unused, --older-than, --keep-last, --untagged) or a budget (--max-size, --min-free, --high with --low)",
    );
  }
  const minAge = text["min-age"];
  return { ...criteria, keep: text.keep, minAge: minAge === undefined ? DEFAULT_MIN_AGE_MS : parseDuration(minAge) };
}

function parseCriteria(text: PolicyText): Omit<PrunePolicy, "keep" | "minAge"> {
  const { "older-than": olderThan, "keep-last": keepLast, "max-size": maxSize, "min-free": minFree } = text;
  const watermarks = parseWatermarks(text);
  return {
    ...(text.unused && { unused: true }),
    ...(text.untagged && { untagged: true }),
    ...(olderThan !== undefined && { olderThan: parseDuration(olderThan) }),
    ...(keepLast !== undefined && { keepLast: parseCount(keepLast) }),
    ...(maxSize !== undefined && { maxSize: parseSize(maxSize) }),
    ...(minFree !== undefined && { minFree: parseMinFree(minFree) }),
    ...(watermarks && { watermarks }),
  };
}

function parseWatermarks({ high, low }: PolicyText): PrunePolicy["watermarks"] {
  if (high === undefined && low === undefined) return undefined;
  if (high === undefined || low === undefined) throw new LarderError("usage", "--high and --low go together");
  const watermarks = { high: parsePercent(high), low: parsePercent(low) };
  if (watermarks.low > watermarks.high) throw new LarderError("usage", "--low is above --high");
  return watermarks;
}

function parseMinFree(text: string): NonNullable<PrunePolicy["minFree"]> {
  try {
    return text.endsWith("%") ? { percent: parsePercent(text) } : { bytes: parseSize(text) };
  } catch (error) {
    throw new LarderError(
      "usage",
      `--min-free is ${JSON.stringify(text)}, and must be a size or a percentage of the file system (500MB, 20GiB, 15%)`,
      error,
    );
  }
}

function parseCount(text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new LarderError("usage", `--keep-last is ${JSON.stringify(text)}, and must be a whole number from 1 to 999999`);
}
