import { describe, expect, test } from "bun:test";
import { fstatSync, lstatSync, mkdirSync, readdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { allocatedBytes, measure, namesIn, openRegular, readHead, readRegular } from "../../src/cache/file.ts";
import { LarderError } from "../../src/error.ts";
import { TemporaryFolder } from "../larder.ts";

/** Things that lie where a file belongs, each with what is said about it. */
const ODD: [what: string, make: (path: string) => void, says: string][] = [
  [
    "a link to a file",
    (path) => {
      writeFileSync(`${path}.target`, "secret");
      symlinkSync(`${path}.target`, path);
    },
    "is a link, not a file",
  ],
  ["a link to nothing", (path) => symlinkSync(`${path}.missing`, path), "is a link, not a file"],
  ["a folder", (path) => mkdirSync(path), "is not a regular file"],
  ["a pipe", (path) => Bun.spawnSync(["mkfifo", path]), "is not a regular file"],
];

describe("measure", () => {
  test("says what lies at the path, a link included, and nothing where nothing is", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    expect(measure(path)).toBeUndefined();
    expect(measure(join(folder.path, "missing", "file"))).toBeUndefined();
    writeFileSync(path, "12345");
    expect(measure(path)?.size).toBe(5);
    symlinkSync("/", join(folder.path, "link"));
    expect(measure(join(folder.path, "link"))?.isSymbolicLink()).toBe(true);
  });
});

describe("allocatedBytes", () => {
  test("counts blocks, not length", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "sparse");
    writeFileSync(path, "x");
    truncateSync(path, 1 << 30);
    const bytes = allocatedBytes(lstatSync(path));
    expect(bytes).toBeLessThan(1 << 20);
    const [blocks] = Bun.spawnSync(["stat", "-c", "%b %B", path]).stdout.toString().split(" ").map(Number);
    expect(bytes).toBe(blocks! * 512);
  });
});

describe("namesIn", () => {
  test("lists a folder, and nothing where there is none", () => {
    using folder = new TemporaryFolder();
    expect(namesIn(join(folder.path, "missing"))).toEqual([]);
    expect(namesIn(folder.path)).toEqual([]);
    writeFileSync(join(folder.path, "b"), "");
    writeFileSync(join(folder.path, ".a"), "");
    expect(namesIn(folder.path).sort()).toEqual([".a", "b"]);
  });

  test("fails where a file lies instead, and does not call it empty", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "");
    expect(() => namesIn(path)).toThrow("ENOTDIR");
  });
});

describe("readRegular", () => {
  test("reads text as it is, a byte order mark included", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    expect(readRegular(path)).toBeUndefined();
    for (const text of ["", "tägé 😀\n", "\ufeffx", "a\0b"]) {
      writeFileSync(path, text);
      expect(readRegular(path)).toBe(text);
    }
  });

  test("fails on what has more than 64 MiB, as on what the system cannot read", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "");
    truncateSync(path, 64 * 1024 * 1024);
    expect(readRegular(path)).toHaveLength(64 * 1024 * 1024);
    truncateSync(path, 64 * 1024 * 1024 + 1);
    expect(() => readRegular(path)).toThrow(expect.objectContaining({ code: "EFBIG", path }));
  });

  test("refuses bytes that are not UTF-8", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, Buffer.from([0x7b, 0xff, 0x7d]));
    expect(() => readRegular(path)).toThrow(`"${path}" is not UTF-8 text`);
  });

  test.each(ODD)("refuses %s", (_, make, says) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    make(path);
    let thrown: unknown;
    try {
      readRegular(path);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(LarderError);
    expect((thrown as LarderError).code).toBe("invalid");
    expect((thrown as LarderError).message).toBe(`"${path}" ${says}`);
  });
});

describe("readHead", () => {
  test("reads the first bytes, a character each", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    expect(readHead(path, 4)).toBeUndefined();
    writeFileSync(path, Buffer.from([0x41, 0xff, 0x00, 0x42, 0x43]));
    expect(readHead(path, 4)).toBe("A\u00ff\0B");
    expect(readHead(path, 100)).toBe("A\u00ff\0BC");
  });
});

describe("openRegular", () => {
  test("closes what it opened, whether the use returns or throws", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "file");
    writeFileSync(path, "x");
    const open = () => readdirSync("/proc/self/fd").length;
    const before = open();
    expect(openRegular(path, (fd) => [fd > 2, fstatSync(fd).size])).toEqual([true, 1]);
    const failing = () =>
      openRegular(path, () => {
        throw new Error("inside");
      });
    expect(failing).toThrow("inside");
    expect(open()).toBe(before);
  });
});
