import { LarderError } from "../error.ts";

/** A content digest that was checked: `sha256:`, `sha384:` or `sha512:` and exactly its lowercase hex. */
export type Digest = string & { readonly __digest: never };

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$/;

/** Whether `text` is a digest that may be joined to a path (interop §7 #19: hostile rows hold `a/../b:x`). */
export function isDigest(text: unknown): text is Digest {
  return typeof text === "string" && DIGEST.test(text);
}

/** `text` as a digest; throws `invalid`, naming `what`, otherwise. */
export function parseDigest(text: string, what = "digest"): Digest {
  if (isDigest(text)) return text;
  throw new LarderError(
    "invalid",
    `${what}: ${JSON.stringify(text.slice(0, 100))} is not a sha256, sha384 or sha512 digest in lowercase hex`,
  );
}

// More digits after it would make it something longer. What stands before it does not matter: in JSON text that may be
// the end of an escape such as `\n`, and a pin must not be missed.
const NAMED = /(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})(?![0-9a-f])/g;

/** Every digest named anywhere inside `text`, in lowercase: a reference may carry one in any case (interop §4). */
export function digestsIn(text: string): Digest[] {
  return (text.toLowerCase().match(NAMED) ?? []) as Digest[];
}

/** A digest as tables show it: `sha256:` and 12 digits, or 19 characters of another algorithm (interop §6). */
export function shortDigest(digest: string): string {
  return isDigest(digest) ? digest.slice(0, 19) : Array.from(digest).slice(0, 19).join("");
}

/** The sha256 digest of bytes or text, in OCI form. */
export function sha256(content: string | Uint8Array): Digest {
  return `sha256:${Bun.SHA256.hash(content, "hex")}` as Digest;
}
