import { describe, expect, test } from "bun:test";
import { LarderError } from "../../src/error.ts";
import { parseDuration, parsePercent, parseSize } from "../../src/input/units.ts";

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

describe("parseSize", () => {
  test.each([
    ["0", 0],
    ["1048576", MIB],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
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

describe("parsePercent", () => {
  test.each<[string, number]>([
    ["0%", 0],
    ["15%", 15],
    ["100%", 100],
    ["82.5%", 82.5],
    ["0.125%", 0.125],
    ["007%", 7],
    ["100.000%", 100],
  ])("reads %j", (text, percent) => {
    expect(parsePercent(text)).toBe(percent);
  });

  const BAD = ["", "%", "15", "15 %", " 15%", "15%%", "-1%", "+1%", "100.1%", "101%", "1000%", "1e1%", ".5%", "5.%"];
  test.each([...BAD, "1,5%", "0.1234%", "x%", "NaN%", "15%\n"])("refuses %j, and names what is accepted", (text) => {
    const usage = new LarderError(
      "usage",
      `${JSON.stringify(text)} is not a percentage (write a number from 0 to 100 with %: 15%)`,
    );
    expect(() => parsePercent(text)).toThrow(usage);
  });
});
