import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { Metrics } from "../../src/server/metrics.ts";
import { larder } from "../larder.ts";
import { at, digestOf, Store } from "../store.ts";
import { hasTool } from "../tools.ts";
import { Server } from "./server.ts";

const WEB = "ghcr.io/acme/web:1";
const DB = "docker.io/library/db:1";

function makeStore(): Promise<Store> {
  return Store.make({
    web: { references: [WEB, "web=docker.io/library/web:latest"], layers: ["base", "web"] },
    db: { references: [`db:1=${DB}`], layers: ["base", "db"] },
    old: { references: ["old:1=docker.io/library/old:1"], layers: ["old"] },
  });
}

/** Samples by name and labels, as they are written. */
function parse(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ") + 1))]),
  );
}

/** What promtool finds wrong with metrics. */
async function lint(text: string): Promise<string> {
  const child = Bun.spawn(["promtool", "check", "metrics"], {
    stdin: new Blob([text]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return code === 0 ? out + err : `exit ${code}: ${out}${err}`;
}

describe("GET /metrics", () => {
  test("counts what the server did, in a form that promtool finds nothing wrong with", async () => {
    using store = await makeStore();
    store.sandbox("box", "{}", "db");
    store.write("layers/stray", "x".repeat(5000));
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    for (let i = 0; i < 3; i++) await server.get("/v1/images");
    await server.get("/v1/image?reference=nobody:1");
    await server.get(`/v1/${digestOf("web")}`);
    await server.post("/v1/gc", { dry_run: true });
    const gc = (await server.post("/v1/gc", {})).json();
    const prune = (await server.post("/v1/prune", { unused: true, keep: ["ghcr.io/**"], min_age: "0s" })).json();
    await server.post("/v1/prune", { older_than: "soon" });
    rmSync(join(store.cache, at.fsmeta("web")));
    const check = (await server.get("/v1/check")).json();
    const answer = await server.get("/metrics");
    expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const found = parse(answer.text);

    expect(found.get('larder_http_requests_total{route="/v1/images",method="GET",status="200"}')).toBe(3);
    expect(found.get('larder_http_requests_total{route="/v1/image",method="GET",status="404"}')).toBe(1);
    expect(found.get('larder_http_requests_total{route="none",method="GET",status="404"}')).toBe(1);
    expect(found.get('larder_http_requests_total{route="/v1/prune",method="POST",status="422"}')).toBe(1);
    expect(found.get('larder_http_request_duration_seconds_count{route="/v1/images"}')).toBe(3);
    expect(found.get('larder_http_request_duration_seconds_bucket{route="/v1/images",le="+Inf"}')).toBe(3);
    // A dry run is no run, and neither is what was refused before it began.
    expect(found.get('larder_runs_total{operation="gc",result="success"}')).toBe(1);
    expect(found.get('larder_runs_total{operation="prune",result="success"}')).toBe(1);
    expect(found.get('larder_runs_total{operation="check",result="success"}')).toBe(1);
    expect(gc.bytes_reclaimed).toBeGreaterThan(0);
    expect(found.get('larder_reclaimed_bytes_total{operation="gc"}')).toBe(gc.bytes_reclaimed);
    expect(found.get('larder_reclaimed_bytes_total{operation="prune"}')).toBe(prune.bytes_reclaimed);
    expect(found.get('larder_evictions_total{cause="unused"}')).toBe(2);
    expect(check.problems.length).toBeGreaterThan(0);
    const problems = [...found].filter(([name]) => name.startsWith("larder_check_problems{"));
    expect(problems.reduce((sum, [, count]) => sum + count, 0)).toBe(check.problems.length);
    expect(found.get('larder_last_success_timestamp_seconds{operation="gc"}')).toBeCloseTo(Date.now() / 1000, -2);
    expect(found.get('larder_images{tagged="true"}')).toBe(2);
    expect(found.get("larder_references")).toBe(2);
    expect(found.get("larder_gc_refused")).toBe(0);
    expect(found.get('larder_pinned_images{by="sandbox"}')).toBe(1);
    expect(found.get('larder_cache_files{kind="layer"}')).toBe(3);
    expect([...found.keys()].filter((name) => name.startsWith("larder_build_info{"))).toHaveLength(1);

    expect(answer.text).not.toMatch(/sha256|[0-9a-f]{32}|acme|db:1/);
    if (hasTool("promtool")) expect(await lint(answer.text)).toBe("");
  });

  test("counts a gc that had to leave the cache alone as no success", async () => {
    using store = await makeStore();
    for (const table of ["image_ref", "manifest_layer", "config", "manifest", "layer"])
      store.sql(`DELETE FROM ${table}`);
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    expect((await server.post("/v1/gc", {})).status).toBe(200);
    const found = parse((await server.get("/metrics")).text);
    expect(found.get('larder_runs_total{operation="gc",result="unaccounted"}')).toBe(1);
    expect([...found.keys()].filter((name) => name.startsWith("larder_last_success"))).toEqual([]);
    expect(found.get("larder_gc_refused")).toBe(1);
  });

  test("counts a repair that could not mend a thing as no success", async () => {
    using store = await makeStore();
    store.sql("UPDATE layer SET erofs_size_bytes = 1");
    store.sql("CREATE TRIGGER never BEFORE UPDATE ON layer BEGIN SELECT raise(ABORT, 'never'); END");
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    expect((await server.post("/v1/repair", {})).json().failure).toBe("failed");
    const found = parse((await server.get("/metrics")).text);
    expect(found.get('larder_runs_total{operation="repair",result="failed"}')).toBe(1);
    expect([...found.keys()].filter((name) => name.startsWith("larder_last_success"))).toEqual([]);
  });

  test("forgets the problems that a repair has mended", async () => {
    using store = await makeStore();
    store.sql("UPDATE layer SET erofs_size_bytes = 1 WHERE diff_id = ?", digestOf("web"));
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    const count = async () =>
      [...parse((await server.get("/metrics")).text)]
        .filter(([name]) => name.startsWith("larder_check_problems{"))
        .reduce((sum, [, value]) => sum + value, 0);
    const before = (await server.get("/v1/check")).json();
    expect(await count()).toBe(before.problems.length);
    const mended = (await server.post("/v1/repair", {})).json();
    expect(await count()).toBe(mended.damage + mended.notes);
    expect(await count()).toBeLessThan(before.problems.length);
  });
});

describe("larder df --format prometheus", () => {
  test("prints the gauges of /metrics, for node_exporter's textfile collector", async () => {
    using store = await makeStore();
    await using server = await Server.start(store.path);
    const { code, stdout } = await larder(store.path, "df", "--format", "prometheus");
    expect(code).toBe(0);
    const served = parse((await server.get("/metrics")).text);
    const names = [...parse(stdout).keys()].filter((name) => !name.startsWith("larder_filesystem"));
    expect(names.length).toBeGreaterThan(20);
    for (const name of names) expect([name, parse(stdout).get(name)]).toEqual([name, served.get(name)!]);
    if (hasTool("promtool")) expect(await lint(stdout)).toBe("");
  });
});

describe("Metrics", () => {
  test("puts a duration into each bucket that it fits, its bound included", () => {
    const metrics = new Metrics();
    for (const seconds of [0.0005, 0.001, 0.002, 0.6, 11]) metrics.countRequest("/r", "GET", 200, seconds);
    const { samples } = metrics.toMetrics({}).find(({ name }) => name === "larder_http_request_duration_seconds")!;
    expect(samples.map(({ suffix, labels, value }) => [suffix, labels?.le, value])).toEqual([
      ["_bucket", "0.001", 2],
      ["_bucket", "0.005", 3],
      ["_bucket", "0.025", 3],
      ["_bucket", "0.1", 3],
      ["_bucket", "0.5", 3],
      ["_bucket", "2.5", 4],
      ["_bucket", "10", 4],
      ["_bucket", "+Inf", 5],
      ["_sum", undefined, 11.6035],
      ["_count", undefined, 5],
    ]);
  });
});
