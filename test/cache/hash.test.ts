import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hashFile } from "../../src/cache/hash.ts";
import type { Digest } from "../../src/oci/digest.ts";
import { digestOf, noise } from "../interop/archive.ts";
import { TemporaryFolder } from "../larder.ts";

const SHA256 = digestOf(new Uint8Array()) as Digest;

describe("hashFile", () => {
  // Its chunks are 4 MiB.
  test.each([0, 1, 4 * 1024 * 1024 - 1, 4 * 1024 * 1024, 4 * 1024 * 1024 + 1])("hashes %p bytes", (length) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    const bytes = noise(2, length);
    writeFileSync(path, bytes);
    expect<string | undefined>(hashFile(path, SHA256)).toBe(digestOf(bytes));
  });

  test.each(["sha384", "sha512"])("hashes by the algorithm that is claimed: %s", (algorithm) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "tägé");
    const digest = `${algorithm}:${createHash(algorithm).update("tägé").digest("hex")}` as Digest;
    expect(hashFile(path, digest)).toBe(digest);
  });

  test("is undefined where nothing is", () => {
    using folder = new TemporaryFolder();
    expect(hashFile(join(folder.path, "nothing"), SHA256)).toBeUndefined();
  });

  test("refuses a link", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "link");
    symlinkSync("/etc/hostname", path);
    expect(() => hashFile(path, SHA256)).toThrow(`"${path}" is a link`);
  });
});
