import { describe, expect, test } from "bun:test";
import { formatAge, formatSize } from "../../src/output/units.ts";

const KIB = 1024;
const MIB = 1_048_576;
const GIB = 1_073_741_824;
const TIB = 1_099_511_627_776;

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
