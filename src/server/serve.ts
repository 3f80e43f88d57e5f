import * as v from "valibot";
import { BUSY_TIMEOUT_MS } from "../db/write.ts";
import { asLarderError, isSystemError, LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import { notify } from "../host/notify.ts";
import { openToRead } from "../larder.ts";
import { toJson } from "../output/json.ts";
import { Access } from "./access.ts";
import type { Address } from "./address.ts";
import { type Answer, AnswerCache, LARGE_CHARACTERS } from "./answers.ts";
import { PATIENCE_MS, WarmHome } from "./catalogue.ts";
import { JobRunner } from "./jobs.ts";
import { Log } from "./log.ts";
import { Metrics } from "./metrics.ts";
import { HttpProblem, statusOf, toProblem } from "./problem.ts";
import { ROUTES, type Route, type Services } from "./routes.ts";
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
const BODY_MS = 8_000;
// What is larger is refused before it is read, and without a document: only the connection's end stops its sender.
const READ_LIMIT = 16 * BODY_LIMIT;
const CONCURRENT_LIMIT = 256;
const UNSENT_LIMIT = 8;
const IDLE_SECONDS = 10;
// Bun cannot lift the time-out of one request over a unix socket, so that long work has to fit into that of all.
const UNIX_IDLE_SECONDS = 255;
const DRAIN_MS = 30_000;
/** Serves until SIGTERM or SIGINT, then drains; throws where it cannot listen. */
export async function serve(options: ServeOptions): Promise<void> {
  const { address, home } = options;
  const signal = Promise.withResolvers<string>();
  // A terminal that goes away, or a manager that asks for a reload or for another log, stops nothing.
  for (const name of ["SIGHUP", "SIGUSR1", "SIGUSR2"] as const) process.on(name, () => {});
  for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => signal.resolve(name));
  const log = new Log(options.logFormat);
  const app = new App(options, log);
  const common = {
    fetch: (request: Request, server: Server) => app.answer(request, server),
    maxRequestBodySize: READ_LIMIT,
  };
  const place = address.kind === "unix" ? await SocketPlace.take(address.path, options.socketMode) : undefined;
  const server =
    address.kind === "tcp"
      ? Bun.serve({ ...common, idleTimeout: IDLE_SECONDS, hostname: address.host, port: address.port })
      : place!.listen((unix) => Bun.serve(lasting({ ...common, unix })));
  place?.publish();
  log.write("listening", {
    address: place ? `unix:${place.path}` : server.url.host,
    database: home.database,
    cache: home.cache,
  });
  notify("READY=1");
  const name = await signal.promise;
  notify("STOPPING=1");
  log.write("stopping", { signal: name });
  app.stop();
  await drain(server);
  place?.[Symbol.dispose]();
  app.close();
  await log.end();
}

type Server = Bun.Server<undefined>;

// Bun's types know this option for TCP alone.
function lasting<T extends object>(options: T): T {
  return { ...options, idleTimeout: UNIX_IDLE_SECONDS };
}

/** Takes no new connection, and waits for the requests that run, but not for a client that has yet to send one. */
async function drain(server: Server): Promise<void> {
  let isDone = false;
  void server.stop(false).then(() => {
    isDone = true;
  });
  for (const deadline = Date.now() + DRAIN_MS; !isDone && server.pendingRequests > 0 && Date.now() < deadline; )
    await Bun.sleep(10);
  await server.stop(true);
}

/** Answers requests: access, route, input, operation, and what became of it in the log and the metrics. */
class App {
  private readonly services: Services;
  private readonly access: Access;
  private readonly nonce = crypto.randomUUID().slice(0, 8);
  private readonly unchanged = new AnswerCache();
  private lastTag: string | undefined;
  private hasLooked = false;
  private readonly lookAgain = () => {
    this.hasLooked = false;
  };
  private active = 0;
  /** As many large answers, at most, are there yet besides the one that is kept; one that many clients read is one. */
  private unsent = 0;
  private isStopping = false;
  private lastId = 0;

  constructor(
    options: ServeOptions,
    private readonly log: Log,
  ) {
    const { home, address, token, hosts, allowWrites, build } = options;
    this.access = new Access(address, token, hosts);
    this.services = {
      home,
      catalogue: new WarmHome(home, (home) => openToRead(home, PATIENCE_MS)),
      // Each of many that wait for another process's lock would wait as long again as the one before it.
      writer: new JobRunner(home, BUSY_TIMEOUT_MS),
      reader: new JobRunner(home),
      metrics: new Metrics(),
      build,
      allowWrites,
      running: undefined,
      openApi: lazily(async () => (await import("./openapi.ts")).describeRoutes(ROUTES, build.version ?? "0")),
    };
  }

  stop(): void {
    this.isStopping = true;
    this.services.writer.stop();
    this.services.reader.stop();
  }

  close(): void {
    this.services.catalogue.close();
  }

