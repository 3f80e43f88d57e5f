import { refuseDamage } from "../db/integrity.ts";
import { openForReading } from "../db/open.ts";
import { explainSqlite, readTransaction } from "../db/write.ts";
import { asLarderError, type Failure, LarderError, toFailure } from "../error.ts";

// The check of a large database, beside the thread that plans. It answers null where nothing is damaged.

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<string>) => self.postMessage(check(data));

function check(database: string): Failure | null {
  try {
    // Closed before the answer: the other thread's connection is then the last, and folds the WAL into the database.
    using db = openForReading(database);
    if (!db) throw new LarderError("failed", `the database "${database}" is gone`);
    explainSqlite(database, () => readTransaction(db, () => refuseDamage(db, database)));
    return null;
  } catch (error) {
    return toFailure(asLarderError(error));
  }
}
