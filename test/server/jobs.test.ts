import { describe, expect, test } from "bun:test";
import { fileURLToPath } from "node:url";
import type { Home } from "../../src/home.ts";
import { resolveHome } from "../../src/home.ts";
import { JobRunner, type Request, type Response } from "../../src/server/jobs.ts";
import { TemporaryFolder } from "../larder.ts";
import { Store } from "../store.ts";

const WORKER = fileURLToPath(new URL("../../src/server/worker.ts", import.meta.url));
const DYING = fileURLToPath(new URL("dying-worker.ts", import.meta.url));

describe("JobRunner", () => {
  test("gives what the operation gives, and its error with its code", async () => {
    using store = await Store.make({ web: { references: ["web:1=docker.io/library/web:1"], layers: ["base"] } });
    const runner = new JobRunner(resolveHome(store.path, {}));
    const [df, refused] = await Promise.allSettled([
      runner.run<{ images: unknown[] }>({ kind: "df" }),
      runner.run({ kind: "persist", reference: "nobody:1", metadata: null }),
    ]);
    expect(df.status === "fulfilled" && df.value.images.length).toBe(1);
    expect(refused.status === "rejected" && refused.reason).toMatchObject({ name: "LarderError", code: "not_found" });
  });

  test("gives up what has waited for others longer than for a lock", async () => {
    using store = await Store.make({ web: { references: ["web:1=docker.io/library/web:1"], layers: ["base"] } });
    const worker = new Worker(WORKER);
    const ask = (id: number, until: number) =>
      worker.postMessage({ id, until, home: resolveHome(store.path, {}), job: { kind: "df" } } satisfies Request);
    const answers: Response[] = [];
    const both = new Promise<void>((resolve) => {
      worker.onmessage = ({ data }) => {
        if (answers.push(data) === 2) resolve();
      };
    });
    ask(1, Date.now() - 1);
    ask(2, Number.POSITIVE_INFINITY);
    await both;
    worker.terminate();
    answers.sort((a, b) => a.id - b.id);
    expect(answers[0]).toMatchObject({ failure: { code: "busy", message: "others are at work; try again" } });
    expect(answers[1]).toHaveProperty("result");
  });

  test.each(["throw", "exit"])(
    "fails the jobs of a worker that dies by %s, and starts another for the next",
    async (how) => {
      using folder = new TemporaryFolder();
      const home = { root: folder.path, cache: how } as Home;
      const runner = new JobRunner(home, 60_000, DYING);
      const jobs = await Promise.allSettled([runner.run({ kind: "df" }), runner.run({ kind: "df" })]);
      expect(jobs.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
      for (const job of jobs) expect(String(job.status === "rejected" && job.reason)).toContain("the worker died");
      expect(await runner.run<string>({ kind: "df" })).toBe("alive");
    },
  );
});
