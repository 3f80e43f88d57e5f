import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import * as schemas from "../../src/server/schemas.ts";
import { larder, run, TemporaryFolder } from "../larder.ts";
import { at, digestOf, metadataOf, Store } from "../store.ts";
import { Server } from "./server.ts";

const WEB = "ghcr.io/acme/web:1";
const DB = "docker.io/library/db:1";

function makeStore(): Promise<Store> {
  return Store.make({
    web: { references: [WEB, "web=docker.io/library/web:latest"], layers: ["base", "web"], flat: "web root" },
    db: { references: [`db:1=${DB}`], layers: ["base", "db"] },
  });
}

/** What the command prints for the same question. */
async function printed(store: Store, ...args: string[]): Promise<string> {
  return (await larder(store.path, ...args, "--format", "json")).stdout;
}

describe("reading routes", () => {
  let store: Store;
  let server: Server;

  beforeAll(async () => {
    store = await makeStore();
    store.sandbox("box", "{}", "db");
    store.snapshotOnDisk("golden", JSON.stringify({ image: { manifest_digest: digestOf("web") } }));
    store.write("layers/stray.erofs", "stray");
    store.write(at.layer("missing"));
    server = await Server.start(store.path);
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    store[Symbol.dispose]();
  });

  test.each<[target: string, schema: v.GenericSchema, args: string[]]>([
    ["/v1/images", schemas.HandlesSchema, ["list"]],
    ["/v1/images?all=true", schemas.HandlesSchema, ["list", "-a"]],
    ["/v1/images?reference=ghcr.io/*/*", schemas.HandlesSchema, ["list", "--filter", "reference=ghcr.io/*/*"]],
    [
      "/v1/images?reference=web&reference=db:1",
      schemas.HandlesSchema,
      ["list", "--filter", "reference=web", "--filter", "reference=db:1"],
    ],
    ["/v1/images?pinned=true", schemas.HandlesSchema, ["list", "--filter", "pinned=true"]],
    ["/v1/images?pinned=false", schemas.HandlesSchema, ["list", "--filter", "pinned=false"]],
    ["/v1/images?untagged=true", schemas.HandlesSchema, ["list", "--filter", "untagged=true"]],
    ["/v1/images?until=0s", schemas.HandlesSchema, ["list", "--filter", "until=0s"]],
    ["/v1/images?until=7d", schemas.HandlesSchema, ["list", "--filter", "until=7d"]],
    ["/v1/images?label=a%3Db", schemas.HandlesSchema, ["list", "--filter", "label=a=b"]],
    [
      `/v1/images?digest=${digestOf("db").slice(7, 20)}`,
      schemas.HandlesSchema,
      ["list", "--filter", `digest=${digestOf("db").slice(7, 20)}`],
    ],
    [`/v1/image?reference=${WEB}`, schemas.HandleSchema, ["get", WEB]],
    [`/v1/image/detail?reference=${WEB}`, schemas.DetailSchema, ["inspect", WEB]],
    ["/v1/image/detail?reference=db:1", schemas.DetailSchema, ["inspect", "db:1"]],
    ["/v1/check", schemas.CheckSchema, ["check"]],
    ["/v1/check?deep=true&grace=1d", schemas.CheckSchema, ["check", "--deep", "--grace", "1d"]],
  ])("GET %s answers what the command prints", async (target, schema, args) => {
    const answer = await server.get(target);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(answer.text).toBe(await printed(store, ...args));
    expect(answer.text.length).toBeGreaterThan(2);
    v.assert(schema, answer.json());
  });

  test("the questions above tell images apart", async () => {
    const names = async (query: string) => {
      const handles: { reference: string }[] = (await server.get(`/v1/images?${query}`)).json();
      return handles.map(({ reference }) => reference).sort();
    };
    expect(await names("")).toEqual(["db:1", WEB, "web"]);
    expect(await names("reference=ghcr.io/*/*")).toEqual([WEB]);
    expect(await names("pinned=false")).toEqual([]);
    expect(await names("until=7d")).toEqual([]);
    expect(await names(`digest=${digestOf("db").slice(7, 20)}`)).toEqual(["db:1"]);
  });

  test("GET /v1/df answers what the command prints, free space aside", async () => {
    const steady = (report: { file_system: unknown }) => ({ ...report, file_system: null });
    const answer = await server.get("/v1/df");
    v.assert(schemas.DfSchema, answer.json());
    expect(steady(answer.json())).toEqual(steady(JSON.parse(await printed(store, "df"))));
    expect(answer.json().images).toHaveLength(2);
  });

  // The same image, by all the ways in which a client may write its reference.
  test.each([
    ["plain", WEB],
    ["by encodeURIComponent", encodeURIComponent(WEB)],
    ["with every character encoded", [...WEB].map((c) => `%${c.charCodeAt(0).toString(16)}`).join("")],
    ["in capitals", "ghcr.io%2Facme%2Fweb%3A1"],
  ])("GET /v1/image takes a reference %s", async (_, text) => {
    const answer = await server.get(`/v1/image?reference=${text}`);
    expect([answer.status, answer.json().reference]).toEqual([200, WEB]);
  });

  test.each([
    ["a tag outside ASCII", "web:t%C3%A4g%C3%A9", 'image not found: "web:tägé"'],
    ["a plus, which is a space", "a+b", 'image not found: "a b" (it is not a valid reference either)'],
    ["an encoded plus", "a%2Bb", 'image not found: "a+b" (it is not a valid reference either)'],
    ["dots", "../../../etc/passwd", 'image not found: "../../../etc/passwd" (it is not a valid reference either)'],
    ["a NUL", "web%00", 'image not found: "web\\u0000" (it is not a valid reference either)'],
    ["a newline", "web%0A", 'image not found: "web\\n" (it is not a valid reference either)'],
    ["quotes", "%22%27;DROP", 'image not found: "\\"\';DROP" (it is not a valid reference either)'],
  ])("GET /v1/image looks for %s", async (_, text, detail) => {
    const answer = await server.get(`/v1/image?reference=${text}`);
    expect([answer.status, answer.json().code, answer.json().detail]).toEqual([404, "not_found", detail]);
  });

  test("finds an image by its canonical reference, and by its digest where no name is left", async () => {
    expect((await server.get(`/v1/image?reference=${DB}`)).json().reference).toBe("db:1");
  });

  test("HEAD answers as GET does, without the body", async () => {
    const get = await server.get("/v1/images");
    const head = await server.ask("HEAD", "/v1/images");
    expect([head.status, head.text]).toEqual([200, ""]);
    for (const name of ["etag", "content-type", "content-length"])
      expect(head.headers.get(name)).toBe(get.headers.get(name)!);
  });

  test.each([["/healthz"], ["/readyz"]])("GET %s answers that all is well", async (target) => {
    const answer = await server.get(target);
    v.assert(schemas.StatusSchema, answer.json());
    expect([answer.status, answer.headers.get("etag")]).toEqual([200, null]);
  });

  test("curl reaches it over the unix socket", async () => {
    const child = Bun.spawn(
      [
        "curl",
        "-sS",
        "--unix-socket",
        server.socket,
        "-G",
        "--data-urlencode",
        `reference=${WEB}`,
        "http://larder/v1/image",
      ],
      { stdout: "pipe" },
    );
    expect(await child.stdout.text()).toBe(await printed(store, "get", WEB));
    expect(await child.exited).toBe(0);
  });

  test("answers a request with an id of its own, which the log has too", async () => {
    const ids = await Promise.all([0, 1].map(async () => (await server.get("/healthz")).headers.get("x-request-id")));
    expect(ids[0]).toMatch(/^[0-9a-f]{8}-\d+$/);
    expect(ids[0]).not.toBe(ids[1]!);
    expect(await server.logged(`request id=${ids[1]} method=GET target=/healthz status=200`)).toBeString();
  });

  test("logs what was asked for as one quoted field, as often as it is asked for", async () => {
    for (let i = 0; i < 2; i++) {
      const { headers } = await server.get("/v1/image?reference=a%20b");
      const line = `id=${headers.get("x-request-id")} method=GET target="/v1/image?reference=a%20b" status=404`;
      expect(await server.logged(line)).toBeString();
    }
  });
});

