import * as v from "valibot";
import { LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import { notify } from "../host/notify.ts";
import { openToRead } from "../larder.ts";
import { toJson } from "../output/json.ts";
import { Access } from "./access.ts";
import type { Address } from "./address.ts";
import { WarmHome } from "./catalogue.ts";
import { JobRunner } from "./jobs.ts";
import { Log } from "./log.ts";
import { Metrics } from "./metrics.ts";
import { HttpProblem, statusOf, toProblem } from "./problem.ts";
import { type Reply, ROUTES, type Route, type Services } from "./routes.ts";
import { SocketPlace } from "./socket.ts";

export interface ServeOptions {
  home: Home;
  address: Address;
  allowWrites: boolean;
  /** Mode of a unix socket. */
  socketMode: number;
  token: string | undefined;
  /** Names beyond loopback ones that a request may ask for. */
  hosts: string[];
  logFormat: "text" | "json";
  build: Record<string, string>;
}

const BODY_LIMIT = 1024 * 1024;
const CONCURRENT_LIMIT = 256;
const IDLE_SECONDS = 10;

/** Serves until SIGTERM or SIGINT, then drains; throws where it cannot listen. */
export async function serve(options: ServeOptions): Promise<void> {
  const { address, home } = options;
  const log = new Log(options.logFormat);
  const place = address.kind === "unix" ? new SocketPlace(address.path, options.socketMode) : undefined;
  const app = new App(options, log);
  const fetch = (request: Request) => app.answer(request);
  const server =
    address.kind === "tcp"
      ? Bun.serve({ fetch, idleTimeout: IDLE_SECONDS, hostname: address.host, port: address.port })
      : Bun.serve({ fetch, unix: place!.staged });
  place?.publish();
  log.write("listening", {
    address: place ? `unix:${place.path}` : `${server.hostname}:${server.port}`,
    database: home.database,
    cache: home.cache,
  });
  notify("READY=1");
  const signal = await new Promise<string>((resolve) => {
    // A terminal that goes away, or a manager that asks for a reload, stops nothing.
    process.on("SIGHUP", () => {});
    for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => resolve(name));
  });
  notify("STOPPING=1");
  log.write("stopping", { signal });
  app.stop();
  await server.stop(false);
  place?.[Symbol.dispose]();
  app.close();
  log.flush();
}

/** Answers requests: access, route, input, operation, and what became of it in the log and the metrics. */
class App {
  private readonly services: Services;
  private readonly access: Access;
  private readonly nonce = crypto.randomUUID().slice(0, 8);
  private readonly cache = new AnswerCache();
  private writes = 0;
  private active = 0;
  private lastId = 0;

  constructor(
    options: ServeOptions,
    private readonly log: Log,
  ) {
    const { home, address, token, hosts, allowWrites, build } = options;
    this.access = new Access(address, token, hosts);
    this.services = {
      catalogue: new WarmHome(home, openToRead),
      writer: new JobRunner(home),
      reader: new JobRunner(home),
      metrics: new Metrics(),
      build,
      allowWrites,
      running: undefined,
      openApi: lazily(async () => (await import("./openapi.ts")).describeRoutes(ROUTES, build.version ?? "0")),
    };
  }

  stop(): void {
    this.services.writer.stop();
    this.services.reader.stop();
  }

  close(): void {
    this.services.catalogue.close();
  }

  async answer(request: Request): Promise<Response> {
    const started = performance.now();
    const id = `${this.nonce}-${++this.lastId}`;
    const target = request.url.slice(request.url.indexOf("/", request.url.indexOf("//") + 2));
    const [path = "/"] = target.split("?", 1);
    const route = findRoute(request.method, path);
    this.active++;
    const response = await this.handle(request, target, path, route, id).catch((error) => this.fail(error, id));
    this.active--;
    response.headers.set("x-request-id", id);
    const ms = performance.now() - started;
    this.services.metrics.countRequest(route?.path ?? "none", request.method, response.status, ms / 1000);
    this.log.write("request", {
      id,
      method: request.method,
      target: target.slice(0, 500),
      status: response.status,
      ms: Math.round(ms * 100) / 100,
    });
    return request.method === "HEAD" ? new Response(null, response) : response;
  }

  private async handle(
    request: Request,
    target: string,
    path: string,
    route: Route | undefined,
    id: string,
  ): Promise<Response> {
    if (this.active > CONCURRENT_LIMIT)
      throw new HttpProblem("overloaded", `more than ${CONCURRENT_LIMIT} requests at once`);
    this.access.check(request, route?.isProbe === true);
    if (!route) throw refuseRoute(request.method, path);
    const tag = route.isCatalogue ? this.tagOf(target) : undefined;
    if (tag !== undefined && request.headers.get("if-none-match") === tag)
      return new Response(null, { status: 304, headers: { etag: tag } });
    const cached = tag && this.cache.get(target, tag);
    if (cached) return new Response(cached.body, { headers: cached.headers });
    const query = parseQuery(route.query, target.slice(path.length + 1));
    const body = route.body && (await readBody(request, route.body));
    const reply = await route.handle(this.services, query, body);
    if (request.method !== "GET" && request.method !== "HEAD") this.writes++;
    return this.write(reply, target, tag, id);
  }

