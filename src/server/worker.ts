import { asCatalogueError } from "../db/write.ts";
import { asLarderError, LarderError, toFailure } from "../error.ts";
import type { Home } from "../home.ts";
import { parseBatchLine } from "../input/batch.ts";
import { type Larder, openEmpty, openOrCreate, openToPlan, openToRead, openToWrite, withLarder } from "../larder.ts";
import { parseMetadata } from "../oci/metadata.ts";
import { parseReference } from "../oci/reference.ts";
import { examine } from "../ops/check/report.ts";
import { df } from "../ops/df.ts";
import { gc } from "../ops/gc.ts";
import { notFound } from "../ops/images.ts";
import { type Entry, entryFor, type Persisted, persist, persistEach } from "../ops/persist.ts";
import { prune } from "../ops/prune.ts";
import { remove } from "../ops/remove.ts";
import { openToSweep } from "../ops/strays.ts";
import { WarmHome } from "./catalogue.ts";
import type { Job, Request, Response } from "./jobs.ts";

// Long and deleting work, away from the thread that answers: each job has a connection to itself.

declare const self: Worker;

let isStopping = false;
let warm: WarmHome | undefined;
let idle: Timer | undefined;

// Who copies a backup over the catalogue has this connection write the old log into it, once it is closed: it is not kept
// for longer than a burst of requests.
const KEPT_MS = 1000;

const MOST_REFUSED = 1000;

self.onmessage = async ({ data }: MessageEvent<Request | "stop">) => {
  if (data === "stop") {
    isStopping = true;
    return;
  }
  const { id } = data;
  const answer: Response = await run(data).then(
    (result) => ({ id, result }),
    (error) => ({ id, failure: toFailure(error) }),
  );
  self.postMessage(answer);
};

const stopped = () => isStopping;

async function run({ home, job, until }: Request): Promise<unknown> {
  if (Date.now() > until) throw new LarderError("busy", "others are at work; try again");
  if (job.kind === "persist") return persistOne(home, job.reference, job.metadata);
  if (job.kind === "batch") return persistBatch(home, job.lines);
  if (job.kind === "examine") return examine(home, { ...job.options, stopped });
  return withLarder<unknown>(open(home, job), (larder) => {
    if (job.kind === "remove") return remove(larder, { ...job.options, stopped });
    if (job.kind === "gc") return gc(larder, { ...job.options, stopped });
    if (job.kind === "prune") return prune(larder, { ...job.options, stopped });
    return df(larder);
  });
}

// Where there is no catalogue, an empty one is as good, as it is for the commands.
function open(home: Home, job: Exclude<Job, { kind: "persist" | "batch" | "examine" }>): Larder {
  if (job.kind === "df") return openToRead(home) ?? openEmpty(home);
  if (job.kind !== "remove") return openToSweep(home, job.options);
  const larder = job.options.dryRun ? openToPlan(home) : openToWrite(home);
  if (!larder) throw notFound(job.options.references[0]!);
  return larder;
}

// A home is opened, and so perhaps made, only once there is something to put on record.
function persistOne(home: Home, reference: string, text: string | null): Persisted {
  parseReference(reference);
  const entry = text === null ? entryFor(home, reference) : { reference, metadata: parseMetadata(text, "body") };
  warm ??= new WarmHome(home, openOrCreate);
  clearTimeout(idle);
  try {
    return warm.use((larder) => persist(larder!, [entry])[0]!);
  } finally {
    idle = setTimeout(() => warm?.close(), KEPT_MS);
  }
}

async function persistBatch(home: Home, lines: string): Promise<unknown> {
  const entries: (Entry & { line: number })[] = [];
  const refused: { line: number; message: string }[] = [];
  for (const [i, line] of lines.split("\n").entries()) {
    if (line.trim() === "") continue;
    try {
      entries.push({ ...parseBatchLine(line, `line ${i + 1}`), line: i + 1 });
    } catch (error) {
      if (!(error instanceof LarderError)) throw error;
      refused.push({ line: i + 1, message: error.message });
    }
    // A body full of nothing but mistakes would be answered with many times its length.
    if (refused.length > MOST_REFUSED)
      throw new LarderError(
        "invalid",
        `more than ${MOST_REFUSED} lines are no images, and nothing was put on record; the first: ${refused[0]!.message}`,
      );
  }
  if (entries.length === 0) return { persisted: [], refused };
  const persisted: Persisted[] = [];
  let tried = 0;
  const refuse = (line: number, { message }: LarderError) =>
    refused.push({ line, message: `line ${line}: ${message}` });
  await withLarder(openOrCreate(home), (larder) => {
    try {
      for (const [{ line }, outcome] of persistEach(larder, entries)) {
        tried++;
        if (outcome instanceof LarderError) refuse(line, outcome);
        else persisted.push(outcome);
      }
    } catch (error) {
      if (persisted.length === 0) throw error;
      // What was committed before is on record, and is to be told.
      const failure = asLarderError(asCatalogueError(home.database, error));
      for (const { line } of entries.slice(tried)) refuse(line, failure);
    }
  });
  return { persisted, refused: refused.sort((a, b) => a.line - b.line) };
}
