import { constants } from "node:os";
import { say } from "./terminal.ts";

type Signal = "SIGINT" | "SIGTERM";

/**
 * Hears SIGINT and SIGTERM while a command works that can stop between two items. A second signal ends the process
 * at once, which the catalogue survives as it survives a crash.
 */
export class Interruption {
  private signal: Signal | undefined;

  constructor() {
    process.on("SIGINT", this.hear);
    process.on("SIGTERM", this.hear);
  }

  /** Whether the work is to stop; what operations take as their `stopped`. */
  readonly stopped = (): boolean => this.signal !== undefined;

  /** The exit code that tells the signal, or undefined where none came. */
  get exitCode(): number | undefined {
    return this.signal && 128 + constants.signals[this.signal];
  }

  /** Says that the work was cut short, and what becomes of the rest, where it was. */
  explain(rest: string): void {
    if (this.signal) say(`stopped by ${this.signal}: ${rest}`);
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.hear);
    process.off("SIGTERM", this.hear);
  }

  private readonly hear = (signal: NodeJS.Signals): void => {
    if (this.signal) {
      this[Symbol.dispose]();
      process.kill(process.pid, signal);
    }
    this.signal = signal as Signal;
  };
}
