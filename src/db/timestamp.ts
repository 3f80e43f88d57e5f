const TIMESTAMP = /^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:Z|[+-]\d\d:?[0-5]\d)?$/;

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

/** The same in milliseconds alone, which takes a half of the time. */
export function parseTimestampMs(text: string): number | undefined {
  return OWN.test(text) ? readOwn(text) : parseAny(text)?.ms;
}

let lastText: string | undefined;
let lastParsed: Timestamp | undefined;

// The form that msb and larder write, with the days that a month has. A leap day is left to the general form.
const OWN =
  /^[1-9]\d{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31) (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{9})?$/;

// By the places of its digits: a half of the time that the general form takes, and a list reads two a row.
function readOwn(text: string): number {
  const day = Date.UTC(digits(text, 0, 4), digits(text, 5, 7) - 1, digits(text, 8, 10));
  const seconds = (digits(text, 11, 13) * 60 + digits(text, 14, 16)) * 60 + digits(text, 17, 19);
  return day + 1000 * seconds + digits(text, 20, text.length) / 1e6;
}

function digits(text: string, from: number, to: number): number {
  let number = 0;
  for (let at = from; at < to; at++) number = 10 * number + text.charCodeAt(at) - 48;
  return number;
}

function parseOwn(text: string): Timestamp | undefined {
  if (!OWN.test(text)) return undefined;
  return {
    ms: readOwn(text),
    rfc3339: `${text.slice(0, 10)}T${text.slice(11, 19)}${fraction(text.slice(20))}+00:00`,
  };
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

/** A moment, in milliseconds since 1970, in the form of `Timestamp.rfc3339`. */
export function toRfc3339(ms: number): string {
  const iso = new Date(ms).toISOString();
  return `${iso.slice(0, 19)}${fraction(`${iso.slice(20, 23)}000000`)}+00:00`;
}

function fraction(nanos: string): string {
  if (nanos === "" || nanos === "000000000") return "";
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
