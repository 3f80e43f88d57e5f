import { describe, expect, test } from "bun:test";
import { LarderError } from "../../src/error.ts";
import { formatAge, formatSize, parseDuration, parseSize } from "../../src/output/units.ts";

const KIB = 1024;
const MIB = 1_048_576;
const GIB = 1_073_741_824;
const TIB = 1_099_511_627_776;

function refusal(work: () => unknown): LarderError {
  try {
    work();
  } catch (error) {
    if (error instanceof LarderError) return error;
  }
  throw new Error("nothing was refused");
}

describe("formatSize", () => {
  test.each<[number | bigint, string]>([
    [0, "0 B"],
    [-1, "0 B"],
    [-(2n ** 63n), "0 B"],
    [1, "1 B"],
    [1023, "1023 B"],
    [1024, "1.0 KiB"],
    // Exactly between two tenths: to the even one, as msb rounds, and not up, as toFixed does.
    [1280, "1.2 KiB"],
    [1792, "1.8 KiB"],
    [2304, "2.2 KiB"],
    [2816, "2.8 KiB"],
    [1281, "1.3 KiB"],
    [1279, "1.2 KiB"],
    [1_048_575, "1024.0 KiB"],
    [MIB, "1.0 MiB"],
    [MIB + MIB / 4, "1.2 MiB"],
    [10 * MIB, "10.0 MiB"],
    [GIB - 1, "1024.0 MiB"],
    [GIB, "1.0 GiB"],
    [3.75 * GIB, "3.8 GiB"],
    [TIB, "1.0 TiB"],
    [2048 * TIB, "2048.0 TiB"],
    [BigInt(KIB), "1.0 KiB"],
    [2n ** 63n - 1n, "8388608.0 TiB"],
  ])("writes %p as %s", (bytes, expected) => {
    expect(formatSize(bytes)).toBe(expected);
  });
});

describe("parseSize", () => {
  test.each([
    ["0", 0],
    ["1048576", MIB],
    ["1B", 1],
    ["2KB", 2000],
    ["500MB", 500_000_000],
    ["1GB", 1_000_000_000],
    ["3TB", 3_000_000_000_000],
    ["1KiB", KIB],
    ["20MiB", 20 * MIB],
    ["20GiB", 20 * GIB],
    ["1TiB", TIB],
    ["007MiB", 7 * MIB],
  ])("reads %s as %p", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each([
    "",
    " ",
    "GiB",
    "-1",
    "+1",
    "1.5GiB",
    "1,5GiB",
    "1 GiB",
    " 1GiB",
    "1GiB\n",
    "1gib",
    "1gb",
    "1kb",
    "1Gi",
    "1G",
    "1PiB",
    "1e3",
    "0x10",
    "1constructor",
    "1toString",
    "١GiB",
    // Beyond what a number holds exactly.
    "9007199254740992",
    "9000TiB",
    "99999999999999999999",
  ])("refuses %p and says what it takes", (text) => {
    const { code, message } = refusal(() => parseSize(text));
    expect(code).toBe("usage");
    expect(message).toBe(
      `${JSON.stringify(text)} is not a size (write whole bytes, or a whole number with KB, MB, GB, TB, KiB, MiB, GiB or TiB: 500MB, 20GiB)`,
    );
  });
});

describe("parseDuration", () => {
  test.each([
    ["0s", 0],
    ["90s", 90_000],
    ["15m", 900_000],
    ["12h", 43_200_000],
    ["14d", 1_209_600_000],
    ["007d", 604_800_000],
  ])("reads %s as %p ms", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test.each([
    "",
    "0",
    "10",
    "s",
    "-1s",
    "+1s",
    "1.5h",
    "1 h",
    " 1h",
    "1h\n",
    "1H",
    "1h30m",
    "1w",
    "1y",
    "1ms",
    "1hours",
    "1e3s",
    "١h",
    "1234567890s",
  ])("refuses %p and says what it takes", (text) => {
    const { code, message } = refusal(() => parseDuration(text));
    expect(code).toBe("usage");
    expect(message).toBe(
      `${JSON.stringify(text)} is not a duration (write a whole number with s, m, h or d: 90s, 15m, 12h, 14d)`,
    );
  });
});

describe("formatAge", () => {
  test.each([
    [-1, "in the future"],
    [0, "just now"],
    [59_999, "just now"],
    [60_000, "1 minute ago"],
    [119_999, "1 minute ago"],
    [120_000, "2 minutes ago"],
    [3_599_999, "59 minutes ago"],
    [3_600_000, "1 hour ago"],
    [86_399_999, "23 hours ago"],
    [86_400_000, "1 day ago"],
    [400 * 86_400_000, "400 days ago"],
  ])("calls %p ms %s", (ms, expected) => {
    expect(formatAge(ms)).toBe(expected);
  });
});
