import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from "node:fs";
import { isErrno, LarderError, namingPath } from "../error.ts";

// What larder reads whole has some KiB. A sparse file costs its user nothing, and whoever reads it the memory.
const MOST_BYTES = 64 * 1024 * 1024;

/** The bytes of a regular file that is open; fails with EFBIG, as the system would, where it has more than 64 MiB. */
export function readWhole(fd: number, stat: Stats): Uint8Array {
  if (stat.size > MOST_BYTES)
    throw Object.assign(new Error("EFBIG: file too large"), { code: "EFBIG", syscall: "read" });
  return readFileSync(fd);
}

/** The same of a file to which a link may lead. Throws `failed` for what is no regular file, and does not wait for a pipe. */
export function readWholeAt(path: string, name = `"${path}"`): Uint8Array {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    // A socket.
    if (isErrno(error, "ENXIO")) throw new LarderError("failed", `cannot read ${name}: it is no regular file`, error);
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (stat.isFile()) return namingPath(path, () => readWhole(fd, stat));
    const kind = stat.isDirectory() ? "a directory" : "no regular file";
    throw new LarderError("failed", `cannot read ${name}: it is ${kind}`);
  } finally {
    closeSync(fd);
  }
}
