// The engine writes a raw number exactly as given; TypeScript's library does not know it yet.
const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

function exact(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? rawJSON(value.toString()) : value;
}

/** One JSON document with a newline at its end; BigInt becomes an exact integer. */
export function toJson(value: unknown): string {
  return `${JSON.stringify(value, exact, 2)}\n`;
}

/** One line of JSON an item. */
export function toJsonLines(values: unknown[]): string {
  return values.map((value) => `${JSON.stringify(value, exact)}\n`).join("");
}
