import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { Catalogue, digest } from "../cli/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";
import { hasTool, installTools } from "../tools.ts";

const CONNECTIONS = 16;
const IMAGES = 100;
const TOKEN = "0123456789abcdef0123456789abcdef";
const HEADERS = { Authorization: `Bearer ${TOKEN}` };
const TARGETS = { "one image": "/v1/image?reference=acme/app:42", "list of 100": "/v1/images?limit=100" };

/** Requests a second over 16 connections, and the time in milliseconds that 99 of 100 are answered in. */
export interface Figures {
  perSecond: number;
  p99Ms: number;
}

/** Requests a second and latency, as wrk reports them. */
async function measure(url: string, seconds: number, headers: Record<string, string>): Promise<Figures> {
  const flags = Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
  const child = Bun.spawn(["wrk", "-t1", `-c${CONNECTIONS}`, `-d${seconds}s`, "--latency", ...flags, url]);
  const text = await child.stdout.text();
  if (/Non-2xx/.test(text)) throw new Error(`${url} was refused: ${text}`);
  const [, number, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  const scale = { us: 0.001, ms: 1, s: 1000 }[unit as "us" | "ms" | "s"];
  return { perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]), p99Ms: Number(number) * scale };
}

function fill(home: string): void {
  using catalogue = Catalogue.create(home);
  catalogue.db.transaction(() => {
    for (let i = 0; i < IMAGES; i++) catalogue.image({ reference: `acme/app:${i}`, manifest: digest(i + 1) });
  })();
}

/** Commits a small change over and over, a few thousand times a second, until it is stopped. */
function keepChanging(home: string): Disposable {
  const script = `
    import { Database } from "bun:sqlite";
    const db = new Database(process.argv[1], { readwrite: true });
    db.run("PRAGMA synchronous = OFF");
    const change = db.query("UPDATE manifest SET variant = ? WHERE id = 1");
    for (let i = 0; ; i++) { change.run(String(i)); if (i % 4 === 0) await Bun.sleep(1); }`;
  const child = Bun.spawn([process.execPath, "-e", script, join(home, "db", "msb.db")], { stderr: "inherit" });
  return { [Symbol.dispose]: () => child.kill() };
}

/** The answer by which a constant handler is measured: as long as the real one. */
function serveConstant(body: string): Disposable & { url: Promise<string> } {
  const script = `
    const body = ${JSON.stringify(body)};
    const headers = { "content-type": "application/json" };
    const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(body, { headers }) });
    console.log(server.url.origin);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  const url = child.stdout
    .getReader()
    .read()
    .then(({ value }) => new TextDecoder().decode(value).trim());
  return { url, [Symbol.dispose]: () => child.kill() };
}

async function serveLarder(home: string, token: string): Promise<AsyncDisposable & { url: string }> {
  const log = join(home, "log");
  const child = Bun.spawn([EXECUTABLE, "--serve", "127.0.0.1:0", "--token-file", token, "--home", home], {
    stderr: Bun.file(log),
  });
  while (child.exitCode === null) {
    const address = /address="?([^\s"]+)/.exec(await Bun.file(log).text())?.[1];
    if (address) return { url: `http://${address}`, [Symbol.asyncDispose]: () => stop(child) };
    await Bun.sleep(20);
  }
  throw new Error(`larder does not serve: ${await Bun.file(log).text()}`);
}

async function stop(child: Bun.Subprocess): Promise<void> {
  child.kill();
  await child.exited;
}

/** What of the endpoint was measured: a request, against a handler of the same Bun that answers with a constant. */
export interface Serving {
  request: string;
  constant: Figures;
  /** The catalogue stays as it is. */
  unchanged: Figures;
  /** Another process commits to it without a pause. */
  changed: Figures;
}

/** Measures the endpoint, over TCP and with a token, in turn with the constant: medians of so many rounds. */
export async function measureServing(rounds: number, seconds: number): Promise<Serving[]> {
  await installTools();
  if (!hasTool("wrk")) throw new Error("the bench of the endpoint needs wrk");
  using folder = new TemporaryFolder();
  const token = join(folder.path, "token");
  writeFileSync(token, TOKEN);
  chmodSync(token, 0o600);
  fill(folder.path);
  await using larder = await serveLarder(folder.path, token);
  const results: Serving[] = [];
  for (const [request, target] of Object.entries(TARGETS)) {
    const url = larder.url + target;
    const answer = await fetch(url, { headers: HEADERS });
    using constant = serveConstant(await answer.text());
    const base = await constant.url;
    const found: Record<"constant" | "unchanged" | "changed", Figures[]> = { constant: [], unchanged: [], changed: [] };
    for (let round = 0; round < rounds; round++) {
      found.constant.push(await measure(base, seconds, HEADERS));
      found.unchanged.push(await measure(url, seconds, HEADERS));
      using _ = keepChanging(folder.path);
      found.changed.push(await measure(url, seconds, HEADERS));
    }
    results.push({
      request,
      constant: median(found.constant),
      unchanged: median(found.unchanged),
      changed: median(found.changed),
    });
  }
  return results;
}

function median(figures: Figures[]): Figures {
  const middle = (of: (one: Figures) => number) => figures.map(of).sort((a, b) => a - b)[figures.length >> 1]!;
  return { perSecond: middle(({ perSecond }) => perSecond), p99Ms: middle(({ p99Ms }) => p99Ms) };
}
