import type { Target } from "../../cache/delete.ts";
import type { CacheFile } from "../../cache/paths.ts";
import { asLarderError, isSystemError } from "../../error.ts";
import type { Digest } from "../../oci/digest.ts";
import type { ImageMetadata } from "../../oci/metadata.ts";

type Severity = "damage" | "note";

/** Without the flag msb makes the merged tree and the disk alone. */
export const FLAT = "pull the image again with --materialize flat";
// A pull writes the metadata anew, and leaves rows of an image that is on record as they are.
const REBUILT = "pull the image again, then run larder check --repair";
// What a pull or load takes as it finds it. To remove one image leaves a layer that others have.
const UNSEEN = "pull the image again with --force, or remove it and load it again: msb does not see it";
const UNSEEN_LAYER =
  "pull the image again with --force, or remove all that have it and load them again: msb does not see it";

// Every problem that check can name: damage makes it exit with 5, a note does not. Codes are stable; the advice says
// what to do where --repair cannot help.
const PROBLEMS = {
  "database-corrupt": ["damage", "restore the database from a backup; larder deletes nothing meanwhile"],
  "foreign-key": [
    "damage",
    "larder check --repair mends it by the image's metadata; where that is gone, delete the row by hand, then pull the image again",
  ],
  "schema-unknown": ["damage", "restore the database from a backup, or use a larder that knows this schema"],
  "migrations-missing": [
    "damage",
    "restore the migration history from a backup before any msb starts: it would wipe the catalogue",
  ],
  "timestamp-unreadable": [
    "damage",
    "msb cannot read such a row, and where it is a reference's lists no image; remove the images that have it with larder rm, then pull them again",
  ],
  "digest-invalid": [
    "damage",
    "remove the reference, or by hand the row where no image has it; larder never builds a path from it",
  ],
  "json-unreadable": ["damage", REBUILT],
  "column-unreadable": [
    "damage",
    `${REBUILT}; where that leaves it, remove the images that have it, then pull them again`,
  ],
  "pin-unreadable": [
    "damage",
    "no image is deleted while it is so; remove the sandbox or snapshot with msb, by hand what msb cannot read either; for a table, use a larder that knows it",
  ],
  "image-missing": ["damage", "pull the image again, or remove with msb what needs it"],
  "config-missing": ["damage", REBUILT],
  "layers-missing": ["damage", REBUILT],
  "layer-count-mismatch": ["damage", REBUILT],
  "size-mismatch": ["damage", REBUILT],
  "position-gap": ["damage", REBUILT],
  "reference-invalid": ["damage", "remove it, by hand where it is no text: msb cannot use it"],
  "reference-conflict": ["damage", "remove the spelling that is not meant: both share one metadata file"],
  "metadata-missing": ["damage", "pull the image again, so that msb can save and boot it offline"],
  "metadata-absent": [
    "note",
    "msb makes such a name when it boots a snapshot; pull the image by it to save or boot it so",
  ],
  "metadata-unreadable": ["damage", "pull the image again"],
  "metadata-mismatch": ["damage", "pull the image again, or put the metadata's image on record with larder persist"],
  "artifact-missing": ["damage", "pull the image again"],
  "artifact-empty": ["damage", "pull the image again"],
  "artifact-misaligned": ["damage", "pull the image again"],
  "artifact-not-erofs": ["damage", "pull the image again"],
  "artifact-truncated": ["damage", UNSEEN_LAYER],
  "artifact-is-folder": ["damage", "move the folder away, then pull the image again"],
  "artifact-is-link": ["damage", "remove the link, then pull the image again"],
  "artifact-not-a-file": ["damage", "remove it, then pull the image again"],
  "file-unreadable": ["damage", "look after its permissions, or the disk: nothing can be told of what it holds"],
  "artifact-bad-checksum": ["damage", UNSEEN_LAYER],
  "flat-ref-unreadable": ["damage", FLAT],
  "flat-blob-size": ["damage", "remove the file, then pull the image again with --materialize flat"],
  "flat-blob-digest": ["damage", "pull the image again with --force --materialize flat"],
  "raw-digest-mismatch": ["damage", UNSEEN],
  "vmdk-unreadable": ["damage", UNSEEN],
  "vmdk-extent-missing": ["damage", UNSEEN],
  "vmdk-incomplete": ["damage", UNSEEN],
  "vmdk-mislocated": [
    "damage",
    "pull the image again with --force, or remove it and load it again: the cache was moved, and the file names the old place",
  ],
  "erofs-size-mismatch": ["damage", "msb never records it; --repair corrects it"],
  "erofs-size-unrecorded": ["note", "msb never records it; --repair fills it in"],
  "config-outdated": ["note", "older msb does not store it; --repair fills it in"],
  "platform-outdated": ["note", "msb records the host's; --repair corrects it"],
  "metadata-old-shape": ["note", "msb 0.5 and later ignore it; pull the image again"],
  "catalogue-unaccounted": [
    "damage",
    "gc and prune sweep tmp/ at most meanwhile; where the catalogue is an old one, or another home's, bring back the right one",
  ],
  "metadata-unrecorded": [
    "note",
    "put its image on record with larder persist REFERENCE, or sweep it with larder gc (and --sweep-unrecorded where gc refuses)",
  ],
  "stray-file": ["note", "larder gc takes it once it is old enough"],
  "staging-stale": ["note", "larder gc takes it once it is old enough"],
  "untagged-manifest": ["note", "larder gc collects it unless something pins it"],
  "layer-orphan": ["note", "larder gc collects it"],
} as const satisfies Record<string, readonly [Severity, string]>;

