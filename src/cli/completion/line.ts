import type { Flag, Flags } from "../arguments.ts";
import { flagsOf, load, loadAll, ROOT_FLAGS } from "../command.ts";
import { COMMANDS, SERVE } from "../commands.ts";
import { SERVE_FLAG } from "../help.ts";

/** What can stand in one place: words to choose from, what the shell or the catalogue knows, or anything. */
export type Choice = readonly string[] | "file" | "folder" | "reference" | "anything";

/** A flag as a shell completes it. */
export interface Option {
  name: string;
  alias?: string;
  description: string;
  /** Absent where the flag takes no value. */
  value?: Choice;
  hint: string;
  repeats: boolean;
}

/** What can follow the name of a command, or of larder itself. */
export interface Context {
  /** The names by which it is called; none for larder itself. */
  names: string[];
  summary: string;
  options: Option[];
  operand: Choice;
}

/** Every context of the command line: that of larder itself first. */
export async function describeLine(): Promise<Context[]> {
  const commands = await loadAll(COMMANDS);
  const root: Context = {
    names: [],
    summary: "",
    options: optionsOf({ ...ROOT_FLAGS, serve: SERVE_FLAG }),
    operand: "anything",
  };
  return [
    root,
    ...[...commands, await load(SERVE)].map((command) => ({
      names: [command.name, ...(command.aliases ?? [])],
      summary: command.summary,
      options: optionsOf(flagsOf(command)),
      operand: operandOf(command.flags),
    })),
  ];
}

function optionsOf(flags: Flags): Option[] {
  return Object.entries(flags)
    .filter(([, flag]) => flag.type !== "positional")
    .map(([name, flag]) => ({
      name,
      ...(flag.alias !== undefined && { alias: flag.alias }),
      description: flag.description ?? "",
      ...(flag.type !== "boolean" && { value: choiceOf(flag) }),
      hint: flag.valueHint ?? name.toUpperCase(),
      repeats: flag.multiple === true,
    }));
}

function choiceOf(flag: Flag): Choice {
  if (flag.type === "enum") return flag.options;
  if (flag.valueHint === "FILE") return "file";
  return flag.valueHint === "DIR" ? "folder" : "anything";
}

function operandOf(flags: Flags): Choice {
  for (const [name, flag] of Object.entries(flags)) {
    if (flag.type !== "positional") continue;
    if (flag.options) return flag.options;
    return name.startsWith("reference") ? "reference" : "anything";
  }
  return "anything";
}
