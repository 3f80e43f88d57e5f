import { entry } from "../entry.ts";
import { type Failure, fromFailure } from "../error.ts";
import type { Home } from "../home.ts";
import type { Examination } from "../ops/check/report.ts";
import type { GcOptions } from "../ops/gc.ts";
import type { PruneOptions } from "../ops/prune.ts";
import type { RemoveOptions } from "../ops/remove.ts";

/** Work for a worker: an operation and its options, as they cross between threads. */
export type Job =
  | { kind: "persist"; reference: string; metadata: string | null }
  | { kind: "batch"; lines: string }
  | { kind: "remove"; options: Omit<RemoveOptions, "stopped" | "progress"> }
  | { kind: "gc"; options: Omit<GcOptions, "stopped" | "progress"> }
  | { kind: "prune"; options: Omit<PruneOptions, "stopped" | "progress" | "evicted"> }
  | { kind: "examine"; options: Omit<Examination, "progress" | "stopped"> }
  | { kind: "df" };

export interface Request {
  id: number;
  /** When whoever asked has waited long enough for its turn, in milliseconds since 1970. */
  until: number;
  home: Home;
  job: Job;
}

export type Response = { id: number; result: unknown } | { id: number; failure: Failure };

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/**
 * A worker thread and the jobs that it has; it is started with its first job, and again if it dies. A job that has waited
 * for its turn longer than `patienceMs` is `busy`.
 */
export class JobRunner {
  private worker: Worker | undefined;
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;

  constructor(
    private readonly home: Home,
    private readonly patienceMs = Number.POSITIVE_INFINITY,
    private readonly script = entry("server/worker"),
  ) {}

  /** Runs a job, and gives what its operation gives; rejects with the operation's error. */
  run<T>(job: Job): Promise<T> {
    const worker = this.start();
    const id = ++this.lastId;
    return new Promise<T>((resolve, reject) => {
      this.waiting.set(id, { resolve: (result) => resolve(result as T), reject });
      worker.postMessage({ id, until: Date.now() + this.patienceMs, home: this.home, job } satisfies Request);
    });
  }

  /** Asks long work to stop between two items. */
  stop(): void {
    this.worker?.postMessage("stop");
  }

  private start(): Worker {
    if (this.worker) return this.worker;
    const worker = new Worker(this.script);
    worker.onmessage = ({ data }: MessageEvent<Response>) => this.settle(data);
    worker.onerror = ({ message }) => this.abandon(worker, message);
    worker.addEventListener("close", () => this.abandon(worker, "it ended"));
    // An idle worker must not keep the process.
    worker.unref();
    this.worker = worker;
    return worker;
  }

  private settle(response: Response): void {
    const waiting = this.waiting.get(response.id);
    this.waiting.delete(response.id);
    if ("failure" in response) waiting?.reject(fromFailure(response.failure));
    else waiting?.resolve(response.result);
  }

  private abandon(worker: Worker, message: string): void {
    if (worker !== this.worker) return;
    worker.terminate();
    this.worker = undefined;
    for (const { reject } of this.waiting.values()) reject(new Error(`the worker died: ${message}`));
    this.waiting.clear();
  }
}
