import { constants } from "node:os";
import { isSet } from "../host/status.ts";
import { say } from "./terminal.ts";

type Signal = "SIGINT" | "SIGTERM" | "SIGHUP";

/**
 * Hears SIGINT, SIGTERM, and the end of its terminal while a command works that can stop between two items. A second signal
 * ends the process at once, which the catalogue survives as it survives a crash.
 */
export class Interruption {
  private signal: Signal | undefined;
  private readonly heard: Signal[] = ["SIGINT", "SIGTERM", ...(isHangUpIgnored() ? [] : (["SIGHUP"] as const))];

  constructor() {
    for (const signal of this.heard) process.on(signal, this.hear);
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
    for (const signal of this.heard) process.off(signal, this.hear);
  }

  private readonly hear = (signal: NodeJS.Signals): void => {
    // The end of a terminal is told twice, by the shell and by the kernel; systemd sends it along with SIGTERM, and which
    // of them is heard first is chance. So it is nobody's second.
    const isHangUp = signal === "SIGHUP";
    if (!isHangUp && this.signal !== undefined && this.signal !== "SIGHUP") {
      this[Symbol.dispose]();
      process.kill(process.pid, signal);
    }
    if (!isHangUp || this.signal === undefined) this.signal = signal as Signal;
  };
}

// As nohup has it: what is to go on without its terminal must not be stopped by a handler.
function isHangUpIgnored(): boolean {
  return isSet("SigIgn", constants.signals.SIGHUP - 1) === true;
}
