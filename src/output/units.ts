import { LarderError } from "../error.ts";

const DURATION_UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };
const SIZE_UNITS: Record<string, number> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A duration such as `90s`, `15m`, `12h` or `14d`, in milliseconds; throws `usage`. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  if (!match)
    throw new LarderError(
      "usage",
      `${JSON.stringify(text)} is not a duration (write a whole number with s, m, h or d: 90s, 15m, 12h, 14d)`,
    );
  return Number(match[1]) * DURATION_UNITS[match[2]!]! * 1000;
}

/** A size such as `1048576`, `500MB` or `20GiB`, in bytes; throws `usage`. */
export function parseSize(text: string): number {
  const match = /^(\d{1,15})([A-Za-z]*)$/.exec(text);
  const unit = match && Object.hasOwn(SIZE_UNITS, match[2]!) ? SIZE_UNITS[match[2]!]! : undefined;
  const bytes = unit === undefined ? Number.NaN : Number(match![1]) * unit;
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new LarderError(
    "usage",
    `${JSON.stringify(text)} is not a size (write whole bytes, or a whole number with KB, MB, GB, TB, KiB, MiB, GiB or TiB: 500MB, 20GiB)`,
  );
}

/** A percentage such as `15%` or `82.5%`, from 0 to 100; throws `usage`. */
export function parsePercent(text: string): number {
  const match = /^(\d{1,3}(?:\.\d{1,3})?)%$/.exec(text);
  const percent = match ? Number(match[1]) : Number.NaN;
  if (percent <= 100) return percent;
  throw new LarderError(
    "usage",
    `${JSON.stringify(text)} is not a percentage (write a number from 0 to 100 with %: 15%)`,
  );
}

/** Bytes as msb writes them: one decimal, half to even, B to TiB; what is negative counts as nothing (interop §6). */
export function formatSize(bytes: number | bigint): string {
  let value = Math.max(Number(bytes), 0);
  let unit = 0;
  while (value >= 1024 && unit < BINARY_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? `${value} B` : `${halfToEven(value)} ${BINARY_UNITS[unit]}`;
}

// Division by 1024 is exact, so a tie is one exactly; toFixed would round it up.
function halfToEven(value: number): string {
  const tenths = value * 10;
  const floor = Math.floor(tenths);
  const rounded = tenths - floor === 0.5 ? floor + (floor % 2) : Math.round(tenths);
  return `${Math.floor(rounded / 10)}.${rounded % 10}`;
}

/** A number of things: `1 file`, `3 files`. */
export function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** How long ago a moment was, in one unit: `3 hours ago`. */
export function formatAge(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 0) return "in the future";
  for (const [unit, length] of [
    ["day", 86_400],
    ["hour", 3600],
    ["minute", 60],
  ] as const) {
    const number = Math.floor(seconds / length);
    if (number > 0) return `${count(number, unit)} ago`;
  }
  return "just now";
}
