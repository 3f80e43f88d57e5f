import type { Loader } from "./command.ts";
import { READS } from "./reads.ts";

/** Every command, in the order of the help. Loaded one at a time: a command pays only for itself. */
export const COMMANDS: Record<string, Loader> = {
  persist: () => import("./persist.ts"),
  ...READS,
  remove: () => import("./remove.ts"),
  gc: () => import("./gc.ts"),
  prune: () => import("./prune.ts"),
  check: () => import("./check.ts"),
  df: () => import("./df.ts"),
  completion: () => import("./completion.ts"),
};

/** The command in a flag's clothes. */
export const SERVE: Loader = () => import("./serve.ts");
