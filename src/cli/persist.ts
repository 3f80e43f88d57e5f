import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { BatchSize, type writeTransaction } from "../db/write.ts";
import { asLarderError, LarderError, namingPath } from "../error.ts";
import type { Home } from "../home.ts";
import { parseBatchLine } from "../input/batch.ts";
import { type Larder, openOrCreate, withLarder } from "../larder.ts";
import { type ImageMetadata, parseMetadata } from "../oci/metadata.ts";
import { parseReference } from "../oci/reference.ts";
import { type Entry, entryFor, type Persisted, persistEach } from "../ops/persist.ts";
import { printable } from "../output/table.ts";
import { defineCommand, firstFailure } from "./command.ts";
import { progressBar } from "./progress.ts";
import { complain, emitList } from "./terminal.ts";

// Images a transaction: at first, and at most, since each is held in memory until it is on record.
const FIRST_BATCH = 200;
const MOST_IMAGES = 500;
const CHUNK = 256 * 1024;
const LF = 10;

export default defineCommand({
  name: "persist",
  summary: "Put images on record",
  details:
    'Metadata comes from the cache\'s own file for the reference, as a pull or load by msb leaves it, from --metadata, or\nfrom --batch: one {"reference", "metadata"} object a line. An image on record already is updated in place. A home\nwithout a catalogue gets one, which msb can use. Only rows are written: the metadata file itself is msb\'s to write, and\ncheck calls it missing until a pull does.',
  flags: {
    "reference...": { type: "positional", required: false, description: "the references to put on record" },
    metadata: {
      type: "string",
      valueHint: "FILE",
      description: "metadata for all the references; - for standard input",
    },
    batch: { type: "string", valueHint: "FILE", description: "JSON lines to put on record; - for standard input" },
  },
  operands: { least: 0, most: Number.POSITIVE_INFINITY },
  examples: [
    "larder persist python:3.12",
    "larder persist --metadata python.json python:3.12 python:latest",
    "generate-catalogue | larder persist --batch -",
  ],
  exits: [
    [3, "the cache holds no metadata for the reference"],
    [5, "the database is damaged, or the file is no database"],
  ],
  async run({ flags, operands, format, home }) {
    if ((flags.batch === undefined) === (operands.length === 0)) {
      throw new LarderError("usage", "persist needs either references or --batch FILE");
    }
    if (flags.batch !== undefined && flags.metadata !== undefined)
      throw new LarderError("usage", "--batch and --metadata exclude each other");
    const shared = flags.metadata === undefined ? undefined : await readShared(flags.metadata);
    const where = home();
    const { done, failed } =
      flags.batch === undefined ? await persistNamed(where, operands, shared) : await persistBatch(where, flags.batch);
    await emitList(format, done, () =>
      done.map(({ reference, digest }) => `persisted  ${printable(reference)}  ${digest}\n`).join(""),
    );
    const errors = failed.sort((a, b) => a.at - b.at).map(({ error }) => error);
    for (const { message } of errors) complain(message);
    return firstFailure(errors);
  },
});

interface Outcome {
  done: Persisted[];
  failed: Failure[];
}

interface Failure {
  /** Which operand, or which line. */
  at: number;
  error: LarderError;
}

/** One of the images to put on record, by its place among them. */
interface Numbered extends Entry {
  at: number;
}

// A home is opened, and so perhaps made, only once there is something to put on record.
async function persistNamed(home: Home, references: string[], shared: ImageMetadata | undefined): Promise<Outcome> {
  const outcome: Outcome = { done: [], failed: [] };
  const entries: Numbered[] = [];
  for (const [at, reference] of references.entries()) {
    try {
      parseReference(reference);
      entries.push({ ...(shared ? { reference, metadata: shared } : entryFor(home, reference)), at });
    } catch (error) {
      outcome.failed.push({ at, error: asLarderError(error) });
    }
  }
  if (entries.length === 0) return outcome;
  await recordInto(outcome, home, (larder) => {
    for (const [{ at, reference }, each] of persistEach(larder, entries))
      add(outcome, each, at, JSON.stringify(reference));
  });
  return outcome;
}

