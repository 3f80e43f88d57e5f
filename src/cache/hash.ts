import { readSync } from "node:fs";
import type { Digest } from "../oci/digest.ts";
import { openRegular } from "./file.ts";

const CHUNK = 4 * 1024 * 1024;

/** The sha256 digest of a regular file; undefined where nothing is. */
export function hashFile(path: string): Digest | undefined {
  return openRegular(path, (fd) => {
    const hasher = new Bun.CryptoHasher("sha256");
    const buffer = Buffer.alloc(CHUNK);
    for (let length = CHUNK; length > 0; ) {
      length = readSync(fd, buffer, 0, CHUNK, null);
      hasher.update(buffer.subarray(0, length));
    }
    return `sha256:${hasher.digest("hex")}` as Digest;
  });
}