  answer(request: Request, server: Server): Response | Promise<Response> {
    const asked = this.read(request);
    try {
      this.access.check(request, asked.route?.isProbe === true);
      // Most requests end here, without waiting for anything.
      const known = asked.route?.isCatalogue && this.unchanged.get(asked.target, this.tag());
      if (known) return this.finish(asked, this.write(asked, known));
    } catch (error) {
      return this.finish(asked, this.fail(error, asked.id));
    }
    return this.work(asked, server);
  }

  private read(request: Request): Asked {
    const { method, url } = request;
    // An absolute URL, but for a client so old that it names no host.
    const target = url.startsWith("/") ? url : url.slice(url.indexOf("/", url.indexOf("//") + 2));
    const mark = target.indexOf("?");
    const path = mark < 0 ? target : target.slice(0, mark);
    return {
      request,
      method,
      target,
      path,
      search: mark < 0 ? "" : target.slice(mark + 1),
      route: BY_PATH.get(path)?.get(method),
      id: `${this.nonce}-${++this.lastId}`,
      started: performance.now(),
    };
  }

  private async work(asked: Asked, server: Server): Promise<Response> {
    this.active++;
    try {
      return this.finish(asked, await this.handle(asked, server));
    } catch (error) {
      return this.finish(asked, this.fail(error, asked.id));
    } finally {
      this.active--;
    }
  }

  private async handle(asked: Asked, server: Server): Promise<Response> {
    const { request, method, path, search, target, route } = asked;
    if (!route) throw refuseRoute(method, path);
    if (this.active > CONCURRENT_LIMIT && !route.isProbe)
      throw new HttpProblem("overloaded", `more than ${CONCURRENT_LIMIT} requests at once`);
    const query = parseQuery(route.query, search);
    if (method !== "GET" && method !== "HEAD") refuseUnheard(request, route);
    const body = route.body && (await readBody(request, route.body));
    if (route.method !== "GET") await refuseCutOff(request);
    // Read before the catalogue is: a change in between makes the tag old, and never the answer.
    const tag = route.isCatalogue?.(query) ? this.tag() : undefined;
    const reply = await patiently(server, request, () => route.handle(this.services, query, body));
    if (route.method !== "GET") this.lookAgain();
    if (this.isStopping && isDeletion(reply.json)) this.log.write("stopped", { id: asked.id, left: LEFT });
    if (reply.text) return respond(200, { "content-type": reply.text.type, "x-request-id": asked.id }, reply.text.body);
    const json = toJson(reply.json);
    const isLarge = json.length > LARGE_CHARACTERS;
    // Such answers are garbage sooner than the engine, which knows little of their size, would collect them.
    if (isLarge) Bun.gc(true);
    if (isLarge && route.method === "GET") this.refuseUnsent(server);
    // Of a text Bun makes each client a copy where it is not all ASCII.
    const answer: Answer = { body: isLarge ? new Blob([json]) : json, tag, link: reply.headers?.link };
    if (tag !== undefined) this.unchanged.set(target, answer);
    return this.write(asked, answer);
  }

  // A large answer takes its memory until its client has read it. Bun does not tell when that is, but how many have not.
  private refuseUnsent(server: Server): void {
    this.unsent = Math.min(this.unsent, server.pendingRequests - this.active);
    if (this.unsent >= UNSENT_LIMIT)
      throw new HttpProblem("overloaded", `${UNSENT_LIMIT} large answers are waiting to be read`);
    this.unsent++;
  }

  private write({ request, id }: Asked, { body, tag, link }: Answer): Response {
    const headers: Record<string, string> = { "content-type": "application/json", "x-request-id": id };
    if (tag !== undefined) {
      headers.etag = tag;
      const known = request.headers.get("if-none-match");
      if (known !== null && names(known, tag))
        return respond(304, { etag: tag, "x-request-id": id, ...(link !== undefined && { link }) }, null);
    }
    if (link !== undefined) headers.link = link;
    return respond(200, headers, body);
  }

  private finish({ id, method, target, route, started }: Asked, response: Response): Response {
    const ms = performance.now() - started;
    const { status } = response;
    this.services.metrics.countRequest(route?.path ?? "none", method, status, ms / 1000);
    this.log.request(id, method, target, status, Math.round(ms * 100) / 100);
    return response;
  }

  /**
   * The tag of the catalogue as it is. Requests that were found waiting together, in one turn of the event loop, are
   * answered by one look: none of them was sent after another's answer.
   */
  private tag(): string | undefined {
    if (!this.hasLooked) {
      const state = this.services.catalogue.state();
      this.lastTag = state === undefined ? undefined : `"${this.nonce}-${state}"`;
      this.hasLooked = true;
      setImmediate(this.lookAgain);
    }
    return this.lastTag;
  }

