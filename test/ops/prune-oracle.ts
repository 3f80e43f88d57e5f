import type { PruneImage, PruneName, PrunePolicy, PruneState } from "../../src/ops/prune-plan.ts";

/** What must go, worked out the slow way. */
export interface OracleVerdict {
  /** Names that nothing may evict, as `image_ref` ids. */
  protectedNames: Set<number>;
  /** Images that nothing may evict, whole. */
  protectedImages: Set<PruneImage>;
  /** Names that go by a rule alone. */
  byRule: Set<number>;
  /** Images that go with all their names, whatever for; untagged ones included. */
  evicted: Set<PruneImage>;
  /** Of those, the ones that went for the budget. */
  byBudget: Set<PruneImage>;
  /** Bytes to free, null without a budget. */
  needed: number | null;
  missing: number;
}

/**
 * The policy as its description reads, by brute force: every figure is counted anew from the whole state each time it
 * is wanted, and nothing is shared with the planner but the shape of its arguments.
 */
export function oracle(state: PruneState, policy: PrunePolicy, now: number): OracleVerdict {
  const protectedImages = new Set(state.images.filter((image) => isProtected(image, policy, now)));
  const protectedNames = new Set<number>();
  const byRule = new Set<number>();
  for (const image of state.images) {
    for (const name of image.names) {
      if (protectedImages.has(image) || policy.keep.some((line) => keeps(line, name))) protectedNames.add(name.id);
      else if (matchesEveryRule(state, image, name, policy, now)) byRule.add(name.id);
    }
  }
  const goneByRule = state.images.filter((image) =>
    image.names.length === 0 ? !protectedImages.has(image) : image.names.every(({ id }) => byRule.has(id)),
  );
  const needed = bytesWanted(state, policy);
  const evicted = new Set(goneByRule);
  const byBudget = new Set<PruneImage>();
  let missing = 0;
  if (needed !== null) {
    const freedBy = (gone: Set<PruneImage>) => state.disk.garbageBytes + freed(state, gone, byRule);
    const isEnough = (gone: Set<PruneImage>, bytes: number) => freedBy(gone) >= bytes;
    const candidates = state.images
      .filter((image) => image.names.length > 0 && !evicted.has(image))
      .filter((image) => image.names.every(({ id }) => !protectedNames.has(id)))
      .sort((a, b) => compare(moment(a.lastUsed, now), moment(b.lastUsed, now)) || compare(a.digest, b.digest));
    const taken: PruneImage[] = [];
    for (const image of candidates) {
      if (isEnough(new Set([...goneByRule, ...taken]), needed)) break;
      taken.push(image);
    }
    const reached = freedBy(new Set([...goneByRule, ...taken]));
    missing = needed > reached ? needed - reached : 0;
    const goal = missing > 0 ? reached : needed;
    for (const image of [...taken].reverse()) {
      const without = taken.filter((other) => other !== image);
      if (isEnough(new Set([...goneByRule, ...without]), goal)) taken.splice(taken.indexOf(image), 1);
    }
    for (const image of taken) {
      evicted.add(image);
      byBudget.add(image);
    }
  }
  return { protectedNames, protectedImages, byRule, evicted, byBudget, needed, missing };
}

/** Bytes of the files that only these images and these names have. */
export function freed({ images, files }: PruneState, gone: Set<PruneImage>, goneNames: Set<number>): number {
  let sum = 0;
  files.forEach((bytes, file) => {
    const users = images.flatMap((image) => [
      ...(image.files.includes(file) ? [gone.has(image)] : []),
      ...image.names.filter(({ metadata }) => metadata === file).map(({ id }) => gone.has(image) || goneNames.has(id)),
    ]);
    if (users.length > 0 && users.every((isGone) => isGone)) sum += bytes;
  });
  return sum;
}

// Unknown or in the future: as if it were just now.
function moment(time: number | null, now: number): number {
  return time === null || time > now ? now : time;
}

function isProtected(image: PruneImage, { minAge }: PrunePolicy, now: number): boolean {
  if (image.pinnedBy.length > 0) return true;
  if (image.locked !== undefined) return true;
  const births = image.names.map(({ createdAt }) => createdAt).filter((time) => time !== null);
  return [moment(image.lastUsed, now), ...births.map((time) => moment(time, now))].some((time) => now - time < minAge);
}

function keeps(line: string, { reference, canonical }: PruneName): boolean {
  const glob = new RegExp(
    `^${line
      .split("")
      .map((c) => (c === "*" ? "[^]*" : c === "?" ? "[^]" : `\\u{${c.charCodeAt(0).toString(16)}}`))
      .join("")}$`,
    "u",
  );
  if (glob.test(reference)) return true;
  if (canonical === null) return false;
  return glob.test(canonical) || spellOut(line) === canonical;
}

// Only what the random catalogues hold: lower case, with or without host, repository and tag.
function spellOut(reference: string): string | undefined {
  if (/[*?]/.test(reference)) return undefined;
  const parts = reference.split("/");
  if (parts.length === 1) parts.unshift("library");
  if (!/[.:]/.test(parts[0]!)) parts.unshift("docker.io");
  if (parts.length === 2 && parts[0] === "docker.io") parts.splice(1, 0, "library");
  if (!parts.at(-1)!.includes(":")) parts.push(`${parts.pop()}:latest`);
  return parts.join("/");
}

function matchesEveryRule(
  { images }: PruneState,
  image: PruneImage,
  name: PruneName,
  { unused, olderThan, keepLast, untagged }: PrunePolicy,
  now: number,
): boolean {
  if (!unused && olderThan === undefined && keepLast === undefined) return false;
  if (untagged) return false;
  if (olderThan !== undefined && now - moment(image.lastUsed, now) < olderThan) return false;
  if (keepLast !== undefined) {
    const newer = images
      .flatMap(({ names }) => names)
      .filter((other) => repository(other) === repository(name))
      .filter((other) => {
        const [mine, theirs] = [moment(name.createdAt, now), moment(other.createdAt, now)];
        return theirs > mine || (theirs === mine && other.id > name.id);
      });
    if (newer.length < keepLast) return false;
  }
  return true;
}

function repository({ reference, canonical }: PruneName): string {
  return canonical === null ? reference : canonical.replace(/@.*$/, "").replace(/:[^:/]*$/, "");
}

function bytesWanted({ disk }: PruneState, { maxSize, minFree, watermarks }: PrunePolicy): number | null {
  const wanted: number[] = [];
  if (maxSize !== undefined) wanted.push(disk.cacheBytes - maxSize);
  if (minFree !== undefined) {
    // The least whole number of bytes that is at least the share.
    let least = "bytes" in minFree ? minFree.bytes : Math.floor((disk.totalBytes / 100) * minFree.percent) - 2;
    if ("percent" in minFree) while (least * 100 < disk.totalBytes * minFree.percent) least++;
    wanted.push(least - disk.freeBytes);
  }
  if (watermarks !== undefined) {
    const used = disk.totalBytes - disk.freeBytes;
    let most = Math.floor((disk.totalBytes / 100) * watermarks.low) + 2;
    while (most * 100 > disk.totalBytes * watermarks.low) most--;
    wanted.push(used * 100 < disk.totalBytes * watermarks.high ? 0 : used - most);
  }
  if (wanted.length === 0) return null;
  return Math.max(0, ...wanted);
}

function compare<T extends number | string>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
