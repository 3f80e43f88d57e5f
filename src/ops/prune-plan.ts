import { namePins, type Pin } from "../db/pins.ts";
import { matchGlob } from "../oci/glob.ts";
import { canonicalReference, isReference, repositoryOf, spellings } from "../oci/reference.ts";

/** What may go and what must stay. Durations in milliseconds, sizes in bytes. */
export interface PrunePolicy {
  /** References or globs, typed or canonical, that are never evicted. */
  keep: string[];
  minAge: number;
  unused?: boolean;
  olderThan?: number;
  keepLast?: number;
  untagged?: boolean;
  maxSize?: number;
  minFree?: { bytes: number } | { percent: number };
  /** Percentages of the file system: nothing is done below `high`, and then freed down to `low`. */
  watermarks?: { high: number; low: number };
}

/** A name of an image. Times are milliseconds since 1970, null where they are not known. */
export interface PruneName {
  id: number;
  reference: string;
  canonical: string | null;
  createdAt: number | null;
  /** Its metadata file, if its image has other names, as an index into `PruneState.files`; several names may have the same. */
  metadata?: number;
}

/** A manifest with everything that a decision about it rests on. */
export interface PruneImage {
  manifestId: number;
  digest: string;
  /** Empty for an untagged manifest. */
  names: PruneName[];
  /** When it was last pulled, loaded or persisted; null where that is not known. */
  lastUsed: number | null;
  pinnedBy: Pin[];
  /** The lock that a pull holds on one of its files, or the file that a pull or load has just written, or undefined. */
  locked?: string;
  /** Its files, but for those that go with a name, as indexes into `PruneState.files`. */
  files: number[];
}

/** The state that a plan is made from. */
export interface PruneState {
  images: PruneImage[];
  /** Allocated bytes of each file; one file may belong to several images. */
  files: number[];
  disk: PruneDisk;
  /** What shows that a pull or load runs: no file of an image may go now, so that evicting one would free nothing. */
  work?: string;
}

/** Figures of the disk, in bytes. */
export interface PruneDisk {
  /** Allocated by the whole cache. */
  cacheBytes: number;
  /** Of the cache, what belongs to no image and goes with the gc that follows. */
  garbageBytes: number;
  totalBytes: number;
  freeBytes: number;
}

export const CAUSES = [
  "pinned",
  "keep",
  "min-age",
  "locked",
  "no-rule",
  "within-budget",
  "unused",
  "older-than",
  "keep-last",
  "untagged",
  "budget",
  "unaccounted",
  "changed",
] as const;
export type Cause = (typeof CAUSES)[number];

/** What becomes of one name of an image, or of an untagged manifest, and why. */
export interface Decision {
  action: "evict" | "keep";
  reference: string | null;
  referenceId: number | null;
  digest: string;
  manifestId: number;
  cause: Cause;
  reason: string;
  /** Bytes that its eviction frees: those of the files that no other image has by then. */
  bytes: number;
}

/** What a budget asks for, in bytes. */
export interface BudgetTarget {
  /** To free before anything is decided; 0 if the budget holds already. */
  needed: number;
  /** What the plan frees, garbage included. */
  planned: number;
  /** What no eviction can free. */
  missing: number;
  /** The pull or load for which no image was evicted although bytes are missing; null where there is none. */
  waits_for: string | null;
}

export interface PrunePlan {
  decisions: Decision[];
  target: BudgetTarget | null;
}

interface Verdict {
  cause: Cause;
  reason: string;
}

/**
 * Decides what to evict: a pure function of its arguments. Rules come first, name by name; then the budget, image by
 * image, least recently used first, on what the rules and the gc that follows leave.
 */
export function planPrune({ images, files, disk, work }: PruneState, policy: PrunePolicy, now: number): PrunePlan {
  const byAge = [...images].sort((a, b) => lastUsed(a, now) - lastUsed(b, now) || (a.digest < b.digest ? -1 : 1));
  const ledger = new Ledger(images, files);
  const rules: Rules = {
    ...policy,
    keeps: policy.keep.map(compileKeep),
    newest: newestNames(images, policy.keepLast, now),
  };
  const decisions = new Map<PruneImage, Decision[]>();
  for (const image of byAge) {
    const decided = decideByRule(image, rules, now);
    decisions.set(image, decided);
    ledger.evict(filesGoing(image, decided));
  }
  const needed = bytesNeeded(policy, disk);
  const outcome = needed === null ? null : decideByBudget(byAge, decisions, ledger, needed - disk.garbageBytes, work);
  attributeBytes(byAge, decisions, new Ledger(images, files));
  return {
    decisions: images.flatMap((image) => decisions.get(image)!),
    target: outcome && { needed: Math.max(needed!, 0), planned: disk.garbageBytes + ledger.freed, ...outcome },
  };
}

