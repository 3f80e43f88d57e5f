import { describe, expect, test } from "bun:test";
import { closeSync, constants, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { TemporaryFolder } from "../larder.ts";

const REQUESTS = 4000;
// Together they are longer than what is kept.
const TARGET = `/nowhere?${"x".repeat(400)}`;

/** A server whose log goes to what is at a path. */
class Logging implements AsyncDisposable {
  private constructor(
    private readonly home: string,
    private readonly child: Bun.Subprocess,
  ) {}

  static async start(home: string, log: string): Promise<Logging> {
    const child = Bun.spawn(["sh", "-c", 'exec "$@" 2>>"$LOG"', "sh", EXECUTABLE, "--serve", "--home", home], {
      env: { PATH: process.env.PATH ?? "", LOG: log },
      stdio: ["ignore", "ignore", "ignore"],
    });
    const server = new Logging(home, child);
    while (child.exitCode === null && !(await server.isAnswered())) await Bun.sleep(10);
    return server;
  }

  async ask(requests: number): Promise<void> {
    for (let i = 0; i < requests; i++) expect((await this.fetch(TARGET)).status).toBe(404);
  }

  /** Ends the server as a service manager would, and gives its exit code; null where it does not end. */
  async stop(): Promise<number | null> {
    this.child.kill("SIGTERM");
    return Promise.race([this.child.exited, Bun.sleep(5000).then(() => null)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
  }

  private isAnswered(): Promise<boolean> {
    return this.fetch("/healthz").then(
      ({ ok }) => ok,
      () => false,
    );
  }

  private fetch(target: string): Promise<Response> {
    const unix = join(this.home, "run/larder.sock");
    return fetch(`http://larder${target}`, { unix, signal: AbortSignal.timeout(5000) });
  }
}

/** A pipe by name, which has a reader as long as it is held. */
class Pipe implements Disposable {
  readonly path: string;
  private readonly fd: number;

  constructor(folder: string) {
    this.path = join(folder, "pipe");
    Bun.spawnSync(["mkfifo", this.path]);
    this.fd = openSync(this.path, constants.O_RDWR);
  }

  /** Lets go of the pipe, and gives what comes out of it until nobody writes to it any more. */
  readAll(): Promise<string> {
    // Opened before the other is let go of: a pipe that has no reader for a moment breaks.
    const stdin = openSync(this.path, constants.O_RDONLY);
    const text = Bun.spawn(["cat"], { stdin }).stdout.text();
    closeSync(this.fd);
    closeSync(stdin);
    return text;
  }

  [Symbol.dispose](): void {
    try {
      closeSync(this.fd);
    } catch {}
  }
}

const countRequests = (text: string) =>
  text.split("\n").filter((line) => / request id=.* target="?\/nowhere/.test(line)).length;

describe("a log that goes to a pipe", () => {
  test("that nobody reads keeps no request waiting, nor SIGTERM", async () => {
    using folder = new TemporaryFolder();
    using pipe = new Pipe(folder.path);
    await using server = await Logging.start(folder.path, pipe.path);
    await server.ask(REQUESTS);
    expect(await server.stop()).toBe(0);
  }, 60_000);

  test("that is read late has what was kept, and how many lines were not", async () => {
    using folder = new TemporaryFolder();
    using pipe = new Pipe(folder.path);
    await using server = await Logging.start(folder.path, pipe.path);
    await server.ask(REQUESTS);
    const reading = pipe.readAll();
    await Bun.sleep(500);
    await server.ask(10);
    expect(await server.stop()).toBe(0);
    const text = await reading;
    // A second one where what was kept is not read yet when the last requests come.
    const gaps = [...text.matchAll(/(?<=\n)\S+ dropped lines=(\d+)\n/g)];
    const dropped = gaps.reduce((sum, [, lines]) => sum + Number(lines), 0);
    expect(countRequests(text) + dropped, gaps.join("")).toBe(REQUESTS + 10);
    const kept = gaps[0]!.index;
    expect([kept > 900_000, kept < 1_200_000]).toEqual([true, true]);
    expect(text).toEndWith(" stopping signal=SIGTERM\n");
  }, 60_000);
});

describe("a log that goes to a file", () => {
  test("is there to its last line when the server has ended", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "log");
    writeFileSync(path, "");
    await using server = await Logging.start(folder.path, path);
    await server.ask(1000);
    expect(await server.stop()).toBe(0);
    const text = readFileSync(path, "utf8");
    expect(countRequests(text)).toBe(1000);
    expect(text).toEndWith(" stopping signal=SIGTERM\n");
  });
});
