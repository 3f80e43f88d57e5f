import { describe, expect, test } from "bun:test";
import { type Column, printable, renderFields, renderTable } from "../../src/output/table.ts";

const COLUMNS: Column[] = [
  { title: "REFERENCE", shrinks: true },
  { title: "SIZE", align: "right" },
  { title: "CREATED" },
];

function widest(table: string): number {
  return Math.max(
    ...table
      .trimEnd()
      .split("\n")
      .map((line) => Bun.stringWidth(line)),
  );
}

describe("renderTable", () => {
  test("makes every column as wide as its widest cell, and leaves the last one unpadded", () => {
    const table = renderTable(COLUMNS, [
      ["docker.io/library/tool:1", "1.0 MiB", "2 days ago"],
      ["x", "0 B", "-"],
    ]);
    expect(table).toBe(
      [
        "REFERENCE                    SIZE  CREATED",
        "docker.io/library/tool:1  1.0 MiB  2 days ago",
        "x                             0 B  -",
        "",
      ].join("\n"),
    );
  });

  test("is its head alone where there are no rows", () => {
    expect(renderTable(COLUMNS, [])).toBe("REFERENCE  SIZE  CREATED\n");
  });

  test("cuts the middle of the shrinking column where the terminal is narrow", () => {
    const reference = `registry.test/${"team/".repeat(20)}tool:1.2.3`;
    const table = renderTable(COLUMNS, [[reference, "1.0 MiB", "2 days ago"]], 60);
    expect(widest(table)).toBe(60);
    expect(table).toContain("…");
    expect(table).toContain("registry.test/");
    expect(table).toContain("tool:1.2.3 ");
  });

  test("cuts nothing where all fits, or no width is given", () => {
    const rows = [["a".repeat(100), "1 B", "now"]];
    expect(renderTable(COLUMNS, rows)).toContain("a".repeat(100));
    expect(renderTable(COLUMNS, rows, 120)).toContain("a".repeat(100));
  });

  test.each([1, 10, 20])("keeps twelve characters of it on a terminal of %p", (width) => {
    const table = renderTable(COLUMNS, [["abcdefghijklmnopqrstuvwxyz", "1 B", "now"]], width);
    expect(table).toContain("abcdef…vwxyz  ");
  });

  test("makes no column wider than its cells because the terminal is narrow", () => {
    const columns = [{ title: "A", shrinks: true }, { title: "B" }];
    expect(renderTable(columns, [["abc", "x".repeat(40)]], 30)).toBe(`A    B\nabc  ${"x".repeat(40)}\n`);
  });

  test("counts wide characters as two columns, padded and cut", () => {
    const columns: Column[] = [{ title: "REFERENCE", shrinks: true }, { title: "SIZE" }];
    expect(renderTable(columns, [["漢字", "1 B"]])).toBe("REFERENCE  SIZE\n漢字       1 B\n");
    const cut = renderTable(columns, [[`tool:${"漢".repeat(60)}`, "1 B"]], 40);
    expect(widest(cut)).toBeLessThanOrEqual(40);
    expect(cut).toContain("…");
    const [, row] = cut.split("\n");
    expect(Bun.stringWidth(row!.slice(0, row!.indexOf("1 B")))).toBe(
      Bun.stringWidth(cut.slice(0, cut.indexOf("SIZE"))),
    );
  });

  test("does not let a cell command the terminal or break its line", () => {
    const table = renderTable(COLUMNS, [["\u001b[2J\nx", "\r", "\u202eevil"]]);
    expect(table.split("\n")).toHaveLength(3);
    expect(table).toContain("\\u001b[2J\\u000ax");
    expect(table).toContain("\\u202eevil");
  });
});

describe("renderFields", () => {
  test("pads the names to one width and a gap at least", () => {
    expect(
      renderFields([
        ["Digest", "sha256:1"],
        ["Compressed size", "1 B"],
      ]),
    ).toBe("Digest           sha256:1\nCompressed size  1 B\n");
  });

  test("is empty for none, and keeps values printable", () => {
    expect(renderFields([])).toBe("");
    expect(renderFields([["A", "x\ny"]])).toBe("A  x\\u000ay\n");
  });
});

describe("printable", () => {
  test.each([
    ["NUL", "\0", "\\u0000"],
    ["escape", "\u001b", "\\u001b"],
    ["newline", "\n", "\\u000a"],
    ["carriage return", "\r", "\\u000d"],
    ["tab", "\t", "\\u0009"],
    ["delete", "\u007f", "\\u007f"],
    ["C1 control sequence introducer", "\u009b", "\\u009b"],
    ["line separator", "\u2028", "\\u2028"],
    ["paragraph separator", "\u2029", "\\u2029"],
    ["left-to-right embedding", "\u202a", "\\u202a"],
    ["pop directional formatting", "\u202c", "\\u202c"],
    ["right-to-left override", "\u202e", "\\u202e"],
    ["left-to-right isolate", "\u2066", "\\u2066"],
    ["pop directional isolate", "\u2069", "\\u2069"],
    ["left-to-right mark", "\u200e", "\\u200e"],
    ["right-to-left mark", "\u200f", "\\u200f"],
    ["Arabic letter mark", "\u061c", "\\u061c"],
  ])("writes out %s", (_, character, expected) => {
    expect(printable(`a${character}b${character}`)).toBe(`a${expected}b${expected}`);
  });

  test.each(["", "docker.io/library/tool:1", "tägé", "タグ", "😀", "a b"])("leaves %p as it is", (text) => {
    expect(printable(text)).toBe(text);
  });
});
