import { LarderError } from "../../error.ts";
import type { Larder } from "../../larder.ts";
import { PinWatch } from "../pins.ts";
import { checkArtifacts, type Progress } from "./artifacts.ts";
import { checkDatabase, isCorrupt } from "./database.ts";
import { checkImages } from "./images.ts";
import { type Problem, problem } from "./problem.ts";
import { checkStrays } from "./strays.ts";

export interface CheckOptions {
  /** Read every artifact, and the raw documents. */
  deep: boolean;
  /** Milliseconds; a younger file without a row may belong to work that is under way. */
  grace: number;
  progress?: Progress;
}

/** Compares catalogue and disk, and names every problem. Reads only. */
export function check(larder: Larder, { deep, grace, progress }: CheckOptions): Problem[] {
  const problems = [...checkDatabase(larder.db)];
  // From a damaged file nothing can be concluded: its rows may be anything.
  if (isCorrupt(problems)) return problems;
  for (const trouble of new PinWatch(larder).read().unreadable)
    problems.push(problem("pin-unreadable", "pins", trouble));
  problems.push(...checkImages(larder, deep), ...checkArtifacts(larder, deep, progress), ...checkStrays(larder, grace));
  return problems;
}

/** The problem that a catalogue which cannot even be opened stands for; what is no damage is thrown on. */
export function unopenable(error: unknown): Problem {
  if (error instanceof LarderError && error.code === "damaged") {
    return problem(error.cause === undefined ? "schema-unknown" : "database-corrupt", "database", error.message);
  }
  throw error;
}
