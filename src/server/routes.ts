import type * as v from "valibot";
import { LarderError } from "../error.ts";
import type { Home } from "../home.ts";
import { parseFilters } from "../input/filter.ts";
import { parsePolicy } from "../input/policy.ts";
import { parseDuration } from "../input/units.ts";
import { closeLarder, type Larder, openToRead } from "../larder.ts";
import type { CheckReport } from "../ops/check/report.ts";
import type { DfReport } from "../ops/df.ts";
import type { GcReport } from "../ops/gc.ts";
import { type Filter, get, listPage, notFound, type Position } from "../ops/images.ts";
import { inspect } from "../ops/inspect.ts";
import type { PruneReport } from "../ops/prune.ts";
import type { RemoveReport } from "../ops/remove.ts";
import { DEFAULT_GRACE_MS } from "../ops/sweep.ts";
import { dfMetrics } from "../output/df-metrics.ts";
import { toPrometheus } from "../output/prometheus.ts";
import { PATIENCE_MS, type WarmHome } from "./catalogue.ts";
import type { JobRunner } from "./jobs.ts";
import type { Metrics } from "./metrics.ts";
import { HttpProblem } from "./problem.ts";
import * as schemas from "./schemas.ts";

/** What the routes work with. */
export interface Services {
  home: Home;
  catalogue: WarmHome;
  /** Runs what changes or deletes. */
  writer: JobRunner;
  /** Runs what reads for long. */
  reader: JobRunner;
  metrics: Metrics;
  build: Record<string, string>;
  allowWrites: boolean;
  /** The long operation that runs now: only one does at a time. */
  running: string | undefined;
  openApi(): Promise<unknown>;
}

/** An answer before it is written: JSON, or text with its own type. */
export interface Reply {
  json?: unknown;
  text?: { type: string; body: string };
  headers?: Record<string, string>;
}

// biome-ignore lint/suspicious/noExplicitAny: each route's query and body are of its own schema
type Handler = (services: Services, query: any, body: any) => Reply | Promise<Reply>;

type Schema = v.GenericSchema;

export interface Route {
  method: "GET" | "PUT" | "DELETE" | "POST";
  path: string;
  summary: string;
  query: Schema;
  /** JSON by a schema, an image's metadata, or JSON lines. */
  body?: Schema | "metadata" | "lines";
  /** The schema of its JSON, or the type of its text. */
  answer: Schema | string;
  /** Depends on the catalogue alone where `query` does not say otherwise, so that an ETag tells whether it changed. */
  isCatalogue?: (query: unknown) => boolean;
  /** Needs no token, and tells nothing. */
  isProbe?: boolean;
  /** Statuses that it can answer with beyond those of every route. */
  problems?: number[];
  handle: Handler;
}

