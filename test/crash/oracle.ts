// What larder must do, told once more in memory and in the plainest way: from the agreement on what each command does
// and from the safety rules, and sharing no code with the program. Times and durations are in milliseconds.

/** An image that may be put on record. Layers bottom to top. */
export interface OracleImage {
  digest: string;
  layers: { diffId: string; size: number }[];
  flat?: { derivation: string; artifact: string };
}

/** A reference as typed, with the canonical form, its cache key and the repository with its host. */
export interface OracleReference {
  typed: string;
  canonical: string;
  key: string;
  repository: string;
}

/** The artifact of a flat ref that cannot be read: it may name any blob, so no blob goes beside it. */
export const UNREADABLE = "unreadable";

/** What a file in the cache belongs to. Scratch lies in `tmp/`; a folder is one where larder expects a file. */
export type Owner =
  | { kind: "metadata"; canonical: string; manifest: string; layers: string[] }
  | { kind: "vmdk" | "fsmeta"; manifest: string }
  | { kind: "flat_ref"; manifest: string; artifact: string }
  | { kind: "flat_blob"; artifact: string }
  | { kind: "layer"; diffId: string }
  | { kind: "stray" | "scratch" | "folder" };

export interface OracleFile {
  owner: Owner;
  mtime: number;
  /** Length. */
  size: number;
  /** Allocated bytes. */
  bytes: number;
}

export interface OraclePin {
  kind: "rootfs" | "config" | "snapshot" | "snapshot_on_disk" | "unreadable";
  name: string;
  digest: string;
}

interface Name {
  reference: OracleReference;
  digest: string;
  created: number;
  updated: number;
  /** Which came first: a row keeps its place when its tag moves. */
  order: number;
}

export interface OraclePolicy {
  minAge: number;
  keep?: string;
  unused?: boolean;
  olderThan?: number;
  keepLast?: number;
  untagged?: boolean;
  maxSize?: number;
}

/** What a command that deletes must report: rows by what identifies them, files by their path in the cache. */
export interface Expected {
  references: string[];
  manifests: string[];
  layers: string[];
  files: string[];
  skipped: string[];
  bytes: number;
  isUnaccounted: boolean;
}

export interface ExpectedRemoval extends Expected {
  untagged: string[];
  refused: string[];
}

export interface ExpectedPrune extends Expected {
  evicted: string[];
  missing: number | null;
}

/** Thrown where a command must refuse altogether, by its code. */
export class Refusal extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

// Metadata before anything that it speaks for, and flat refs before their blobs.
const SWEEP_ORDER = ["metadata", "vmdk", "fsmeta", "flat_ref", "flat_blob", "layer", "stray", "scratch"];

export class Oracle {
  now = Date.UTC(2026, 0, 1);
  readonly names = new Map<string, Name>();
  readonly manifests = new Map<string, { image: OracleImage; created: number }>();
  readonly layers = new Map<string, { lastUsed: number; erofsSize: number | null }>();
  readonly files = new Map<string, OracleFile>();
  pins: OraclePin[] = [];
  private rows = 0;

  persist(reference: OracleReference, image: OracleImage): void {
    if (!this.manifests.has(image.digest)) this.manifests.set(image.digest, { image, created: this.now });
    for (const { diffId } of image.layers) {
      const artifact = this.files.get(pathOf("layers", diffId, ".erofs"));
      const size = artifact?.owner.kind === "layer" ? artifact.size : undefined;
      this.layers.set(diffId, {
        lastUsed: this.now,
        erofsSize: size ?? this.layers.get(diffId)?.erofsSize ?? null,
      });
    }
    const known = this.names.get(reference.typed);
    this.names.set(reference.typed, {
      reference,
      digest: image.digest,
      created: known?.created ?? this.now,
      updated: this.now,
      order: known?.order ?? this.rows++,
    });
  }

