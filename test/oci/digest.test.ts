import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { type Digest, digestAs, digestsIn, isDigest, shortDigest } from "../../src/oci/digest.ts";

const A64 = "0123456789abcdef".repeat(4);
const A96 = "0123456789abcdef".repeat(6);
const A128 = "0123456789abcdef".repeat(8);

const SOUND = [`sha256:${A64}`, `sha384:${A96}`, `sha512:${A128}`];
const UNSOUND: unknown[] = [
  "",
  "sha256:",
  A64,
  `sha256:${A64.slice(1)}`,
  `sha256:${A64}0`,
  `sha384:${A64}`,
  `sha512:${A96}`,
  `sha256:${A64.toUpperCase()}`,
  `SHA256:${A64}`,
  `sha1:${A64.slice(0, 40)}`,
  `sha256_${A64}`,
  ` sha256:${A64}`,
  `sha256:${A64}\n`,
  `sha256:${A64}\0`,
  `sha256:${A64.slice(0, 63)}g`,
  `sha256:${A64.slice(0, 63)}é`,
  "a/../b:x",
  `/etc:${A64}`,
  `sha256:../../${A64.slice(6)}`,
  null,
  undefined,
  256n,
  Buffer.from(`sha256:${A64}`),
  [`sha256:${A64}`],
];

describe("isDigest", () => {
  test.each(SOUND)("accepts %s", (text) => {
    expect(isDigest(text)).toBe(true);
  });

  test.each(UNSOUND.map((value) => [value]))("refuses %p", (value) => {
    expect(isDigest(value)).toBe(false);
  });
});

describe("digestsIn", () => {
  test("finds every digest, in order, whatever stands around it", () => {
    const [a, b, c] = SOUND as [string, string, string];
    expect<string[]>(digestsIn(`{"oci":"docker.io/x@${a}","b":["${b}"],"c":"/${c}/"}`)).toEqual([a, b, c]);
  });

  test("takes no part of more digits, and not too few", () => {
    expect(digestsIn(`sha256:${A64}0`)).toEqual([]);
    expect(digestsIn(`sha512:${A96}`)).toEqual([]);
    expect(digestsIn(`sha256:${A64.slice(1)}`)).toEqual([]);
  });

  test("does not mind what stands before it, which may be the end of an escape", () => {
    expect<string[]>(digestsIn(`"line\\nsha256:${A64}"`)).toEqual([`sha256:${A64}`]);
  });

  test("finds none in text without any", () => {
    expect(digestsIn("")).toEqual([]);
  });
});

describe("shortDigest", () => {
  test.each([
    [`sha256:${A64}`, "sha256:0123456789ab"],
    [`sha512:${A128}`, "sha512:0123456789ab"],
    ["md5:0123", "md5:0123"],
    ["", ""],
    // Cut by character: a damaged row must not yield half of one.
    ["😀".repeat(30), "😀".repeat(19)],
  ])("%s becomes %s", (digest, short) => {
    expect(shortDigest(digest)).toBe(short);
  });
});

describe("digestAs", () => {
  test.each(["sha256", "sha384", "sha512"])(
    "hashes text as UTF-8, by the algorithm that is claimed: %s",
    (algorithm) => {
      const digest = `${algorithm}:${createHash(algorithm).update("tägé", "utf8").digest("hex")}` as Digest;
      expect(digestAs(digest, "tägé")).toBe(digest);
      expect(digestAs(digest, "")).not.toBe(digest);
    },
  );
});
