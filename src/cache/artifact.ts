import { readSync, type Stats } from "node:fs";
import { LarderError } from "../error.ts";
import { measure, openRegular, readRegular } from "./file.ts";

/** What is wrong with an artifact. */
export type ArtifactFault =
  | "missing"
  | "empty"
  | "misaligned"
  | "not-erofs"
  | "truncated"
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

/**
 * Whether msb would reject an artifact with this fault, and make it anew. A folder it rejects too, but that may hold
 * anything; a short file and a wrong checksum it does not see, and a link it follows.
 */
export function isRejected(fault: ArtifactFault | undefined): boolean {
  return fault === "empty" || fault === "misaligned" || fault === "not-erofs";
}

/**
 * Looks an EROFS artifact over as msb 0.6 and later do: its length, its superblock and its root folder; and whether
 * all the blocks are there that the superblock counts, which msb does not ask.
 */
export function examineErofs(path: string): ArtifactFault | undefined {
  const stat = measure(path);
  const fault = examineKind(stat);
  if (fault || !stat) return fault;
  if (stat.size === 0) return "empty";
  if (stat.size % BLOCK !== 0) return "misaligned";
  return openRegular(path, (fd) => {
    const superblock = read(fd, SUPERBLOCK, 128);
    if (!hasRoot(fd, superblock, stat.size)) return "not-erofs";
    return stat.size < superblock.readUInt32LE(0x24) * BLOCK ? "truncated" : undefined;
  });
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

function hasRoot(fd: number, superblock: Buffer, size: number): boolean {
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
}

const EXTENT = /^RW (\d+) FLAT "([^"\n]*)" (\d+)$/gm;

/** The extents of a VMDK descriptor, in order; none where the file is gone, or is no text or no regular file. */
export function readExtents(path: string): Extent[] {
  return [...readDescriptor(path).matchAll(EXTENT)].map(([, sectors, path]) => ({
    sectors: Number(sectors),
    path: path!,
  }));
}

function readDescriptor(path: string): string {
  try {
    return readRegular(path) ?? "";
  } catch (error) {
    if (error instanceof LarderError && error.code === "invalid") return "";
    throw error;
  }
}

/** The text of a VMDK descriptor with every extent's path changed; all else stays as msb wrote it. */
export function rewriteExtents(descriptor: string, change: (path: string) => string): string {
  return descriptor.replaceAll(EXTENT, (_, sectors, path, offset) => `RW ${sectors} FLAT "${change(path)}" ${offset}`);
}
