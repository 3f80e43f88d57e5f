import { type ArgsDef, renderUsage } from "citty";
import type { Flag, Flags } from "./arguments.ts";
import { type Command, flagsOf, ROOT_FLAGS } from "./command.ts";
import { NAME, VERSION } from "./version.ts";

/** `--serve [ADDR]`, as a flag of larder itself. */
export const SERVE_FLAG = {
  type: "string",
  valueHint: "ADDR",
  description: "serve the same operations as a JSON endpoint (larder --serve --help)",
} as const satisfies Flag;

export const EXITS: [code: number, meaning: string][] = [
  [0, "done, or nothing to do"],
  [1, "failure"],
  [2, "usage: unknown command or flag"],
  [75, "busy: try again"],
];

export const ROOT_EXITS: [code: number, meaning: string][] = [
  [3, "not found"],
  [4, "in use"],
  [5, "damage found, or a catalogue that does not account for its cache"],
  [6, "target not reachable"],
];

export const EXAMPLES = [
  "larder list",
  "larder inspect --format json python:3.12",
  "larder --home /srv/msb rm --dry-run python:3.11",
];

/** The help of one command: its usage as citty renders it, then what to know, examples and exit codes. */
export async function helpOf(command: Command): Promise<string> {
  const usage = await renderUsage(
    {
      meta: { name: command.name, description: command.summary },
      args: forCitty(flagsOf(command)),
    },
    { meta: { name: NAME, version: VERSION } },
  );
  return sections([
    usage,
    command.details,
    `EXAMPLES\n\n${command.examples.map((line) => `  ${line}`).join("\n")}`,
    `EXIT CODES\n\n${exits([...EXITS, ...(command.exits ?? [])])}`,
  ]);
}

/** The help of larder itself. */
export async function helpOfRoot(commands: Command[]): Promise<string> {
  const usage = await renderUsage({
    meta: {
      name: NAME,
      version: VERSION,
      description: "Keeps the image store of a microsandbox host: its catalogue of OCI images and its cache of layers.",
    },
    args: forCitty({
      ...ROOT_FLAGS,
      serve: SERVE_FLAG,
    }),
    subCommands: Object.fromEntries(
      commands.map(({ name, aliases = [], summary }) => [
        name,
        { meta: { name, alias: aliases, description: summary } },
      ]),
    ),
  });
  return sections([
    usage,
    "Data goes to standard output, everything else to standard error. Nothing ever asks a question.",
    `EXAMPLES\n\n${EXAMPLES.map((line) => `  ${line}`).join("\n")}`,
    `EXIT CODES\n\n${exits([...EXITS, ...ROOT_EXITS])}`,
  ]);
}

// citty wants its option lists mutable, and changes none.
function forCitty(flags: Flags): ArgsDef {
  return flags as unknown as ArgsDef;
}

function exits(codes: [code: number, meaning: string][]): string {
  return codes
    .sort(([a], [b]) => a - b)
    .map(([code, meaning]) => `  ${String(code).padStart(3)}  ${meaning}`)
    .join("\n");
}

// citty colours regardless of what it writes to, and pads every line to the longest; help is plain text.
function sections(parts: (string | undefined)[]): string {
  const text = Bun.stripANSI(
    parts
      .filter((part) => part !== undefined)
      .map((part) => part.trimEnd())
      .join("\n\n"),
  );
  return `${text.replaceAll(/[ \t]+$/gm, "")}\n`;
}
