import { hasTool } from "../tools.ts";
import { type Boundary, tracingRefused } from "./injection.ts";
import { Stand } from "./scenario.ts";

/** Whether to strike at every boundary with everything, and not at a sample that fits into `verify`. */
export const IS_LONG = process.env.LARDER_BENCH === "long";

/** Why nothing can be injected here, or undefined. A missing tool fails on CI; a missing privilege does not. */
export const REFUSAL = hasTool("strace") ? tracingRefused() : "strace is not installed";

/** Long enough for any machine: the bench is over when it is over. */
export const PATIENCE = { timeout: IS_LONG ? 7_200_000 : 600_000 };

/**
 * What to strike in the short form: of the calls that take away, move or make a name each `names`th, and of all others,
 * of which there are many alike, each `others`th.
 */
export function sample(boundaries: Boundary[], { names, others }: { names: number; others: number }): Boundary[] {
  const seen = new Map<string, number>();
  return boundaries.filter(({ call, changes }) => {
    // SQLite reads pages by the thousand, all alike: of these the long form leaves some out as well.
    if (IS_LONG && !call.includes("read")) return true;
    const isName = /^(unlink|rmdir|rename|mkdir)/.test(call);
    const kind = isName ? "name" : `${call} ${changes}`;
    const count = seen.get(kind) ?? 0;
    seen.set(kind, count + 1);
    return count % (isName ? names : others) === 0;
  });
}

const SHOWN = 40;

/** Places where homes are made, one for each thing that is done at a time. */
export class Stands implements Disposable {
  private constructor(private readonly stands: Stand[]) {}

  static async build(): Promise<Stands> {
    return new Stands([await Stand.build(), await Stand.build()]);
  }

  /** One of them, for what is done alone. */
  get first(): Stand {
    return this.stands[0]!;
  }

  /** Does `work` with every item, on each place one after the other, and throws all that failed at the end. */
  async each<T>(items: T[], work: (stand: Stand, item: T, index: number) => Promise<void>): Promise<void> {
    const failures: string[] = [];
    let next = 0;
    await Promise.all(
      this.stands.map(async (stand) => {
        for (let index = next++; index < items.length; index = next++) {
          try {
            await work(stand, items[index]!, index);
          } catch (error) {
            failures.push(error instanceof Error ? error.message : String(error));
          }
        }
      }),
    );
    if (failures.length > 0)
      throw new Error(`${failures.length} of ${items.length}:\n${failures.slice(0, SHOWN).join("\n")}`);
  }

  [Symbol.dispose](): void {
    for (const stand of this.stands) stand[Symbol.dispose]();
  }
}