describe("a server that only reads", () => {
  const REFUSED: [method: string, target: string, body: unknown][] = [
    ["PUT", `/v1/image?reference=${WEB}`, undefined],
    ["DELETE", `/v1/image?reference=${WEB}&force=true`, undefined],
    ["POST", "/v1/gc", {}],
    ["POST", "/v1/prune", { unused: true }],
    ["POST", "/v1/repair", {}],
  ];
  let store: Store;
  let server: Server;

  beforeAll(async () => {
    store = await makeStore();
    store.write("layers/stray.erofs", "stray");
    server = await Server.start(store.path);
    // The first to read makes SQLite's own files.
    await server.get("/v1/images");
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    store[Symbol.dispose]();
  });

  test.each(REFUSED)("refuses %s %s, and changes nothing", async (method, target, body) => {
    const before = store.fingerprint();
    const answer = await server.ask(method, target, body === undefined ? {} : { body: JSON.stringify(body) });
    expect([answer.status, answer.json().code]).toEqual([403, "forbidden"]);
    expect(store.fingerprint()).toEqual(before);
  });

  test("refuses a batch, and changes nothing", async () => {
    const before = store.fingerprint();
    const body = `${JSON.stringify({ reference: "new:1", metadata: metadataOf("new", ["base"]) })}\n`;
    const headers = { "content-type": "application/x-ndjson" };
    expect((await server.ask("POST", "/v1/images", { body, headers })).status).toBe(403);
    expect(store.fingerprint()).toEqual(before);
  });

  // Each with the body of the dry run, and the command that prints the same plan.
  test.each<[method: string, target: string, body: unknown, schema: v.GenericSchema, args: string[]]>([
    ["POST", "/v1/gc", { dry_run: true }, schemas.GcSchema, ["gc", "--dry-run"]],
    [
      "POST",
      "/v1/gc",
      { dry_run: true, layers_only: true, grace: "0s" },
      schemas.GcSchema,
      ["gc", "--dry-run", "--layers-only", "--grace", "0s"],
    ],
    [
      "POST",
      "/v1/prune",
      { dry_run: true, unused: true, min_age: "0s" },
      schemas.PruneSchema,
      ["prune", "--dry-run", "--unused", "--min-age", "0s"],
    ],
    [
      "POST",
      "/v1/prune",
      { dry_run: true, older_than: "1d", keep_last: 2, max_size: "1GiB", keep: ["ghcr.io/**"], min_age: "1h" },
      schemas.PruneSchema,
      [
        ...["prune", "--dry-run", "--older-than", "1d", "--keep-last", "2", "--max-size", "1GiB"],
        ...["--keep", "ghcr.io/**", "--min-age", "1h"],
      ],
    ],
    [
      "POST",
      "/v1/prune",
      { dry_run: true, untagged: true, min_free: 1, high: "99%", low: "98%", sweep_unrecorded: true, grace: "1h" },
      schemas.PruneSchema,
      [
        ...["prune", "--dry-run", "--untagged", "--min-free", "1", "--high", "99%", "--low", "98%"],
        ...["--sweep-unrecorded", "--grace", "1h"],
      ],
    ],
    ["POST", "/v1/repair", { dry_run: true }, schemas.CheckSchema, ["check", "--repair", "--dry-run"]],
    [
      "DELETE",
      `/v1/image?reference=${WEB}&dry_run=true`,
      undefined,
      schemas.RemoveSchema,
      ["rm", "--dry-run", "--format=json", WEB],
    ],
  ])("shows the plan of %s %s %p as the command does", async (method, target, body, schema, args) => {
    const before = store.fingerprint();
    const answer = await server.ask(method, target, body === undefined ? {} : { body: JSON.stringify(body) });
    expect([answer.status, answer.headers.get("etag")]).toEqual([200, null]);
    v.assert(schema, answer.json());
    const { stdout } = await run([...args.filter((arg) => !arg.startsWith("--format")), "--format", "json"], {
      env: { MSB_HOME: store.path },
    });
    expect(answer.text).toBe(stdout);
    expect(store.fingerprint()).toEqual(before);
  });
});