export const ROUTES: Route[] = [
  {
    method: "GET",
    path: "/v1/images",
    summary: "List images, newest first",
    query: schemas.ListQuery,
    answer: schemas.HandlesSchema,
    // A filter that looks at the clock changes its answer although the catalogue stays.
    isCatalogue: (query) => (query as ListAsked).until === undefined,
    handle: listImages,
  },
  {
    method: "POST",
    path: "/v1/images",
    summary: "Put images on record, a JSON line each",
    query: schemas.NoQuery,
    body: "lines",
    answer: schemas.BatchSchema,
    problems: [403, 503],
    async handle(services, _query, lines: string) {
      requireWrites(services);
      return { json: await services.writer.run({ kind: "batch", lines }) };
    },
  },
  {
    method: "GET",
    path: "/v1/image",
    summary: "What is on record of one image",
    query: schemas.NamedQuery,
    answer: schemas.HandleSchema,
    isCatalogue: () => true,
    problems: [404],
    handle: lookUp(get),
  },
  {
    method: "GET",
    path: "/v1/image/detail",
    summary: "An image with its config and layers",
    query: schemas.NamedQuery,
    answer: schemas.DetailSchema,
    problems: [404],
    handle: lookUp(inspect),
  },
  {
    method: "PUT",
    path: "/v1/image",
    summary: "Put an image on record, from the body or from the cache's own metadata file",
    query: schemas.NamedQuery,
    body: "metadata",
    answer: schemas.PersistedSchema,
    problems: [403, 404, 503],
    async handle(services, { reference }, metadata: string | null) {
      requireWrites(services);
      return { json: await services.writer.run({ kind: "persist", reference, metadata }) };
    },
  },
  {
    method: "DELETE",
    path: "/v1/image",
    summary: "Drop a reference, and what nothing else needs",
    query: schemas.RemoveQuery,
    answer: schemas.RemoveSchema,
    problems: [403, 404, 409, 503],
    handle: removeImage,
  },
  {
    method: "POST",
    path: "/v1/gc",
    summary: "Collect orphan layers, untagged images and stray files",
    query: schemas.NoQuery,
    body: schemas.GcBody,
    answer: schemas.GcSchema,
    problems: [403, 409, 503],
    handle: collect,
  },
  {
    method: "POST",
    path: "/v1/prune",
    summary: "Evict images by policy and budget, then collect",
    query: schemas.NoQuery,
    body: schemas.PruneBody,
    answer: schemas.PruneSchema,
    problems: [403, 409, 503],
    handle: pruneImages,
  },
  {
    method: "GET",
    path: "/v1/check",
    summary: "Compare catalogue and disk, and name each problem",
    query: schemas.CheckQuery,
    answer: schemas.CheckSchema,
    problems: [409],
    handle: (services, { deep, grace }) =>
      examine(services, "check", { deep: deep === "true", mends: false, dryRun: false, grace: graceOf(grace) }),
  },
  {
    method: "POST",
    path: "/v1/repair",
    summary: "Mend what can be mended without losing anything",
    query: schemas.NoQuery,
    body: schemas.RepairBody,
    answer: schemas.CheckSchema,
    problems: [403, 409, 503],
    handle(services, _query, { deep = false, grace, dry_run = false }) {
      if (!dry_run) requireWrites(services);
      return examine(services, "repair", { deep, mends: true, dryRun: dry_run, grace: graceOf(grace) });
    },
  },
  {
    method: "GET",
    path: "/v1/df",
    summary: "What the cache holds, what is shared, what can be reclaimed",
    query: schemas.NoQuery,
    answer: schemas.DfSchema,
    handle: async ({ reader }) => ({ json: await reader.run<DfReport>({ kind: "df" }) }),
  },
  {
    method: "GET",
    path: "/healthz",
    summary: "Whether the process answers",
    query: schemas.NoQuery,
    answer: schemas.StatusSchema,
    isProbe: true,
    handle: () => ({ json: { status: "ok" } }),
  },
  {
    method: "GET",
    path: "/readyz",
    summary: "Whether the database opens and has the shape",
    query: schemas.NoQuery,
    answer: schemas.StatusSchema,
    isProbe: true,
    problems: [503],
    handle: ready,
  },
  {
    method: "GET",
    path: "/metrics",
    summary: "Metrics for Prometheus",
    query: schemas.NoQuery,
    answer: "text/plain; version=0.0.4; charset=utf-8",
    handle: measure,
  },
  {
    method: "GET",
    path: "/openapi.json",
    summary: "This description",
    query: schemas.NoQuery,
    answer: "application/json",
    handle: async ({ openApi }) => ({ json: await openApi() }),
  },
];

function requireWrites({ allowWrites }: Services): void {
  if (!allowWrites) throw new HttpProblem("forbidden", "this server only reads (start it with --allow-writes)");
}

function graceOf(text: string | undefined): number {
  return text === undefined ? DEFAULT_GRACE_MS : parseDuration(text);
}

function lookUp(look: (larder: Larder, reference: string) => unknown): Handler {
  return ({ catalogue }, { reference }) => ({
    json: catalogue.use((larder) => {
      if (!larder) throw notFound(reference);
      return look(larder, reference);
    }),
  });
}

type ListAsked = v.InferOutput<typeof schemas.ListQuery>;

function listImages({ catalogue }: Services, asked: ListAsked): Reply {
  const filter = toFilter(asked);
  const limit = asked.limit === undefined ? Number.POSITIVE_INFINITY : Number(asked.limit);
  const after = asked.cursor === undefined ? undefined : readCursor(asked.cursor);
  const page = catalogue.use((larder) => larder && listPage(larder, filter, asked.all === "true", limit, after));
  if (!page) return { json: [] };
  if (!page.next) return { json: page.handles };
  // The body stays the array that the command prints; where it goes on is said beside it (RFC 8288).
  const next = new URLSearchParams(
    Object.entries(asked).flatMap(([key, value]) => [value ?? []].flat().map((one): [string, string] => [key, one])),
  );
  next.set("cursor", writeCursor(page.next));
  return { json: page.handles, headers: { link: `</v1/images?${next}>; rel="next"` } };
}

function toFilter({ reference, label, digest, pinned, untagged, until }: ListAsked): Filter {
  const texts = Object.entries({ reference, label, digest, pinned, untagged, until }).flatMap(([key, values]) =>
    [values ?? []].flat().map((value) => `${key}=${value}`),
  );
  return parseFilters(texts);
}

function writeCursor({ isUntagged, storedCreatedAt, id }: Position): string {
  return Buffer.from(JSON.stringify([isUntagged, storedCreatedAt, id])).toString("base64url");
}

function readCursor(text: string): Position {
  try {
    const [isUntagged, storedCreatedAt, id] = JSON.parse(Buffer.from(text, "base64url").toString());
    if (
      typeof isUntagged === "boolean" &&
      Number.isSafeInteger(id) &&
      (storedCreatedAt === null || typeof storedCreatedAt === "string")
    )
      return { isUntagged, storedCreatedAt, id };
  } catch {}
  throw new HttpProblem("invalid", "cursor: must come from the Link header of an earlier answer");
}

