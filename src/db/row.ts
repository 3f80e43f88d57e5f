import { LarderError } from "../error.ts";
import { parseTimestamp, type Timestamp } from "./timestamp.ts";

/** A row as SQLite returned it. Any column may hold any type: the schema is not strict, and other tools write too. */
export type Row = Record<string, unknown>;

/** Reads one row's columns by type, and collects what could not be read, so that one bad value costs one field. */
export class RowReader {
  readonly damage: string[] = [];

  constructor(private readonly row: Row) {}

  text(column: string): string | null {
    const value = this.row[column];
    if (value === null || value === undefined) return null;
    if (typeof value === "string") return value;
    return this.damaged(column, "is not text");
  }

  /** An integer as a number, or as a BigInt where a number would round it. */
  integer(column: string): number | bigint | null {
    const value = this.row[column];
    if (value === null || value === undefined) return null;
    if (typeof value !== "bigint") return this.damaged(column, "is not an integer");
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  count(column: string): number | null {
    const value = this.integer(column);
    return value === null ? null : Number(value);
  }

  /** A moment; what msb could not read is damage (interop §7 #26). */
  timestamp(column: string): Timestamp | null {
    const text = this.text(column);
    if (text === null) return null;
    return (
      parseTimestamp(text) ??
      this.damaged(column, `is not a time that msb can read: ${JSON.stringify(text.slice(0, 40))}`)
    );
  }

  /** The column's JSON, checked by `accepts`. */
  json<T>(column: string, accepts: (value: unknown) => value is T): T | null {
    const text = this.text(column);
    if (text === null) return null;
    try {
      const value: unknown = JSON.parse(text);
      if (accepts(value)) return value;
    } catch {}
    return this.damaged(column, "is not the JSON that belongs there");
  }

  damaged(column: string, why: string): null {
    this.damage.push(`${column} ${why}`);
    return null;
  }
}

/** A row id as a number; throws `damaged` for one that would become another row's. */
export function exactId(id: number | bigint): number {
  const number = Number(id);
  if (Number.isSafeInteger(number)) return number;
  throw new LarderError("damaged", "the database has row ids beyond 2^53 (restore it from a backup)");
}

/** Whether `value` is an array of strings. */
export function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

/** Whether `value` is an object whose values are strings. */
export function isStringMap(value: unknown): value is Record<string, string> {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((item) => typeof item === "string")
  );
}
