// The engine writes a raw number exactly as given; TypeScript's library does not know it yet.
const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

// Hardly any value is too large for a number, and to look for one first would take half as long as the writing.
function write(value: unknown, indent?: number): string {
  try {
    return JSON.stringify(value, null, indent);
  } catch (error) {
    // What JSON.stringify says of a BigInt.
    if (!(error instanceof TypeError)) throw error;
    return JSON.stringify(exact(value), null, indent);
  }
}

function exact(value: unknown): unknown {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : rawJSON(value.toString());
  }
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(exact);
  let copy: Record<string, unknown> | undefined;
  for (const key in value) {
    const before = (value as Record<string, unknown>)[key];
    const after = exact(before);
    if (after === before) continue;
    copy ??= { ...value };
    copy[key] = after;
  }
  return copy ?? value;
}

/** One JSON document with a newline at its end; BigInt becomes an exact integer. */
export function toJson(value: unknown): string {
  return `${write(value, 2)}\n`;
}

/** One line of JSON an item. */
export function toJsonLines(values: unknown[]): string {
  return values.map((value) => `${write(value)}\n`).join("");
}

const ITEMS = 64;

function* inChunks(values: Iterable<unknown>): Generator<unknown[]> {
  let chunk: unknown[] = [];
  for (const value of values) {
    if (chunk.push(value) < ITEMS) continue;
    yield chunk;
    chunk = [];
  }
  if (chunk.length > 0) yield chunk;
}

/** The same document as `toJson` makes of an array, in parts that follow each other. */
export function* toJsonParts(values: Iterable<unknown>): Generator<string> {
  let bracket = "[";
  for (const chunk of inChunks(values)) {
    // Without its own brackets and the line end before the last.
    yield bracket + write(chunk, 2).slice(1, -2);
    bracket = ",";
  }
  yield bracket === "[" ? "[]\n" : "\n]\n";
}

/** The same lines as `toJsonLines` makes, in parts. */
export function* toLineParts(values: Iterable<unknown>): Generator<string> {
  for (const chunk of inChunks(values)) yield toJsonLines(chunk);
}
