import type { Flag, Flags } from "../src/cli/arguments.ts";
import { type Command, flagsOf, load, loadAll, ROOT_FLAGS } from "../src/cli/command.ts";
import { COMMANDS, SERVE } from "../src/cli/commands.ts";
import { EXAMPLES, EXITS, ROOT_EXITS, SERVE_FLAG } from "../src/cli/help.ts";
import { VERSION } from "../src/cli/version.ts";

/** The manual page larder(1), in man(7) macros, from the declarations of the commands. `date` is YYYY-MM-DD. */
export async function manualPage(date: string): Promise<string> {
  const commands = await loadAll(COMMANDS);
  return `${[
    `.TH LARDER 1 ${date} "larder ${VERSION}" "User Commands"`,
    ".SH NAME",
    "larder \\- keep the image store of a microsandbox host",
    ".SH SYNOPSIS",
    ".B larder",
    "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
    ".br",
    ".B larder \\-\\-serve",
    "[\\fIADDR\\fR] [\\fIOPTIONS\\fR]",
    ".SH DESCRIPTION",
    "larder keeps the SQLite catalogue of OCI images and the cache of layer artifacts beside it, of the home that",
    ".BR msb (1)",
    "uses too. Data goes to standard output, everything else to standard error. Nothing ever asks a question.",
    ".SH OPTIONS",
    ...flags({ ...ROOT_FLAGS, serve: SERVE_FLAG }),
    ".SH COMMANDS",
    ...commands.flatMap(describe),
    ".SH SERVING",
    ...describe(await load(SERVE)),
    ".SH EXIT STATUS",
    ...[...EXITS, ...ROOT_EXITS]
      .sort(([a], [b]) => a - b)
      .flatMap(([code, meaning]) => [".TP", `.B ${code}`, troff(meaning)]),
    ".SH ENVIRONMENT",
    ...term("MSB_HOME", "the home to act on, where \\-\\-home does not name one"),
    ...term("MSB_CONFIG_PATH", "the configuration to read, in place of the home's config.json"),
    ...term("LARDER_DEBUG", "with 1, failures are followed by a stack trace"),
    ...term("COLUMNS", "how wide a table on a terminal may be"),
    ".SH EXAMPLES",
    ...block(EXAMPLES),
    ".SH SEE ALSO",
    ".BR msb (1)",
  ].join("\n")}\n`;
}

function describe(command: Command): string[] {
  const { name, aliases = [], summary, details, examples, exits = [] } = command;
  return [
    `.SS ${[name, ...aliases].map(troff).join(", ")}${operandOf(command.flags)}`,
    `${troff(summary)}.`,
    ...(details === undefined ? [] : [".PP", ...block(details.split("\n"))]),
    ...flags(flagsOf(command)),
    ...(exits.length === 0 ? [] : [".PP", "Beyond what every command may exit with:"]),
    ...exits.flatMap(([code, meaning]) => [".TP", `.B ${code}`, troff(meaning)]),
    ".PP",
    ...block(examples),
  ];
}

function operandOf(flags: Flags): string {
  const found = Object.entries(flags).find(([, flag]) => flag.type === "positional");
  if (!found) return "";
  const [name, flag] = found;
  const text = `\\fI${troff(name.toUpperCase())}\\fR`;
  return ` ${flag.required === false ? `[${text}]` : text}`;
}

function flags(all: Flags): string[] {
  return Object.entries(all)
    .filter(([, flag]) => flag.type !== "positional")
    .flatMap(([name, flag]) => [
      ".TP",
      `${flag.alias === undefined ? "" : `\\fB\\-${flag.alias}\\fR, `}\\fB\\-\\-${troff(name)}\\fR${placeholder(name, flag)}`,
      troff(flag.description ?? "") + (flag.multiple ? " (may be repeated)" : ""),
    ]);
}

function placeholder(name: string, flag: Flag): string {
  if (flag.type === "boolean") return "";
  if (flag.type === "enum") return ` ${flag.options.map(troff).join("|")}`;
  return ` \\fI${troff(flag.valueHint ?? name.toUpperCase())}\\fR`;
}

function term(name: string, text: string): string[] {
  return [".TP", `.B ${name}`, text];
}

// Lines as they are, indented, in which nothing is filled.
function block(lines: readonly string[]): string[] {
  return [".RS 4", ".nf", ...lines.map(troff), ".fi", ".RE"];
}

// A backslash, a hyphen that is to be copied as one, and what a line may not begin with.
function troff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^(?=[.'])/, "\\&");
}