interface Rules extends PrunePolicy {
  keeps: Keep[];
  /** The names that `keepLast` spares, by row id, with their repository. */
  newest: Map<number, string>;
}

/** A line of `--keep`; one that is a reference also means every other way to write it. */
interface Keep {
  text: string;
  canonical: string | undefined;
}

function compileKeep(text: string): Keep {
  return { text, canonical: isReference(text) ? canonicalReference(text) : undefined };
}

function isEvicted(decided: Decision[]): boolean {
  return decided.every(({ action }) => action === "evict");
}

// What goes of an image, whose decisions are in the order of its names.
function filesGoing(image: PruneImage, decided: Decision[]): number[] {
  if (isEvicted(decided)) return filesOf(image);
  return image.names.flatMap((name, i) => (decided[i]!.action === "evict" ? metadataOf(name) : []));
}

function filesLeft(image: PruneImage, decided: Decision[]): number[] {
  if (image.names.length < 2) return image.files;
  return [...image.files, ...image.names.flatMap((name, i) => (decided[i]!.action === "keep" ? metadataOf(name) : []))];
}

// Nearly all images have one name, and nothing that goes with a name alone.
function filesOf({ names, files }: PruneImage): number[] {
  return names.length < 2 ? files : [...files, ...names.flatMap(metadataOf)];
}

function metadataOf({ metadata }: PruneName): number[] {
  return metadata === undefined ? [] : [metadata];
}

// A file's bytes count for the image that was the last to hold it, in the order of eviction.
function attributeBytes(byAge: PruneImage[], decisions: Map<PruneImage, Decision[]>, ledger: Ledger): void {
  const byBudget = (image: PruneImage) => decisions.get(image)!.some(({ cause }) => cause === "budget");
  for (const image of [...byAge.filter((image) => !byBudget(image)), ...byAge.filter(byBudget)]) {
    const decided = decisions.get(image)!;
    const last = decided.findLast(({ action }) => action === "evict");
    if (last) last.bytes = ledger.evict(filesGoing(image, decided));
  }
}

/** When an image was last used, for comparing: what is unknown or lies in the future counts as now, never as old. */
function lastUsed(image: PruneImage, now: number): number {
  return Math.min(image.lastUsed ?? now, now);
}

function decideByRule(image: PruneImage, rules: Rules, now: number): Decision[] {
  const shield = protect(image, rules, now);
  if (image.names.length === 0) {
    // The gc that follows takes it whatever the rules say.
    return [
      decide(image, null, shield ? "keep" : "evict", shield ?? { cause: "untagged", reason: "no reference names it" }),
    ];
  }
  return image.names.map((name) => {
    const kept = shield ?? protectName(name, rules);
    if (kept) return decide(image, name, "keep", kept);
    const verdict = matchRules(image, name, rules, now);
    return decide(image, name, verdict.cause === "no-rule" ? "keep" : "evict", verdict);
  });
}

function decide(
  image: PruneImage,
  name: PruneName | null,
  action: Decision["action"],
  { cause, reason }: Verdict,
): Decision {
  const { digest, manifestId } = image;
  return {
    action,
    reference: name?.reference ?? null,
    referenceId: name?.id ?? null,
    digest,
    manifestId,
    cause,
    reason,
    bytes: 0,
  };
}

// What no rule and no budget may touch, whatever its names.
function protect(image: PruneImage, { minAge }: PrunePolicy, now: number): Verdict | undefined {
  if (image.pinnedBy.length > 0) return { cause: "pinned", reason: `in use by ${namePins(image.pinnedBy)}` };
  if (image.locked !== undefined)
    return { cause: "locked", reason: `a pull or load may be at work on "${image.locked}"` };
  const age =
    now - Math.max(lastUsed(image, now), ...image.names.map(({ createdAt }) => Math.min(createdAt ?? 0, now)));
  if (age < minAge) return { cause: "min-age", reason: `used ${describe(age)} ago, less than ${describe(minAge)}` };
  return undefined;
}

