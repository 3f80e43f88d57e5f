import { describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { asLarderError, type Code, exitCode, isErrno, isSystemError, LarderError } from "../src/error.ts";
import { TemporaryFolder } from "./larder.ts";

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

describe("exitCode", () => {
  test.each<[Code, number]>([
    ["failed", 1],
    ["invalid", 1],
    ["ambiguous", 1],
    ["usage", 2],
    ["not_found", 3],
    ["in_use", 4],
    ["damaged", 5],
    ["unaccounted", 5],
    ["unreachable", 6],
    ["busy", 75],
    ["interrupted", 130],
  ])("of %s is %p", (code, expected) => {
    expect(exitCode(code)).toBe(expected);
  });
});

describe("LarderError", () => {
  test("carries a code, a sentence, and what lay underneath", () => {
    const cause = new Error("below");
    const error = new LarderError("busy", "try again", cause);
    expect(error).toBeInstanceOf(Error);
    expect([error.name, error.code, error.message, error.cause]).toEqual(["LarderError", "busy", "try again", cause]);
    expect("cause" in new LarderError("busy", "try again")).toBe(false);
  });
});

describe("asLarderError", () => {
  test("returns what is one already", () => {
    const error = new LarderError("not_found", "x");
    expect(asLarderError(error)).toBe(error);
  });

  test("makes a sentence of a system call's failure, with the path", () => {
    using folder = new TemporaryFolder();
    const missing = join(folder.path, "missing");
    const file = join(folder.path, "file");
    writeFileSync(file, "");
    mkdirSync(join(folder.path, "full", "x"), { recursive: true });
    const cases: [() => unknown, RegExp][] = [
      [() => readFileSync(missing), /^cannot open ".*\/missing": no such file or directory$/],
      [() => readdirSync(file), /file": a part of the path is not a directory$/],
      [() => readFileSync(join(file, "x")), /^cannot open ".*\/file\/x": a part of the path is not a directory$/],
      [() => readFileSync(folder.path), /: it is a directory$/],
    ];
    for (const [work, message] of cases) {
      const error = asLarderError(thrownBy(work));
      expect(error.code).toBe("failed");
      expect(error.message).toMatch(message);
      expect(error.cause).toBeInstanceOf(Error);
    }
  });

  test.each(["EIO", "EUCLEAN", "EBADMSG", "ESTALE", "ETIMEDOUT", "ENOMEM", "EREMOTEIO"])(
    "takes %s for the system's, and not for what a file holds",
    (code) => {
      expect(isSystemError(Object.assign(new Error("odd"), { code }))).toBe(true);
    },
  );

  test("takes an error of the runtime or of SQLite for none of the system's", () => {
    for (const code of ["ERR_INVALID_ARG_TYPE", "SQLITE_CORRUPT", 5, undefined])
      expect(isSystemError(Object.assign(new Error("odd"), { code }))).toBe(false);
    expect(isSystemError({ code: "EIO" })).toBe(false);
  });

  test("keeps the words of a failure that it has no sentence for", () => {
    using folder = new TemporaryFolder();
    mkdirSync(join(folder.path, "x"));
    const thrown = thrownBy(() => rmdirSync(folder.path)) as Error;
    expect(asLarderError(thrown).message).toBe(thrown.message);
    expect(asLarderError(new TypeError("odd")).message).toBe("odd");
  });

  test.each([
    ["text", "text"],
    [5, "5"],
    [undefined, "undefined"],
    [null, "null"],
  ])("takes a thrown %p, which is no error", (thrown, message) => {
    const error = asLarderError(thrown);
    expect([error.code, error.message]).toEqual(["failed", message]);
  });
});

describe("isErrno", () => {
  test("tells the system's codes apart", () => {
    const thrown = thrownBy(() => readFileSync("/nowhere/at/all"));
    expect(isErrno(thrown, "ENOENT")).toBe(true);
    expect(isErrno(thrown, "EACCES")).toBe(false);
    expect(isErrno({ code: "ENOENT" }, "ENOENT")).toBe(false);
    expect(isErrno(undefined, "ENOENT")).toBe(false);
  });
});