export type ProblemCode = keyof typeof PROBLEMS;
export const PROBLEM_CODES = Object.keys(PROBLEMS) as ProblemCode[];

/** How a problem can be mended without losing anything. */
export type Mend =
  /** Write an image's rows anew from its metadata; `manifestId` is its manifest's row, or null where that is gone. */
  | { kind: "rebuild"; reference: string; manifestId: number | null; metadata: ImageMetadata }
  /** Record an artifact's length, in bytes. */
  | { kind: "size"; diffId: Digest; bytes: number }
  /** Remove an artifact that msb would reject, so that its next pull makes it anew. */
  | { kind: "discard"; file: CacheFile }
  /** Point a VMDK at the files where they lie now. */
  | { kind: "relocate"; file: CacheFile }
  | { kind: "sweep"; target: Target };

/** One thing that is not as it should be. */
export interface Problem {
  code: ProblemCode;
  severity: Severity;
  /** What it is about: a reference, a digest, a path. */
  subject: string;
  message: string;
  advice: string;
  mend?: Mend;
}

/** What a mend does, as a reader of the report is told. */
export const REMEDIES: Record<Mend["kind"], string> = {
  rebuild: "its rows are written anew from its metadata",
  size: "the size is recorded",
  discard: "the file is removed, so that msb's next pull makes it anew",
  relocate: "the disk is pointed at its files where they lie now",
  sweep: "the file is deleted",
};

const COLLECTED: ProblemCode[] = ["stray-file", "staging-stale", "untagged-manifest", "layer-orphan"];

/** Whether gc takes what a problem is about, unless it refuses. */
export function isCollected({ code }: Problem): boolean {
  return COLLECTED.includes(code);
}

/** A problem as it is where gc does not take it: `advice` says so in place of the promise that it does. */
export function refused(problem: Problem, advice: string): Problem {
  return isCollected(problem) ? { ...problem, advice } : problem;
}

/** What a look finds. A file that the system cannot read is one problem more, and no reason to leave out the others. */
export function* withUnreadable<T>(subject: string, look: Iterable<T>): Generator<T | Problem> {
  try {
    yield* look;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    yield problem("file-unreadable", subject, asLarderError(error).message);
  }
}

/** Makes a problem of a code; severity and advice come from the table. */
export function problem(code: ProblemCode, subject: string, message: string, mend?: Mend): Problem {
  const [severity, advice] = PROBLEMS[code];
  return { code, severity, subject, message, advice, ...(mend && { mend }) };
}
