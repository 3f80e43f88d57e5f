import type { CheckReport } from "../ops/check/report.ts";
import type { PruneReport } from "../ops/prune.ts";
import type { Metric, Sample } from "../output/prometheus.ts";

const BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10];

type Labels = Record<string, string>;

/** Sums by labels. */
class Counter {
  private readonly sums = new Map<string, { labels: Labels; value: number }>();

  add(labels: Labels, value = 1): void {
    const key = JSON.stringify(labels);
    const sum = this.sums.get(key) ?? { labels, value: 0 };
    sum.value += value;
    this.sums.set(key, sum);
  }

  set(labels: Labels, value: number): void {
    this.sums.set(JSON.stringify(labels), { labels, value });
  }

  clear(): void {
    this.sums.clear();
  }

  samples(): Sample[] {
    return [...this.sums.values()];
  }
}

/** Requests of one route: how many by method and status, and how long they took, counted by bucket and in all seconds. */
interface RouteTally {
  answers: Map<string, Map<number, number>>;
  counts: number[];
  sum: number;
}

/** Counts what this server did. Labels are routes, operations and codes, never a digest or a reference. */
export class Metrics {
  private readonly routes = new Map<string, RouteTally>();
  private readonly runs = new Counter();
  private readonly evictions = new Counter();
  private readonly reclaimed = new Counter();
  private readonly problems = new Counter();
  private readonly successes = new Counter();

  countRequest(route: string, method: string, status: number, seconds: number): void {
    let tally = this.routes.get(route);
    if (!tally) {
      tally = { answers: new Map(), counts: Array(BUCKETS.length + 1).fill(0), sum: 0 };
      this.routes.set(route, tally);
    }
    let statuses = tally.answers.get(method);
    if (!statuses) {
      statuses = new Map();
      tally.answers.set(method, statuses);
    }
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    let bucket = 0;
    while (bucket < BUCKETS.length && seconds > BUCKETS[bucket]!) bucket++;
    tally.counts[bucket]!++;
    tally.sum += seconds;
  }

  /** A gc, prune, check or repair that ended; `result` is `success` or an error's code. */
  countRun(operation: string, result: string): void {
    this.runs.add({ operation, result });
    if (result === "success") this.successes.set({ operation }, Date.now() / 1000);
  }

  countReclaimed(operation: string, bytes: number): void {
    this.reclaimed.add({ operation }, bytes);
  }

  /** Counts what a prune evicted. */
  countEvictions({ decisions, dry_run }: PruneReport): void {
    if (dry_run) return;
    for (const { action, cause } of decisions) if (action === "evict") this.evictions.add({ cause });
  }

  setProblems({ problems }: CheckReport): void {
    this.problems.clear();
    // What a repair has mended is no longer there.
    for (const { code, severity, repair } of problems) if (repair !== "done") this.problems.add({ code, severity });
  }

  toMetrics(build: Labels): Metric[] {
    return [
      { name: "larder_build_info", type: "gauge", help: "What is running.", samples: [{ labels: build, value: 1 }] },
      {
        name: "larder_runs_total",
        type: "counter",
        help: "Runs of gc, prune, check and repair by result.",
        samples: this.runs.samples(),
      },
      {
        name: "larder_evictions_total",
        type: "counter",
        help: "References and untagged images evicted, by cause.",
        samples: this.evictions.samples(),
      },
      {
        name: "larder_reclaimed_bytes_total",
        type: "counter",
        help: "Allocated bytes that were freed, by operation.",
        samples: this.reclaimed.samples(),
      },
      {
        name: "larder_check_problems",
        type: "gauge",
        help: "Problems that the last check found, by code.",
        samples: this.problems.samples(),
      },
      {
        name: "larder_last_success_timestamp_seconds",
        type: "gauge",
        help: "When an operation last succeeded.",
        samples: this.successes.samples(),
      },
      {
        name: "larder_http_requests_total",
        type: "counter",
        help: "Requests by route, method and status.",
        samples: this.requests(),
      },
      {
        name: "larder_http_request_duration_seconds",
        type: "histogram",
        help: "Time to answer, by route.",
        samples: this.histogram(),
      },
    ];
  }

  private requests(): Sample[] {
    return [...this.routes].flatMap(([route, { answers }]) =>
      [...answers].flatMap(([method, statuses]) =>
        [...statuses].map(([status, value]) => ({ labels: { route, method, status: String(status) }, value })),
      ),
    );
  }

  // Counted a bucket each, told as Prometheus wants them: each with all that lie below it.
  private histogram(): Sample[] {
    return [...this.routes].flatMap(([route, { counts, sum }]) => {
      let below = 0;
      const buckets = counts.map((count, i) => {
        below += count;
        return { suffix: "_bucket", labels: { route, le: String(BUCKETS[i] ?? "+Inf") }, value: below };
      });
      return [
        ...buckets,
        { suffix: "_sum", labels: { route }, value: sum },
        { suffix: "_count", labels: { route }, value: below },
      ];
    });
  }
}
