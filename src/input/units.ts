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
  const match = /^(\d{1,16})([A-Za-z]*)$/.exec(text);
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