describe("a server that writes", () => {
  async function serving(work: (store: Store, server: Server) => Promise<void>): Promise<void> {
    using store = await makeStore();
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    await work(store, server);
    expect(store.unsound()).toEqual([]);
  }

  test("PUT /v1/image persists from the cache's own file, as the command does", () =>
    serving(async (store, server) => {
      store.sql("DELETE FROM image_ref WHERE reference = ?", WEB);
      const answer = await server.ask("PUT", `/v1/image?reference=${encodeURIComponent(WEB)}`);
      expect([answer.status, answer.json()]).toEqual([
        200,
        { reference: WEB, canonical: WEB, digest: digestOf("web") },
      ]);
      v.assert(schemas.PersistedSchema, answer.json());
      expect(answer.text).toBe(
        JSON.stringify(JSON.parse(await printed(store, "persist", WEB))[0] ?? {}, null, 2).concat("\n"),
      );
      expect(store.rows().references).toContain(WEB);
    }));

  test("PUT /v1/image persists from its body, and what it holds is exact", () =>
    serving(async (store, server) => {
      const body = JSON.stringify(metadataOf("new", ["new"])).replace(
        '"size_bytes":100',
        '"size_bytes":9007199254740993',
      );
      const answer = await server.ask("PUT", "/v1/image?reference=new:1", { body });
      expect([answer.status, answer.json().digest]).toEqual([200, digestOf("new")]);
      expect((await server.get("/v1/image/detail?reference=new:1")).text).toContain(
        '"compressed_size_bytes": 9007199254740993,',
      );
      expect((await server.get("/v1/image/detail?reference=new:1")).text).toBe(
        await printed(store, "inspect", "new:1"),
      );
    }));

  test("PUT /v1/image creates a home that is not there", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    await using server = await Server.start(home, { args: ["--allow-writes"], address: `unix:${folder.path}/s` });
    const ask = (target: string, init: RequestInit = {}) =>
      fetch(`http://larder${target}`, { ...init, unix: join(folder.path, "s") });
    expect(await (await ask("/v1/images")).json()).toEqual([]);
    expect(await (await ask("/readyz")).json()).toEqual({ status: "ready, without a catalogue" });
    expect((await ask("/v1/image?reference=new:1")).status).toBe(404);
    expect((await ask("/v1/df")).status).toBe(200);
    expect(existsSync(home)).toBe(false);
    const body = JSON.stringify(metadataOf("new", ["base"]));
    const headers = { "content-type": "application/json" };
    expect((await ask("/v1/image?reference=new:1", { method: "PUT", body, headers })).status).toBe(200);
    expect((await (await ask("/v1/images")).json()) as unknown[]).toHaveLength(1);
    expect(server.child.exitCode).toBeNull();
  });

  test("POST /v1/images persists a batch, and names the lines that it refuses", () =>
    serving(async (store, server) => {
      const lines = [
        JSON.stringify({ reference: "one:1", metadata: metadataOf("one", ["base"]) }),
        "{",
        "",
        JSON.stringify({ reference: "Bad", metadata: metadataOf("two", ["base"]) }),
        JSON.stringify({ reference: "three:1", metadata: metadataOf("three", ["base", "three"]) }),
      ];
      const headers = { "content-type": "application/x-ndjson" };
      const answer = await server.ask("POST", "/v1/images", { body: lines.join("\n"), headers });
      expect(answer.status).toBe(200);
      v.assert(schemas.BatchSchema, answer.json());
      expect(answer.json().persisted.map(({ reference }: { reference: string }) => reference)).toEqual([
        "one:1",
        "three:1",
      ]);
      expect(answer.json().refused.map(({ line }: { line: number }) => line)).toEqual([2, 4]);
      expect(store.rows().references).toEqual([DB.split("/")[2]!, WEB, "one:1", "three:1", "web"].sort());
    }));

  test("POST /v1/images names the line of an image that would lose a layer, and PUT /v1/image refuses it", () =>
    serving(async (store, server) => {
      const fewer = metadataOf("web", []);
      const lines = [
        { reference: "more:1", metadata: metadataOf("more", ["base"]) },
        { reference: "web:2", metadata: fewer },
      ];
      const body = lines.map((line) => JSON.stringify(line)).join("\n");
      const headers = { "content-type": "application/x-ndjson" };
      const answer = (await server.ask("POST", "/v1/images", { body, headers })).json();
      expect(answer.persisted.map(({ reference }: { reference: string }) => reference)).toEqual(["more:1"]);
      expect(answer.refused).toEqual([
        { line: 2, message: expect.stringMatching(/^line 2: cannot put sha256:\w+ on record anew/) },
      ]);
      const refused = await server.ask("PUT", "/v1/image?reference=web:2", { body: JSON.stringify(fewer) });
      expect([refused.status, refused.json().code]).toEqual([422, "invalid"]);
      expect(store.rows().references).not.toContain("web:2");
    }));

  test("POST /v1/images refuses a body of mistakes alone, whole", () =>
    serving(async (store, server) => {
      const before = store.rows();
      const good = JSON.stringify({ reference: "one:1", metadata: metadataOf("one", ["base"]) });
      const headers = { "content-type": "application/x-ndjson" };
      const answer = await server.ask("POST", "/v1/images", { body: `${good}\n${"0\n".repeat(500_000)}`, headers });
      expect([answer.status, answer.json().code]).toEqual([422, "invalid"]);
      expect(answer.json().detail).toContain("the first: line 2: must be an object");
      expect(store.rows()).toEqual(before);
    }));

  test.each(["if-match", "if-none-match", "if-unmodified-since"])(
    "what changes heeds no %s, and does nothing",
    (name) =>
      serving(async (store, server) => {
        const before = store.rows();
        for (const [method, target, body] of [
          ["DELETE", "/v1/image?reference=db:1", undefined],
          ["PUT", "/v1/image?reference=new:1", JSON.stringify(metadataOf("new", []))],
          ["POST", "/v1/prune", '{"unused":true,"min_age":"0s"}'],
        ] as const) {
          const answer = await server.ask(method, target, { headers: { [name]: "*" }, ...(body && { body }) });
          expect([answer.status, answer.json().detail]).toEqual([422, `a ${method} heeds no ${name} here`]);
        }
        expect(store.rows()).toEqual(before);
      }),
  );

  test("DELETE /v1/image removes what its dry run named", () =>
    serving(async (store, server) => {
      const plan = (await server.ask("DELETE", "/v1/image?reference=db:1&dry_run=true")).json();
      expect(plan.files.length).toBeGreaterThan(0);
      const answer = await server.ask("DELETE", "/v1/image?reference=db:1&dry_run=false&force=false");
      expect(answer.status).toBe(200);
      v.assert(schemas.RemoveSchema, answer.json());
      expect(answer.json()).toEqual({ ...plan, dry_run: false });
      expect(store.rows().references).toEqual([WEB, "web"]);
      expect(store.files()).toEqual(store.filesOf("web"));
      expect((await server.get("/v1/image?reference=db:1")).status).toBe(404);
    }));

  test("DELETE /v1/image refuses a body, whose dry_run would not be heard", () =>
    serving(async (store, server) => {
      const before = store.files();
      for (const body of ['{"dry_run":true}', "{}", " "]) {
        const answer = await server.ask("DELETE", "/v1/image?reference=db:1", { body });
        expect([answer.status, answer.json().code]).toEqual([422, "invalid"]);
        expect(answer.json().detail).toContain("stands in the query");
      }
      const chunked = await server.raw(
        "DELETE /v1/image?reference=db:1 HTTP/1.1\r\nHost: larder\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
      );
      expect(chunked).toStartWith("HTTP/1.1 422 ");
      expect(store.rows().references).toContain("db:1");
      expect(store.files()).toEqual(before);
      const empty = await server.raw(
        "DELETE /v1/image?reference=db:1&dry_run=true HTTP/1.1\r\nHost: larder\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
      );
      expect(empty).toStartWith("HTTP/1.1 200 ");
    }));

  test("DELETE /v1/image refuses what is in use, and drops the name alone by force", () =>
    serving(async (store, server) => {
      store.sandbox("box", "{}", "db");
      const refused = await server.ask("DELETE", "/v1/image?reference=db:1");
      expect([refused.status, refused.json().code]).toEqual([409, "in_use"]);
      expect(refused.json().detail).toContain('in use by sandbox "box"');
      expect(store.rows().references).toContain("db:1");
      const forced = await server.ask("DELETE", "/v1/image?reference=db:1&force=true");
      expect(forced.status).toBe(200);
      v.assert(schemas.RemoveSchema, forced.json());
      expect(store.rows().manifests.sort()).toEqual(["db", "web"]);
      expect((await server.get("/v1/images?untagged=true")).json()[0].pinned_by).toEqual([
        { kind: "sandbox", name: "box" },
      ]);
    }));

  test("lists and single images tell where what is in use cannot be told", () =>
    serving(async (store, server) => {
      const lone = { pinned_by: [], damage: [] };
      expect((await server.get("/v1/image?reference=db:1")).json()).toMatchObject(lone);
      store.sandbox("broken", "{not json");
      const damage = [expect.stringContaining('pinned_by may lack something: sandbox "broken"')];
      for (const target of ["/v1/images", "/v1/images?limit=1", "/v1/images?reference=db:*"])
        expect((await server.get(target)).json()[0]).toMatchObject({ pinned_by: [], damage });
      for (const target of ["/v1/image?reference=db:1", "/v1/image/detail?reference=db:1"])
        expect((await server.get(target)).json()).toMatchObject({ pinned_by: [], damage });
      // One sentence an image, however many there are.
      for (const name of ["torn", "worn"]) store.sandbox(name, "{not json");
      const [image] = (await server.get("/v1/images")).json();
      expect(image.damage).toEqual([expect.stringMatching(/^pinned_by may lack something: .*, and 2 more$/)]);
    }));

  test("DELETE /v1/image refuses an ambiguous reference", () =>
    serving(async (store, server) => {
      await store.persist([{ reference: "library/web", metadata: metadataOf("web", ["base", "web"]) }]);
      const answer = await server.ask("DELETE", "/v1/image?reference=docker.io/library/web:latest");
      expect([answer.status, answer.json().code]).toEqual([409, "ambiguous"]);
    }));

  test("POST /v1/gc collects what its dry run named", () =>
    serving(async (store, server) => {
      store.write("layers/stray.erofs", "stray");
      store.sql("DELETE FROM image_ref WHERE reference = 'db:1'");
      rmSync(join(store.cache, at.metadata(DB)));
      const plan = (await server.post("/v1/gc", { dry_run: true })).json();
      const answer = await server.post("/v1/gc", {});
      expect(answer.status).toBe(200);
      v.assert(schemas.GcSchema, answer.json());
      expect(answer.json()).toEqual({ ...plan, dry_run: false });
      expect(store.files()).toEqual(store.filesOf("web"));
    }));

  test("POST /v1/gc takes no body for an empty one", () =>
    serving(async (store, server) => {
      expect((await server.ask("POST", "/v1/gc")).status).toBe(200);
      expect(store.files()).toEqual(store.filesOf("web", "db"));
    }));

  test("POST /v1/prune evicts by the policy in its body", () =>
    serving(async (store, server) => {
      const policy = { unused: true, keep: ["ghcr.io/**"], min_age: "0s" };
      const plan = (await server.post("/v1/prune", { ...policy, dry_run: true })).json();
      const answer = await server.post("/v1/prune", policy);
      expect(answer.status).toBe(200);
      v.assert(schemas.PruneSchema, answer.json());
      expect(answer.json()).toEqual({ ...plan, dry_run: false });
      expect(store.rows().references).toEqual([WEB]);
    }));

  test("POST /v1/repair mends what check named", () =>
    serving(async (store, server) => {
      store.sql("DELETE FROM image_ref WHERE reference = 'db:1'");
      store.sql("UPDATE layer SET erofs_size_bytes = 1 WHERE diff_id = ?", digestOf("web"));
      const found = (await server.get("/v1/check")).json();
      expect(found.problems.map(({ repair }: { repair: string }) => repair)).toContain("possible");
      const planned = await server.post("/v1/repair", { dry_run: true, deep: false });
      expect(planned.json().problems.map(({ repair }: { repair: string }) => repair)).toContain("planned");
      const answer = await server.post("/v1/repair", {});
      v.assert(schemas.CheckSchema, answer.json());
      expect(answer.json().problems.map(({ repair }: { repair: string }) => repair)).toContain("done");
    }));

  test("what gc may not sweep is said in the answer", () =>
    serving(async (store, server) => {
      store.sql("DELETE FROM image_ref");
      for (const table of ["manifest_layer", "config", "manifest", "layer"]) store.sql(`DELETE FROM ${table}`);
      const answer = await server.post("/v1/gc", {});
      v.assert(schemas.GcSchema, answer.json());
      expect([answer.status, typeof answer.json().unaccounted]).toEqual([200, "string"]);
      expect(store.files()).toEqual(store.filesOf("web", "db"));
      expect(readFileSync(join(store.cache, at.metadata(WEB)), "utf8")).toContain(digestOf("web"));
    }));
});
