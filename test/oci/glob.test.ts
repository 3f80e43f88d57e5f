import { describe, expect, test } from "bun:test";
import { matchGlob } from "../../src/oci/glob.ts";

describe("matchGlob", () => {
  test.each([
    ["", "", true],
    ["", "a", false],
    ["*", "", true],
    ["*", "docker.io/library/alpine:3", true],
    ["**", "a", true],
    ["?", "a", true],
    ["?", "", false],
    ["?", "ab", false],
    // One character, two units of UTF-16.
    ["x:?", "x:𝒜", true],
    ["x:??", "x:𝒜", false],
    ["x:*?", "x:𝒜", true],
    ["x:?b", "x:𝒜b", true],
    ["alpine", "alpine", true],
    ["alpine", "alpine:3", false],
    ["alpine", "my-alpine", false],
    ["alpine*", "alpine:3", true],
    ["*alpine", "my-alpine", true],
    ["*/alpine:*", "docker.io/library/alpine:3.20", true],
    ["docker.io/*:latest", "docker.io/a/b/c:latest", true],
    ["docker.io/*:latest", "docker.io/a/b/c:later", false],
    ["a*b*c", "aXbXbYc", true],
    ["a*b*c", "aXcXb", false],
    ["*aab", "aaaab", true],
    ["*a?b", "aaXb", true],
    ["a*?", "a", false],
    // Nothing else is special: these are what a regular expression would read differently.
    ["a.c", "abc", false],
    ["a.c", "a.c", true],
    ["[ab]", "a", false],
    ["[ab]", "[ab]", true],
    ["a+", "aa", false],
    ["(a|b)", "a", false],
    ["Alpine", "alpine", false],
  ])("%p on %p is %p", (pattern, text, expected) => {
    expect(matchGlob(pattern, text)).toBe(expected);
  });

  test("comes to an end on a pattern made to try everything", () => {
    expect(matchGlob(`${"*a".repeat(200)}b`, "a".repeat(10_000))).toBe(false);
  });
});
