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
  return `${new Date(ms).toISOString().slice(0, 23).replace("T", " ")}000000`;
}
