import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { load, msb } from "../interop/msb.ts";
import { larder, TemporaryFolder } from "../larder.ts";
import { at, digestOf, metadataOf, Store } from "../store.ts";
import { Server } from "./server.ts";

function makeStore(): Promise<Store> {
  return Store.make({
    web: { references: ["ghcr.io/acme/web:1"], layers: ["base", "web"] },
    db: { references: ["db:1=docker.io/library/db:1"], layers: ["base", "db"] },
  });
}

async function tagOf(server: Server, target: string): Promise<string> {
  const { headers } = await server.get(target);
  const tag = headers.get("etag");
  expect(tag).toMatch(/^"[^"]+"$/);
  return tag!;
}

describe("ETag", () => {
  const LIST = "/v1/images";
  let store: Store;
  let server: Server;

  beforeAll(async () => {
    store = await makeStore();
    server = await Server.start(store.path, { args: ["--allow-writes"] });
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    store[Symbol.dispose]();
  });

  test.each([LIST, "/v1/images?limit=1", "/v1/images?pinned=false", "/v1/image?reference=db:1"])(
    "of %s gives 304 as long as nothing changes",
    async (target) => {
      const first = await server.get(target);
      const etag = first.headers.get("etag")!;
      for (const header of [etag, `W/${etag}`, `"other", ${etag}`, "*"]) {
        const again = await server.get(target, { "if-none-match": header });
        expect([again.status, again.text, again.headers.get("etag")]).toEqual([304, "", etag]);
      }
      const other = await server.get(target, { "if-none-match": '"other"' });
      expect([other.status, other.text]).toEqual([200, first.text]);
    },
  );

  test("of one answer makes no 304 of a problem", async () => {
    const etag = await tagOf(server, LIST);
    expect((await server.get("/v1/image?reference=nobody:1", { "if-none-match": etag })).status).toBe(404);
    expect((await server.get("/v1/images?bogus=1", { "if-none-match": etag })).status).toBe(422);
    expect((await server.get("/v1/images?limit=0", { "if-none-match": "*" })).status).toBe(422);
  });

  // What looks at the clock or at the cache may change although the catalogue does not.
  test.each([
    "/v1/images?until=0s",
    "/v1/images?%75ntil=0s",
    "/v1/images?unti%6C=0s&limit=1",
    "/v1/image/detail?reference=db:1",
    "/v1/df",
    "/v1/check",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
  ])("is not given with %s", async (target) => {
    const answer = await server.get(target);
    expect([answer.status, answer.headers.get("etag")]).toEqual([200, null]);
    expect((await server.get(target, { "if-none-match": "*" })).status).toBe(200);
  });

  test("is another one for every server", async () => {
    await using second = await Server.start(store.path, { address: `unix:${store.path}/second.sock` });
    const response = await fetch("http://larder/v1/images", { unix: join(store.path, "second.sock") });
    expect(response.headers.get("etag")).not.toBe(await tagOf(server, LIST));
    expect(second.child.exitCode).toBeNull();
  });

  // Each change by somebody, and how the answer then shows it.
  const CHANGES: [string, () => unknown, (text: string) => boolean][] = [
    ["the command persists", () => persistByCommand(), (text) => text.includes('"fresh:1"')],
    ["another process commits", () => store.sql("UPDATE manifest SET os = 'plan9'"), (text) => text.includes("plan9")],
    ["the command removes", () => larder(store.path, "rm", "fresh:1"), (text) => !text.includes("fresh:1")],
    [
      "the server itself persists",
      () => server.ask("PUT", "/v1/image?reference=own:1", { body: JSON.stringify(metadataOf("own", ["base"])) }),
      (text) => text.includes('"own:1"'),
    ],
    [
      "the server itself removes",
      () => server.ask("DELETE", "/v1/image?reference=own:1"),
      (text) => !text.includes("own:1"),
    ],
    ["a sandbox pins", () => store.sandbox("box", "{}", "db"), (text) => text.includes('"name": "box"')],
    [
      "a snapshot is made",
      () => store.snapshotOnDisk("golden", JSON.stringify({ image: { manifest_digest: digestOf("db") } })),
      (text) => text.includes('"name": "golden"'),
    ],
    [
      "a snapshot's descriptor is rewritten in its place",
      () =>
        writeFileSync(
          join(store.path, "snapshots/golden/snapshot.json"),
          JSON.stringify({ image: { manifest_digest: digestOf("x") } }),
        ),
      (text) => !text.includes('"name": "golden"'),
    ],
    [
      "a snapshot inside a group is made",
      () => store.snapshotOnDisk("group/deep", JSON.stringify({ image: { manifest_digest: digestOf("web") } })),
      (text) => text.includes('"name": "group/deep"'),
    ],
    [
      "the snapshots go",
      () => rmSync(join(store.path, "snapshots"), { recursive: true }),
      (text) => !text.includes("group/deep"),
    ],
  ];

  test.each(CHANGES)("changes at once where %s", async (_, change, shows) => {
    const before = await server.get(LIST);
    expect(shows(before.text)).toBe(false);
    const etag = before.headers.get("etag")!;
    await change();
    const after = await server.get(LIST, { "if-none-match": etag });
    expect([after.status, shows(after.text)]).toEqual([200, true]);
    expect(after.headers.get("etag")).not.toBe(etag);
    expect(after.text).toBe((await larder(store.path, "list", "--format", "json")).stdout);
  });

  async function persistByCommand(): Promise<void> {
    await store.persist([{ reference: "fresh:1", metadata: metadataOf("fresh", ["base"]) }]);
    expect(store.has(at.layer("base"))).toBe(true);
  }

  test("changes with each of many commits, and no answer lags behind", async () => {
    const seen: string[] = [];
    for (let i = 0; i < 300; i++) {
      store.sql("UPDATE manifest SET variant = ?", `v${i}`);
      seen.push((await server.get("/v1/image?reference=db:1")).json().variant);
    }
    expect(seen).toEqual(Array.from({ length: 300 }, (_, i) => `v${i}`));
  });

  test.each(["", " that has put something on record"])(
    "follows a backup that is copied over the catalogue, of a server%s",
    async (persists) => {
      using store = await makeStore();
      await using server = await Server.start(store.path, { args: ["--allow-writes"] });
      const backup = join(store.path, "backup");
      {
        using db = new Database(store.database);
        db.run("PRAGMA wal_checkpoint(TRUNCATE)");
      }
      copyFileSync(store.database, backup);
      if (persists !== "") {
        const body = JSON.stringify(metadataOf("own", ["base"]));
        expect((await server.ask("PUT", "/v1/image?reference=own:1", { body })).status).toBe(200);
        // The thread that writes keeps its connection for a second.
        await Bun.sleep(2000);
      }
      await store.persist([{ reference: "fresh:1", metadata: metadataOf("fresh", ["base"]) }]);
      const first = await server.get(LIST);
      expect(first.text).toContain('"fresh:1"');
      copyFileSync(backup, store.database);
      for (const suffix of ["-wal", "-shm"]) rmSync(`${store.database}${suffix}`, { force: true });
      const header = { "if-none-match": first.headers.get("etag")! };
      const after = await server.get(LIST, header);
      expect([after.status, after.text]).toEqual([200, (await larder(store.path, "list", "--format", "json")).stdout]);
      expect(after.json().map((one: { reference: string }) => one.reference)).toEqual(["ghcr.io/acme/web:1", "db:1"]);
      expect((await server.get("/v1/check")).json()).toMatchObject({ damage: 0 });
      const body = JSON.stringify(metadataOf("late", ["base"]));
      expect((await server.ask("PUT", "/v1/image?reference=late:1", { body })).status).toBe(200);
      expect((await server.get(LIST)).text).toContain('"late:1"');
    },
  );

  test("an answer too large to be kept gets 304 and a whole body alike", async () => {
    using store = await Store.make();
    await store.persist(
      Array.from({ length: 2500 }, (_, i) => ({ reference: `many:${i}`, metadata: metadataOf(`many ${i}`, ["base"]) })),
    );
    await using server = await Server.start(store.path);
    const first = await server.get(LIST);
    expect(first.text.length).toBeGreaterThan(1024 * 1024);
    const etag = first.headers.get("etag")!;
    expect((await server.get(LIST, { "if-none-match": etag })).status).toBe(304);
    expect((await server.get(LIST)).text).toBe(first.text);
  });
});

describe("a server beside msb", () => {
  test("shows at once what msb loads and removes", async () => {
    using folder = new TemporaryFolder();
    await load(folder.path, [{ tags: ["one:1"], layers: [{ files: { a: "1" } }] }]);
    await using server = await Server.start(folder.path);
    const names = async () =>
      (await server.get("/v1/images"))
        .json()
        .map((one: { reference: string }) => one.reference)
        .sort();
    expect(await names()).toEqual(["one:1"]);
    await load(folder.path, [{ tags: ["two:1"], layers: [{ files: { b: "1" } }] }]);
    expect(await names()).toEqual(["one:1", "two:1"]);
    expect((await msb(folder.path, "image", "rm", "one:1")).code).toBe(0);
    expect(await names()).toEqual(["two:1"]);
  }, 60_000);
});
