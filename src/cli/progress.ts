import { bar } from "../output/units.ts";
import { isTerminal, write } from "./terminal.ts";

const WIDTH = 30;
const REDRAW_MS = 100;
// Nothing is drawn for what is over in a moment.
const DELAY_MS = 1000;

/**
 * A progress bar on standard error, where that is a terminal; drawn after a second, and gone at the end. Without a
 * total it is a number that grows.
 */
export function progressBar(what: string): { show(done: number, total?: number): void; end(): void } {
  let next = performance.now() + DELAY_MS;
  let isDrawn = false;
  const isShown = isTerminal(2);
  return {
    show(done, total) {
      if (!isShown || performance.now() < next) return;
      next = performance.now() + REDRAW_MS;
      isDrawn = true;
      write(`\r${what} ${total === undefined ? done : `${bar(done, total, WIDTH)} ${done}/${total}`}`);
    },
    end() {
      if (isDrawn) write("\r\u001b[K");
    },
  };
}
