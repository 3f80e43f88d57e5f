import { asLarderError, exitCode, type LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import type { Flags, Values } from "./arguments.ts";

/** The flags of every command. */
export const GLOBAL_FLAGS = {
  home: { type: "string", valueHint: "DIR", description: "the home to act on; else MSB_HOME, else ~/.microsandbox" },
  format: {
    type: "enum",
    options: ["table", "json", "jsonl"],
    description: "how to print: a table for people, one JSON document, or JSON lines: one for each of a list",
  },
  help: { type: "boolean", alias: "h", description: "show this help" },
} as const satisfies Flags;

/** The flags that may stand where no command does. */
export const ROOT_FLAGS = {
  ...GLOBAL_FLAGS,
  version: { type: "boolean", description: "print name and version; with --format json what it was built of" },
} as const satisfies Flags;

export type Format = "table" | "json" | "jsonl" | "prometheus";

/** What a command is given to run with. */
export interface Call<F extends Flags> {
  flags: Values<F>;
  operands: string[];
  format: Format;
  home(): Home;
}

/** A command as a declaration. `run` returns the exit code, 0 if nothing. */
export interface Command<F extends Flags = Flags> {
  name: string;
  /** `program.ts` has them too, and for what looks up `main.ts`: there no command is loaded yet. */
  aliases?: string[];
  /** One line, for the list of commands. */
  summary: string;
  /** What a reader of its help must know beyond its flags. */
  details?: string;
  flags: F;
  /** How many operands it takes. */
  operands: { least: number; most: number };
  examples: string[];
  /** Exit codes beyond 0, 1, 2 and 75, each with what it means here. */
  exits?: [code: number, meaning: string][];
  run(call: Call<F>): Promise<number | undefined>;
}

/** Where a command is loaded from, when it is run. */
export type Loader = () => Promise<{ default: Command }>;

/** Loads one. */
export async function load(loader: Loader): Promise<Command> {
  return (await loader()).default;
}

/** Loads all of a program's commands, in their order. */
export function loadAll(loaders: Record<string, Loader>): Promise<Command[]> {
  return Promise.all(Object.values(loaders).map(load));
}

/** Declares a command; the flags' types reach `run` through here. */
export function defineCommand<const F extends Flags>(command: Command<F>): Command {
  return command as unknown as Command;
}

/** All flags that a command takes: its own, and those of every command where it has none of that name. */
export function flagsOf({ flags }: Command): Flags {
  return { ...flags, ...GLOBAL_FLAGS, ...(flags.format && { format: flags.format }) };
}

/** The exit code of several attempts: that of the first failure, else 0. */
export function firstFailure(errors: { code: LarderError["code"] }[]): number {
  return errors.length === 0 ? 0 : exitCode(errors[0]!.code);
}

/** Tries `attempt` on each item; failures are collected in order, and do not stop the rest. */
export function tryEach<I, O>(items: I[], attempt: (item: I) => O): { done: O[]; failed: LarderError[] } {
  const done: O[] = [];
  const failed: LarderError[] = [];
  for (const item of items) {
    try {
      done.push(attempt(item));
    } catch (error) {
      failed.push(asLarderError(error));
    }
  }
  return { done, failed };
}
