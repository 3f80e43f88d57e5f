import { statSync } from "node:fs";
import { refuseDamage } from "../db/integrity.ts";
import { readTransaction } from "../db/write.ts";
import { entry } from "../entry.ts";
import { type Failure, fromFailure } from "../error.ts";
import type { Larder } from "../larder.ts";

// Bytes of a database whose check takes longer than to start a thread, and is worth the thread's memory.
const LARGE = 8 * 1024 * 1024;

const WORKER = entry("ops/soundness-worker");

/**
 * Runs `work`, which plans a deletion without waiting, and gives what it gives, unless the database file is damaged: then
 * this throws `damaged`, whatever `work` made of it. A large database is checked meanwhile, in a thread of its own.
 */
export async function whileChecked<T>({ db, home }: Larder, work: () => T, script = WORKER): Promise<T> {
  const { database } = home;
  using thread = isWorthThread(database) ? startThread(script) : undefined;
  const check = thread ? checkInThread(thread.worker, database) : readTransaction(db, () => refuseDamage(db, database));
  try {
    return work();
  } finally {
    await check;
  }
}

// A server's jobs run in a thread already, where nobody waits at a prompt: none of those threads starts another.
function isWorthThread(database: string): boolean {
  return Bun.isMainThread && (statSync(database, { throwIfNoEntry: false })?.size ?? 0) > LARGE;
}

/** Undefined where the system has no thread left. */
function startThread(script: string): ({ worker: Worker } & Disposable) | undefined {
  try {
    const worker = new Worker(script);
    return { worker, [Symbol.dispose]: () => worker.terminate() };
  } catch {
    return undefined;
  }
}

function checkInThread(worker: Worker, database: string): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    const died = (why: string) => reject(new Error(`the check of the database "${database}" died: ${why}`));
    worker.onmessage = ({ data }: MessageEvent<Failure | null>) => (data ? reject(fromFailure(data)) : resolve());
    worker.onerror = ({ message }) => died(message);
    worker.addEventListener("close", () => died("it ended"));
    worker.postMessage(database);
  });
}