function protectName(name: PruneName, { keeps }: Rules): Verdict | undefined {
  const keep = findKeep(name, keeps);
  return keep && { cause: "keep", reason: `kept by ${JSON.stringify(keep.text)}` };
}

function findKeep(name: PruneName, keeps: Keep[]): Keep | undefined {
  return keeps.find((keep) => isMeant(name, keep)) ?? findSpelled(name, keeps)[0];
}

/** The patterns of `keep` that no name matches: a slip of the pen would protect nothing, without a word. */
export function findUnmatchedKeeps(images: PruneImage[], keep: string[]): string[] {
  let unmatched = keep.map(compileKeep);
  for (const { names } of images) {
    for (const name of names) {
      if (unmatched.length === 0) return [];
      unmatched = unmatched.filter((keep) => !isMeant(name, keep));
      const spelled = new Set(findSpelled(name, unmatched));
      unmatched = unmatched.filter((keep) => !spelled.has(keep));
    }
  }
  return unmatched.map(({ text }) => text);
}

function isMeant({ reference, canonical }: PruneName, { text, canonical: meant }: Keep): boolean {
  return matchGlob(text, reference) || (canonical !== null && (meant === canonical || matchGlob(text, canonical)));
}

// `python:*` means docker.io/library/python:3.12 too: however a name can be written, a pattern for it keeps it.
function findSpelled({ canonical }: PruneName, keeps: Keep[]): Keep[] {
  const globs = keeps.filter(({ canonical: meant }) => meant === undefined);
  if (globs.length === 0 || canonical === null) return [];
  const written = spellings(canonical);
  return globs.filter(({ text }) => written.some((name) => matchGlob(text, name)));
}

function matchRules(image: PruneImage, name: PruneName, rules: Rules, now: number): Verdict {
  const { unused, olderThan, keepLast, untagged, newest } = rules;
  const idle = now - lastUsed(image, now);
  if (untagged) return { cause: "no-rule", reason: "a reference names it" };
  if (olderThan !== undefined && idle < olderThan) {
    return { cause: "no-rule", reason: `used ${describe(idle)} ago, less than ${describe(olderThan)}` };
  }
  if (keepLast !== undefined && newest.has(name.id))
    return { cause: "no-rule", reason: `among the newest ${keepLast} of ${newest.get(name.id)}` };
  if (olderThan !== undefined) return { cause: "older-than", reason: `not used for ${describe(idle)}` };
  if (keepLast !== undefined)
    return { cause: "keep-last", reason: `not among the newest ${keepLast} of ${groupOf(name)}` };
  if (unused) return { cause: "unused", reason: "nothing needs it" };
  return { cause: "no-rule", reason: "no rule asks for it" };
}

function newestNames(images: PruneImage[], keepLast: number | undefined, now: number): Map<number, string> {
  const newest = new Map<number, string>();
  if (keepLast === undefined) return newest;
  const created = ({ createdAt }: PruneName) => Math.min(createdAt ?? now, now);
  const groups = Map.groupBy(
    images.flatMap(({ names }) => names),
    groupOf,
  );
  for (const [group, names] of groups) {
    names.sort((a, b) => created(b) - created(a) || b.id - a.id);
    for (const { id } of names.slice(0, keepLast)) newest.set(id, group);
  }
  return newest;
}

function groupOf({ reference }: PruneName): string {
  return isReference(reference) ? repositoryOf(reference) : reference;
}

/** Whether a policy has a budget. */
export function hasBudget({ maxSize, minFree, watermarks }: PrunePolicy): boolean {
  return maxSize !== undefined || minFree !== undefined || watermarks !== undefined;
}

/** Whether it has one of free space. */
export function asksForFreeSpace({ minFree, watermarks }: PrunePolicy): boolean {
  return minFree !== undefined || watermarks !== undefined;
}

/** Bytes that a budget asks to free, the largest of all that are given; null without any. */
function bytesNeeded(policy: PrunePolicy, disk: PruneDisk): number | null {
  if (!hasBudget(policy)) return null;
  const { maxSize } = policy;
  const excess = maxSize === undefined ? Number.NEGATIVE_INFINITY : disk.cacheBytes - maxSize;
  return Math.max(excess, freeWanted(policy, disk) - disk.freeBytes);
}

