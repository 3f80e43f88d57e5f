import type { FFIFunction, Library } from "bun:ffi";
import { asLarderError, LarderError } from "../error.ts";

declare const LARDER_TARGET: string | undefined;

// As it is in this process already, so that nobody looks for it: what Bun does not find elsewhere, it takes from the
// current folder. glibc has its name, musl the path of the loader that every executable of its kind asks for.
const LIBC = isMusl() ? `/lib/ld-musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1` : "libc.so.6";

/** Functions of the C library that Bun does not offer; throws `failed` where it cannot be called. */
export function loadLibc<S extends Record<string, FFIFunction>>(symbols: S): Library<S>["symbols"] {
  // Loaded here: a command that takes no lock does without.
  const { dlopen } = require("bun:ffi") as typeof import("bun:ffi");
  try {
    return dlopen(LIBC, symbols).symbols;
  } catch (error) {
    throw new LarderError(
      "failed",
      `the C library ${LIBC} cannot be called: ${asLarderError(error).message} (what calls it is compiled in memory: raise ulimit -v to 3 GB, and set no MemoryDenyWriteExecute=)`,
      error,
    );
  }
}

/** Whether the C library is musl's: what the executable was built for, or what runs the source. */
export function isMusl(): boolean {
  if (typeof LARDER_TARGET !== "undefined") return LARDER_TARGET.endsWith("-musl");
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  return report?.header?.glibcVersionRuntime === undefined;
}
