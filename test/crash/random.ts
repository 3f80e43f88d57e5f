/** A stream of random numbers that is the same for the same seed: mulberry32. */
export class Random {
  private state: number;

  constructor(readonly seed: number) {
    this.state = seed >>> 0;
  }

  /** A fraction from 0 up to, and never, 1. */
  fraction(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = this.state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number below `end`. */
  below(end: number): number {
    return Math.floor(this.fraction() * end);
  }

  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}

/** Whether the bench runs in its long form, by the environment variable LARDER_BENCH. */
export const IS_LONG = process.env.LARDER_BENCH === "long";

/** Prints the figures of one part of the bench, after its last test. */
export function printFigures(part: string, figures: Record<string, number>): void {
  const words = Object.entries(figures).map(([what, count]) => `${count} ${what}`);
  console.log(`${part}: ${words.join(", ")}`);
}
