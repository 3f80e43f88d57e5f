import type { Flags } from "./arguments.ts";
import { type Command, GLOBAL_FLAGS } from "./command.ts";

type Loader = () => Promise<{ default: Command }>;

/** Every command, in the order of the help. Loaded one at a time: a command pays only for itself. */
const COMMANDS: Record<string, Loader> = {
  persist: () => import("./persist.ts"),
  get: () => import("./get.ts"),
  list: () => import("./list.ts"),
  inspect: () => import("./inspect.ts"),
  remove: () => import("./remove.ts"),
  gc: () => import("./gc.ts"),
  prune: () => import("./prune.ts"),
  check: () => import("./check.ts"),
  df: () => import("./df.ts"),
  completion: () => import("./completion.ts"),
};
const ALIASES: Record<string, string> = { ls: "list", rm: "remove" };

/** The names that a command may be called by, aliases apart. */
export const COMMAND_NAMES = Object.keys(COMMANDS);

/** The flags that may stand where no command does. */
export const ROOT_FLAGS = {
  ...GLOBAL_FLAGS,
  version: { type: "boolean", description: "print name and version; with --format json what it was built of" },
} as const satisfies Flags;

/** Loads a command by its name or alias; undefined for a name that is none. */
export async function loadCommand(name: string): Promise<Command | undefined> {
  const known = Object.hasOwn(ALIASES, name) ? ALIASES[name]! : name;
  return Object.hasOwn(COMMANDS, known) ? (await COMMANDS[known]!()).default : undefined;
}

/** Loads all commands, in the order of the help. */
export async function loadCommands(): Promise<Command[]> {
  const modules = await Promise.all(Object.values(COMMANDS).map((load) => load()));
  return modules.map(({ default: command }) => command);
}

/** Loads the command in a flag's clothes. */
export async function loadServe(): Promise<Command> {
  return (await import("./serve.ts")).default;
}
