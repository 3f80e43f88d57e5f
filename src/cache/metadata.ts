import { statSync } from "node:fs";
import { isSystemError } from "../error.ts";
import type { Digest } from "../oci/digest.ts";
import { type ImageMetadata, parseMetadata } from "../oci/metadata.ts";
import { cacheKey } from "../oci/reference.ts";
import { measure, namesIn, readHead, readRegular } from "./file.ts";
import { type CachePaths, isLock } from "./paths.ts";

/** The metadata that the cache holds for a reference, or undefined; throws `invalid` for a file msb would ignore. */
export function readMetadata(cache: CachePaths, reference: string): ImageMetadata | undefined {
  return readMetadataFile(cache.metadata(cacheKey(reference)).path);
}

/** The same by path. */
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
// Bytes of a folder that takes longer for certain: there the wait comes before the first read, and saves it.
const LARGE = 128 * 1024;

/** A metadata file that was written lately, as its content says. */
export interface YoungMetadata {
  manifest: Digest;
  layers: Digest[];
}

/**
 * The readable metadata files younger than `grace` (milliseconds). msb writes this file before it writes the rows, so
 * what one of them names may be about to be put on record.
 */
export class YoungMetadataFiles {
  private seen = -1;
  private files: YoungMetadata[] = [];
  private readonly folder: string;

  constructor(
    private readonly cache: CachePaths,
    private readonly now: () => number,
    private readonly grace: number,
  ) {
    this.folder = cache.folder("manifests");
  }

  /** Reads the folder again only if something was renamed into it since, or may have been within the clock's tick. */
  read(): YoungMetadata[] {
    let changed = this.measureFolder().mtimeMs;
    if (changed === this.seen) return this.files;
    for (let looks = 0; looks < MOST_LOOKS; looks++) {
      const asked = Date.now();
      // msb renames each such file into its place (interop §3), so none is younger than the folder.
      this.files = this.now() - changed < this.grace ? this.readFolder() : [];
      this.seen = asked - changed < TICK_MS ? -1 : changed;
      const { mtimeMs } = this.measureFolder();
      if (mtimeMs === changed) break;
      changed = mtimeMs;
    }
    return this.files;
  }

  /**
   * Reads before writers have to wait. What is read within the tick of the last change has to be read again when it is
   * asked for: where that takes long, this waits for the tick to end, and what it reads holds until the next change.
   */
  readAhead(): void {
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

  private readFolder(): YoungMetadata[] {
    const young: YoungMetadata[] = [];
    for (const name of namesIn(this.folder)) {
      if (isLock(name)) continue;
      const file = this.cache.classify("manifests", name);
      const stat = file.kind === "metadata" ? measure(file.path) : undefined;
      if (!stat || this.now() - stat.mtimeMs >= this.grace) continue;
      try {
        const metadata = readMetadataFile(file.path);
        if (metadata)
          young.push({ manifest: metadata.manifest_digest, layers: metadata.layers.map(({ diff_id }) => diff_id) });
      } catch (error) {
        // What it names may be wanted.
        if (isSystemError(error)) throw error;
      }
    }
    return young;
  }
}
