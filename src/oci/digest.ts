/** A content digest that was checked: `sha256:`, `sha384:` or `sha512:` and exactly its lowercase hex. */
export type Digest = string & { readonly __digest: never };

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$/;

/** Whether `text` is a digest that may be joined to a path (interop §7 #19: hostile rows hold `a/../b:x`). */
export function isDigest(text: unknown): text is Digest {
  return typeof text === "string" && DIGEST.test(text);
}

/** The algorithm of a digest, by the name that `Bun.CryptoHasher` has for it too. */
export function algorithmOf(digest: Digest): "sha256" | "sha384" | "sha512" {
  return digest.slice(0, 6) as "sha256" | "sha384" | "sha512";
}

// More digits after it would make it something longer. What stands before it does not matter: in JSON text that may be
// the end of an escape such as `\n`, and a pin must not be missed.
const NAMED = /(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})(?![0-9a-f])/g;

/** Every digest named anywhere inside `text`, in lowercase: a reference may carry one in any case (interop §4). */
export function digestsIn(text: string): Digest[] {
  return (text.toLowerCase().match(NAMED) ?? []) as Digest[];
}

const PLAIN = /^[ -~]*$/;

/** A digest as tables show it: `sha256:` and 12 digits, or 19 characters of another algorithm (interop §6). */
export function shortDigest(digest: string): string {
  const head = digest.slice(0, 19);
  // Of what is no digest, a character may be longer than one unit of the string.
  return PLAIN.test(head) ? head : Array.from(digest).slice(0, 19).join("");
}

/** The digest that text has by the algorithm of `claimed`. */
export function digestAs(claimed: Digest, text: string): Digest {
  const algorithm = algorithmOf(claimed);
  return `${algorithm}:${Bun.CryptoHasher.hash(algorithm, text, "hex")}` as Digest;
}
