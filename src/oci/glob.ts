/**
 * Whether `text` matches a pattern in which `*` stands for any characters, `/` included, and `?` for one.
 * Walks both once and steps back to the last star only, so a hostile pattern costs no more than their product.
 */
export function matchGlob(pattern: string, text: string): boolean {
  let p = 0;
  let t = 0;
  let star = -1;
  let retry = 0;
  while (t < text.length) {
    if (pattern[p] === "*") {
      star = p++;
      retry = t;
    } else if (pattern[p] === "?") {
      p++;
      t += text.codePointAt(t)! > 0xffff ? 2 : 1;
    } else if (pattern[p] === text[t]) {
      p++;
      t++;
    } else if (star >= 0) {
      p = star + 1;
      t = ++retry;
    } else {
      return false;
    }
  }
  while (pattern[p] === "*") p++;
  return p === pattern.length;
}
