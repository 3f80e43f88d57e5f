import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Validator } from "@seriousme/openapi-schema-validator";
import { generate } from "openapi-typescript-codegen";
import * as v from "valibot";
import { ProblemSchema } from "../../src/server/schemas.ts";
import { TemporaryFolder } from "../larder.ts";
import { digestOf, metadataOf, Store } from "../store.ts";
import { read, Server } from "./server.ts";

const TOKEN = "a-token-of-more-than-thirty-two-characters";
const WEB = "ghcr.io/acme/web:1";

// What each operation may answer, in the tests' own words.
const DOCUMENTED: Record<string, number[]> = {
  "get /v1/images": [200, 304, 401, 403, 422, 500, 503],
  "post /v1/images": [200, 401, 403, 408, 413, 415, 422, 500, 503],
  "get /v1/image": [200, 304, 401, 403, 404, 422, 500, 503],
  "get /v1/image/detail": [200, 401, 403, 404, 422, 500, 503],
  "put /v1/image": [200, 401, 403, 404, 408, 413, 415, 422, 500, 503],
  "delete /v1/image": [200, 401, 403, 404, 409, 422, 500, 503],
  "post /v1/gc": [200, 401, 403, 408, 409, 413, 415, 422, 500, 503],
  "post /v1/prune": [200, 401, 403, 408, 409, 413, 415, 422, 500, 503],
  "get /v1/check": [200, 401, 403, 409, 422, 500, 503],
  "post /v1/repair": [200, 401, 403, 408, 409, 413, 415, 422, 500, 503],
  "get /v1/df": [200, 401, 403, 422, 500, 503],
  "get /healthz": [200, 403, 422, 500],
  "get /readyz": [200, 403, 422, 500, 503],
  "get /metrics": [200, 401, 403, 422, 500, 503],
  "get /openapi.json": [200, 401, 403, 422, 500, 503],
};
const OPERATIONS = Object.keys(DOCUMENTED).map((key) => key.split(" ") as [method: string, path: string]);
const WITH_BODY = OPERATIONS.filter(([method]) => method === "post" || method === "put");
const PROBES = ["/healthz", "/readyz"];

/** A TCP server of a store with two images, and a way to ask it. */
class Endpoint {
  private constructor(
    readonly store: Store,
    readonly server: Server,
    private readonly folder: TemporaryFolder,
  ) {}

  static async start(): Promise<Endpoint> {
    const store = await Store.make({
      web: { references: [WEB], layers: ["base", "web"] },
      db: { references: ["db:1=docker.io/library/db:1"], layers: ["base", "db"] },
    });
    const folder = new TemporaryFolder();
    const token = join(folder.path, "token");
    writeFileSync(token, `${TOKEN}\n`);
    chmodSync(token, 0o600);
    const args = ["--token-file", token, "--allow-writes"];
    return new Endpoint(store, await Server.start(store.path, { address: "127.0.0.1:0", args }), folder);
  }

  async ask(method: string, target: string, init: { body?: string; headers?: Record<string, string> } = {}) {
    const { body, headers = {} } = init;
    const response = await fetch(this.server.origin + target, {
      method: method.toUpperCase(),
      headers: { authorization: `Bearer ${TOKEN}`, ...headers },
      ...(body !== undefined && { body }),
    });
    return read(response);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
    this.store[Symbol.dispose]();
    this.folder[Symbol.dispose]();
  }
}

/** A target that the operation accepts. */
const targetOf = (path: string) =>
  path.startsWith("/v1/image") && path !== "/v1/images" ? `${path}?reference=db:1` : path;
const typeOf = (path: string) => (path === "/v1/images" ? "application/x-ndjson" : "application/json");