  private write(reply: Reply, target: string, tag: string | undefined, _id: string): Response {
    if (reply.text) return new Response(reply.text.body, { headers: { "content-type": reply.text.type } });
    const body = toJson(reply.json);
    const headers = { "content-type": "application/json", ...(tag !== undefined && { etag: tag }), ...reply.headers };
    if (tag !== undefined) this.cache.set(target, tag, { body, headers });
    return new Response(body, { status: reply.status ?? 200, headers });
  }

  // An answer whose filter looks at the clock changes although the catalogue does not.
  private tagOf(target: string): string | undefined {
    if (target.includes("until=")) return undefined;
    const state = this.services.catalogue.state();
    return state === undefined ? undefined : `"${this.nonce}-${state}-${this.writes}"`;
  }

  private fail(error: unknown, id: string): Response {
    if (error instanceof HttpProblem) return toProblem(error, id);
    if (error instanceof LarderError) {
      if (statusOf(error.code) === 500) this.log.write("error", { id, error: error.stack ?? error.message });
      return toProblem(new HttpProblem(error.code, error.message), id);
    }
    this.log.write("error", { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    return toProblem(new HttpProblem("internal", "the log has the details, under the request id"), id);
  }
}

/** Bodies of unchanged answers, by what was asked; all of one state of the catalogue, and few. */
class AnswerCache {
  private tag = "";
  private readonly answers = new Map<string, { body: string; headers: Record<string, string> }>();

  get(target: string, tag: string): { body: string; headers: Record<string, string> } | undefined {
    return tag === this.tag ? this.answers.get(target) : undefined;
  }

  set(target: string, tag: string, answer: { body: string; headers: Record<string, string> }): void {
    if (tag !== this.tag || this.answers.size >= 256) this.answers.clear();
    this.tag = tag;
    if (answer.body.length < 256 * 1024) this.answers.set(target, answer);
  }
}

const BY_PATH = Map.groupBy(ROUTES, ({ path }) => path);

function findRoute(method: string, path: string): Route | undefined {
  const wanted = method === "HEAD" ? "GET" : method;
  return BY_PATH.get(path)?.find((route) => route.method === wanted);
}

function refuseRoute(method: string, path: string): HttpProblem {
  const routes = BY_PATH.get(path);
  if (!routes) return new HttpProblem("no_such_route", "there is nothing here (GET /openapi.json names what there is)");
  const allow = routes.map((route) => route.method).join(", ");
  return new HttpProblem("method_not_allowed", `${method} is not one of ${allow}`, { allow });
}

function parseQuery(schema: v.GenericSchema, text: string): unknown {
  const asked: Record<string, string | string[]> = Object.create(null);
  const lists = listNames(schema);
  for (const [key, value] of new URLSearchParams(text)) {
    if (lists.has(key)) asked[key] = [...(asked[key] ?? []), value].flat();
    else if (key in asked) throw new HttpProblem("invalid", `${key}: is given twice`);
    else asked[key] = value;
  }
  return validate(schema, { ...asked });
}

function listNames(schema: v.GenericSchema): Set<string> {
  const entries = "entries" in schema ? (schema.entries as Record<string, { wrapped?: { type: string } }>) : {};
  return new Set(Object.keys(entries).filter((name) => entries[name]!.wrapped?.type === "array"));
}

function validate(schema: v.GenericSchema, value: unknown): unknown {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new HttpProblem("invalid", `${v.getDotPath(issue) ?? "document"}: ${issue.message}`);
}

async function readBody(request: Request, kind: NonNullable<Route["body"]>): Promise<unknown> {
  const text = await readText(request);
  if (kind === "metadata" && text === "") return null;
  const type = (request.headers.get("content-type") ?? "").split(";", 1)[0]!.trim().toLowerCase();
  const wanted = kind === "lines" ? "application/x-ndjson" : "application/json";
  if (text !== "" && type !== wanted) throw new HttpProblem("unsupported_media", `the body must be ${wanted}`);
  if (typeof kind === "string") return text;
  try {
    return validate(kind, text === "" ? {} : JSON.parse(text));
  } catch (error) {
    throw error instanceof SyntaxError
      ? new HttpProblem("bad_request", `the body is not JSON: ${error.message}`)
      : error;
  }
}

async function readText(request: Request): Promise<string> {
  if (Number(request.headers.get("content-length") ?? 0) > BODY_LIMIT) throw tooLarge();
  if (!request.body) return "";
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  let length = 0;
  try {
    for await (const chunk of request.body) {
      length += chunk.byteLength;
      if (length > BODY_LIMIT) throw tooLarge();
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (error) {
    throw error instanceof HttpProblem
      ? error
      : new HttpProblem("bad_request", "the body is not UTF-8 text, or was cut off");
  }
}

function tooLarge(): HttpProblem {
  return new HttpProblem("too_large", `the body may have at most ${BODY_LIMIT} bytes`);
}

function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= make();
    return made;
  };
}
