import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ArtifactFault,
  examineErofs,
  examineErofsDeep,
  examineKind,
  isRejected,
  readExtents,
  rewriteExtents,
} from "../../src/cache/artifact.ts";
import { measure } from "../../src/cache/file.ts";
import { noise } from "../interop/archive.ts";
import { load } from "../interop/msb.ts";
import { TemporaryFolder } from "../larder.ts";

let home: TemporaryFolder;
beforeAll(async () => {
  home = new TemporaryFolder();
  await load(home.path, [
    {
      tags: ["art:1"],
      // Several blocks of data, many names, and nothing at all.
      layers: [
        { files: { "usr/data": noise(1, 300_000), "usr/lib/": "" } },
        { files: Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`etc/${i}`, String(i)])) },
        { files: {} },
      ],
    },
  ]);
});
afterAll(() => home[Symbol.dispose]());

function artifacts(folder: "layers" | "fsmeta" | "vmdk"): string[] {
  const path = join(home.path, "cache", folder);
  return readdirSync(path)
    .filter((name) => !name.endsWith(".lock"))
    .map((name) => join(path, name));
}

/** The bytes of the largest layer: its superblock lies at 1024, with its root's inode number at 14. */
function layer(): Buffer {
  return artifacts("layers")
    .map((path) => readFileSync(path))
    .sort((a, b) => b.length - a.length)[0]!;
}

function changed(offset: number, byte: number): Buffer {
  const bytes = layer();
  bytes[offset] = byte;
  return bytes;
}

/** The root inode, where the superblock says: the block of the inodes, and 32 bytes for each number. */
function rootOffset(): number {
  const bytes = layer();
  return bytes.readUInt32LE(1024 + 0x28) * 4096 + bytes.readUInt16LE(1024 + 0x0e) * 32;
}

const DAMAGE: [name: string, make: (path: string) => void, fault: ArtifactFault][] = [
  ["nothing there", () => {}, "missing"],
  ["an empty file", (path) => writeFileSync(path, ""), "empty"],
  ["a byte too many", (path) => writeFileSync(path, Buffer.concat([layer(), Buffer.from("x")])), "misaligned"],
  ["a byte too few", (path) => writeFileSync(path, layer().subarray(0, -1)), "misaligned"],
  ["less than a superblock", (path) => writeFileSync(path, "x"), "misaligned"],
  ["zeros", (path) => writeFileSync(path, new Uint8Array(8192)), "not-erofs"],
  ["a wrong magic", (path) => writeFileSync(path, changed(1024, 0)), "not-erofs"],
  ["its magic in the wrong order", (path) => writeFileSync(path, layer().swap32()), "not-erofs"],
  ["a root that is a regular file", (path) => writeFileSync(path, changed(rootOffset() + 5, 0x81)), "not-erofs"],
  ["a root beyond its end", (path) => writeFileSync(path, changed(1024 + 0x2b, 0xff)), "not-erofs"],
  ["its first block alone, without the root", (path) => writeFileSync(path, layer().subarray(0, 4096)), "not-erofs"],
  ["a last block that is gone", (path) => writeFileSync(path, layer().subarray(0, -4096)), "truncated"],
  ["a folder", (path) => mkdirSync(path), "is-folder"],
  ["a link to a sound one", (path) => symlinkSync(artifacts("layers")[0]!, path), "is-link"],
  ["a link to nothing", (path) => symlinkSync("/nowhere/at/all", path), "is-link"],
  ["a pipe", (path) => void Bun.spawnSync(["mkfifo", path]), "not-a-file"],
];

describe("examineErofs", () => {
  test("finds nothing wrong with what msb made", () => {
    const made = [...artifacts("layers"), ...artifacts("fsmeta")];
    expect(made).toHaveLength(4);
    for (const path of made) expect([path, examineErofs(path)]).toEqual([path, undefined]);
  });

  test("accepts blocks beyond the last, as msb does", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "longer.erofs");
    writeFileSync(path, Buffer.concat([layer(), new Uint8Array(8192)]));
    expect(examineErofs(path)).toBeUndefined();
  });

  test.each(DAMAGE)("names %s", (_, make, fault) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "artifact.erofs");
    make(path);
    expect(examineErofs(path)).toBe(fault);
    expect(examineErofsDeep(path)).toBe(fault);
  });
});

