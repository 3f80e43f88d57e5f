import { dlopen, type FFIFunction, type Library } from "bun:ffi";
import { LarderError } from "../error.ts";

// glibc's name, and musl's where that is what runs.
const NAMES = ["libc.so.6", `libc.musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`];

/** Functions of the C library that Bun does not offer; throws `failed` where no C library is found. */
export function loadLibc<S extends Record<string, FFIFunction>>(symbols: S): Library<S>["symbols"] {
  for (const name of NAMES) {
    try {
      return dlopen(name, symbols).symbols;
    } catch {}
  }
  throw new LarderError("failed", `no C library was found (looked for ${NAMES.join(" and ")})`);
}
