import type { Target } from "../../cache/delete.ts";
import type { CacheFile } from "../../cache/paths.ts";
import { asLarderError, isSystemError } from "../../error.ts";
import type { Digest } from "../../oci/digest.ts";
import type { ImageMetadata } from "../../oci/metadata.ts";

type Severity = "damage" | "note";

// Every problem that check can name: damage makes it exit with 5, a note does not. Codes are stable; the advice says
// what to do where --repair cannot help.
const PROBLEMS = {
  "database-corrupt": ["damage", "restore the database from a backup; larder deletes nothing meanwhile"],
  "foreign-key": ["damage", "pull the image again, or remove the reference"],
  "schema-unknown": ["damage", "restore the database from a backup, or use a larder that knows this schema"],
  "migrations-missing": [
    "damage",
    "restore the migration history from a backup before any msb starts: it would wipe the catalogue",
  ],
  "timestamp-unreadable": [
    "damage",
    "msb's whole listing fails on it; remove the reference with larder rm, then pull or persist it again",
  ],
  "digest-invalid": [
    "damage",
    "remove the reference, or by hand the row where no image has it; larder never builds a path from it",
  ],
  "json-unreadable": ["damage", "pull the image again"],
  "column-unreadable": ["damage", "pull the image again, or remove the reference"],
  "pin-unreadable": ["damage", "no image is deleted while it is so; mend or remove the sandbox or snapshot with msb"],
  "image-missing": ["damage", "pull the image again, or remove with msb what needs it"],
  "config-missing": ["damage", "pull the image again"],
  "layers-missing": ["damage", "pull the image again"],
  "layer-count-mismatch": ["damage", "pull the image again"],
  "size-mismatch": ["damage", "pull the image again"],
  "position-gap": ["damage", "pull the image again"],
  "reference-invalid": ["damage", "remove it: msb cannot use it"],
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
  "artifact-truncated": ["damage", "remove the image and pull it again: msb does not see it"],
  "artifact-is-folder": ["damage", "move the folder away, then pull the image again"],
  "artifact-is-link": ["damage", "remove the link, then pull the image again"],
  "artifact-not-a-file": ["damage", "remove it, then pull the image again"],
  "file-unreadable": ["damage", "look after its permissions, or the disk: nothing can be told of what it holds"],
  "artifact-bad-checksum": ["damage", "remove the image and pull it again"],
  "flat-ref-unreadable": ["damage", "pull the image again with --materialize flat"],
  "flat-blob-size": ["damage", "pull the image again with --materialize flat"],
  "flat-blob-digest": ["damage", "pull the image again with --materialize flat"],
  "raw-digest-mismatch": ["damage", "pull the image again"],
  "vmdk-unreadable": ["damage", "pull the image again"],
  "vmdk-extent-missing": ["damage", "pull the image again"],
  "vmdk-incomplete": ["damage", "remove the image and pull it again: msb does not see it"],
  "vmdk-mislocated": ["damage", "pull the image again: the cache was moved, and the file names the old place"],
  "erofs-size-mismatch": ["damage", "pull the image again"],
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
