import { describe, expect, test } from "bun:test";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { harden } from "../../release/harden.ts";
import { TemporaryFolder } from "../larder.ts";

const NAMES = ["BUN_BE_BUN", "BUN_OPTIONS", "BUN_INSPECT", "BUN_BYTECODE_ORDER", "BUN_BYTECODE_DIGEST"];

describe("harden", () => {
  test("changes the first byte of every such name, also inside a longer one, and nothing else", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "executable");
    const text = `\x7fELF ${NAMES.join("\0")}\0BUN_INSPECT_PRELOADBUN_OPTIONS BUN_TMPDIR é`;
    writeFileSync(path, text, { mode: 0o755 });
    harden(path);
    const expected = text.replaceAll(/B(?=UN_(?:BE_BUN|OPTIONS|INSPECT|BYTECODE_(?:ORDER|DIGEST)))/g, "\0");
    expect(readFileSync(path, "utf8")).toBe(expected);
    expect(statSync(path).mode & 0o777).toBe(0o755);
  });

  test.each(NAMES)("refuses an executable in which %s is not found", (name) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "executable");
    writeFileSync(path, NAMES.filter((each) => each !== name).join("\0"));
    expect(() => harden(path)).toThrow(`does not hold the name ${name}`);
  });
});
