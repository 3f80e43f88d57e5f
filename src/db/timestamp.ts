const TIMESTAMP = /^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:Z|[+-]\d\d:?\d\d)?$/;

/** A moment as the catalogue holds it. */
export interface Timestamp {
  /** Milliseconds since 1970, UTC. */
  ms: number;
  /** RFC 3339 as msb prints it: 0, 3, 6 or 9 digits of fraction, the fewest that lose nothing (interop §6). */
  rfc3339: string;
}

/**
 * Reads a timestamp column as msb does: an offset is ignored, a fraction is cut to nine digits (interop §1).
 * Undefined for what msb would reject.
 */
export function parseTimestamp(text: string): Timestamp | undefined {
  // Rows written together share their times, and the two times of a row are often one.
  if (text !== lastText) {
    lastParsed = parseOwn(text) ?? parseAny(text);
    lastText = text;
  }
  return lastParsed;
}

let lastText: string | undefined;
let lastParsed: Timestamp | undefined;

// The form that msb and larder write, read by its digits: a tenth of the time that the general one takes.
function parseOwn(text: string): Timestamp | undefined {
  const isWhole = text.length === 19;
  if (!isWhole && (text.length !== 29 || text[19] !== ".")) return undefined;
  if (text[4] !== "-" || text[7] !== "-" || text[10] !== " " || text[13] !== ":" || text[16] !== ":") return undefined;
  const year = digits(text, 0, 4);
  const month = digits(text, 5, 2);
  const day = digits(text, 8, 2);
  const hour = digits(text, 11, 2);
  const minute = digits(text, 14, 2);
  const second = digits(text, 17, 2);
  const nanos = isWhole ? 0 : digits(text, 20, 9);
  // What is not plainly sound is left to the general form.
  if (year < 1000 || month < 1 || month > 12 || day < 1 || day > 28 || nanos < 0) return undefined;
  if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59) return undefined;
  return {
    ms: Date.UTC(year, month - 1, day, hour, minute, second) + nanos / 1e6,
    rfc3339: `${text.slice(0, 10)}T${text.slice(11, 19)}${isWhole ? "" : fraction(text.slice(20))}+00:00`,
  };
}

// The number that these characters write, or -1 if one of them is no digit.
function digits(text: string, from: number, length: number): number {
  let value = 0;
  for (let i = from; i < from + length; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

function parseAny(text: string): Timestamp | undefined {
  const match = TIMESTAMP.exec(text);
  if (!match || match[1] === "0000") return undefined;
  const seconds = `${match[1]}-${match[2]}-${match[3]}T${match[4]}:${match[5]}:${match[6] ?? "00"}`;
  const whole = Date.parse(`${seconds}Z`);
  // Date.parse rolls 31 February over; what does not come back as it went in is no date.
  if (Number.isNaN(whole) || !new Date(whole).toISOString().startsWith(seconds)) return undefined;
  const nanos = (match[7] ?? "").slice(0, 9).padEnd(9, "0");
  return { ms: whole + Number(nanos) / 1e6, rfc3339: `${seconds}${fraction(nanos)}+00:00` };
}

function fraction(nanos: string): string {
  if (nanos === "000000000") return "";
  if (nanos.endsWith("000000")) return `.${nanos.slice(0, 3)}`;
  if (nanos.endsWith("000")) return `.${nanos.slice(0, 6)}`;
  return `.${nanos}`;
}

/**
 * A moment as msb writes it, always with nine digits: text order is time order only in this form, and one value that
 * msb cannot read fails its whole listing (interop §1).
 */
export function writeTimestamp(ms: number): string {
  // The rows of one transaction share their time.
  if (ms !== lastMs) {
    lastWritten = `${new Date(ms).toISOString().slice(0, 23).replace("T", " ")}000000`;
    lastMs = ms;
  }
  return lastWritten;
}

let lastMs: number | undefined;
let lastWritten = "";
