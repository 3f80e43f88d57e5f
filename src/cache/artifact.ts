import { readSync, type Stats } from "node:fs";
import { measure, openRegular, readRegular } from "./file.ts";

/** Why msb would not use an artifact. */
export type ArtifactFault =
  | "missing"
  | "empty"
  | "misaligned"
  | "not-erofs"
  | "is-folder"
  | "is-link"
  | "not-a-file"
  | "bad-checksum";

const BLOCK = 4096;
// The superblock, at a fixed place (interop §3 names the fields that msb reads).
const SUPERBLOCK = 1024;
const MAGIC = 0xe0f5e1e2;
const CHECKSUM_FEATURE = 1;
const INODE_SLOT = 32;
const DIRECTORY = 0o040000;
const FORMAT_MASK = 0o170000;

/** Looks an EROFS artifact over as msb 0.6 and later do: its length, its superblock and its root folder. */
export function examineErofs(path: string): ArtifactFault | undefined {
  const stat = measure(path);
  const fault = examineKind(stat);
  if (fault || !stat) return fault;
  if (stat.size === 0) return "empty";
  if (stat.size % BLOCK !== 0) return "misaligned";
  return openRegular(path, (fd) => (hasRoot(fd, stat.size) ? undefined : "not-erofs"));
}

/** The same, and the superblock's checksum where it carries one, which msb does not verify. */
export function examineErofsDeep(path: string): ArtifactFault | undefined {
  return examineErofs(path) ?? openRegular(path, (fd) => (hasChecksum(fd) ? undefined : "bad-checksum"));
}

/** Whether something is a regular file at all. */
export function examineKind(stat: Stats | undefined): ArtifactFault | undefined {
  if (!stat) return "missing";
  if (stat.isSymbolicLink()) return "is-link";
  if (stat.isDirectory()) return "is-folder";
  return stat.isFile() ? undefined : "not-a-file";
}

function hasRoot(fd: number, size: number): boolean {
  const superblock = read(fd, SUPERBLOCK, 128);
  if (superblock.readUInt32LE(0) !== MAGIC) return false;
  const root = superblock.readUInt32LE(0x28) * BLOCK + superblock.readUInt16LE(0x0e) * INODE_SLOT;
  if (root + 64 > size) return false;
  return (read(fd, root, 64).readUInt16LE(4) & FORMAT_MASK) === DIRECTORY;
}

function hasChecksum(fd: number): boolean {
  const block = read(fd, SUPERBLOCK, BLOCK - SUPERBLOCK);
  if ((block.readUInt32LE(8) & CHECKSUM_FEATURE) === 0) return true;
  const stored = block.readUInt32LE(4);
  block.writeUInt32LE(0, 4);
  return crc32c(block) === stored;
}

function read(fd: number, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  readSync(fd, buffer, 0, length, offset);
  return buffer;
}

// Castagnoli, reflected, started with all ones and not inverted at the end, as the kernel computes it for EROFS.
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return crc >>> 0;
}

/** One stretch of a file that a VMDK joins to its disk. */
export interface Extent {
  sectors: number;
  path: string;
  /** Bytes into the file. */
  offset: number;
}

const EXTENT = /^RW (\d+) FLAT "([^"\n]*)" (\d+)$/gm;

/** The extents of a VMDK descriptor, in order; none where nothing can be read. Throws `invalid` for a link. */
export function readExtents(path: string): Extent[] {
  return [...(readRegular(path) ?? "").matchAll(EXTENT)].map(([, sectors, path, offset]) => ({
    sectors: Number(sectors),
    path: path!,
    offset: Number(offset),
  }));
}

/** The text of a VMDK descriptor with every extent's path changed; all else stays as msb wrote it. */
export function rewriteExtents(descriptor: string, change: (path: string) => string): string {
  return descriptor.replaceAll(EXTENT, (_, sectors, path, offset) => `RW ${sectors} FLAT "${change(path)}" ${offset}`);
}
