import { parseArguments, type Values } from "./cli/arguments.ts";
import { type Command, type Format, flagsOf, type GLOBAL_FLAGS } from "./cli/command.ts";
import { COMMAND_NAMES, loadCommand, loadCommands, loadServe, ROOT_FLAGS } from "./cli/commands.ts";
import { complain, emit, print, say } from "./cli/terminal.ts";
import { describeBuild, NAME, VERSION } from "./cli/version.ts";
import { asLarderError, exitCode, LarderError } from "./error.ts";

// The command that was asked for, once it is known: its help is what a usage error points to.
let asked = "";

async function main(argv: string[]): Promise<number> {
  const serving = argv.findIndex((word) => word === "--serve" || word.startsWith("--serve="));
  if (serving >= 0) return runServe(argv, serving);
  const root = parseArguments(ROOT_FLAGS, argv, true);
  const [name] = root.operands;
  if (name === undefined) return runRoot(root.values);
  if (root.values.version) throw new LarderError("usage", "--version stands alone");
  const command = await findCommand(name);
  // What stood before the command's name counts as if it stood after it.
  const before = argv.slice(0, argv.length - root.rest.length - 1);
  return runCommand(command, [...before, ...root.rest]);
}

async function runCommand(command: Command, argv: string[]): Promise<number> {
  asked = command.name;
  const { values, operands } = parseArguments(flagsOf(command), argv);
  const globals = values as unknown as Values<typeof GLOBAL_FLAGS>;
  if (globals.help) {
    const { helpOf } = await import("./cli/help.ts");
    await print(await helpOf(command));
    return 0;
  }
  const { makeCall } = await import("./cli/call.ts");
  return (await command.run(makeCall(command, globals, operands))) ?? 0;
}

/** `--serve [ADDR]` is a command in a flag's clothes: its address is what stands behind it. */
async function runServe(argv: string[], at: number): Promise<number> {
  const command = await loadServe();
  const attached = argv[at]!.slice("--serve=".length);
  return runCommand(command, [...argv.slice(0, at), ...(attached ? [attached] : []), ...argv.slice(at + 1)]);
}

async function runRoot(values: Values<typeof ROOT_FLAGS>): Promise<number> {
  if (values.version) {
    await emit((values.format as Format | undefined) ?? "table", describeBuild(), () => `${NAME} ${VERSION}\n`);
    return 0;
  }
  const { helpOfRoot } = await import("./cli/help.ts");
  const help = await helpOfRoot(await loadCommands());
  if (values.help) {
    await print(help);
    return 0;
  }
  say(help);
  return exitCode("usage");
}

async function findCommand(name: string): Promise<Command> {
  const command = await loadCommand(name);
  if (command) return command;
  throw new LarderError("usage", `unknown command ${JSON.stringify(name)} (known: ${COMMAND_NAMES.join(", ")})`);
}

function report(thrown: unknown): number {
  const error = asLarderError(thrown);
  complain(error.message);
  if (error.code === "usage") say(`(${[NAME, asked, "--help"].filter(Boolean).join(" ")} shows what can be given)`);
  if (process.env.LARDER_DEBUG === "1")
    say(String(error.stack) + (error.cause instanceof Error ? `\ncaused by ${error.cause.stack}` : ""));
  return exitCode(error.code);
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => process.exit(report(error)),
);
