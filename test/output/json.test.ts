import { describe, expect, test } from "bun:test";
import { toJson, toJsonLines, toJsonParts, toLineParts } from "../../src/output/json.ts";

describe("toJson", () => {
  test("writes one indented document and a newline", () => {
    expect(toJson([])).toBe("[]\n");
    expect(toJson({ a: [1, null], b: "x" })).toBe('{\n  "a": [\n    1,\n    null\n  ],\n  "b": "x"\n}\n');
  });

  test("writes BigInt as an exact integer at any depth", () => {
    expect(toJson(2n ** 64n - 1n)).toBe("18446744073709551615\n");
    expect(toJson({ a: [{ size_bytes: 9_007_199_254_740_993n }, -1n] })).toContain('"size_bytes": 9007199254740993\n');
  });

  test("leaves control characters escaped", () => {
    expect(toJson("a\u001b[2Jb\n")).toBe('"a\\u001b[2Jb\\n"\n');
  });
});

describe("toJsonLines", () => {
  test("writes a line an item, and nothing for none", () => {
    expect(toJsonLines([])).toBe("");
    expect(toJsonLines([{ a: 1n }, "x\ny", null])).toBe('{"a":1}\n"x\\ny"\nnull\n');
  });
});

describe("toJsonParts, toLineParts", () => {
  test.each([0, 1, 255, 256, 257, 512, 1000])("say together what the whole says, of %d items", (items) => {
    const values = Array.from({ length: items }, (_, i) => ({ name: `image ${i}`, size: BigInt(i), pins: [] }));
    const json = [...toJsonParts(values)].join("");
    expect(JSON.parse(json)).toEqual(values.map((value, i) => ({ ...value, size: i })));
    const plain = values.map(({ name, pins }, i) => ({ name, size: i, pins }));
    expect(json).toBe(`${JSON.stringify(plain, null, 2)}\n`);
    expect([...toLineParts(values)].join("")).toBe(plain.map((value) => `${JSON.stringify(value)}\n`).join(""));
  });
});
