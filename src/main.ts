import { entry } from "./entry.ts";

// The executable holds larder twice: whole, and as a program of a third of the size that can only look up. The engine
// sets up all functions of a program before the first runs, which costs 5 MiB and up to a millisecond for the whole.
const [first, ...others] = process.argv.slice(2);
const isLookUp = ["list", "ls", "get", "inspect", "--version"].includes(first ?? "");
const program = isLookUp && !others.some((word) => word.startsWith("--serve")) ? "lookup" : "whole";

require(entry(program));
