import { describe, expect, test } from "bun:test";
import { parseTimestamp, parseTimestampMs, toRfc3339, writeTimestamp } from "../../src/db/timestamp.ts";

// 2026-03-05 07:08:09 UTC, in seconds since 1970.
const SECONDS = 1_772_694_489;
const DAY = "2026-03-05";

describe("parseTimestamp", () => {
  test.each([
    // The fraction comes out with 0, 3, 6 or 9 digits, the fewest that lose nothing.
    [`${DAY} 07:08:09`, "07:08:09"],
    [`${DAY} 07:08:09.0`, "07:08:09"],
    [`${DAY} 07:08:09.000000000`, "07:08:09"],
    [`${DAY} 07:08:09.5`, "07:08:09.500"],
    [`${DAY} 07:08:09.12`, "07:08:09.120"],
    [`${DAY} 07:08:09.123`, "07:08:09.123"],
    [`${DAY} 07:08:09.1234`, "07:08:09.123400"],
    [`${DAY} 07:08:09.123456`, "07:08:09.123456"],
    [`${DAY} 07:08:09.1234567`, "07:08:09.123456700"],
    [`${DAY} 07:08:09.123456789`, "07:08:09.123456789"],
    [`${DAY} 07:08:09.000000001`, "07:08:09.000000001"],
    [`${DAY} 07:08:09.1234567891`, "07:08:09.123456789"],
    [`${DAY} 07:08:09.9999999999`, "07:08:09.999999999"],
    [`${DAY} 07:08:09.${"1".repeat(50)}`, "07:08:09.111111111"],
    // The other forms that msb reads.
    [`${DAY}T07:08:09`, "07:08:09"],
    [`${DAY}T07:08:09Z`, "07:08:09"],
    [`${DAY} 07:08:09Z`, "07:08:09"],
    [`${DAY}T07:08:09.5Z`, "07:08:09.500"],
    [`${DAY} 07:08`, "07:08:00"],
    [`${DAY}T07:08Z`, "07:08:00"],
    // An offset is not applied.
    [`${DAY} 07:08:09+02:00`, "07:08:09"],
    [`${DAY}T07:08:09.123-11:30`, "07:08:09.123"],
    [`${DAY} 00:00:00`, "00:00:00"],
    [`${DAY} 23:59:59.999`, "23:59:59.999"],
  ])("reads %s", (text, clock) => {
    expect(parseTimestamp(text)?.rfc3339).toBe(`${DAY}T${clock}+00:00`);
    expect(parseTimestampMs(text)).toBe(parseTimestamp(text)!.ms);
  });

  // Lengths and separators are those of msb's own form, which is read by a shorter way.
  test.each([
    ["2026-02-29 07:08:09.000000000", undefined],
    ["2026-04-31 07:08:09", undefined],
    ["2026-13-05 07:08:09", undefined],
    ["2026-00-05 07:08:09", undefined],
    ["2026-03-00 07:08:09", undefined],
    ["2026-03-05 24:08:09", undefined],
    ["2026-03-05 07:60:09.123456789", undefined],
    ["2026-03-05 07:08:60.123456789", undefined],
    ["2026-03-05 07:08:0x", undefined],
    ["2026-03-05 07:08:09.12345678x", undefined],
    ["2026-03-05 07:08:09.-12345678", undefined],
    ["0000-03-05 07:08:09", undefined],
    ["2026-03-05 07:08:09+02:60", undefined],
    ["2026-03-05T07:08:09-9999", undefined],
    ["2026-03-31 23:59:59.999999999", "2026-03-31T23:59:59.999999999+00:00"],
    ["2028-02-29 00:00:00.100000000", "2028-02-29T00:00:00.100+00:00"],
    ["0999-03-05 07:08:09.000000000", "0999-03-05T07:08:09+00:00"],
  ])("reads %s as strictly as any other form", (text, expected) => {
    expect(parseTimestamp(text)?.rfc3339).toBe(expected as string);
    expect(parseTimestampMs(text)).toBe(parseTimestamp(text)?.ms as number);
    // The same text twice in a row, and again after another.
    expect(parseTimestamp(text)?.rfc3339).toBe(expected as string);
    expect(parseTimestamp(`${DAY} 07:08:09.123456789`)?.ms).toBe(SECONDS * 1000 + 123.456789);
    expect(parseTimestamp(text)?.rfc3339).toBe(expected as string);
  });

  test("knows how many days a month has, in either form", () => {
    const pad = (number: number) => String(number).padStart(2, "0");
    for (const year of [1900, 2000, 2026, 2028])
      for (let month = 0; month <= 13; month++)
        for (let day = 0; day <= 32; day++) {
          const date = new Date(Date.UTC(year, month - 1, day, 7, 8, 9));
          const isThere = date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
          const text = `${year}-${pad(month)}-${pad(day)} 07:08:09.000000000`;
          for (const form of [text, text.replace(" ", "T")]) {
            expect(parseTimestampMs(form)).toBe(isThere ? date.getTime() : undefined);
            expect(parseTimestamp(form)?.ms).toBe(isThere ? date.getTime() : undefined);
          }
        }
  });

  test("reads leap days, and the first and last year", () => {
    expect(parseTimestamp("2024-02-29 00:00:00")?.rfc3339).toBe("2024-02-29T00:00:00+00:00");
    expect(parseTimestamp("0001-01-01 00:00:00")?.rfc3339).toBe("0001-01-01T00:00:00+00:00");
    expect(parseTimestamp("9999-12-31 23:59:59")?.rfc3339).toBe("9999-12-31T23:59:59+00:00");
  });

  test("counts milliseconds, and their fraction", () => {
    expect(parseTimestamp(`${DAY} 07:08:09`)?.ms).toBe(SECONDS * 1000);
    expect(parseTimestamp(`${DAY} 07:08:09.250`)?.ms).toBe(SECONDS * 1000 + 250);
    expect(parseTimestamp(`${DAY} 07:08:09.000500`)?.ms).toBe(SECONDS * 1000 + 0.5);
    expect(parseTimestamp("1970-01-01 00:00:00")?.ms).toBe(0);
  });

  test.each([
    "",
    " ",
    "null",
    DAY,
    `${DAY} `,
    `${DAY} 07`,
    `${DAY} 07:08:09 UTC`,
    `${DAY} 07:08:09UTC`,
    `${DAY} 07:08:09 Z`,
    `${DAY} 07:08:09.`,
    `${DAY} 07:08:09,5`,
    `${DAY}  07:08:09`,
    ` ${DAY} 07:08:09`,
    `${DAY} 07:08:09\n`,
    "0000-01-01 00:00:00",
    "2026-00-01 00:00:00",
    "2026-13-01 00:00:00",
    "2026-01-00 00:00:00",
    "2026-01-32 00:00:00",
    "2026-02-30 00:00:00",
    "2025-02-29 00:00:00",
    "2026-04-31 00:00:00",
    `${DAY} 24:00:00`,
    `${DAY} 07:60:00`,
    `${DAY} 07:08:61`,
    "26-03-05 07:08:09",
    "2026-3-5 07:08:09",
    "2026/03/05 07:08:09",
    "20260305T070809Z",
    "1772694489",
    "1772694489.5",
    "-2026-03-05 07:08:09",
    "Thu, 05 Mar 2026 07:08:09 GMT",
    "now",
  ])("refuses %p, as msb does", (text) => {
    expect(parseTimestamp(text)).toBeUndefined();
  });
});