  remove(texts: string[], force: boolean, ignoreMissing: boolean, grace: number): ExpectedRemoval {
    const dropped: Name[] = [];
    const dead = new Set<string>();
    const untagged: string[] = [];
    const refused: string[] = [];
    for (const { text, found } of [...new Set(texts)].map((text) => ({ text, found: this.find(text) }))) {
      const [first] = found;
      if (first === undefined) {
        if (this.namesOf(text).length > 0) refused.push(`${text} ambiguous`);
        else if (!ignoreMissing) refused.push(`${text} not_found`);
      } else if (found.length > 1) {
        refused.push(`${text} ambiguous`);
      } else if (!(typeof first !== "string" && dropped.includes(first))) {
        const digest = typeof first === "string" ? first : first.digest;
        const others = [...this.names.values()].filter(
          (name) => name.digest === digest && name !== first && !dropped.includes(name),
        );
        const obstacle = others.length > 0 ? undefined : this.obstacle(digest);
        if (obstacle && (!force || typeof first === "string")) {
          refused.push(`${text} ${obstacle}`);
          continue;
        }
        if (obstacle) untagged.push(digest);
        else if (others.length === 0) dead.add(digest);
        if (typeof first !== "string") dropped.push(first);
      }
    }
    const layers = this.layersOnlyOf(dead);
    const files = this.filesOf(dropped, dead, layers, []);
    const isNeeded = (owner: Owner) => this.isBooted(owner) || this.isNeededUnrecorded(owner);
    const needed = files.filter((path) => isNeeded(this.files.get(path)!.owner));
    const targets = files.filter((path) => !needed.includes(path));
    this.dropRows(dropped, dead, layers);
    return { ...this.report(dropped, dead, layers, this.sweep(targets, grace), needed), untagged, refused };
  }

  gc(grace: number, layersOnly: boolean, sweepUnrecorded: boolean): Expected {
    return this.collect([], new Set(), grace, layersOnly, sweepUnrecorded);
  }

  prune(policy: OraclePolicy, grace: number, sweepUnrecorded: boolean): ExpectedPrune {
    const shielded = (digest: string) =>
      this.pinsOf(digest).length > 0 ||
      this.isAwaited(digest, grace) ||
      this.now - this.lastTouched(digest) < policy.minAge;
    const names = [...this.names.values()];
    const isKept = ({ reference }: Name) => reference.repository === policy.keep;
    const byRule = names.filter((name) => !shielded(name.digest) && !isKept(name) && this.matches(name, policy));
    const whole = new Set<string>();
    for (const digest of this.manifests.keys()) {
      const mine = names.filter((name) => name.digest === digest);
      if (mine.length > 0 ? mine.every((name) => byRule.includes(name)) : !shielded(digest)) whole.add(digest);
    }
    const candidates = [...this.manifests.keys()]
      .filter((digest) => {
        const mine = names.filter((name) => name.digest === digest);
        return mine.length > 0 && !whole.has(digest) && !shielded(digest) && !mine.some(isKept);
      })
      .sort((a, b) => this.lastUsed(a) - this.lastUsed(b) || (a < b ? -1 : 1));
    const budget = this.overBudget(policy, byRule, whole, candidates, grace);
    const evicted = names.filter((name) => byRule.includes(name) || budget?.taken.has(name.digest));
    const spare = new Set([...this.manifests.keys()].filter(shielded));
    const expected = this.collect(evicted, spare, grace, false, sweepUnrecorded);
    return {
      ...expected,
      evicted: expected.isUnaccounted ? [] : evicted.map(({ reference }) => reference.typed),
      missing: budget ? budget.missing : null,
    };
  }

