import { describe, expect, test } from "bun:test";
import { isStringMap, isStrings, RowReader } from "../../src/db/row.ts";

const BLOB = Buffer.from("x");

describe("RowReader", () => {
  test("reads each column by its type, and NULL or an absent one as null", () => {
    const read = new RowReader({ text: "x", integer: 2n ** 63n - 1n, count: 3n, json: '["a"]', nothing: null });
    expect(read.text("text")).toBe("x");
    expect(read.integer("integer")).toBe(9_223_372_036_854_775_807n);
    expect(read.count("count")).toBe(3);
    expect(read.json("json", isStrings)).toEqual(["a"]);
    for (const column of ["nothing", "absent"]) {
      expect(read.text(column)).toBeNull();
      expect(read.integer(column)).toBeNull();
      expect(read.count(column)).toBeNull();
      expect(read.json(column, isStrings)).toBeNull();
    }
    expect(read.damage).toEqual([]);
  });

  test.each([[5n], [1.5], [BLOB]])("takes %p for no text", (value) => {
    const read = new RowReader({ a: value });
    expect(read.text("a")).toBeNull();
    expect(read.damage).toEqual(["a is not text"]);
  });

  test.each([["5"], [""], [1.5], [BLOB]])("takes %p for no integer", (value) => {
    const read = new RowReader({ a: value });
    expect(read.integer("a")).toBeNull();
    expect(read.count("a")).toBeNull();
    expect(read.damage).toEqual(["a is not an integer", "a is not an integer"]);
  });

  test.each([[""], ["["], ["null"], ["5"], ["{}"], ["[5]"], ['["a"]x']])("takes %p for no list of strings", (value) => {
    const read = new RowReader({ a: value });
    expect(read.json("a", isStrings)).toBeNull();
    expect(read.damage).toEqual(["a is not the JSON that belongs there"]);
  });

  test("names a column once that is not even text", () => {
    const read = new RowReader({ a: BLOB });
    expect(read.json("a", isStrings)).toBeNull();
    expect(read.damage).toEqual(["a is not text"]);
  });

  test("loses one field to one bad value, and collects them in order", () => {
    const read = new RowReader({ a: 5n, b: "x", c: "y" });
    expect([read.text("a"), read.integer("b"), read.text("c")]).toEqual([null, null, "y"]);
    expect(read.damage).toEqual(["a is not text", "b is not an integer"]);
  });
});

describe("isStrings", () => {
  test.each<[unknown, boolean]>([
    [[], true],
    [["a", ""], true],
    [["a", null], false],
    [{ 0: "a" }, false],
    ["a", false],
    [null, false],
  ])("on %p is %p", (value, expected) => {
    expect(isStrings(value)).toBe(expected);
  });
});

describe("isStringMap", () => {
  test.each<[unknown, boolean]>([
    [{}, true],
    [{ a: "b", "": "" }, true],
    [{ a: 5 }, false],
    [{ a: null }, false],
    [[], false],
    [["a"], false],
    ["a", false],
    [null, false],
  ])("on %p is %p", (value, expected) => {
    expect(isStringMap(value)).toBe(expected);
  });
});
