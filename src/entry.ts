import { join } from "node:path";

// Inside the executable, where the build defines this, each entry has a place of its own, which is on no disk. A relative
// path would be looked for in the current folder, and a URL would write the folder of the build into the executable.
declare const LARDER_TARGET: string | undefined;

/** Where an entry of the build lies, by its path in `src/` without `.ts`. */
export function entry(name: string): string {
  return typeof LARDER_TARGET === "undefined" ? join(import.meta.dir, `${name}.ts`) : `/$bunfs/root/${name}.js`;
}
