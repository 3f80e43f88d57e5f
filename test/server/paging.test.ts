import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Catalogue, digest } from "../cli/catalogue.ts";
import { larder, TemporaryFolder } from "../larder.ts";
import { Server } from "./server.ts";

// Rows as they come in the list: a tie of four, some alone, two undated, then the untagged, with a tie of their own.
const ROWS: [reference: string | null, created: string | null][] = [
  ["new:1", "2026-03-01 00:00:00"],
  ["tie:1", "2026-02-01 00:00:00.5"],
  ["tie:2", "2026-02-01 00:00:00.5"],
  ["tie:3", "2026-02-01 00:00:00.5"],
  ["tie:4", "2026-02-01 00:00:00.5"],
  // What cannot be read, has another form or lies closer than a millisecond: each in the place that its text gives it.
  ["damaged:1", "2026-01-32 00:00:00"],
  ["near:1", "2026-01-02 00:00:00.123456789"],
  ["near:2", "2026-01-02 00:00:00.123456700"],
  ["zulu:1", "2026-01-01 00:00:00Z"],
  ["nine:1", "2026-01-01 00:00:00.000000000"],
  ["old:1", "2026-01-01 00:00:00"],
  ["before:1970", "1969-12-31 23:59:59"],
  ["undated:1", null],
  ["undated:2", null],
  [null, "2026-02-02 00:00:00"],
  [null, "2026-02-02 00:00:00"],
  [null, null],
];

function fill(home: string): void {
  using catalogue = Catalogue.create(home);
  ROWS.forEach(([reference, created], i) => {
    catalogue.image({ reference, manifest: digest(i + 1), created });
  });
}

type Handle = { reference: string | null; digest: string };
const nameOf = ({ reference, digest }: Handle) => reference ?? digest;

/** Follows the Link headers to the end; `between` runs after each page. */
async function pages(server: Server, target: string, between = async (_page: number) => {}): Promise<string[][]> {
  const found: string[][] = [];
  for (let next: string | undefined = target; next !== undefined; ) {
    const answer = await server.get(next);
    expect(answer.status).toBe(200);
    found.push(answer.json().map(nameOf));
    next = /^<(.*)>; rel="next"$/.exec(answer.headers.get("link") ?? "")?.[1];
    await between(found.length);
  }
  return found;
}

describe("GET /v1/images, page by page", () => {
  const folder = new TemporaryFolder();
  let server: Server;
  let whole: string[];

  beforeAll(async () => {
    fill(folder.path);
    server = await Server.start(folder.path);
    whole = JSON.parse((await larder(folder.path, "list", "-a", "--format", "json")).stdout).map(nameOf);
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  test("has the rows of the whole list in its order", () => {
    expect(whole).toEqual(ROWS.map(([reference], i) => reference ?? digest(i + 1)));
  });

  test.each([1, 2, 3, 4, 5, 6, 16, 17, 18, 99999])("gives each row once, %d at a time", async (limit) => {
    const found = await pages(server, `/v1/images?all=true&limit=${limit}`);
    expect(found.flat()).toEqual(whole);
    expect(found).toHaveLength(Math.ceil(whole.length / limit));
    expect(found.slice(0, -1).every((page) => page.length === limit)).toBe(true);
  });

  test("gives each row once where a time is no text, or none that can be told", async () => {
    using other = new TemporaryFolder();
    fill(other.path);
    {
      using catalogue = Catalogue.open(other.path);
      catalogue.db.run("UPDATE image_ref SET created_at = CAST(X'80' AS TEXT) WHERE reference = 'tie:2'");
      catalogue.db.run("UPDATE image_ref SET created_at = X'80' WHERE reference = 'tie:3'");
      catalogue.db.run("UPDATE image_ref SET created_at = hex(zeroblob(100000)) WHERE reference = 'tie:4'");
      catalogue.db.run("UPDATE image_ref SET created_at = 'früher' WHERE reference = 'old:1'");
      catalogue.db.run("UPDATE image_ref SET created_at = created_at || char(0) WHERE reference = 'new:1'");
      catalogue.db.run("UPDATE image_ref SET created_at = char(0) || created_at WHERE reference = 'near:1'");
    }
    await using server = await Server.start(other.path);
    const whole = (await server.get("/v1/images?all=true")).json().map(nameOf);
    expect((await pages(server, "/v1/images?all=true&limit=1")).flat()).toEqual(whole);
    expect(whole).toHaveLength(ROWS.length);
  });

  test("keeps its filters from page to page", async () => {
    const found = await pages(server, "/v1/images?reference=tie:*&reference=undated:%2A&pinned=false&limit=2");
    expect(found).toEqual([
      ["tie:1", "tie:2"],
      ["tie:3", "tie:4"],
      ["undated:1", "undated:2"],
    ]);
  });

  test("says nothing of a next page where there is none", async () => {
    expect((await server.get("/v1/images?all=true&limit=17")).headers.get("link")).toBeNull();
    expect((await server.get("/v1/images")).headers.get("link")).toBeNull();
  });

  test.each([
    ["limit=0", "limit"],
    ["limit=-1", "limit"],
    ["limit=1e3", "limit"],
    ["limit=100000", "limit"],
    ["limit=", "limit"],
    ["limit=2&limit=3", "limit"],
    ["cursor=", "cursor"],
    ["cursor=x", "cursor"],
    [`cursor=${Buffer.from("[true,0]").toString("base64url")}`, "cursor"],
    [`cursor=${Buffer.from("[true,0,1]").toString("base64url")}`, "cursor"],
    [`cursor=${Buffer.from("[1,0,1]").toString("base64url")}`, "cursor"],
    [`cursor=${Buffer.from("null").toString("base64url")}`, "cursor"],
    [`cursor=${"A".repeat(5000)}`, "cursor"],
  ])("refuses %s", async (query, what) => {
    const answer = await server.get(`/v1/images?${query}`);
    expect([answer.status, answer.json().code]).toEqual([422, "invalid"]);
    expect(answer.json().detail).toStartWith(`${what}: `);
  });

  test("loses no row and repeats none where rows go meanwhile, also the one that the cursor names", async () => {
    using other = new TemporaryFolder();
    fill(other.path);
    await using server = await Server.start(other.path);
    const gone = ["tie:2", "tie:3", "undated:1"];
    const found = await pages(server, "/v1/images?all=true&limit=1", async (page) => {
      const reference = whole[page - 1]!;
      if (!gone.includes(reference)) return;
      using catalogue = Catalogue.open(other.path);
      catalogue.db.query("DELETE FROM image_ref WHERE reference = ?").run(reference);
    });
    // A manifest that lost its name is an untagged one, further down.
    expect(found.flat().filter((name) => !name.startsWith("sha256:"))).toEqual(
      whole.filter((name) => !name.startsWith("sha256:")),
    );
    expect(new Set(found.flat()).size).toBe(found.flat().length);
    expect(found.flat().filter((name) => name.startsWith("sha256:"))).toHaveLength(6);
  });
});
