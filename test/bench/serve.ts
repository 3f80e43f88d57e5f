import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { Catalogue, digest } from "../cli/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";
import { hasTool, installTools } from "../tools.ts";

// How fast the endpoint answers, against a handler of the same Bun that returns a constant, in turn on one machine:
//   bun test/bench/serve.ts [seconds a measurement] [rounds] [images on record]
// Ratios of requests a second; p99 over 16 connections. `changed` is while another process commits without a pause.

const SECONDS = Number(process.argv[2] ?? 3);
const ROUNDS = Number(process.argv[3] ?? 3);
const CONNECTIONS = 16;
const IMAGES = Number(process.argv[4] ?? 100);
const TOKEN = "0123456789abcdef0123456789abcdef";
const TARGETS = { "one image": "/v1/image?reference=acme/app:42", "list of 100": "/v1/images?limit=100" };

interface Figures {
  perSecond: number;
  p99Ms: number;
}

/** Requests a second and latency, as wrk reports them. */
async function measure(url: string, headers: Record<string, string> = {}): Promise<Figures> {
  const flags = Object.entries(headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
  const child = Bun.spawn(["wrk", "-t1", `-c${CONNECTIONS}`, `-d${SECONDS}s`, "--latency", ...flags, url]);
  const text = await child.stdout.text();
  if (/Non-2xx/.test(text) && !headers["If-None-Match"]) throw new Error(`${url} was refused: ${text}`);
  const [, number, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  const scale = { us: 0.001, ms: 1, s: 1000 }[unit as "us" | "ms" | "s"];
  return { perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]), p99Ms: Number(number) * scale };
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
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
function serveConstant(body: string): Bun.Subprocess & { url: Promise<string> } {
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
  return Object.assign(child, { url });
}

async function serveLarder(home: string, token: string): Promise<Bun.Subprocess & { url: string }> {
  const log = join(home, "log");
  const child = Bun.spawn([EXECUTABLE, "--serve", "127.0.0.1:0", "--token-file", token, "--home", home], {
    stderr: Bun.file(log),
  });
  for (;;) {
    const address = /address="?([^\s"]+)/.exec(
      await Bun.file(log)
        .text()
        .catch(() => ""),
    )?.[1];
    if (address) return Object.assign(child, { url: `http://${address}` });
    await Bun.sleep(20);
  }
}

await installTools();
if (!hasTool("wrk")) throw new Error("this bench needs wrk");
using folder = new TemporaryFolder();
const token = join(folder.path, "token");
writeFileSync(token, TOKEN);
chmodSync(token, 0o600);
fill(folder.path);
const larder = await serveLarder(folder.path, token);
const headers = { Authorization: `Bearer ${TOKEN}` };
const rows: string[][] = [["GET", "constant/s", "unchanged", "304", "changed", "p99 ms", "p99 changed"]];
for (const [name, target] of Object.entries(TARGETS)) {
  const response = await fetch(larder.url + target, { headers });
  const constant = serveConstant(await response.text());
  const base = await constant.url;
  const found: Record<"constant" | "unchanged" | "known" | "changed", Figures[]> = {
    constant: [],
    unchanged: [],
    known: [],
    changed: [],
  };
  for (let round = 0; round < ROUNDS; round++) {
    found.constant.push(await measure(base, headers));
    found.unchanged.push(await measure(larder.url + target, headers));
    const { headers: fresh } = await fetch(larder.url + target, { headers });
    found.known.push(await measure(larder.url + target, { ...headers, "If-None-Match": fresh.get("etag")! }));
    using _ = keepChanging(folder.path);
    found.changed.push(await measure(larder.url + target, headers));
  }
  constant.kill();
  const rate = (of: Figures[]) => median(of.map(({ perSecond }) => perSecond));
  const ratio = (of: Figures[]) => (rate(of) / rate(found.constant)).toFixed(2);
  const p99 = (of: Figures[]) => median(of.map(({ p99Ms }) => p99Ms)).toFixed(2);
  rows.push([
    name,
    rate(found.constant).toFixed(0),
    ratio(found.unchanged),
    ratio(found.known),
    ratio(found.changed),
    p99(found.unchanged),
    p99(found.changed),
  ]);
}
larder.kill();
await larder.exited;
for (const row of rows) console.log(row.map((cell) => cell.padEnd(13)).join(""));
