import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { IS_LONG, PATIENCE, REFUSAL, Stands, sample } from "./bench.ts";
import { type Boundary, fail, type Strike, trace } from "./injection.ts";
import { expectNothingLost, expectRecovery, expectReportedDone, readState, textOf } from "./invariants.ts";
import { SCENARIOS, type Stand } from "./scenario.ts";

const ERRORS = ["EIO", "ENOSPC", "EACCES", "EROFS", "EMFILE"];

let stands: Stands;
let faults = 0;
let tolerated = 0;

describe.skipIf(REFUSAL !== undefined)(`injected error${REFUSAL ? ` (${REFUSAL})` : ""}`, () => {
  beforeAll(async () => {
    stands = await Stands.build();
  });
  afterAll(() => {
    stands[Symbol.dispose]();
    console.log(
      `${faults} injected faults, ${tolerated} of them without any loss${IS_LONG ? "" : " (a sample; LARDER_BENCH=long injects every error everywhere)"}`,
    );
  });

  test.each(SCENARIOS)(
    "$name says what failed and loses nothing wherever a call fails",
    async (scenario) => {
      const { first } = stands;
      const repairs = scenario.name.startsWith("check");
      first.reset(scenario.home);
      const whole = await trace(first, scenario.args(first.input));
      expect(whole.code).toBe(scenario.code);
      const problems = new Set(problemsIn(whole.stdout, first.root));
      const finished = textOf(readState(first)).replaceAll(first.root, "");
      const places = sample(whole.boundaries, { names: 2, others: 40 }).map((boundary) => ({
        ...boundary,
        path: boundary.path.slice(first.root.length),
      }));
      // Each place gets every error in the long form, and one after the other in turn in the short one.
      const all = places.flatMap((place, i) =>
        (IS_LONG ? ERRORS : [ERRORS[i % ERRORS.length]!]).map((errno) => ({ place, errno })),
      );
      await stands.each(all, async (stand, { place, errno }) => {
        const boundary = { ...place, path: stand.root + place.path };
        const attempt = async () => {
          stand.reset(scenario.home);
          const before = readState(stand);
          return { before, strike: await fail(stand, scenario.args(stand.input), boundary, errno) };
        };
        let { before, strike } = await attempt();
        // How often larder looks whether a pull runs depends on how fast it gets on, and so does whether the last look comes.
        for (let tries = 1; !strike.struck && tries < 5; tries++) ({ before, strike } = await attempt());
        try {
          expect(strike.struck).toBe(true);
          const now = readState(stand);
          expectNothingLost(stand, before, now, repairs);
          expectReportedDone(strike.stdout, now, stand.home);
          const told = toldBy(strike, boundary, stand, problems);
          if (strike.code === scenario.code && !told) {
            if (textOf(now).replaceAll(stand.root, "") !== finished)
              throw new Error("it neither did its work nor said what failed");
            tolerated++;
          } else expect(told).toBe(true);
          await expectRecovery(stand);
        } catch (error) {
          throw new Error(
            `${errno} from ${boundary.call} ${boundary.count} of ${boundary.path} (exit code ${strike.code}, ${strike.stderr.trim()}): ${error instanceof Error ? error.message : error}`,
            { cause: error },
          );
        }
        faults++;
      });
    },
    PATIENCE,
  );
});

// Whether the command says what failed, with a path of the home. A check says it as a problem that it did not find
// without the fault.
function toldBy({ code, stdout, stderr }: Strike, boundary: Boundary, stand: Stand, known: Set<string>): boolean {
  if (/^\s+at .*[:(]\d+/m.test(stderr + stdout)) throw new Error("a stack trace was printed");
  if (code === undefined || code > 128) throw new Error("it crashed");
  // A lock that may not be opened may be held by its owner: what it guards is skipped, and the report says why.
  if (code === 0) return boundary.path.endsWith(".lock") && skippedFor(boundary.path, stdout);
  const complaints = stderr.split("\n").filter((line) => line.startsWith("larder: "));
  const isOutput = boundary.path === stand.stdout || boundary.path === stand.stderr;
  if (complaints.some((line) => isOutput || line.includes(stand.home))) return true;
  return problemsIn(stdout, stand.root).some((line) => !known.has(line) && /\/home\/|^database-corrupt/.test(line));
}

function skippedFor(lock: string, stdout: string): boolean {
  const { skipped = [] } = JSON.parse(stdout) as { skipped?: { reason: string }[] };
  return skipped.some(({ reason }) => reason.includes(lock));
}

// What a check found, and what a repair left for another reason than that it never mends it.
function problemsIn(stdout: string, root: string): string[] {
  if (stdout.trim() === "") return [];
  const { problems = [] } = JSON.parse(stdout) as { problems?: Record<"code" | "message" | "left", string | null>[] };
  return problems.flatMap(({ code, message, left }) =>
    [`${code} ${message}`, `${code} ${left}`].map((line) => line.replaceAll(root, "")),
  );
}
