import { writeSync } from "node:fs";

const FLUSH_MS = 100;
const FLUSH_CHARACTERS = 64 * 1024;
const TARGET_CHARACTERS = 500;
const KEPT_QUOTES = 100;

/** The request log, as text or JSON lines on standard error; lines are written together, a few times a second. */
export class Log {
  private lines = "";
  private timer: Timer | undefined;
  private time = "";
  private timeMs = 0;
  private readonly quotes = new Map<string, string>();

  constructor(private readonly format: "text" | "json") {}

  write(event: string, fields: Record<string, string | number | null>): void {
    const time = this.now();
    if (this.format === "json") this.lines += `${JSON.stringify({ time, event, ...fields })}\n`;
    else {
      let line = `${time} ${event}`;
      for (const name in fields) line += ` ${name}=${quote(fields[name]!)}`;
      this.lines += `${line}\n`;
    }
    this.flushSoon();
  }

  /** Writes the line of a request that was answered, in milliseconds: the same as `write`, in half of the time. */
  request(id: string, method: string, target: string, status: number, ms: number): void {
    const asked = target.slice(0, TARGET_CHARACTERS);
    if (this.format === "json") {
      this.write("request", { id, method, target: asked, status, ms });
      return;
    }
    this.lines += `${this.now()} request id=${id} method=${this.quoted(method)} target=${this.quoted(asked)} status=${status} ms=${ms}\n`;
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

  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    const text = this.lines;
    this.lines = "";
    try {
      writeSync(2, text);
    } catch {}
  }

  // Many requests are answered within a millisecond; writing a date takes longer than looking one up.
  private now(): string {
    const ms = Date.now();
    if (ms !== this.timeMs) this.time = new Date(ms).toISOString();
    this.timeMs = ms;
    return this.time;
  }
}

// What a client sent must end no line, begin no field, and tell a terminal nothing.
function quote(value: string | number | null): string {
  if (typeof value !== "string" || /^[!#-<>-~]+$/.test(value)) return String(value);
  return JSON.stringify(value).replace(/[\x7f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
