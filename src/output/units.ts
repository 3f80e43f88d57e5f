const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

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

/** A part of a whole as a bar of so many characters. */
export function bar(part: number, whole: number, width: number): string {
  const filled = whole === 0 ? 0 : Math.round((part / whole) * width);
  return "█".repeat(filled) + "░".repeat(width - filled);
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