describe("examineErofsDeep", () => {
  test("finds the checksum sound of what msb made", () => {
    for (const path of [...artifacts("layers"), ...artifacts("fsmeta")]) {
      expect(readFileSync(path).readUInt32LE(1024 + 8) & 1).toBe(1);
      expect([path, examineErofsDeep(path)]).toEqual([path, undefined]);
    }
  });

  test.each([
    ["the volume's name", 1024 + 64],
    ["the end of the superblock's block", 4095],
    ["the checksum itself", 1024 + 4],
  ])("names a change of %s, which is none without it", (_, offset) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "artifact.erofs");
    writeFileSync(path, changed(offset, layer()[offset]! ^ 1));
    expect(examineErofs(path)).toBeUndefined();
    expect(examineErofsDeep(path)).toBe("bad-checksum");
  });

  test("asks for no checksum where the superblock says that there is none", () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "artifact.erofs");
    writeFileSync(path, changed(1024 + 8, 0));
    expect(examineErofsDeep(path)).toBeUndefined();
  });
});

describe("examineKind", () => {
  test("accepts a regular file, whatever it holds", () => {
    expect(examineKind(measure(artifacts("vmdk")[0]!))).toBeUndefined();
  });
});

describe("isRejected", () => {
  test.each([
    ["empty", true],
    ["misaligned", true],
    ["not-erofs", true],
    ["is-link", false],
    ["missing", false],
    ["truncated", false],
    ["is-folder", false],
    ["not-a-file", false],
    ["bad-checksum", false],
    [undefined, false],
  ] as const)("of %s is %p", (fault, expected) => {
    expect(isRejected(fault)).toBe(expected);
  });
});

describe("readExtents", () => {
  test("reads what msb wrote: the merged tree, then the layers from bottom to top", () => {
    const [vmdk] = artifacts("vmdk");
    const extents = readExtents(vmdk!);
    expect(extents.map(({ path }) => path).sort()).toEqual([...artifacts("fsmeta"), ...artifacts("layers")].sort());
    expect(extents[0]!.path).toBe(artifacts("fsmeta")[0]!);
    for (const { path, sectors } of extents) expect(sectors * 512).toBe(statSync(path).size);
  });

  test.each([
    ["nothing", undefined],
    ["an empty file", ""],
    ["bytes that are no text", new Uint8Array(512).fill(0xff)],
    ["another kind of extent", 'RW 16 SPARSE "/a" 0\n'],
    ["an extent inside a line", '# RW 16 FLAT "/a" 0\n'],
    ["a path cut short", 'RW 16 FLAT "/a'],
  ])("reads none from %s", (_, content) => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "disk.vmdk");
    if (content !== undefined) writeFileSync(path, content);
    expect(existsSync(path)).toBe(content !== undefined);
    expect(readExtents(path)).toEqual([]);
  });

  test("reads none through a link, and waits for no pipe", () => {
    using folder = new TemporaryFolder();
    symlinkSync(artifacts("vmdk")[0]!, join(folder.path, "link.vmdk"));
    Bun.spawnSync(["mkfifo", join(folder.path, "pipe.vmdk")]);
    expect(readExtents(join(folder.path, "link.vmdk"))).toEqual([]);
    expect(readExtents(join(folder.path, "pipe.vmdk"))).toEqual([]);
  });
});

describe("rewriteExtents", () => {
  test("changes every path and nothing else", () => {
    const text = readFileSync(artifacts("vmdk")[0]!, "utf8");
    const moved = rewriteExtents(text, (path) => `/srv/with $& and $1${path.slice(home.path.length)}`);
    expect(moved).toBe(text.split(home.path).join("/srv/with $& and $1"));
    expect(moved).not.toBe(text);
  });

  test("changes nothing in what names no extent", () => {
    expect(rewriteExtents("no disk\n", () => "x")).toBe("no disk\n");
  });
});
