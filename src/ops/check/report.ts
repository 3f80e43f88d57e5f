import { CachePaths } from "../../cache/paths.ts";
import { scanCache } from "../../cache/scan.ts";
import { type Code, unlessInterrupted } from "../../error.ts";
import type { Home } from "../../home.ts";
import { type Larder, openEmpty, openToRead, openToWrite, withLarder } from "../../larder.ts";
import { type CheckOptions, check, identify, unopenable } from "./check.ts";
import { type Mend, type Problem, problem, REMEDIES, refused } from "./problem.ts";
import { type Outcome, repair } from "./repair.ts";

/** What check prints: problems, and in a repair what became of each. */
export interface CheckReport {
  database: string;
  cache: string;
  deep: boolean;
  dry_run: boolean;
  problems: (Omit<Problem, "mend"> & {
    repair: "possible" | "planned" | "done" | "left" | null;
    /** What a repair does about it, or null. */
    remedy: string | null;
    /** Why a repair left it, or null. */
    left: string | null;
  })[];
  damage: number;
  notes: number;
  /** Of the first mend that failed, and was not merely left to what uses the file; or null. */
  failure: Code | null;
}

/** What a repair has not come to where it is stopped is left. */
export interface Examination extends CheckOptions {
  mends: boolean;
  dryRun: boolean;
}

/**
 * Checks a home, and mends it if that is asked for. Where there is no catalogue it is checked as an empty one; one that
 * cannot be opened for damage is a report with that one problem. Throws `interrupted` where it is stopped before it has
 * looked at everything; what a repair has mended by then is reported.
 */
export async function examine(home: Home, options: Examination): Promise<CheckReport> {
  const { deep, mends, dryRun } = options;
  const head = { database: home.database, cache: home.cache, deep, dry_run: dryRun };
  try {
    const reader = openToRead(home);
    if (!reader) return { ...head, ...describe(await checkLost(home, options), "possible") };
    const problems = await withLarder(reader, (larder) => check(larder, options));
    if (!mends || dryRun) return { ...head, ...describe(problems, mends ? "planned" : "possible") };
    // Opening to write changes a file already, and a damaged one must stay as it is.
    const writer = problems.some(({ mend }) => mend) ? openToWrite(home) : undefined;
    if (!writer) return { ...head, ...describeRepaired(problems, new Map(), problems) };
    return await withLarder(writer, async (larder) => {
      const outcomes = await repair(larder, problems, options);
      const after = await lookAgain(larder, options);
      return {
        ...head,
        ...(after ? describeRepaired(problems, outcomes, after) : describeStopped(problems, outcomes)),
      };
    });
  } catch (error) {
    return { ...head, ...describe([unopenable(error)], "possible") };
  }
}

// A second look, or undefined where the repair was stopped, or is while it looks.
async function lookAgain(larder: Larder, options: CheckOptions): Promise<Problem[] | undefined> {
  return options.stopped?.() ? undefined : await check(larder, options).catch(unlessInterrupted);
}

// Where there is no catalogue nothing is swept, and so nothing mended. That it is missing is damage whatever the age of
// the files: msb makes it first.
async function checkLost(home: Home, options: CheckOptions): Promise<Problem[]> {
  const problems = await withLarder(openEmpty(home), (larder) => check(larder, options));
  const cache = new CachePaths(home.cache);
  const isLost = scanCache(cache).some(({ path }) => !cache.isScratch(path));
  const leaves = "gc leaves it while there is no catalogue";
  const found = problems.map(({ mend: _, ...rest }) => refused(rest, leaves));
  if (!isLost || found.some(({ code }) => code === "catalogue-unaccounted")) return found;
  return [
    problem(
      "catalogue-unaccounted",
      "catalogue",
      `there is none at "${home.database}" (bring it back, or sweep all the same with larder gc --sweep-unrecorded)`,
    ),
    ...found,
  ];
}

type Described = CheckReport["problems"][number];
type Findings = Pick<CheckReport, "problems" | "damage" | "notes" | "failure">;

function describe(problems: Problem[], prospect: "possible" | "planned"): Findings {
  const described = problems.map(
    ({ mend, ...rest }): Described => ({ ...rest, repair: mend ? prospect : null, remedy: remedyOf(mend), left: null }),
  );
  return { problems: described, ...count(problems), failure: null };
}

// What counts in the end is what a second look finds: an artifact that was removed is missing until msb's next pull.
function describeRepaired(before: Problem[], outcomes: Map<Problem, Outcome>, after: Problem[]): Findings {
  const still = new Set(after.map(identify));
  const known = new Set(before.map(identify));
  const fresh = after.filter((problem) => !known.has(identify(problem)));
  // What the second look could not read, it cannot have found mended.
  const isSure = !fresh.some(({ code }) => code === "file-unreadable");
  const described = before.map((problem): Described => {
    const { mend, ...rest } = problem;
    const remedy = remedyOf(mend);
    const outcome = outcomes.get(problem);
    if (!still.has(identify(problem)) && (isSure || outcome?.mended))
      return { ...rest, repair: "done", remedy, left: null };
    return { ...rest, repair: "left", remedy, left: outcome && !outcome.mended ? outcome.reason : problem.advice };
  });
  const [failure = null] = before.flatMap((problem) => {
    const outcome = outcomes.get(problem);
    return still.has(identify(problem)) && outcome?.mended === false ? (outcome.code ?? []) : [];
  });
  return { problems: [...described, ...describe(fresh, "possible").problems], ...count(after), failure };
}

// Without a second look: what has been mended is known to be, and all else is as the first look found it.
function describeStopped(before: Problem[], outcomes: Map<Problem, Outcome>): Findings {
  const described = before.map((problem): Described => {
    const outcome = outcomes.get(problem);
    const { problems } = describe([problem], "possible");
    if (outcome?.mended) return { ...problems[0]!, repair: "done" };
    return { ...problems[0]!, ...(outcome && { repair: "left", left: outcome.reason }) };
  });
  // An artifact that was removed is missing until msb's next pull.
  const left = before.filter((problem) => !outcomes.get(problem)?.mended || problem.mend?.kind === "discard");
  const [failure = null] = Array.from(outcomes.values()).flatMap((each) => (each.mended ? [] : (each.code ?? [])));
  return { problems: described, ...count(left), failure };
}

function remedyOf(mend: Mend | undefined): string | null {
  return mend ? REMEDIES[mend.kind] : null;
}

function count(problems: Problem[]): { damage: number; notes: number } {
  const damage = problems.filter(({ severity }) => severity === "damage").length;
  return { damage, notes: problems.length - damage };
}
