import { asLarderError, exitCode, LarderError } from "../error.ts";
import { parseArguments, type Values } from "./arguments.ts";
import { type Command, flagsOf, type GLOBAL_FLAGS, type Loader, load, loadAll, ROOT_FLAGS } from "./command.ts";
import { complain, emit, print, say, sayLines } from "./terminal.ts";
import { describeBuild, NAME, VERSION } from "./version.ts";

/** What a program can do: its commands in the order of the help, and what listens. */
export interface Program {
  commands: Record<string, Loader>;
  serve?: Loader;
}

const ALIASES: Record<string, string> = { ls: "list", rm: "remove" };

// The command that was asked for, once it is known: its help is what a usage error points to.
let asked = "";

/** Runs the command line of this process, and ends the process with its exit code. */
export function start(program: Program): void {
  run(program, process.argv.slice(2)).then(
    (code) => process.exit(code),
    (error) => process.exit(report(error)),
  );
}

async function run({ commands, serve }: Program, argv: string[]): Promise<number> {
  const serving = argv.findIndex((word) => word === "--serve" || word.startsWith("--serve="));
  if (serving >= 0 && serve) return runServe(await load(serve), argv, serving);
  const root = parseArguments(ROOT_FLAGS, argv, true);
  const [name] = root.operands;
  if (name === undefined) return runRoot(commands, root.values);
  if (root.values.version) throw new LarderError("usage", "--version stands alone");
  const command = await findCommand(commands, name);
  // What stood before the command's name, a flag that every command has, counts as if it stood after it.
  const before = argv.slice(0, argv.length - root.rest.length - 1);
  return runCommand(command, [...before, ...root.rest]);
}

async function runCommand(command: Command, argv: string[]): Promise<number> {
  asked = command.name;
  const { values, operands } = parseArguments(flagsOf(command), argv);
  const globals = values as unknown as Values<typeof GLOBAL_FLAGS>;
  if (globals.help) {
    const { helpOf } = await import("./help.ts");
    await print(await helpOf(command));
    return 0;
  }
  const { makeCall } = await import("./call.ts");
  return (await command.run(makeCall(command, globals, operands))) ?? 0;
}

/** `--serve [ADDR]` is a command in a flag's clothes: its address is what stands behind it. */
function runServe(command: Command, argv: string[], at: number): Promise<number> {
  if (argv[at] === "--serve=") throw new LarderError("usage", "--serve= needs an address");
  const attached = argv[at]!.slice("--serve=".length);
  return runCommand(command, [...argv.slice(0, at), ...(attached ? [attached] : []), ...argv.slice(at + 1)]);
}

async function runRoot(commands: Program["commands"], values: Values<typeof ROOT_FLAGS>): Promise<number> {
  if (values.version) {
    await emit(values.format ?? "table", describeBuild(), () => `${NAME} ${VERSION}\n`);
    return 0;
  }
  const { helpOfRoot } = await import("./help.ts");
  const help = await helpOfRoot(await loadAll(commands));
  if (values.help) {
    await print(help);
    return 0;
  }
  sayLines(help);
  return exitCode("usage");
}

async function findCommand(commands: Program["commands"], name: string): Promise<Command> {
  const known = Object.hasOwn(ALIASES, name) ? ALIASES[name]! : name;
  if (Object.hasOwn(commands, known)) return load(commands[known]!);
  throw new LarderError(
    "usage",
    `unknown command ${JSON.stringify(name)} (known: ${Object.keys(commands).join(", ")})`,
  );
}

function report(thrown: unknown): number {
  const error = asLarderError(thrown);
  complain(error.message);
  if (error.code === "usage") say(`(${[NAME, asked, "--help"].filter(Boolean).join(" ")} shows what can be given)`);
  if (process.env.LARDER_DEBUG === "1")
    sayLines(String(error.stack) + (error.cause instanceof Error ? `\ncaused by ${error.cause.stack}` : ""));
  return exitCode(error.code);
}
