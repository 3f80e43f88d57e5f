/** A column of a table: its title, and which way its cells lean. */
export interface Column {
  title: string;
  align?: "left" | "right";
  /** Cut this column with an ellipsis where the table would be wider than the terminal; the widest such goes first. */
  shrinks?: boolean;
}

const GAP = "  ";
// No narrower is a column cut: less would say nothing.
const LEAST = 12;

/** A table with a head, as wide as its cells; `width` limits it on a terminal. The last column is not padded. */
export function renderTable(columns: Column[], rows: string[][], width?: number): string {
  // Nearly always so, and then no cell has to be measured.
  const isPlain = rows.every((row) => row.every((cell) => PLAIN.test(cell)));
  const lines = [columns.map(({ title }) => title), ...(isPlain ? rows : rows.map((row) => row.map(printable)))];
  const widthOf = isPlain ? lengthOf : Bun.stringWidth;
  const widths = columns.map((_, i) => lines.reduce((widest, line) => Math.max(widest, widthOf(line[i]!)), 0));
  if (width !== undefined) shrink(columns, widths, width);
  let table = "";
  for (const line of lines) table += `${renderLine(columns, line, widths, widthOf)}\n`;
  return table;
}

function shrink(columns: Column[], widths: number[], width: number): void {
  const total = widths.reduce((sum, each) => sum + each, 0) + GAP.length * (columns.length - 1);
  for (let excess = total - width; excess > 0; excess--) {
    const widest = columns.reduce((w, { shrinks }, i) => (shrinks && widths[i]! > (widths[w] ?? LEAST) ? i : w), -1);
    if (widest < 0) return;
    widths[widest]!--;
  }
}

function renderLine(columns: Column[], line: string[], widths: number[], widthOf: (text: string) => number): string {
  let rendered = "";
  for (let i = 0; i < line.length; i++) {
    const text = widthOf(line[i]!) <= widths[i]! ? line[i]! : cut(line[i]!, widths[i]!);
    if (i > 0) rendered += GAP;
    const isRight = columns[i]!.align === "right";
    // What is wider on a terminal than it is long has to be padded by less.
    const length = i === line.length - 1 && !isRight ? 0 : widths[i]! - widthOf(text) + text.length;
    rendered += isRight ? text.padStart(length) : text.padEnd(length);
  }
  return rendered;
}

/** Names and values below each other, the names padded to one width and one gap at least (interop §7 #25). */
export function renderFields(fields: [name: string, value: string][]): string {
  const width = fields.reduce((widest, [name]) => Math.max(widest, name.length), 0);
  return fields.map(([name, value]) => `${name.padEnd(width)}${GAP}${printable(value)}\n`).join("");
}

function lengthOf({ length }: string): number {
  return length;
}

const PLAIN = /^[ -~]*$/;

// The end of a reference, its tag, tells more than its middle.
function cut(text: string, width: number): string {
  const characters = Array.from(text);
  const tail = fitting(characters.toReversed(), Math.floor((width - 1) / 2));
  const head = fitting(characters, width - 1 - Math.floor((width - 1) / 2));
  return `${head.join("")}…${tail.toReversed().join("")}`;
}

// The first characters that are together no wider than `width`: some take two columns of a terminal.
function fitting(characters: string[], width: number): string[] {
  let end = 0;
  for (let left = width; end < characters.length; end++) {
    left -= Bun.stringWidth(characters[end]!);
    if (left < 0) break;
  }
  return characters.slice(0, end);
}

// Control characters, line and paragraph separators, and what turns the direction of text.
const UNPRINTABLE = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

/** Text from a row or a file, with control characters written out: a terminal must not obey a reference. */
export function printable(text: string): string {
  return PLAIN.test(text)
    ? text
    : text.replace(UNPRINTABLE, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