/** Bytes that are free on the file system once every budget of free space holds; none where there is no such budget. */
export function freeWanted(
  { minFree, watermarks }: PrunePolicy,
  { totalBytes, freeBytes }: Pick<PruneDisk, "totalBytes" | "freeBytes">,
): number {
  const wanted = [0];
  if (minFree !== undefined)
    wanted.push("bytes" in minFree ? minFree.bytes : Math.ceil((totalBytes * minFree.percent) / 100));
  if (watermarks !== undefined && totalBytes - freeBytes >= (totalBytes * watermarks.high) / 100)
    wanted.push(totalBytes - Math.floor((totalBytes * watermarks.low) / 100));
  return Math.max(...wanted);
}

/** Evicts by budget until the ledger has freed `needed` bytes, and tells how many it cannot free, or what it waits for. */
function decideByBudget(
  byAge: PruneImage[],
  decisions: Map<PruneImage, Decision[]>,
  ledger: Ledger,
  needed: number,
  work: string | undefined,
): Pick<BudgetTarget, "missing" | "waits_for"> {
  if (work !== undefined && ledger.freed < needed) {
    keepMeanwhile(decisions, work);
    return { missing: 0, waits_for: work };
  }
  const taken: PruneImage[] = [];
  for (const image of byAge) {
    if (ledger.freed >= needed) break;
    const decided = decisions.get(image)!;
    if (!isCandidate(image, decided)) continue;
    ledger.evict(filesLeft(image, decided));
    taken.push(image);
  }
  const missing = Math.max(needed - ledger.freed, 0);
  // Where the target is out of reach, what can be reached takes its place: no image goes that does not help.
  const floor = Math.min(needed, ledger.freed);
  const isSpared = (image: PruneImage) => ledger.spare(filesLeft(image, decisions.get(image)!), floor);
  const evicted = new Set(taken.reverse().filter((image) => !isSpared(image)));
  for (const [image, decided] of decisions) {
    for (const decision of decided.filter(({ cause }) => cause === "no-rule")) {
      Object.assign(decision, evicted.has(image) ? OVER_BUDGET : staysWithinBudget(decided));
    }
  }
  return { missing, waits_for: null };
}

function keepMeanwhile(decisions: Map<PruneImage, Decision[]>, work: string): void {
  const verdict: Verdict = { cause: "locked", reason: `a pull or load is running ("${work}"), and no file may go` };
  for (const decision of [...decisions.values()].flat())
    if (decision.cause === "no-rule") Object.assign(decision, verdict);
}

const OVER_BUDGET: Verdict & Pick<Decision, "action"> = {
  action: "evict",
  cause: "budget",
  reason: "least recently used, and the budget asks for its bytes",
};
const WITHIN_BUDGET: Verdict = { cause: "within-budget", reason: "the budget does not ask for it" };

function staysWithinBudget(decided: Decision[]): Verdict {
  const isKept = decided.some(({ cause }) => cause === "keep");
  return isKept ? { cause: "keep", reason: "another name of it is kept" } : WITHIN_BUDGET;
}

// An image is evicted by budget with all its names or not at all, so one kept name keeps it.
function isCandidate({ names }: PruneImage, decided: Decision[]): boolean {
  return (
    names.length > 0 &&
    !isEvicted(decided) &&
    decided.every(({ action, cause }) => action === "evict" || cause === "no-rule")
  );
}

/** Counts, file by file, how many images and names that stay need it. A file is freed by the last of them to go. */
class Ledger {
  freed = 0;
  private readonly users: Uint32Array;

  constructor(
    images: PruneImage[],
    private readonly bytes: number[],
  ) {
    this.users = new Uint32Array(bytes.length);
    for (const image of images) for (const file of filesOf(image)) this.users[file]!++;
  }

  /** Takes out what needs these files, and returns the bytes that this frees. */
  evict(files: number[]): number {
    const before = this.freed;
    for (const file of files) {
      this.users[file]!--;
      if (this.users[file] === 0) this.freed += this.bytes[file]!;
    }
    return this.freed - before;
  }

  /** Puts it back if `floor` bytes stay freed without it, and tells whether it did. */
  spare(files: number[], floor: number): boolean {
    const held = new Set(files)
      .values()
      .reduce((sum, file) => sum + (this.users[file] === 0 ? this.bytes[file]! : 0), 0);
    if (this.freed - held < floor) return false;
    for (const file of files) this.users[file]!++;
    this.freed -= held;
    return true;
  }
}

function describe(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  for (const [unit, length] of [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
  ] as const) {
    if (seconds >= 2 * length || seconds === length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${seconds}s`;
}