  /** Allocated bytes of the whole cache; lock files are empty. */
  totalBytes(): number {
    return [...this.files.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Who is said to use an image, as `list` shows it. */
  pinsOf(digest: string): string[] {
    const mine = this.pins.filter((pin) => pin.digest === digest && pin.kind !== "unreadable");
    return mine.map(({ kind, name }) => `${kind.startsWith("snapshot") ? "snapshot" : "sandbox"} ${name}`).sort();
  }

  private find(text: string): (Name | string)[] {
    const exact = this.names.get(text);
    if (exact) return [exact];
    const canonical = CANONICAL.get(text);
    const same = [...this.names.values()].filter(({ reference }) => reference.canonical === canonical);
    if (same.length > 0) return same;
    return this.manifests.has(text) && this.namesOf(text).length === 0 ? [text] : [];
  }

  private namesOf(digest: string): Name[] {
    return [...this.names.values()].filter((name) => name.digest === digest);
  }

  private obstacle(digest: string): string | undefined {
    if (this.pinsOf(digest).length > 0) return "in_use";
    return this.pins.some(({ kind }) => kind === "unreadable") ? "damaged" : undefined;
  }

  private matches({ reference, digest }: Name, policy: OraclePolicy): boolean {
    const rules: boolean[] = [];
    if (policy.untagged) rules.push(false);
    if (policy.unused) rules.push(true);
    if (policy.olderThan !== undefined) rules.push(this.now - this.lastUsed(digest) >= policy.olderThan);
    if (policy.keepLast !== undefined) {
      const group = [...this.names.values()].filter((name) => name.reference.repository === reference.repository);
      const newest = group.sort((a, b) => b.created - a.created || b.order - a.order).slice(0, policy.keepLast);
      rules.push(!newest.some((name) => name.reference.typed === reference.typed));
    }
    return rules.length > 0 && rules.every(Boolean);
  }

  private lastUsed(digest: string): number {
    const { image, created } = this.manifests.get(digest)!;
    const names = this.namesOf(digest);
    const uses = names.length > 0 ? names.map(({ updated }) => updated) : [created];
    for (const { diffId } of image.layers) {
      const isOwn = [...this.manifests].every(([other, { image }]) => other === digest || !holds(image, diffId));
      if (isOwn) uses.push(this.layers.get(diffId)!.lastUsed);
    }
    return Math.max(...uses);
  }

  /** Whether a metadata file of it is young, and newer than all that was put on record of whoever shares the file. */
  private isAwaited(digest: string, grace: number): boolean {
    return this.namesOf(digest).some(({ reference: { canonical, key } }) => {
      const path = `manifests/${key}.json`;
      const file = this.files.get(path);
      if (file?.owner.kind !== "metadata" || this.isOld(path, grace)) return false;
      const sharing = [...this.names.values()].filter(({ reference }) => reference.canonical === canonical);
      const uses = sharing.flatMap(({ digest }) => this.namesOf(digest)).map(({ updated }) => updated);
      return uses.every((updated) => updated < file.mtime);
    });
  }

  private lastTouched(digest: string): number {
    return Math.max(this.lastUsed(digest), ...this.namesOf(digest).map(({ created }) => created));
  }

  // Least recently used first until it is enough; then, newest first, whatever turns out not to be needed is spared.
  private overBudget(policy: OraclePolicy, byRule: Name[], whole: Set<string>, candidates: string[], grace: number) {
    if (policy.maxSize === undefined) return undefined;
    const orphans = [...this.layers.keys()].filter((diffId) => !this.isHeld(diffId, new Set()));
    const garbage = new Set([
      ...this.strays()
        .filter((path) => !this.isBooted(this.files.get(path)!.owner))
        .filter((path) => this.isOld(path, grace) || this.isPassing(path)),
      ...orphans.map((diffId) => pathOf("layers", diffId, ".erofs")).filter((path) => this.files.has(path)),
    ]);
    const garbageBytes = [...garbage].reduce((sum, path) => sum + this.files.get(path)!.bytes, 0);
    const needed = this.totalBytes() - policy.maxSize - garbageBytes;
    const taken = new Set<string>();
    const freed = () => this.freedBy(new Set([...whole, ...taken]), byRule);
    for (const digest of candidates) {
      if (freed() >= needed) break;
      taken.add(digest);
    }
    const reached = freed();
    const floor = Math.min(needed, reached);
    for (const digest of [...taken].reverse()) {
      taken.delete(digest);
      if (freed() < floor) taken.add(digest);
    }
    return { taken, missing: Math.max(needed - reached, 0) };
  }

  /** Whether a young stray is no scratch and no download, which may be gone on with, and so goes soon. */
  private isPassing(path: string): boolean {
    return !/^tmp\/|\.part$|\.tar\.gz$/.test(path) && this.files.get(path)!.mtime <= this.now;
  }

  private freedBy(gone: Set<string>, byRule: Name[]): number {
    const isGone = (name: Name) => gone.has(name.digest) || byRule.includes(name);
    let sum = 0;
    for (const { owner, bytes } of this.files.values()) {
      const users =
        owner.kind === "metadata"
          ? [...this.names.values()].filter(({ reference }) => reference.canonical === owner.canonical).map(isGone)
          : this.usersOf(owner).map((digest) => gone.has(digest));
      if (users.length > 0 && users.every(Boolean)) sum += bytes;
    }
    return sum;
  }

  private usersOf(owner: Owner): string[] {
    return [...this.manifests].flatMap(([digest, { image }]) => {
      if (owner.kind === "layer") return holds(image, owner.diffId) ? digest : [];
      if (owner.kind === "flat_blob") return this.flatArtifactOf(digest) === owner.artifact ? digest : [];
      return "manifest" in owner && owner.manifest === digest ? digest : [];
    });
  }

  private flatArtifactOf(digest: string): string | undefined {
    const owner = this.files.get(pathOf("flat/refs", digest, ".json"))?.owner;
    return owner?.kind === "flat_ref" ? owner.artifact : undefined;
  }

  private collect(
    dropped: Name[],
    spare: Set<string>,
    grace: number,
    layersOnly: boolean,
    sweepUnrecorded: boolean,
  ): Expected {
    if (this.pins.some(({ kind }) => kind === "unreadable")) throw new Refusal("damaged");
    const dead = new Set(
      [...this.manifests.keys()].filter((digest) => {
        const names = this.namesOf(digest);
        if (names.length > 0) return names.every((name) => dropped.includes(name));
        return !layersOnly && !spare.has(digest) && this.pinsOf(digest).length === 0;
      }),
    );
    const orphans = [...this.layers.keys()].filter((diffId) => !this.isHeld(diffId, new Set()));
    const layers = new Set([...orphans, ...this.layersOnlyOf(dead)]);
    const strays = layersOnly ? [] : this.strays();
    const isYoung = (path: string) => {
      const { owner } = this.files.get(path)!;
      return !this.isOld(path, grace) || owner.kind === "folder" || this.isBooted(owner);
    };
    const young = strays.filter((path) => isYoung(path) || this.isNamedBy(path, strays.filter(isYoung)));
    const old = strays.filter((path) => !young.includes(path));
    const targets = [...this.filesOf(dropped, dead, layers, old), ...old];
    const outside = targets.filter((path) => !path.startsWith("tmp/"));
    if (outside.length > 0 && (this.hasPinnedUnrecorded() || (!sweepUnrecorded && this.isUnaccounted(grace)))) {
      const swept = this.sweep(
        targets.filter((path) => path.startsWith("tmp/")),
        grace,
      );
      return { ...this.report([], new Set(), new Set(), swept, young), isUnaccounted: true };
    }
    this.dropRows(dropped, dead, layers);
    return this.report(dropped, dead, layers, this.sweep(targets, grace), young);
  }

  /** What is in use stays, on record or not, whatever is asked for. */
  private hasPinnedUnrecorded(): boolean {
    return [...this.files.values()].some(
      ({ owner }) =>
        (owner.kind === "vmdk" || owner.kind === "fsmeta" || owner.kind === "flat_ref") &&
        !this.manifests.has(owner.manifest) &&
        this.pinsOf(owner.manifest).length > 0,
    );
  }

  /** Whether it is metadata by which msb boots a snapshot, for all that is known of them. */
  private isBooted(owner: Owner): boolean {
    if (owner.kind !== "metadata") return false;
    const isKnown = this.pins.every(({ kind }) => kind !== "unreadable");
    return !isKnown || this.pinsOf(owner.manifest).some((pin) => pin.startsWith("snapshot"));
  }

  /** Whether an image has this layer that msb could boot, and that is not on record; or this metadata, which tells of it. */
  private isNeededUnrecorded(file: Owner): boolean {
    const owners = [...this.files.values()].map(({ owner }) => owner);
    const unrecorded = owners.filter((owner) => "manifest" in owner && !this.manifests.has(owner.manifest));
    return (
      unrecorded.some(({ kind }) => kind === "vmdk" || kind === "flat_ref") &&
      unrecorded.some(
        (owner) =>
          owner.kind === "metadata" && (file.kind === "layer" ? owner.layers.includes(file.diffId) : owner === file),
      )
    );
  }

  private isUnaccounted(grace: number): boolean {
    if (this.manifests.size === 0) return true;
    return [...this.files].some(
      ([path, { owner }]) =>
        owner.kind === "metadata" && !this.manifests.has(owner.manifest) && this.isOld(path, grace),
    );
  }

  private layersOnlyOf(dead: Set<string>): Set<string> {
    const theirs = [...dead].flatMap((digest) => this.manifests.get(digest)!.image.layers.map(({ diffId }) => diffId));
    return new Set(theirs.filter((diffId) => !this.isHeld(diffId, dead)));
  }

  private isHeld(diffId: string, without: Set<string>): boolean {
    return [...this.manifests].some(([digest, { image }]) => !without.has(digest) && holds(image, diffId));
  }

  /** Whether a file is a flat blob that one of these refs names. */
  private isNamedBy(path: string, refs: string[]): boolean {
    const { owner } = this.files.get(path)!;
    return owner.kind === "flat_blob" && refs.some((ref) => namesBlob(this.files.get(ref)!.owner, owner.artifact));
  }

  // `going` are strays that go at the same time, and so keep no blob.
  private filesOf(dropped: Name[], dead: Set<string>, layers: Set<string>, going: string[]): string[] {
    const rest = [...this.names.values()].filter((name) => !dropped.includes(name));
    const keys = dropped
      .filter(({ reference }) => !rest.some((name) => name.reference.canonical === reference.canonical))
      .map(({ reference }) => `manifests/${reference.key}.json`);
    const refs = [...dead].map((digest) => pathOf("flat/refs", digest, ".json"));
    const blobs = [...dead].flatMap((digest) => this.flatArtifactOf(digest) ?? []);
    const staying = [...this.files].filter(([path]) => !refs.includes(path) && !going.includes(path));
    const kept = blobs.filter((artifact) => staying.some(([, { owner }]) => namesBlob(owner, artifact)));
    const paths = [
      ...keys,
      ...refs,
      ...[...dead].flatMap((digest) => [pathOf("vmdk", digest, ".vmdk"), pathOf("fsmeta", digest, ".erofs")]),
      ...blobs.filter((artifact) => !kept.includes(artifact)).map((artifact) => pathOf("flat/blobs", artifact, ".raw")),
      ...[...layers].map((diffId) => pathOf("layers", diffId, ".erofs")),
    ];
    return [...new Set(paths)].filter((path) => this.files.has(path));
  }

  /** Every file that no row accounts for, whatever its age. */
  private strays(): string[] {
    return [...this.files].filter(([, { owner }]) => !this.isAccounted(owner)).map(([path]) => path);
  }

  private isAccounted(owner: Owner): boolean {
    if (owner.kind === "metadata") return this.isSpelled(owner.canonical);
    if (owner.kind === "layer") return this.layers.has(owner.diffId);
    if (owner.kind === "flat_blob")
      return [...this.manifests.keys()].some((digest) => this.flatArtifactOf(digest) === owner.artifact);
    return "manifest" in owner && this.manifests.has(owner.manifest);
  }

  private isSpelled(canonical: string): boolean {
    return [...this.names.values()].some(({ reference }) => reference.canonical === canonical);
  }

  private isOld(path: string, grace: number): boolean {
    return this.now - this.files.get(path)!.mtime >= grace;
  }

  private dropRows(dropped: Name[], dead: Set<string>, layers: Set<string>): void {
    for (const { reference } of dropped) this.names.delete(reference.typed);
    for (const digest of dead) this.manifests.delete(digest);
    for (const diffId of layers) this.layers.delete(diffId);
  }

  private sweep(targets: string[], grace: number): { gone: Map<string, number>; left: string[] } {
    const rank = (path: string) => SWEEP_ORDER.indexOf(this.files.get(path)!.owner.kind);
    const gone = new Map<string, number>();
    const left: string[] = [];
    for (const path of [...new Set(targets)].sort((a, b) => rank(a) - rank(b))) {
      if (this.isWanted(this.files.get(path)!.owner, grace)) left.push(path);
      else {
        gone.set(path, this.files.get(path)!.bytes);
        this.files.delete(path);
      }
    }
    return { gone, left };
  }

  private isWanted(owner: Owner, grace: number): boolean {
    // msb writes an image's metadata before its rows: what a young one names may be about to be recorded.
    const soon = [...this.files].flatMap(([path, { owner }]) =>
      owner.kind === "metadata" && !this.manifests.has(owner.manifest) && !this.isOld(path, grace) ? owner : [],
    );
    if (owner.kind === "metadata") return this.isSpelled(owner.canonical) || this.isBooted(owner);
    if (owner.kind === "layer")
      return this.layers.has(owner.diffId) || soon.some(({ layers }) => layers.includes(owner.diffId));
    if (owner.kind === "flat_blob")
      return [...this.files.values()].some(({ owner: other }) => namesBlob(other, owner.artifact));
    if ("manifest" in owner)
      return (
        this.manifests.has(owner.manifest) ||
        this.pinsOf(owner.manifest).length > 0 ||
        soon.some(({ manifest }) => manifest === owner.manifest)
      );
    return false;
  }

  private report(
    dropped: Name[],
    dead: Set<string>,
    layers: Set<string>,
    { gone, left }: { gone: Map<string, number>; left: string[] },
    young: string[],
  ): Expected {
    return {
      references: dropped.map(({ reference }) => reference.typed),
      manifests: [...dead],
      layers: [...layers],
      files: [...gone.keys()],
      skipped: [...young, ...left],
      bytes: [...gone.values()].reduce((sum, bytes) => sum + bytes, 0),
      isUnaccounted: false,
    };
  }
}

function namesBlob(owner: Owner, artifact: string): boolean {
  return owner.kind === "flat_ref" && (owner.artifact === artifact || owner.artifact === UNREADABLE);
}

function holds({ layers }: OracleImage, diffId: string): boolean {
  return layers.some((layer) => layer.diffId === diffId);
}

/** Where a file lies in the cache that is named by a digest. */
export function pathOf(folder: string, digest: string, ending: string): string {
  return `${folder}/${digest.replace(":", "_")}${ending}`;
}

function reference(typed: string, canonical: string): OracleReference {
  const repository = canonical.slice(0, canonical.lastIndexOf(":"));
  return { typed, canonical, repository, key: new Bun.CryptoHasher("sha256").update(canonical).digest("hex") };
}

/** The references of the model, two of them spelled in several ways. */
export const REFERENCES: OracleReference[] = [
  reference("one", "docker.io/library/one:latest"),
  reference("docker.io/library/one:latest", "docker.io/library/one:latest"),
  reference("one:2", "docker.io/library/one:2"),
  reference("library/one:3", "docker.io/library/one:3"),
  reference("ghcr.io/acme/two:1", "ghcr.io/acme/two:1"),
  reference("ghcr.io/acme/two:2", "ghcr.io/acme/two:2"),
  reference("localhost:5000/three", "localhost:5000/three:latest"),
];

/** Texts that mean one of them and are on no record, or mean nothing. */
export const OTHER_TEXTS: [text: string, canonical: string][] = [
  ["one:latest", "docker.io/library/one:latest"],
  ["index.docker.io/library/one:2", "docker.io/library/one:2"],
  ["nothing:1", "docker.io/library/nothing:1"],
];

const CANONICAL = new Map([
  ...REFERENCES.map(({ typed, canonical }): [string, string] => [typed, canonical]),
  ...OTHER_TEXTS,
]);

function digest(name: string): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(name).digest("hex")}`;
}

const [A, B, C, D, E, F] = ["a", "b", "c", "d", "e", "f"].map((name, i) => ({
  diffId: digest(`layer ${name}`),
  size: 4096 * (i + 1),
}));
const ARTIFACT = digest("flat root of two images");

/** The images of the model: shared bases, a layer that comes twice, one blob for two flat roots. */
export const IMAGES: OracleImage[] = [
  { digest: digest("image 0"), layers: [A!] },
  { digest: digest("image 1"), layers: [A!, B!], flat: { derivation: digest("derivation 1"), artifact: ARTIFACT } },
  { digest: digest("image 2"), layers: [A!, C!, D!] },
  { digest: digest("image 3"), layers: [B!, E!, B!], flat: { derivation: digest("derivation 3"), artifact: ARTIFACT } },
  { digest: digest("image 4"), layers: [F!] },
  { digest: digest("image 5"), layers: [A!, C!, F!] },
];
