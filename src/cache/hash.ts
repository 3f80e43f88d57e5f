import { readSync } from "node:fs";
import { algorithmOf, type Digest } from "../oci/digest.ts";
import { openRegular } from "./file.ts";

const CHUNK = 4 * 1024 * 1024;

/** The digest that a regular file has by the algorithm of `claimed`; undefined where nothing is. */
export function hashFile(path: string, claimed: Digest): Digest | undefined {
  const algorithm = algorithmOf(claimed);
  return openRegular(path, (fd) => {
    const hasher = new Bun.CryptoHasher(algorithm);
    const buffer = Buffer.alloc(CHUNK);
    for (let length = CHUNK; length > 0; ) {
      length = readSync(fd, buffer, 0, CHUNK, null);
      hasher.update(buffer.subarray(0, length));
    }
    return `${algorithm}:${hasher.digest("hex")}` as Digest;
  });
}
