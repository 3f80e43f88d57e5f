import type { Loader } from "./command.ts";

/** The commands that look something up in the catalogue, and are run most; in the order of the help. */
export const READS: Record<string, Loader> = {
  get: () => import("./get.ts"),
  list: () => import("./list.ts"),
  inspect: () => import("./inspect.ts"),
};
