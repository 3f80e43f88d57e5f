import { closeSync, openSync, readFileSync, writeSync } from "node:fs";

/**
 * Variables by which Bun lets the environment run other code in a compiled executable, open a debugger's port, or
 * write files. No build option shuts them.
 */
const NAMES = ["BUN_BE_BUN", "BUN_OPTIONS", "BUN_INSPECT", "BUN_BYTECODE_ORDER", "BUN_BYTECODE_DIGEST"];

/**
 * Makes an executable deaf to those variables: the first byte of each name becomes NUL, with which no variable's name
 * can begin. Throws where a name is not found, since a Bun that spells it otherwise would still obey it.
 */
export function harden(executable: string): void {
  const bytes = readFileSync(executable);
  const fd = openSync(executable, "r+");
  try {
    for (const name of NAMES) {
      const places = occurrences(bytes, name);
      if (places.length === 0)
        throw new Error(`"${executable}" does not hold the name ${name}: look how Bun reads it now`);
      for (const place of places) writeSync(fd, "\0", place);
    }
  } finally {
    closeSync(fd);
  }
}

function occurrences(bytes: Buffer, name: string): number[] {
  const places: number[] = [];
  for (let at = bytes.indexOf(name); at >= 0; at = bytes.indexOf(name, at + 1)) places.push(at);
  return places;
}