  private fail(thrown: unknown, id: string): Response {
    const error = isSystemError(thrown) ? asLarderError(thrown) : thrown;
    if (error instanceof HttpProblem) return toProblem(error, id);
    if (error instanceof LarderError) {
      // SQLite has one index of the log for all connections of a process. Where that could be read alone, no other can
      // write until this one is closed, whatever has been mended since.
      if (error.code === "failed") this.services.catalogue.close();
      if (statusOf(error.code) === 500) this.log.write("error", { id, error: error.stack ?? error.message });
      // A flag and a member of a document are the same to a client.
      return toProblem(new HttpProblem(error.code === "usage" ? "invalid" : error.code, error.message), id);
    }
    this.log.write("error", { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    return toProblem(new HttpProblem("internal", "the log has the details, under the request id"), id);
  }
}

const LEFT = "the next gc takes it (with sweep_unrecorded where no image is on record any more)";

// Whether this is the report of work that stops between two files.
function isDeletion(report: unknown): boolean {
  return typeof report === "object" && report !== null && "files" in report && "dry_run" in report && !report.dry_run;
}

// Work may take longer than a client may be silent, and whatever becomes of it, the client may not be silent afterwards.
async function patiently<T>(server: Server, request: Request, work: () => T | Promise<T>): Promise<T> {
  server.timeout(request, 0);
  try {
    return await work();
  } finally {
    server.timeout(request, IDLE_SECONDS);
  }
}

/** A request as it was read. */
interface Asked {
  request: Request;
  method: string;
  /** Path and query, as they came. */
  target: string;
  path: string;
  search: string;
  route: Route | undefined;
  id: string;
  started: number;
}

function respond(status: number, headers: Record<string, string>, body: string | Blob | null): Response {
  return new Response(body, { status, headers });
}

// `W/"…"` is the same for this purpose (RFC 9110, 13.1.2).
function names(header: string, tag: string): boolean {
  return header === tag || header === "*" || header.split(",").some((one) => one.trim().replace(/^W\//, "") === tag);
}

const BY_PATH = new Map(
  [...Map.groupBy(ROUTES, ({ path }) => path)].map(([path, routes]) => [
    path,
    new Map(routes.flatMap((route): [string, Route][] => methodsOf(route).map((method) => [method, route]))),
  ]),
);

function methodsOf({ method }: Route): string[] {
  return method === "GET" ? ["GET", "HEAD"] : [method];
}

function refuseRoute(method: string, path: string): HttpProblem {
  const routes = BY_PATH.get(path);
  if (!routes) return new HttpProblem("no_such_route", "there is nothing here (GET /openapi.json names what there is)");
  const allow = [...routes.keys()].join(", ");
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
  // To valibot an array is an object too, and one without a member asks for nothing.
  if (Array.isArray(value)) throw new HttpProblem("invalid", "document: must be an object");
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const what = issue.type === "strict_object" && issue.expected === "never" ? "is not known here" : issue.message;
  throw new HttpProblem("invalid", `${v.getDotPath(issue) ?? "document"}: ${what}`);
}

// To go on as if it were not there might delete for real what was asked to be a dry run, or under a condition.
function refuseUnheard({ method, headers }: Request, route: Route): void {
  const unheard = ["if-match", "if-none-match", "if-unmodified-since", "trailer"].find((name) => headers.has(name));
  if (unheard !== undefined) throw new HttpProblem("invalid", `a ${method} heeds no ${unheard} here`);
  if (route.body || (Number(headers.get("content-length") ?? 0) === 0 && !headers.has("transfer-encoding"))) return;
  throw new HttpProblem("invalid", `a ${method} takes no body here: what it is told stands in the query`);
}

// What Bun's parser refuses of what came along with a request, such as another one behind it, it refuses in the same turn of
// the event loop. The client gets 400 or nothing, and so nothing may be done.
async function refuseCutOff({ signal }: Request): Promise<void> {
  await new Promise(setImmediate);
  if (signal.aborted) throw new HttpProblem("invalid", "the request was cut off");
}

async function readBody(request: Request, kind: NonNullable<Route["body"]>): Promise<unknown> {
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (encoding !== "identity") throw new HttpProblem("unsupported_media", "the body must not be encoded");
  const text = await readText(request);
  if (kind === "metadata" && text === "") return null;
  const type = (request.headers.get("content-type") ?? "").split(";", 1)[0]!.trim().toLowerCase();
  const wanted = kind === "lines" ? "application/x-ndjson" : "application/json";
  if (text !== "" && type !== wanted) throw new HttpProblem("unsupported_media", `the body must be ${wanted}`);
  if (typeof kind === "string") return text;
  try {
    return validate(kind, text === "" ? {} : JSON.parse(text));
  } catch (error) {
    throw error instanceof SyntaxError ? new HttpProblem("invalid", `the body is not JSON: ${error.message}`) : error;
  }
}

async function readText(request: Request): Promise<string> {
  if (Number(request.headers.get("content-length") ?? 0) > BODY_LIMIT) throw tooLarge();
  if (!request.body) return "";
  const reader = request.body.getReader();
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => late.reject(new HttpProblem("too_slow", "the body took too long", { connection: "close" })),
    BODY_MS,
  );
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late.promise]);
      if (done) return text + decoder.decode();
      length += value.byteLength;
      if (length > BODY_LIMIT) throw tooLarge();
      text += decoder.decode(value, { stream: true });
    }
  } catch (error) {
    void reader.cancel().catch(() => {});
    throw error instanceof HttpProblem
      ? error
      : new HttpProblem("invalid", "the body is not UTF-8 text, or was cut off");
  } finally {
    clearTimeout(timer);
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
