import { findLostLayer, findUnnamedLayer } from "../../db/integrity.ts";
import { whyUnwritable } from "../../db/open.ts";
import { type Pins, whyUnknown } from "../../db/pins.ts";
import { readTransaction } from "../../db/write.ts";
import { LarderError } from "../../error.ts";
import type { Larder } from "../../larder.ts";
import { isDigest } from "../../oci/digest.ts";
import { PinWatch, unusedManifests } from "../pins.ts";
import { findLostCache } from "../unrecorded.ts";
import { checkArtifacts, type Progress } from "./artifacts.ts";
import { checkDatabase, isCorrupt } from "./database.ts";
import { checkImages } from "./images.ts";
import { checkPinned } from "./pinned.ts";
import { isCollected, type Mend, type Problem, type ProblemCode, problem, refused, withUnreadable } from "./problem.ts";
import { checkRows } from "./rows.ts";
import { checkStrays } from "./strays.ts";

export interface CheckOptions {
  /** Read every artifact, and the raw documents. */
  deep: boolean;
  /** Milliseconds; a younger file without a row may belong to work that is under way. */
  grace: number;
  progress?: Progress;
  /** Whether to stop between two files. */
  stopped?: () => boolean;
}

/** Compares catalogue and disk, and names every problem once. Reads only. Throws `interrupted` where it is stopped. */
export async function check(larder: Larder, options: CheckOptions): Promise<Problem[]> {
  const { deep, grace, progress } = options;
  const database = [...checkDatabase(larder.db)];
  // From a damaged file nothing can be concluded: its rows may be anything.
  if (isCorrupt(database)) return database;
  const pins = new PinWatch(larder).read();
  const unused = unusedManifests(larder.db, pins);
  const images = readTransaction(larder.db, () => [...checkRows(larder.db), ...checkImages(larder, deep)]);
  const artifacts = await gather(checkArtifacts(larder, pins, deep, progress), options);
  // Which blob such a ref means cannot be told: it may be any.
  const keepsBlobs = artifacts.some(({ code }) => code === "flat-ref-unreadable" || code === "file-unreadable");
  const strays = withUnreadable("cache", checkStrays(larder, pins, { grace, keepsBlobs, images, unused }));
  const problems = new Map<string, Problem>();
  for (const each of [
    ...database,
    ...pins.unreadable.map((trouble) => problem("pin-unreadable", "pins", trouble)),
    ...withUnreadable("cache", checkPinned(larder, pins, images)),
    ...images,
    ...artifacts,
    ...strays,
  ]) {
    const identity = identify(each);
    // A layer that a hundred images share has one fault.
    if (!problems.has(identity)) problems.set(identity, each);
  }
  const codes = new Set(Array.from(problems.values(), ({ code }) => code));
  const look: Look = { larder, pins, unused, codes };
  const found = advise(look, [...problems.values()]);
  const isMade = mendsMade(look, found);
  return found.map(({ mend, ...rest }) => (mend && isMade(mend) ? { ...rest, mend } : rest));
}

/** What a check goes by that says what gc and a repair would refuse. */
interface Look {
  larder: Larder;
  pins: Pins;
  /** What a gc collects; see `unusedManifests`. */
  unused: { id: number; digest: string }[];
  /** Of all that was found. */
  codes: ReadonlySet<ProblemCode>;
}

// Where gc refuses no advice says that it takes something; scratch it takes from an unaccounted cache, too.
function advise(look: Look, problems: Problem[]): Problem[] {
  if (!problems.some(isCollected)) return problems;
  const why = whyRefused(look);
  if (why !== undefined) return problems.map((each) => refused(each, `gc leaves it ${why}`));
  if (!look.codes.has("catalogue-unaccounted")) return problems;
  const leaves = "gc leaves it until the catalogue accounts for its cache";
  return problems.map((each) => (each.code === "staging-stale" ? each : refused(each, leaves)));
}

function whyRefused(look: Look): string | undefined {
  if (look.codes.has("migrations-missing")) return "until the migration history is there";
  if (isUnwritable(look)) return "until msb has finished its downgrade";
  if (whyUnknown(look.pins) !== undefined) return "until it can be told what is in use";
  if (isCacheMissed(look)) return "until its cache is there";
  const { db } = look.larder;
  const going = look.unused.map(({ id }) => id);
  const isLayerLost = findLostLayer(db) !== undefined || findUnnamedLayer(db, going) !== undefined;
  return isLayerLost ? "while an image lacks a layer on record" : undefined;
}

function isUnwritable({ larder: { db, home } }: Look): boolean {
  return whyUnwritable(db, home.database) !== undefined;
}

// Rows would be missed once the cache is back; where none is to go, gc sweeps.
function isCacheMissed({ larder, unused, codes }: Look): boolean {
  const goes = codes.has("layer-orphan") || unused.some(({ digest }) => isDigest(digest));
  return goes && findLostCache(larder) !== undefined;
}

/** Which of the mends a repair makes: it promises none that it would then refuse. */
function mendsMade(look: Look, problems: Problem[]): (mend: Mend) => boolean {
  if (isUnwritable(look)) return () => false;
  const isSweeping = problems.some(({ mend }) => mend?.kind === "sweep") && !refusesSweep(look, problems);
  return ({ kind }) => kind !== "sweep" || isSweeping;
}

// A repair rebuilds rows first, and deletes none: it minds each lost layer that it does not bring back.
function refusesSweep(look: Look, problems: Problem[]): boolean {
  if (whyUnknown(look.pins) !== undefined || isCacheMissed(look)) return true;
  const { db } = look.larder;
  const rebuilt = problems.flatMap(({ mend }) => (mend?.kind === "rebuild" ? (mend.manifestId ?? []) : []));
  return findLostLayer(db, rebuilt) !== undefined || findUnnamedLayer(db, rebuilt) !== undefined;
}

// How long the walk goes on before signals are heard.
const BREATH_MS = 50;

async function gather(walk: Iterable<Problem | undefined>, { stopped }: CheckOptions): Promise<Problem[]> {
  const problems: Problem[] = [];
  let next = performance.now() + BREATH_MS;
  for (const found of walk) {
    if (found) problems.push(found);
    else if (performance.now() >= next) {
      await Bun.sleep(0);
      if (stopped?.()) throw new LarderError("interrupted", "the check was stopped");
      next = performance.now() + BREATH_MS;
    }
  }
  return problems;
}

/** What makes two problems of two checks the same. */
export function identify({ code, subject, message }: Pick<Problem, "code" | "subject" | "message">): string {
  return JSON.stringify([code, subject, message]);
}

/** The problem that a catalogue which cannot even be opened stands for; what is no damage is thrown on. */
export function unopenable(error: unknown): Problem {
  if (error instanceof LarderError && error.code === "damaged") {
    return problem(error.cause === undefined ? "schema-unknown" : "database-corrupt", "database", error.message);
  }
  throw error;
}
