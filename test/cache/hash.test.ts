import { describe, expect, test } from "bun:test";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hashFile } from "../../src/cache/hash.ts";
import { digestOf, noise } from "../interop/archive.ts";
import { TemporaryFolder } from "../larder.ts";

describe("hashFile", () => {
  // Its chunks are 4 MiB.
  test.each([0, 1, 4 * 1024 * 1024 - 1, 4 * 1024 * 1024, 4 * 1024 * 1024 + 1])("hashes %p bytes", (length) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    const bytes = noise(2, length);
    writeFileSync(path, bytes);
    expect<string | undefined>(hashFile(path)).toBe(digestOf(bytes));
  });

  test("is undefined where nothing is", () => {
    using folder = new TemporaryFolder();
    expect(hashFile(join(folder.path, "nothing"))).toBeUndefined();
  });

  test("refuses a link", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "link");
    symlinkSync("/etc/hostname", path);
    expect(() => hashFile(path)).toThrow(`"${path}" is a link`);
  });
});
