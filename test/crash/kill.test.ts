import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { IS_LONG, PATIENCE, REFUSAL, Stands, sample } from "./bench.ts";
import { kill, trace } from "./injection.ts";
import { expectNothingLost, expectRecovery, expectReportedDone, readState, rowsOf } from "./invariants.ts";
import { SCENARIOS } from "./scenario.ts";

let stands: Stands;
let kills = 0;
const title = "leaves a consistent home wherever it is killed";

describe.skipIf(REFUSAL !== undefined)(`SIGKILL${REFUSAL ? ` (${REFUSAL})` : ""}`, () => {
  beforeAll(async () => {
    stands = await Stands.build();
  });
  afterAll(() => {
    stands[Symbol.dispose]();
    console.log(`${kills} kills${IS_LONG ? "" : " (a sample; LARDER_BENCH=long kills everywhere)"}`);
  });

  test.each(SCENARIOS)(
    `$name ${title}`,
    async (scenario) => {
      const { first } = stands;
      const repairs = scenario.name.startsWith("check");
      first.reset(scenario.home);
      const whole = await trace(first, scenario.args(first.input));
      expect(whole.stderr).not.toContain("larder:");
      expect(whole.code).toBe(scenario.code);
      const reached = new Map<string, number>();
      const changes = sample(
        whole.boundaries.filter(({ changes }) => changes),
        { names: 1, others: 16 },
      );
      // Both places number their paths alike, but not the home that they lie in.
      const at = changes.map((boundary) => ({ ...boundary, path: boundary.path.slice(first.root.length) }));
      const states: string[] = [];
      await stands.each(at, async (stand, place, index) => {
        const boundary = { ...place, path: stand.root + place.path };
        stand.reset(scenario.home);
        const before = readState(stand);
        const strike = await kill(stand, scenario.args(stand.input), boundary);
        const where = `${boundary.call} ${boundary.count} of ${boundary.path}`;
        try {
          expect(strike.struck).toBe(true);
          if (boundary.call === "unlink" && !boundary.fails) expect(existsSync(boundary.path)).toBe(true);
          const now = readState(stand);
          states[index] = rowsOf(now);
          expectNothingLost(stand, before, now, repairs);
          expectReportedDone(strike.stdout, now, stand.home);
          await expectRecovery(stand);
        } catch (error) {
          throw new Error(`killed before ${where}: ${error instanceof Error ? error.message : error}`, {
            cause: error,
          });
        }
        kills++;
      });
      // Each state is a whole step of the command, and none comes back once it has been left.
      states.forEach((state, index) => {
        if (!reached.has(state)) reached.set(state, index);
        else expect(states.slice(reached.get(state), index).every((between) => between === state)).toBe(true);
      });
      expect(reached.size).toBeLessThanOrEqual(scenario.states);
      first.reset(scenario.home);
    },
    PATIENCE,
  );
});