describe("writeTimestamp", () => {
  test.each([
    [0, "1970-01-01 00:00:00.000000000"],
    [SECONDS * 1000, `${DAY} 07:08:09.000000000`],
    [SECONDS * 1000 + 7, `${DAY} 07:08:09.007000000`],
  ])("writes %p always with nine digits", (ms, text) => {
    expect(writeTimestamp(ms)).toBe(text);
  });

  test("makes text that sorts as time does, and reads back the same", () => {
    const moments = [0, 999, 1000, SECONDS * 1000, SECONDS * 1000 + 1, SECONDS * 1000 + 999, 253_402_300_799_000];
    const texts = moments.map(writeTimestamp);
    expect([...texts].reverse().sort()).toEqual(texts);
    expect(texts.map((text) => parseTimestamp(text)?.ms)).toEqual(moments);
  });
});

test.each([
  [0, "1970-01-01T00:00:00+00:00"],
  [SECONDS * 1000, `${DAY}T07:08:09+00:00`],
  [SECONDS * 1000 + 70, `${DAY}T07:08:09.070+00:00`],
  [parseTimestamp("0001-01-01 00:00:00")!.ms, "0001-01-01T00:00:00+00:00"],
])("toRfc3339 writes %p as a row's time is shown", (ms, text) => {
  expect(toRfc3339(ms)).toBe(text);
  expect(parseTimestamp(writeTimestamp(ms))?.rfc3339).toBe(text);
});
