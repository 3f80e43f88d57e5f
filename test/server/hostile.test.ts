import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Store } from "../store.ts";
import { Server } from "./server.ts";

const WEB = "ghcr.io/acme/web:1";
const MIB = 1024 * 1024;

let store: Store;
let server: Server;

beforeAll(async () => {
  store = await Store.make({ web: { references: [WEB], layers: ["base", "web"] } });
  server = await Server.start(store.path, { args: ["--allow-writes"] });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  store[Symbol.dispose]();
});

/** That the server is as it was: it answers, and holds neither memory nor files of those who left. */
async function expectWell(server: Server): Promise<void> {
  expect([server.child.exitCode, server.child.signalCode]).toEqual([null, null]);
  expect((await server.get(`/v1/image?reference=${WEB}`)).json().reference).toBe(WEB);
  expect(server.memory()).toBeLessThan(400);
  const files = () => readdirSync(`/proc/${server.child.pid}/fd`).length;
  for (let i = 0; i < 200 && files() > 60; i++) await Bun.sleep(10);
  expect(files()).toBeLessThan(61);
}

const many = <T>(count: number, make: (i: number) => Promise<T>) =>
  Promise.all(Array.from({ length: count }, (_, i) => make(i)));
const statusOf = (text: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);

describe("a hostile client", () => {
  test.each<[string, string | Uint8Array, number]>([
    ["a TLS handshake", Buffer.from("160301020001000001fc0303", "hex"), 400],
    ["no Host", "GET /healthz HTTP/1.1\r\n\r\n", 400],
    ["a negative length", "POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400],
    ["a length that is no number", "POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Length: 1e9\r\n\r\n", 400],
    [
      "a length and chunks",
      "POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      400,
    ],
    ["a header of 100 KB", `GET /healthz HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(100_000)}\r\n\r\n`, 431],
    ["5,000 headers", `GET /healthz HTTP/1.1\r\nHost: x\r\n${"X: y\r\n".repeat(5000)}\r\n`, 431],
    ["a target of 100 KB", `GET /${"x".repeat(100_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, 431],
    ["an escape in its target", "GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n", 505],
    ["dots in its path", "GET /v1/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404],
    ["encoded dots", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404],
    ["dots in its reference", "GET /v1/image?reference=../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404],
    ["a Host that is a path", "GET /v1/gc HTTP/1.1\r\nHost: x/healthz?\r\n\r\n", 405],
    ["an absolute target", "GET http://elsewhere/nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404],
  ])("that sends %s is answered, and the next one too", async (_, bytes, status) => {
    expect(statusOf(await server.raw(bytes, (text) => text.includes("\r\n\r\n")))).toBe(status);
    await expectWell(server);
  });

  test("that puts `..` into a body reaches nothing outside of the cache", async () => {
    const outside = join(store.path, "precious");
    writeFileSync(outside, "data");
    const digest = "sha256:../../../../precious";
    const metadata = {
      manifest_digest: digest,
      config_digest: digest,
      config: {},
      layers: [{ digest, diff_id: digest }],
    };
    const put = await server.ask("PUT", "/v1/image?reference=evil:1", { body: JSON.stringify(metadata) });
    expect(put.status).toBe(422);
    const named = await server.ask("PUT", "/v1/image?reference=..%2F..%2Fprecious", { body: JSON.stringify(metadata) });
    expect(named.status).toBe(422);
    expect((await server.ask("PUT", "/v1/image?reference=..%2F..%2Fprecious")).status).toBe(422);
    expect((await server.ask("DELETE", "/v1/image?reference=..%2F..%2Fprecious&force=true")).status).toBe(404);
    expect((await server.post("/v1/prune", { unused: true, keep: ["../**"], dry_run: true })).status).toBe(200);
    expect(await Bun.file(outside).text()).toBe("data");
    await expectWell(server);
  });

  const remove = `DELETE /v1/image?reference=${WEB}&force=true HTTP/1.1\r\nHost: x\r\n\r\n`;
  const prune = (header: string, end: string) =>
    "POST /v1/prune HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" +
    `${header}\r\n20\r\n{"unused":true,"min_age":"0s"}  \r\n0\r\n${end}\r\n`;

  test.each([
    ["another request behind one that works in a thread", `${remove}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n`, 0],
    ["trailer fields", prune("", "X: y\r\n"), 400],
    ["the announcement of trailer fields", prune("Trailer: X\r\n", ""), 422],
  ])("that sends %s changes nothing", async (_, bytes, status) => {
    expect(statusOf(await server.raw(bytes))).toBe(status);
    // Whatever it began would be done before this.
    expect((await server.post("/v1/gc", { dry_run: true })).status).toBe(200);
    await expectWell(server);
  });

  test.each([
    ["deeply nested", "[".repeat(500_000)],
    ["nested in an object", `{"a":`.repeat(100_000)],
    ["of a huge number", `{"keep_last":1e${"9".repeat(1000)}}`],
    ["of many members", `{${Array.from({ length: 50_000 }, (_, i) => `"k${i}":1`).join(",")}}`],
    ["with half a character", '{"keep":["\\ud800"]}'],
  ])("that sends JSON %s gets a problem", async (_, body) => {
    const answer = await server.ask("POST", "/v1/prune", { body });
    expect([400, 422]).toContain(answer.status);
    expect(answer.headers.get("content-type")).toBe("application/problem+json");
    await expectWell(server);
  });

  test.each([
    ["POST /v1/gc", "announced", 413],
    ["POST /v1/gc", "chunked", 413],
    ["POST /nowhere", "announced", 404],
    ["GET /healthz", "chunked", 200],
  ])(
    "that sends 10 MiB with %s, %s, forty at once, is answered",
    async (start, how, status) => {
      const body = " ".repeat(10 * MIB);
      const head = `${start} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n`;
      const bytes =
        how === "announced"
          ? `${head}Content-Length: ${body.length}\r\n\r\n${body}`
          : `${head}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
      const answers = await many(40, () => server.raw(bytes));
      expect(new Set(answers.map(statusOf))).toEqual(new Set([status]));
      await expectWell(server);
    },
    30_000,
  );

  test("that announces more than is ever read is cut off", async () => {
    const head = "POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    const text = await server.raw(`${head}Content-Length: ${200 * MIB}\r\n\r\n{`, () => false);
    expect(statusOf(text)).toBe(413);
    await expectWell(server);
  });

  test("that cuts its requests off anywhere, a thousand times, leaves nothing behind", async () => {
    const whole =
      "POST /v1/prune HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n" +
      '{"unused":true,"dry_run":true,"keep":[]}';
    const cut = async (length: number) => {
      const socket = await server.connect();
      await new Promise<void>((resolve) => {
        socket.on("close", () => resolve());
        socket.write(whole.slice(0, length), () => socket.destroy());
      });
    };
    for (let round = 0; round < 10; round++) await many(100, (i) => cut(1 + ((i * 7 + round) % (whole.length - 1))));
    await expectWell(server);
    expect((await server.post("/v1/prune", { unused: true, dry_run: true })).status).toBe(200);
  });

  test("with 500 connections that say nothing, or half of it, keeps nobody else out", async () => {
    const open = await many(500, () => server.connect());
    for (const socket of open.filter((_, i) => i % 2 === 0)) socket.write("GET /healthz HTTP/1.1\r\nHo");
    try {
      const answers = await many(50, () => server.get("/v1/images"));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      expect(server.memory()).toBeLessThan(400);
    } finally {
      for (const socket of open) socket.destroy();
    }
    await expectWell(server);
  });

  test("with 500 requests at once is told when to come again, while probes are answered", async () => {
    const bodies = 300;
    // Each waits for its body, and counts as a request that runs.
    const head = "POST /v1/gc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    const open = await many(bodies, () => server.connect());
    await Promise.all(open.map((socket) => new Promise((resolve) => socket.resume().write(head, resolve))));
    let refused = await server.get("/v1/df");
    try {
      for (let i = 0; i < 100 && refused.status !== 503; i++) refused = await server.get("/v1/df");
      const { status, headers } = refused;
      expect([status, refused.json().code, headers.get("retry-after")]).toEqual([503, "overloaded", "1"]);
      expect((await server.get("/healthz")).status).toBe(200);
      expect((await server.get("/readyz")).status).toBe(200);
    } finally {
      for (const socket of open) socket.destroy();
    }
    for (let i = 0; i < 200 && refused.status !== 200; i++) refused = await server.get("/v1/df");
    expect(refused.status).toBe(200);
    await expectWell(server);
  });

  test("cannot make memory grow by asking, however much", async () => {
    // One that nobody has asked yet: what others have made it take would hide what this does.
    await using server = await Server.start(store.path, { address: `unix:${join(store.path, "own.sock")}` });
    const ask = async (requests: number) => {
      const request = "GET /v1/images HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere?a=1 HTTP/1.1\r\nHost: x\r\n\r\n";
      let answered = 0;
      const socket = await server.connect();
      await new Promise<void>((resolve) => {
        socket.on("close", () => resolve());
        let sent = 100;
        socket.on("data", (data) => {
          for (let at = data.indexOf("HTTP/1.1 "); at >= 0; at = data.indexOf("HTTP/1.1 ", at + 1)) answered++;
          if (answered >= requests) socket.destroy();
          else if (sent - answered < 50) {
            sent += 100;
            socket.write(request.repeat(50));
          }
        });
        socket.write(request.repeat(50));
      });
      expect(answered).toBeGreaterThanOrEqual(requests);
    };
    await ask(20_000);
    const before = server.memory();
    await ask(60_000);
    const after = server.memory();
    console.error(`memory: ${before.toFixed(0)} MiB, and ${after.toFixed(0)} MiB 60,000 requests later`);
    expect(after - before).toBeLessThan(64);
    await expectWell(server);
  });
});