async function removeImage(
  services: Services,
  { reference, force, dry_run }: v.InferOutput<typeof schemas.RemoveQuery>,
): Promise<Reply> {
  const dryRun = dry_run === "true";
  if (!dryRun) requireWrites(services);
  const report = await services.writer.run<RemoveReport>({
    kind: "remove",
    options: {
      references: [reference],
      force: force === "true",
      ignoreMissing: false,
      dryRun,
      grace: DEFAULT_GRACE_MS,
    },
  });
  const [refusal] = report.refused;
  if (refusal) throw new HttpProblem(refusal.code, refusal.message);
  if (!dryRun) services.metrics.countReclaimed("remove", report.bytes_reclaimed);
  return { json: report };
}

async function collect(
  services: Services,
  _query: unknown,
  asked: v.InferOutput<typeof schemas.GcBody>,
): Promise<Reply> {
  const { layers_only = false, grace, sweep_unrecorded = false, dry_run = false } = asked;
  if (!dry_run) requireWrites(services);
  const options = {
    layersOnly: layers_only,
    sweepUnrecorded: sweep_unrecorded,
    dryRun: dry_run,
    grace: graceOf(grace),
  };
  const report = await runAlone(services, "gc", dry_run, () => services.writer.run<GcReport>({ kind: "gc", options }));
  if (!dry_run) services.metrics.countReclaimed("gc", report.bytes_reclaimed);
  return { json: report };
}

async function pruneImages(
  services: Services,
  _query: unknown,
  asked: v.InferOutput<typeof schemas.PruneBody>,
): Promise<Reply> {
  const { grace, sweep_unrecorded = false, dry_run = false } = asked;
  if (!dry_run) requireWrites(services);
  const text = (value: string | number | undefined) => (value === undefined ? undefined : String(value));
  const policy = parsePolicy({
    keep: asked.keep ?? [],
    unused: asked.unused,
    untagged: asked.untagged,
    "older-than": asked.older_than,
    "keep-last": text(asked.keep_last),
    "max-size": text(asked.max_size),
    "min-free": text(asked.min_free),
    high: asked.high,
    low: asked.low,
    "min-age": asked.min_age,
  });
  const options = { policy, sweepUnrecorded: sweep_unrecorded, dryRun: dry_run, grace: graceOf(grace) };
  const report = await runAlone(services, "prune", dry_run, () =>
    services.writer.run<PruneReport>({ kind: "prune", options }),
  );
  if (!dry_run) services.metrics.countReclaimed("prune", report.bytes_reclaimed);
  services.metrics.countEvictions(report);
  return { json: report };
}

async function examine(
  services: Services,
  operation: "check" | "repair",
  options: { deep: boolean; mends: boolean; dryRun: boolean; grace: number },
): Promise<Reply> {
  const runner = options.mends ? services.writer : services.reader;
  const report = await runAlone(services, operation, options.dryRun, () =>
    runner.run<CheckReport>({ kind: "examine", options }),
  );
  services.metrics.setProblems(report);
  return { json: report };
}

/** Runs long work, one at a time, and counts how it ended; a dry run is no run of it. */
async function runAlone<T extends GcReport | PruneReport | CheckReport>(
  services: Services,
  operation: string,
  isDry: boolean,
  work: () => Promise<T>,
): Promise<T> {
  const count = (result: string) => isDry || services.metrics.countRun(operation, result);
  if (services.running !== undefined)
    throw new HttpProblem("running", `a ${services.running} is running; try again when it is done`);
  services.running = operation;
  try {
    const report = await work();
    count(resultOf(report));
    return report;
  } catch (error) {
    count(error instanceof LarderError ? error.code : "internal");
    throw error;
  } finally {
    services.running = undefined;
  }
}

function resultOf(report: GcReport | PruneReport | CheckReport): string {
  if ("failure" in report) return report.failure ?? "success";
  if (report.unaccounted !== null) return "unaccounted";
  return report.failed.length > 0 ? "failed" : "success";
}

function ready({ home }: Services): Reply {
  try {
    // Opened anew: a warm connection would not notice that the file was spoilt.
    const larder = openToRead(home, PATIENCE_MS);
    if (larder) closeLarder(larder);
    return { json: { status: larder ? "ready" : "ready, without a catalogue" } };
  } catch (error) {
    // Why, it tells nobody who has no token.
    const code = error instanceof LarderError && error.code === "busy" ? "busy" : "not_ready";
    throw new HttpProblem(code, "the catalogue cannot be used");
  }
}

async function measure({ reader, metrics, build }: Services): Promise<Reply> {
  const own = metrics.toMetrics(build);
  try {
    const gauges = dfMetrics(await reader.run<DfReport>({ kind: "df" }));
    return text(toPrometheus([...own, ...gauges]));
  } catch {
    // What the server counts is worth having even where the catalogue cannot be read.
    return text(toPrometheus(own));
  }
}

function text(body: string): Reply {
  return { text: { type: "text/plain; version=0.0.4; charset=utf-8", body } };
}
