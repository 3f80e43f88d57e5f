import { statSync } from "node:fs";
import { isSystemError } from "../error.ts";
import { FolderWatch } from "../host/watch.ts";
import type { Digest } from "../oci/digest.ts";
import { type ImageMetadata, parseMetadata } from "../oci/metadata.ts";
import { isYoung, measure, namesIn, readHead, readRegular } from "./file.ts";
import { type CachePaths, isLock } from "./paths.ts";

/** What a metadata file holds, or undefined where there is none; throws `invalid` for a file msb would ignore. */
export function readMetadataFile(path: string): ImageMetadata | undefined {
  const text = readRegular(path);
  return text === undefined ? undefined : parseMetadata(text, path);
}

// msb writes compact JSON with this key first (interop §5), so a file's head tells which image it is about.
const HEAD = /^\{"manifest_digest":"(sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128}))"/;

/**
 * Which manifest a metadata file is about; undefined where the file is gone or says nothing that can be read. Throws
 * where the system cannot read it: it may be the one that shows a catalogue to be lost.
 */
export function manifestNamedBy(path: string): Digest | undefined {
  try {
    const named = HEAD.exec(readHead(path, 160) ?? "")?.[1] as Digest | undefined;
    return named ?? readMetadataFile(path)?.manifest_digest;
  } catch (error) {
    if (isSystemError(error)) throw error;
    return undefined;
  }
}

// The kernel gives files its time by ticks of at most 10 ms.
const TICK_MS = 20;

// How often a folder is read that changes while it is read.
const MOST_LOOKS = 3;

// What reading may take to be done while writers wait. Where it takes longer, to wait for the end of the tick comes first.
const SHORT_MS = 5;
// Bytes of a folder that takes longer for certain: it is watched, or else the wait comes before the first read.
const LARGE = 128 * 1024;

/** A metadata file that was written lately, as its content says. */
export interface YoungMetadata {
  /** Of the file, without its folder. */
  name: string;
  manifest: Digest;
  layers: Digest[];
}

/**
 * The readable metadata files younger than `grace` (milliseconds). msb writes this file before it writes the rows, so
 * what one of them names may be about to be put on record. A large folder is watched from now on until the end of use:
 * to read it again after each delete of larder's own, only to find what else came, would take longer than all the rest.
 */
export class YoungMetadataFiles {
  private readonly folder: string;
  private watch: FolderWatch | undefined;
  private files: YoungMetadata[] = [];
  /** With a watch: whether `files` holds, but for what the watch tells. */
  private isKnown = false;
  /** Without one: the time of the folder that `files` is of. */
  private seen = -1;

  constructor(
    private readonly cache: CachePaths,
    private readonly now: () => number,
    private readonly grace: number,
  ) {
    this.folder = cache.folder("manifests");
    if (this.measureFolder().size > LARGE) this.watch = FolderWatch.start(this.folder);
    // Where nothing in the folder is young by now, it need not be read at all; larder's first delete makes it young.
    this.isKnown = this.watch !== undefined && !this.mayHoldYoung(this.measureFolder().mtimeMs);
  }

  /** Those of this moment: the same array for as long as nothing changes. */
  read(): YoungMetadata[] {
    const { isKnown } = this;
    // What cannot be read now is not known the next time either.
    this.isKnown = false;
    const changed = this.changes();
    if (changed === undefined) return this.readByTime();
    if (!isKnown) this.files = this.readFolder(this.measureFolder().mtimeMs);
    else if (changed.size > 0)
      this.files = [...this.files.filter(({ name }) => !changed.has(name)), ...this.readYoung(changed)];
    this.isKnown = true;
    return this.files;
  }

  /** Hears what larder's own deletes made the watch tell, of which the kernel keeps some thousands. */
  keepUp(): void {
    if (this.isKnown) this.read();
    else this.changes();
  }

  private changes(): Set<string> | undefined {
    const changed = this.watch?.changes();
    if (changed === undefined) this[Symbol.dispose]();
    return changed;
  }

  // Reads the folder again only if something was renamed into it since, or may have been within the clock's tick.
  private readByTime(): YoungMetadata[] {
    let changed = this.measureFolder().mtimeMs;
    if (changed === this.seen) return this.files;
    for (let looks = 0; looks < MOST_LOOKS; looks++) {
      const asked = Date.now();
      this.files = this.readFolder(changed);
      this.seen = asked - changed < TICK_MS ? -1 : changed;
      const { mtimeMs } = this.measureFolder();
      if (mtimeMs === changed) break;
      changed = mtimeMs;
    }
    return this.files;
  }

  /**
   * Reads before writers have to wait. Without a watch, what is read within the tick of the last change has to be read
   * again when it is asked for: where that takes long, this waits for the tick to end, and what it reads holds until the
   * next change.
   */
  readAhead(): void {
    if (this.watch) this.read();
    // Unless it was lost just now.
    if (this.watch) return;
    const { mtimeMs, size } = this.measureFolder();
    if (size > LARGE && Date.now() - mtimeMs < TICK_MS) Bun.sleepSync(TICK_MS);
    const start = performance.now();
    this.read();
    if (this.seen >= 0 || performance.now() - start <= SHORT_MS) return;
    Bun.sleepSync(TICK_MS);
    this.read();
  }

  private measureFolder(): { mtimeMs: number; size: number } {
    return statSync(this.folder, { throwIfNoEntry: false }) ?? { mtimeMs: 0, size: 0 };
  }

  // msb renames each such file into its place (interop §3), so none is younger than the folder.
  private mayHoldYoung(folderMtimeMs: number): boolean {
    return isYoung(folderMtimeMs, this.now(), this.grace);
  }

  private readFolder(folderMtimeMs: number): YoungMetadata[] {
    return this.mayHoldYoung(folderMtimeMs) ? this.readYoung(namesIn(this.folder)) : [];
  }

  private readYoung(names: Iterable<string>): YoungMetadata[] {
    const young: YoungMetadata[] = [];
    for (const name of names) {
      if (isLock(name)) continue;
      const file = this.cache.classify("manifests", name);
      const stat = file.kind === "metadata" ? measure(file.path) : undefined;
      if (!stat || !isYoung(stat.mtimeMs, this.now(), this.grace)) continue;
      try {
        const metadata = readMetadataFile(file.path);
        if (!metadata) continue;
        const layers = metadata.layers.map(({ diff_id }) => diff_id);
        young.push({ name, manifest: metadata.manifest_digest, layers });
      } catch (error) {
        // What it names may be wanted.
        if (isSystemError(error)) throw error;
      }
    }
    return young;
  }

  [Symbol.dispose](): void {
    this.watch?.[Symbol.dispose]();
    this.watch = undefined;
  }
}
