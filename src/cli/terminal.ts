import { asLarderError, isErrno, LarderError } from "../error.ts";
import { majorOf } from "../host/device.ts";
import { toJson, toJsonLines, toJsonParts, toLineParts } from "../output/json.ts";
import { printable } from "../output/table.ts";
import type { Format } from "./command.ts";

/**
 * Writes data to standard output, all of it, however slow the reader. A reader that has gone away is no failure: what
 * was done is done, and the exit code still says how.
 */
export async function print(text: string | Uint8Array): Promise<void> {
  if (text.length === 0) return;
  try {
    if (!writeFile(text)) await Bun.write(Bun.stdout, text);
  } catch (error) {
    if (isErrno(error, "EPIPE")) return;
    throw new LarderError("failed", `standard output: ${asLarderError(error).message}`, error);
  }
}

// `Bun.write` makes a regular file long enough before it writes to it: behind `>>`, what it writes then comes after a
// gap of as many NULs. Short text it leaves alone, and `--version` need not load `node:fs` for it.
function writeFile(text: string | Uint8Array): boolean {
  if (text.length <= 1024) return false;
  const { fstatSync, writeSync } = process.getBuiltinModule("node:fs");
  if (!fstatSync(1).isFile()) return false;
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
  for (let written = 0; written < bytes.length; ) written += writeSync(1, bytes, written);
  return true;
}

/** Prints one result: as JSON in either form, or as the table that `render` makes. */
export async function emit(format: Format, value: unknown, render: () => string): Promise<void> {
  if (format === "table") await print(render());
  else await print(format === "json" ? toJson(value) : toJsonLines([value]));
}

/** Prints a list: one JSON array, a JSON line an item, or the table that `render` makes. */
export async function emitList(format: Format, values: unknown[], render: () => string): Promise<void> {
  await printParts(format === "table" ? [render()] : partsOf(format, values));
}

/** A list as JSON text, in parts: the whole of a long one would be held in memory several times over. */
export function partsOf(format: Exclude<Format, "table">, values: Iterable<unknown>): Iterable<string> {
  return format === "json" ? toJsonParts(values) : toLineParts(values);
}

/** Prints what follows each other. */
export async function printParts(parts: Iterable<string | Uint8Array>): Promise<void> {
  for (const part of parts) await print(part);
}

/**
 * Writes a line to standard error, where everything goes that is not data. It may quote a file, a row or a
 * configuration, whose control characters a terminal must not obey.
 */
export function say(line: string): void {
  write(`${printable(line)}\n`);
}

/** The same of many lines: as many at a time as a pipe takes whole, so that no other writer to it comes in between. */
export function sayAll(lines: string[]): void {
  let piece = "";
  let bytes = 0;
  for (const line of lines) {
    const text = `${printable(line)}\n`;
    const length = Buffer.byteLength(text);
    if (bytes > 0 && bytes + length > PIPE_BUF) {
      write(piece);
      piece = "";
      bytes = 0;
    }
    piece += text;
    bytes += length;
  }
  if (bytes > 0) write(piece);
}

const PIPE_BUF = 4096;

/** Writes to standard error as it stands; one that has gone away is no failure of the work. */
export function write(text: string): void {
  try {
    process.getBuiltinModule("node:fs").writeSync(2, text);
  } catch {}
}

/** The same, line by line. */
export function sayLines(text: string): void {
  sayAll(text.trimEnd().split("\n"));
}

/** Says what went wrong. */
export function complain(message: string): void {
  say(`larder: ${message}`);
}

/** Whether standard output (1) or standard error (2) is a terminal. */
export function isTerminal(fd: 1 | 2): boolean {
  // `node:tty` takes 3 ms to load, and only a character device can be a terminal; /dev/null is one that cannot.
  const stat = process.getBuiltinModule("node:fs").fstatSync(fd);
  const mayBe = stat.isCharacterDevice() && majorOf(stat.rdev) !== MEMORY_DEVICES;
  return mayBe && process.getBuiltinModule("node:tty").isatty(fd);
}

// Linux keeps null, zero and full under one major number.
const MEMORY_DEVICES = 1;

/** The width that a table may have: the terminal's, or none when standard output is no terminal. */
export function tableWidth(): number | undefined {
  if (!isTerminal(1)) return undefined;
  const columns = Number(process.env.COLUMNS ?? process.stdout.columns);
  return Number.isInteger(columns) && columns > 0 ? columns : 80;
}
