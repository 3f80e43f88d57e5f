import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { TemporaryFolder } from "../larder.ts";
import { Store } from "../store.ts";
import { hasTool } from "../tools.ts";
import { Server, slowly } from "./server.ts";

// What takes seconds by its nature; all of it at once.

const IMAGES = { web: { references: ["ghcr.io/acme/web:1"], layers: ["base", "web"] } };
const TOKEN = "0123456789abcdef0123456789abcdef";
const statusOf = (text: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);

describe("a slow client", () => {
  test.concurrent("that is slow with its body is told so, and one slow with its headers is cut off", async () => {
    using folder = new TemporaryFolder();
    const token = join(folder.path, "token");
    writeFileSync(token, TOKEN, { mode: 0o600 });
    await using tcp = await Server.start(folder.path, { address: "127.0.0.1:0", args: ["--token-file", token] });
    const port = Number(new URL(tcp.origin).port);
    /** Sends a beginning and then a character now and then, until the server ends it. */
    const drip = (start: string) =>
      new Promise<string>((resolve) => {
        let text = "";
        const socket = connect(port, "127.0.0.1", () => socket.write(start));
        const timer = setInterval(() => socket.write(" "), 500);
        socket.on("data", (data) => {
          text += data;
        });
        socket.on("error", () => {});
        socket.on("close", () => {
          clearInterval(timer);
          resolve(text);
        });
      });
    const authorized = `Host: localhost\r\nAuthorization: Bearer ${TOKEN}\r\n`;
    const body = `POST /v1/gc HTTP/1.1\r\n${authorized}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{`;
    const [slowBody, slowHeader, blanks] = await Promise.all([
      drip(body),
      drip("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "),
      drip(""),
    ]);
    expect(statusOf(slowBody)).toBe(408);
    expect(slowBody).toContain('"code":"too_slow"');
    expect([slowHeader, blanks].map(statusOf)).toEqual([0, 400]);
    expect((await fetch(`${tcp.origin}/healthz`)).status).toBe(200);
  }, 60_000);
});

describe("a client that says nothing more", () => {
  test.concurrent("is cut off, whatever it was answered", async () => {
    using folder = new TemporaryFolder();
    const token = join(folder.path, "token");
    writeFileSync(token, TOKEN, { mode: 0o600 });
    await using tcp = await Server.start(folder.path, { address: "127.0.0.1:0", args: ["--token-file", token] });
    /** Asks once, and gives the status when the server has closed the connection. */
    const ask = (target: string) =>
      new Promise<number>((resolve) => {
        let text = "";
        const socket = connect(Number(new URL(tcp.origin).port), "127.0.0.1", () =>
          socket.write(`GET ${target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n`),
        );
        socket.on("data", (data) => {
          text += data;
        });
        socket.on("close", () => resolve(statusOf(text)));
      });
    const targets = ["/v1/images", "/v1/image?reference=python:3.12", "/v1/images?cursor=x", "/nothing"];
    expect(await Promise.all(targets.map(ask))).toEqual([200, 404, 422, 404]);
  }, 60_000);
});

describe("a catalogue under a lock", () => {
  test.concurrent("that is locked is busy for writes, and is read all the same", async () => {
    using store = await Store.make(IMAGES);
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    using writer = new Database(store.database, { readwrite: true });
    writer.run("BEGIN IMMEDIATE");
    const answer = await server.ask("PUT", "/v1/image?reference=ghcr.io/acme/web:1");
    expect([answer.status, answer.json().code, answer.headers.get("retry-after")]).toEqual([503, "busy", "1"]);
    expect((await server.get("/v1/images")).status).toBe(200);
    writer.run("ROLLBACK");
    expect((await server.ask("PUT", "/v1/image?reference=ghcr.io/acme/web:1")).status).toBe(200);
  });
});

describe("work that takes longer than a client may be silent", () => {
  test.concurrent("is answered in the end", async () => {
    if (!hasTool("strace")) return;
    using store = await Store.make(IMAGES);
    store.write("layers/stray", "x");
    // The deletion of the stray takes 13 seconds.
    await using server = await Server.start(store.path, {
      args: ["--allow-writes"],
      under: slowly("unlink,unlinkat:delay_enter=13000000", { path: join(store.cache, "layers/stray") }),
    });
    const answer = await server.post("/v1/gc", {});
    expect([answer.status, answer.json().files.length]).toEqual([200, 1]);
  }, 60_000);
});
