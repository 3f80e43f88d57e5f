import type { FFIFunction, Library } from "bun:ffi";
import { asLarderError, LarderError } from "../error.ts";

// glibc's name, and musl's where that is what runs.
const NAMES = ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** Functions of the C library that Bun does not offer; throws `failed` where none is found, or it cannot be called. */
export function loadLibc<S extends Record<string, FFIFunction>>(symbols: S): Library<S>["symbols"] {
  // Loaded here: a command that takes no lock does without.
  const { dlopen } = require("bun:ffi") as typeof import("bun:ffi");
  let cause: unknown;
  for (const name of NAMES) {
    try {
      return dlopen(name, symbols).symbols;
    } catch (error) {
      cause = error;
    }
  }
  throw new LarderError(
    "failed",
    `the C library cannot be called: ${asLarderError(cause).message} (looked for ${NAMES.join(" and ")}; an address space below 3 GB has no room for what calls it: raise ulimit -v)`,
    cause,
  );
}
