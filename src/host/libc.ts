import type { FFIFunction, Library } from "bun:ffi";
import { LarderError } from "../error.ts";

// glibc's name, and musl's where that is what runs.
const NAMES = ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** Functions of the C library that Bun does not offer; throws `failed` where no C library is found. */
export function loadLibc<S extends Record<string, FFIFunction>>(symbols: S): Library<S>["symbols"] {
  // Loaded here: a command that takes no lock does without.
  const { dlopen } = require("bun:ffi") as typeof import("bun:ffi");
  for (const name of NAMES) {
    try {
      return dlopen(name, symbols).symbols;
    } catch {}
  }
  throw new LarderError("failed", `no C library was found (looked for ${NAMES.join(" and ")})`);
}
