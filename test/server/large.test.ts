import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Socket } from "node:net";
import { Catalogue, digest } from "../cli/catalogue.ts";
import { larder, TemporaryFolder } from "../larder.ts";
import { Server } from "./server.ts";

const IMAGES = 20_000;

let folder: TemporaryFolder;
let server: Server;

beforeAll(async () => {
  folder = new TemporaryFolder();
  using catalogue = Catalogue.create(folder.path);
  catalogue.db.transaction(() => {
    for (let i = 0; i < IMAGES; i++) catalogue.image({ reference: `acme/app:${i}`, manifest: digest(i + 1) });
  })();
  server = await Server.start(folder.path, { args: ["--allow-writes"] });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** Asks on many connections, and reads nothing but the status of each answer. */
async function askUnread(targets: string[]): Promise<Disposable & { statuses: number[] }> {
  const sockets: Socket[] = [];
  const statuses: number[] = [];
  for (const target of targets) {
    const socket = await server.connect();
    sockets.push(socket);
    const status = new Promise<number>((resolve) =>
      socket.once("data", (data) => {
        socket.pause();
        resolve(Number(/^HTTP\/1\.1 (\d+)/.exec(data.toString("latin1"))?.[1]));
      }),
    );
    socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`);
    statuses.push(await status);
  }
  const close = () => {
    for (const socket of sockets) socket.destroy();
  };
  return { statuses, [Symbol.dispose]: close };
}

describe("a list of 20,000 images", () => {
  test("is made once for all who ask while nothing changes, and anew afterwards", async () => {
    const first = await server.get("/v1/images");
    expect(first.text).toBe((await larder(folder.path, "list", "--format", "json")).stdout);
    const again = await server.get("/v1/images");
    expect([again.text === first.text, again.headers.get("etag")]).toEqual([true, first.headers.get("etag")]);
    expect([again.headers.get("content-type"), again.headers.get("content-length")]).toEqual([
      "application/json",
      String(Buffer.byteLength(first.text)),
    ]);
    const page = await server.get(`/v1/images?limit=${IMAGES - 1}`);
    expect([page.json().length, page.headers.has("link")]).toEqual([IMAGES - 1, true]);
    using catalogue = Catalogue.open(folder.path);
    catalogue.db.run("UPDATE image_ref SET reference = 'acme/app:new' WHERE reference = 'acme/app:0'");
    const changed = await server.get("/v1/images");
    expect([changed.text.includes('"acme/app:new"'), changed.json().length]).toEqual([true, IMAGES]);
  });

  test("takes its memory once, however many ask and do not read it", async () => {
    using unread = await askUnread(Array(100).fill("/v1/images"));
    expect(new Set(unread.statuses)).toEqual(new Set([200]));
    expect(server.memory()).toBeLessThan(256);
    expect((await server.get("/v1/images")).json()).toHaveLength(IMAGES);
  });

  test("is refused where many different ones wait to be read, and given again once they are gone", async () => {
    {
      using unread = await askUnread(Array.from({ length: 20 }, (_, i) => `/v1/images?limit=${IMAGES - i}`));
      expect(unread.statuses.slice(0, 8)).toEqual(Array(8).fill(200));
      expect(unread.statuses.slice(9)).toEqual(Array(11).fill(503));
      expect(server.memory()).toBeLessThan(256);
      const refused = await server.get("/v1/images");
      expect([refused.json().code, refused.headers.get("retry-after")]).toEqual(["overloaded", "1"]);
      // What is not large is answered all the same.
      expect((await server.get("/v1/images?limit=100")).json()).toHaveLength(100);
    }
    let answer = await server.get("/v1/images");
    for (let i = 0; i < 50 && answer.status !== 200; i++) answer = await server.get("/v1/images");
    expect(answer.json()).toHaveLength(IMAGES);
  });
});