/** Persists JSON lines, a few hundred in a transaction; a bad line is named by its number and skipped. */
async function persistBatch(home: Home, path: string): Promise<Outcome> {
  const outcome: Outcome = { done: [], failed: [] };
  const size = new BatchSize(FIRST_BATCH, MOST_IMAGES);
  const batches = readBatches(path, outcome.failed, size);
  const first = await batches.next();
  if (first.done) return outcome;
  const bar = progressBar("persisted");
  await recordInto(outcome, home, async (larder) => {
    for (let batch: IteratorResult<Numbered[]> = first; !batch.done; batch = await batches.next()) {
      const timed: typeof writeTransaction = (db, change) => size.run(db, batch.value.length, change);
      for (const [{ at }, each] of persistEach(larder, batch.value, timed)) add(outcome, each, at, `line ${at}`);
      bar.show(outcome.done.length);
    }
  }).finally(bar.end);
  return outcome;
}

function add({ done, failed }: Outcome, each: Persisted | LarderError, at: number, where: string): void {
  if (each instanceof LarderError)
    failed.push({ at, error: new LarderError(each.code, `${where}: ${each.message}`, each) });
  else done.push(each);
}

// What was committed before a failure is on record, and is to be reported.
async function recordInto(
  { failed }: Outcome,
  home: Home,
  work: (larder: Larder) => void | Promise<void>,
): Promise<void> {
  const at = Number.POSITIVE_INFINITY;
  await withLarder(openOrCreate(home), work).catch((error) => failed.push({ at, error: asLarderError(error) }));
}

async function* readBatches(
  path: string,
  failed: Failure[],
  batches: { size: number },
): AsyncGenerator<Numbered[], void> {
  let entries: Numbered[] = [];
  for await (const [at, line] of readLines(path)) {
    try {
      const text = decode(line, `line ${at}`);
      if (text.trim() !== "") entries.push({ ...parseBatchLine(text, `line ${at}`), at });
    } catch (error) {
      failed.push({ at, error: asLarderError(error) });
    }
    if (entries.length >= batches.size) {
      yield entries;
      entries = [];
    }
  }
  if (entries.length > 0) yield entries;
}

/** The lines of a file with their numbers, each as it was written: one that is not UTF-8 must not cost the others. */
async function* readLines(path: string): AsyncGenerator<[number: number, line: Uint8Array]> {
  let number = 0;
  let parts: Uint8Array[] = [];
  for await (const chunk of path === "-" ? Bun.stdin.stream() : readChunks(path)) {
    let start = 0;
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, start)) {
      const last = chunk.subarray(start, end);
      yield [++number, parts.length === 0 ? last : Buffer.concat([...parts, last])];
      parts = [];
      start = end + 1;
    }
    if (start < chunk.length) parts.push(chunk.subarray(start));
  }
  yield [number + 1, Buffer.concat(parts)];
}

// Not `Bun.file(path).stream()`: its errors name no file, and of /dev/null it makes one.
function* readChunks(path: string): Generator<Uint8Array> {
  const fd = openSync(path, "r");
  try {
    for (;;) {
      const chunk = Buffer.alloc(CHUNK);
      const length = namingPath(path, () => readSync(fd, chunk));
      if (length === 0) return;
      yield chunk.subarray(0, length);
    }
  } finally {
    closeSync(fd);
  }
}

async function readShared(path: string): Promise<ImageMetadata> {
  const source = path === "-" ? "standard input" : path;
  const bytes = path === "-" ? await Bun.stdin.bytes() : namingPath(path, () => readFileSync(path));
  return parseMetadata(decode(bytes, source), source);
}

// As strict as for the cache's own files: msb would not read such metadata either, and a label must not be altered.
function decode(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new LarderError("invalid", `${where}: not UTF-8 text`, error);
  }
}
