import { writeSync } from "node:fs";

const FLUSH_MS = 100;
const FLUSH_CHARACTERS = 64 * 1024;

/** The request log, as text or JSON lines on standard error; lines are written together, a few times a second. */
export class Log {
  private lines = "";
  private timer: Timer | undefined;

  constructor(private readonly format: "text" | "json") {}

  write(event: string, fields: Record<string, string | number | null>): void {
    const time = new Date().toISOString();
    if (this.format === "json") this.lines += `${JSON.stringify({ time, event, ...fields })}\n`;
    else {
      const words = Object.entries(fields).map(
        ([name, value]) =>
          `${name}=${typeof value === "string" && /[\s"=]/.test(value) ? JSON.stringify(value) : value}`,
      );
      this.lines += `${time} ${event} ${words.join(" ")}\n`;
    }
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
}