describe("the OpenAPI document", () => {
  let endpoint: Endpoint;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads what it expects
  let document: any;

  beforeAll(async () => {
    endpoint = await Endpoint.start();
    document = (await endpoint.ask("get", "/openapi.json")).json();
  });
  afterAll(() => endpoint[Symbol.asyncDispose]());

  test("is valid OpenAPI 3.1 to a public validator", async () => {
    const validator = new Validator();
    const { valid, errors } = await validator.validate(structuredClone(document));
    expect({ valid, errors }).toEqual({ valid: true, errors: undefined });
    expect([validator.version, document.openapi]).toEqual(["3.1", "3.1.0"]);
  });

  test("names every operation and what it may answer", () => {
    const found: Record<string, number[]> = {};
    for (const [path, operations] of Object.entries<Record<string, { responses: object }>>(document.paths))
      for (const [method, { responses }] of Object.entries(operations))
        found[`${method} ${path}`] = Object.keys(responses).map(Number);
    expect(found).toEqual(DOCUMENTED);
  });

  test("gives each operation an id of its own", () => {
    const ids = Object.values<Record<string, { operationId: string }>>(document.paths).flatMap((path) =>
      Object.values(path).map(({ operationId }) => operationId),
    );
    expect(new Set(ids).size).toBe(OPERATIONS.length);
    expect(ids).toContain("getImageDetail");
  });

  test("says which parameters are required, and refuses others than it names", () => {
    const parameters = document.paths["/v1/image"].delete.parameters.map(
      ({ name, required }: { name: string; required: boolean }) => [name, required],
    );
    expect(parameters).toEqual([
      ["reference", true],
      ["force", false],
      ["dry_run", false],
    ]);
    const body = document.paths["/v1/prune"].post.requestBody.content["application/json"].schema;
    expect(body.additionalProperties).toBe(false);
    expect(Object.keys(body.properties)).toContain("older_than");
  });

  test("is what a public tool makes a client of, which works on the server", async () => {
    using folder = new TemporaryFolder();
    await generate({ input: document, output: folder.path, httpClient: "fetch", useOptions: true });
    // biome-ignore lint/suspicious/noExplicitAny: generated a moment ago
    const { DefaultService: client, OpenAPI, ApiError }: any = await import(join(folder.path, "index.ts"));
    OpenAPI.BASE = endpoint.server.origin;
    OpenAPI.TOKEN = TOKEN;
    expect(await client.getHealthz()).toEqual({ status: "ok" });
    const listed = await client.getImages({ reference: ["ghcr.io/*/*"], limit: "5" });
    expect(listed.map(({ reference }: { reference: string }) => reference)).toEqual([WEB]);
    expect((await client.getImage({ reference: WEB })).digest).toBe(digestOf("web"));
    expect((await client.getImageDetail({ reference: WEB })).layers).toHaveLength(2);
    expect(await client.putImage({ reference: "made:1", requestBody: metadataOf("made", ["base"]) })).toEqual({
      reference: "made:1",
      canonical: "docker.io/library/made:1",
      digest: digestOf("made"),
    });
    expect((await client.deleteImage({ reference: "made:1", dryRun: "true" })).removed).toHaveLength(1);
    expect((await client.deleteImage({ reference: "made:1" })).dry_run).toBe(false);
    expect((await client.postPrune({ requestBody: { untagged: true, dry_run: true } })).dry_run).toBe(true);
    expect((await client.postGc({ requestBody: {} })).files).toEqual([]);
    expect((await client.getCheck({ deep: "true" })).deep).toBe(true);
    expect((await client.getDf()).images).toHaveLength(2);
    const refused = await client.getImage({ reference: "made:1" }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(ApiError);
    expect([refused.status, refused.body.code]).toEqual([404, "not_found"]);
  });
});

describe("problems", () => {
  let endpoint: Endpoint;

  beforeAll(async () => {
    endpoint = await Endpoint.start();
  });
  afterAll(() => endpoint[Symbol.asyncDispose]());

  type Asked = Awaited<ReturnType<Endpoint["ask"]>>;

  /** RFC 9457's members, of the values that this problem has. */
  function expectProblem(answer: Asked, status: number, code: string, detail: string | RegExp): void {
    expect([answer.status, answer.headers.get("content-type")]).toEqual([status, "application/problem+json"]);
    const problem = answer.json();
    v.assert(v.strictObject(ProblemSchema.entries), problem);
    expect(problem).toMatchObject({ type: "about:blank", status, code });
    expect(problem.detail).toMatch(detail);
    expect(answer.headers.get("x-request-id")).toBe(problem.request_id);
    expect(answer.headers.get("etag")).toBeNull();
    expect(answer.headers.has("retry-after")).toBe(["busy", "running"].includes(code));
  }

  test.each(OPERATIONS.filter(([, path]) => !PROBES.includes(path)))("%s %s wants a token", async (method, path) => {
    for (const authorization of ["", "Bearer", `Bearer ${TOKEN.slice(1)}`, `Basic ${TOKEN}`, `Bearer ${TOKEN}x`]) {
      const answer = await endpoint.ask(method, targetOf(path), { headers: { authorization } });
      expectProblem(answer, 401, "unauthorized", "token");
      expect(answer.headers.get("www-authenticate")).toStartWith("Bearer");
    }
  });

  test.each(PROBES)("get %s wants no token", async (path) => {
    expect((await endpoint.ask("get", path, { headers: { authorization: "" } })).status).toBe(200);
  });

  test.each(OPERATIONS)("%s %s refuses a Host and an Origin of elsewhere", async (method, path) => {
    expectProblem(
      await endpoint.ask(method, targetOf(path), { headers: { host: "evil.example" } }),
      403,
      "forbidden",
      "Host",
    );
    for (const origin of ["http://evil.example", "null", "http://127.0.0.1:1"])
      expectProblem(await endpoint.ask(method, targetOf(path), { headers: { origin } }), 403, "forbidden", "Origin");
  });

  test.each(OPERATIONS)(
    "%s %s refuses a parameter that it does not know, or that is given twice",
    async (method, path) => {
      const target = targetOf(path);
      const also = target.includes("?") ? "&" : "?";
      expectProblem(await endpoint.ask(method, `${target}${also}bogus=1`), 422, "invalid", /^bogus: /);
      expectProblem(await endpoint.ask(method, `${target}${also}__proto__=1`), 422, "invalid", /^__proto__: /);
      expectProblem(await endpoint.ask(method, `${target}${also}x=1&x=2`), 422, "invalid", /^x: is given twice/);
    },
  );

  test.each(["/v1/image", "/v1/image/detail"])("get %s wants a reference", async (path) => {
    expectProblem(await endpoint.ask("get", path), 422, "invalid", /^reference: /);
    expectProblem(await endpoint.ask("get", `${path}?reference=`), 422, "invalid", /^reference: must not be empty/);
    expectProblem(await endpoint.ask("get", `${path}?reference=nobody:1`), 404, "not_found", "image not found");
  });

  test.each([
    ["PATCH", "/v1/images", "GET, HEAD, POST"],
    ["DELETE", "/v1/images", "GET, HEAD, POST"],
    ["POST", "/v1/image", "GET, HEAD, PUT, DELETE"],
    ["PUT", "/v1/image/detail", "GET, HEAD"],
    ["GET", "/v1/gc", "POST"],
    ["HEAD", "/v1/gc", "POST"],
    ["OPTIONS", "/v1/prune", "POST"],
    ["POST", "/v1/check", "GET, HEAD"],
    ["GET", "/v1/repair", "POST"],
    ["POST", "/v1/df", "GET, HEAD"],
    ["POST", "/healthz", "GET, HEAD"],
    ["PUT", "/metrics", "GET, HEAD"],
  ])("%s %s is not allowed", async (method, path, allow) => {
    const answer = await endpoint.ask(method, path);
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, allow]);
    if (method !== "HEAD") expectProblem(answer, 405, "method_not_allowed", method);
  });

  test.each([
    "/",
    "/v1",
    "/v1/",
    "/v1/images/",
    "/v1//images",
    "/v1/imag%65s",
    "/V1/images",
    "/v1/..%2fimages",
    "/v1/images/../../etc/passwd",
    "/constructor",
    "/__proto__",
  ])("GET %s is nowhere", async (path) => {
    expectProblem(await endpoint.ask("get", path), 404, "no_such_route", "openapi.json");
  });

  test.each(WITH_BODY.filter(([, path]) => path !== "/v1/images"))(
    "%s %s refuses what is not JSON",
    async (method, path) => {
      const headers = { "content-type": "application/json; charset=utf-8" };
      for (const body of ["{", "nul", '{"a":1,}', "\ufeff{}", "{} {}"]) {
        const answer = await endpoint.ask(method, targetOf(path), { body, headers });
        expectProblem(answer, 422, "invalid", /^(the body is|body: )/);
      }
    },
  );

  test.each(WITH_BODY)("%s %s refuses a body that is not UTF-8", async (method, path) => {
    const response = await fetch(endpoint.server.origin + targetOf(path), {
      method: method.toUpperCase(),
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": typeOf(path) },
      body: new Uint8Array([0x7b, 0xff, 0x7d]),
    });
    expectProblem(await read(response), 422, "invalid", "UTF-8");
  });

  test.each(WITH_BODY)("%s %s refuses another type, and an encoding", async (method, path) => {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"]) {
      const answer = await endpoint.ask(method, targetOf(path), { body: "{}", headers: { "content-type": type } });
      expectProblem(answer, 415, "unsupported_media", typeOf(path));
    }
    const headers = { "content-type": typeOf(path), "content-encoding": "gzip" };
    expectProblem(
      await endpoint.ask(method, targetOf(path), { body: "{}", headers }),
      415,
      "unsupported_media",
      "encoded",
    );
  });

  test.each(WITH_BODY)("%s %s refuses more than 1 MiB, announced or in chunks", async (method, path) => {
    const body = " ".repeat(1024 * 1024 + 1);
    const headers = { "content-type": typeOf(path) };
    expectProblem(await endpoint.ask(method, targetOf(path), { body, headers }), 413, "too_large", "1048576");
    const response = await fetch(endpoint.server.origin + targetOf(path), {
      method: method.toUpperCase(),
      headers: { authorization: `Bearer ${TOKEN}`, ...headers },
      body: new Blob([body]).stream(),
    });
    expectProblem(await read(response), 413, "too_large", "1048576");
  });

  test("POST /v1/gc takes a body of 1 MiB", async () => {
    const body = `{${" ".repeat(1024 * 1024 - 2)}}`;
    expect(
      (await endpoint.ask("post", "/v1/gc", { body, headers: { "content-type": "application/json" } })).status,
    ).toBe(200);
  });

  test.each<[method: string, target: string, body: unknown, detail: string]>([
    ["post", "/v1/gc", [], "document: "],
    ["post", "/v1/gc", null, "document: "],
    ["post", "/v1/gc", "x", "document: "],
    ["post", "/v1/gc", { grace: "soon" }, '"soon" is not a duration'],
    ["post", "/v1/gc", { grace: 5 }, "grace: "],
    ["post", "/v1/gc", { dry_run: "true" }, "dry_run: "],
    ["post", "/v1/gc", { dryRun: true }, "dryRun: "],
    ["post", "/v1/gc", JSON.parse('{"__proto__": {"dry_run": true}}'), "__proto__: "],
    ["post", "/v1/prune", {}, "prune needs a rule"],
    ["post", "/v1/prune", { older_than: "1y" }, '"1y" is not a duration'],
    ["post", "/v1/prune", { keep_last: -1 }, "keep_last: "],
    ["post", "/v1/prune", { keep_last: 1.5 }, "keep_last: "],
    ["post", "/v1/prune", { keep_last: 1_000_000 }, "keep_last: "],
    ["post", "/v1/prune", { keep_last: "1000000" }, "must be a whole number from 1 to 999999"],
    ["post", "/v1/prune", { keep_last: "many" }, '--keep-last is "many"'],
    ["post", "/v1/prune", { high: "90%" }, "--high and --low go together"],
    ["post", "/v1/prune", { unused: true, keep: "x" }, "keep: "],
    ["post", "/v1/repair", { deep: 1 }, "deep: "],
    ["put", "/v1/image?reference=Not%20one", metadataOf("x", ["base"]), "reference"],
    ["put", "/v1/image?reference=new:1", { manifest_digest: "md5:0" }, "body: manifest_digest"],
    ["put", "/v1/image?reference=new:1", [], "body"],
    ["get", "/v1/images?pinned=yes", undefined, "pinned: "],
    ["get", "/v1/images?until=soon", undefined, '"soon" is not a duration'],
    ["get", "/v1/images?label=", undefined, "label"],
    ["get", "/v1/check?deep=1", undefined, "deep: "],
    ["get", "/v1/check?grace=1", undefined, '"1" is not a duration'],
    ["delete", "/v1/image?reference=db:1&force=yes", undefined, "force: "],
  ])("%s %s of %j is invalid", async (method, target, body, detail) => {
    const before = endpoint.store.rows();
    const init =
      body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const answer = await endpoint.ask(method, target, init);
    expectProblem(answer, 422, "invalid", "");
    expect(answer.json().detail).toContain(detail);
    expect(endpoint.store.rows()).toEqual(before);
  });

  test("get /v1/image with a reference as long as a header may be finds nothing", async () => {
    expectProblem(await endpoint.ask("get", `/v1/image?reference=${"a".repeat(8000)}`), 404, "not_found", /"a{200}"/);
  });

  test("operations without their object are not found", async () => {
    expectProblem(await endpoint.ask("put", "/v1/image?reference=nobody:1"), 404, "not_found", "holds no metadata");
    expectProblem(await endpoint.ask("delete", "/v1/image?reference=nobody:1"), 404, "not_found", "image not found");
  });

  test("what runs alone refuses a second one, whatever it is, and runs again later", async () => {
    const targets: [string, string, string | undefined][] = [
      ["post", "/v1/gc", "{}"],
      ["post", "/v1/gc", '{"dry_run":true}'],
      ["post", "/v1/prune", '{"untagged":true}'],
      ["get", "/v1/check?deep=true", undefined],
      ["post", "/v1/repair", "{}"],
    ];
    const init = (body: string | undefined) =>
      body === undefined ? {} : { body, headers: { "content-type": "application/json" } };
    const ask = ([method, target, body]: (typeof targets)[number]) => endpoint.ask(method, target, init(body));
    // A stray to delete, and another writer: the gc waits for that to end, five seconds at most.
    endpoint.store.write("layers/stray");
    using other = endpoint.store.open();
    other.db.run("BEGIN IMMEDIATE");
    const first = ask(targets[0]!);
    await Bun.sleep(300);
    const answers = await Promise.all(targets.map(ask));
    other.db.run("ROLLBACK");
    for (const answer of answers) expectProblem(answer, 409, "running", /^a gc is running/);
    expect((await first).status).toBe(200);
    for (const [method, target, body] of targets)
      expect((await endpoint.ask(method, target, init(body))).status).toBe(200);
  });
});

describe("a home without a catalogue", () => {
  test.each<[method: string, target: string, body: string | undefined]>([
    ["GET", "/v1/image?reference=a", undefined],
    ["GET", "/v1/image/detail?reference=a", undefined],
    ["DELETE", "/v1/image?reference=a", undefined],
  ])("%s %s finds nothing", async (method, target, body) => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path, { args: ["--allow-writes"] });
    const answer = await server.ask(method, target, body === undefined ? {} : { body });
    expect([answer.status, answer.json().code]).toEqual([404, "not_found"]);
    expect((await server.get("/v1/images")).text).toBe("[]\n");
    expect((await server.get("/v1/images")).headers.get("etag")).toBeNull();
  });
});
