import { describe, expect, test } from "bun:test";
import { LarderError } from "../../src/error.ts";
import { parsePercent } from "../../src/output/units.ts";

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
