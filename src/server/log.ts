import { write } from "node:fs";
import { isErrno } from "../error.ts";
import { widenPool } from "../host/pool.ts";

const FLUSH_MS = 100;
const FLUSH_CHARACTERS = 64 * 1024;
const KEPT_CHARACTERS = 1024 * 1024;
const END_MS = 1000;
const RETRY_MS = 10;
const TARGET_CHARACTERS = 500;
const KEPT_QUOTES = 100;

/**
 * The request log, as text or JSON lines on standard error; lines are written together, a few times a second. Nobody waits
 * for it: where they are not read, a MiB is kept, and what comes after it is dropped and counted in a later line.
 */
export class Log {
  private lines = "";
  private dropped = 0;
  /** How many characters are being written, and when they are. */
  private underWay = 0;
  private written: Promise<void> | undefined;
  private timer: Timer | undefined;
  private time = "";
  private timeMs = 0;
  private readonly quotes = new Map<string, string>();

  constructor(private readonly format: "text" | "json") {
    // The pool that writes is the one that deletes, and keeps the size that it starts with.
    widenPool();
  }

  write(event: string, fields: Record<string, string | number | null>): void {
    this.add(this.lineOf(event, fields));
  }

  /** Writes the line of a request that was answered, in milliseconds: the same as `write`, in half of the time. */
  request(id: string, method: string, target: string, status: number, ms: number): void {
    const asked = target.slice(0, TARGET_CHARACTERS);
    if (this.format === "json") {
      this.write("request", { id, method, target: asked, status, ms });
      return;
    }
    this.add(
      `${this.now()} request id=${id} method=${this.quoted(method)} target=${this.quoted(asked)} status=${status} ms=${ms}\n`,
    );
  }

  private lineOf(event: string, fields: Record<string, string | number | null>): string {
    const time = this.now();
    if (this.format === "json") return `${JSON.stringify({ time, event, ...fields })}\n`;
    let line = `${time} ${event}`;
    for (const name in fields) line += ` ${name}=${quote(fields[name]!)}`;
    return `${line}\n`;
  }

  private add(line: string): void {
    // Nothing comes between lines that were dropped and the line that counts them.
    if (this.dropped > 0 || this.underWay + this.lines.length + line.length > KEPT_CHARACTERS) this.dropped++;
    else this.lines += line;
    this.flushSoon();
  }

  // Agents ask the same few things over and over.
  private quoted(text: string): string {
    let quoted = this.quotes.get(text);
    if (quoted === undefined) {
      if (this.quotes.size >= KEPT_QUOTES) this.quotes.clear();
      quoted = quote(text);
      this.quotes.set(text, quoted);
    }
    return quoted;
  }

  private flushSoon(): void {
    if (this.lines.length > FLUSH_CHARACTERS) this.flush();
    else this.timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  private flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.written ??= this.writeLines().finally(() => {
      this.written = undefined;
      if (this.lines !== "" || this.dropped > 0) this.flushSoon();
    });
  }

  private async writeLines(): Promise<void> {
    const text = this.dropped > 0 ? this.lines + this.lineOf("dropped", { lines: this.dropped }) : this.lines;
    this.lines = "";
    this.dropped = 0;
    this.underWay = text.length;
    for (let rest = Buffer.from(text); rest.length > 0; ) rest = rest.subarray(await writeSome(rest));
    this.underWay = 0;
  }

  /** Waits until all that was logged is written, but for no longer than a second. */
  async end(): Promise<void> {
    const all = async () => {
      await this.written;
      this.flush();
      await this.written;
    };
    await Promise.race([all(), Bun.sleep(END_MS)]);
  }

  // Many requests are answered within a millisecond; writing a date takes longer than looking one up.
  private now(): string {
    const ms = Date.now();
    if (ms !== this.timeMs) this.time = new Date(ms).toISOString();
    this.timeMs = ms;
    return this.time;
  }
}

// In a thread of the pool, since the write waits for whoever reads. Gives how many bytes are dealt with: where they cannot be
// written, all.
function writeSome(bytes: Buffer): Promise<number> {
  return new Promise((resolve) =>
    write(2, bytes, 0, bytes.length, null, (error, written) => {
      if (!error) resolve(written);
      // Others may have told the pipe to make nobody wait.
      else if (isErrno(error, "EAGAIN")) setTimeout(resolve, RETRY_MS, 0);
      else resolve(bytes.length);
    }),
  );
}

// What a client sent must end no line, begin no field, and tell a terminal nothing.
function quote(value: string | number | null): string {
  if (typeof value !== "string" || /^[!#-<>-~]+$/.test(value)) return String(value);
  return JSON.stringify(value).replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
