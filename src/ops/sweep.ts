import type { Database } from "bun:sqlite";
import { basename } from "node:path";
import {
  type DeleteReport,
  deleteGuarded,
  type Guard,
  part,
  type Skipped,
  skip,
  type Target,
} from "../cache/delete.ts";
import { FlatBlobs } from "../cache/flat.ts";
import { type YoungMetadata, YoungMetadataFiles } from "../cache/metadata.ts";
import type { CacheFile, Kind } from "../cache/paths.ts";
import { idsSpelling, listReferences } from "../db/images.ts";
import { hasLayer } from "../db/layers.ts";
import { hasManifest } from "../db/manifests.ts";
import { openForWriting } from "../db/open.ts";
import { namePins } from "../db/pins.ts";
import { explainSqlite, writeTransaction } from "../db/write.ts";
import { LarderError } from "../error.ts";
import type { Larder } from "../larder.ts";
import type { Digest } from "../oci/digest.ts";
import { cacheKeyOrNull } from "../oci/reference.ts";
import { PinWatch } from "./pins.ts";
import { metadataGrace } from "./settled.ts";
import { bootedBy } from "./snapshots.ts";

/** How a sweep treats time and interruption. */
export interface SweepOptions {
  /** Milliseconds; what is younger may belong to work that is under way. */
  grace: number;
  /** Whether to stop between two items. */
  stopped?: () => boolean;
  /** Told how many of the files were dealt with. */
  progress?: (done: number, total: number) => void;
}

/** Default grace, in milliseconds. */
export const DEFAULT_GRACE_MS = 10 * 60 * 1000;

/**
 * Deletes files under the guards of `deleteGuarded`, asking the catalogue on a connection of its own. A
 * catalogue that stays busy leaves the files to the next gc, or throws `busy` if this is the first step. `wanted` takes
 * the place of "does a row want it" where a file goes although a row does.
 */
export async function sweep(
  larder: Larder,
  targets: Target[],
  options: SweepOptions & Pick<Guard, "isFirstStep">,
  wanted?: (file: CacheFile) => string | undefined,
): Promise<DeleteReport> {
  if (targets.length === 0) return { deleted: [], skipped: [], failed: [] };
  using db = openForSweep(larder, options.isFirstStep);
  if (!db) {
    const skipped = targets.map((file) => skip(file, "the catalogue is gone, or busy"));
    return { deleted: [], skipped, failed: [] };
  }
  using wants = new Wants({ ...larder, db }, options.grace);
  // Awaited here: the connection must outlive the first batch.
  return await deleteGuarded(targets, {
    ...options,
    cache: larder.cache,
    now: larder.now,
    exclusively: (work) =>
      explainSqlite(larder.home.database, () =>
        writeTransaction(db, () => {
          wants.begin();
          work();
        }),
      ),
    wanted: wanted ?? ((file) => explainSqlite(larder.home.database, () => wants.reason(file))),
    ...(!wanted && { lookAhead: (file: CacheFile) => wants.lookAhead(file) }),
  });
}

function openForSweep({ home }: Larder, isFirstStep = false): Database | undefined {
  try {
    return openForWriting(home.database);
  } catch (error) {
    if (!isFirstStep && error instanceof LarderError && error.code === "busy") return undefined;
    throw error;
  }
}

/**
 * Which of these files a sweep at this moment would leave although no row wants them, as far as a plan can know it: a
 * metadata file written just now, and not among them, names them, and rows may be about to follow. `leaving` are the digests
 * of the manifests that go.
 */
export function foreseeSoon(
  { db, cache, now }: Larder,
  files: Target[],
  leaving: string[],
  grace: number,
): { targets: Target[]; later: Target[]; skipped: Skipped[] } {
  if (!files.some(({ kind }) => SPOKEN_FOR[kind])) return { targets: files, later: [], skipped: [] };
  using young = youngMetadata({ cache, now }, grace);
  const going = new Set(files.flatMap(({ kind, path }) => (kind === "metadata" ? basename(path) : [])));
  const gone = new Set(leaving);
  const isRecorded = (manifest: Digest) => !gone.has(manifest) && hasManifest(db, manifest);
  const soon = young.read().filter(({ name, manifest }) => !going.has(name) && !isRecorded(manifest));
  const named = new Set(soon.flatMap(({ manifest, layers }) => [manifest, ...layers]));
  const isNamed = ({ kind, digest }: Target) => SPOKEN_FOR[kind] !== undefined && named.has(digest!);
  const blobs = new FlatBlobs();
  for (const file of files) if (file.kind === "flat_ref" && isNamed(file)) blobs.add(file.path);
  const { targets, left, skipped } = part(files, (file) => {
    if (file.kind === "flat_blob") return blobs.needs(file.digest!) ? NEEDED_BY_REF : undefined;
    return isNamed(file) ? SOON : undefined;
  });
  return { targets, later: left, skipped };
}

/**
 * Answers whether a row, or a metadata file that is about to become one, wants a file. What it gathers holds for one
 * transaction only: `begin` starts the next.
 */
class Wants {
  private readonly young: YoungMetadataFiles;
  private readonly pins: PinWatch;
  private readonly keys = new Map<string, string | null>();
  private named: Set<string | null> | undefined;
  private blobs: FlatBlobs | undefined;
  private asked: YoungMetadata[] | undefined;
  private booted: ReturnType<typeof bootedBy> | undefined;
  private unrecorded: YoungMetadata[] = [];

  constructor(
    private readonly larder: Larder,
    grace: number,
  ) {
    this.pins = new PinWatch(larder);
    this.young = youngMetadata(larder, grace);
  }

  /**
   * Reads before the transaction what takes long to read: unless something changes meanwhile, it holds inside. Where
   * it cannot be read, `reason` fails in the same way, for those files alone that need it.
   */
  lookAhead({ kind }: CacheFile): void {
    try {
      if (SPOKEN_FOR[kind]) this.young.readAhead();
      else this.young.keepUp();
    } catch {}
  }

  begin(): void {
    this.named = undefined;
    this.blobs = undefined;
    this.asked = undefined;
    this.booted = undefined;
  }

  /** Asked in sweep order: metadata files before what they speak for, flat refs before blobs. */
  reason(file: CacheFile): string | undefined {
    const { kind, digest, key, canonical } = file;
    if (kind === "metadata") {
      if (this.isNamed(key!, canonical)) return "a reference needs it";
      // Its rows are gone: that it stays because of what cannot be read is a failure, and told as one.
      this.booted ??= bootedBy(this.pins.readAll("it was left"));
      return this.booted(file);
    }
    if (kind === "flat_blob") return this.flatBlobs().needs(digest!) ? NEEDED_BY_REF : undefined;
    const spokenFor = SPOKEN_FOR[kind];
    if (spokenFor === "layer") return this.wantsLayer(digest!);
    return spokenFor === "manifest" ? this.wantsManifest(digest!) : undefined;
  }

  private wantsLayer(diffId: Digest): string | undefined {
    if (hasLayer(this.larder.db, diffId)) return "a row needs it";
    return this.soon().some(({ layers }) => layers.includes(diffId)) ? SOON : undefined;
  }

  private wantsManifest(digest: Digest): string | undefined {
    if (hasManifest(this.larder.db, digest)) return "a row needs it";
    const pinnedBy = this.pins.read().byDigest.get(digest);
    if (pinnedBy) return `in use by ${namePins(pinnedBy)}`;
    return this.soon().some(({ manifest }) => manifest === digest) ? SOON : undefined;
  }

  // msb renames a metadata file into its place under no lock of the database, so this is asked anew for each file. Rows
  // stay as they are for as long as the transaction lasts.
  private soon(): YoungMetadata[] {
    const young = this.young.read();
    if (young !== this.asked) {
      this.asked = young;
      this.unrecorded = young.filter(({ manifest }) => !hasManifest(this.larder.db, manifest));
    }
    return this.unrecorded;
  }

  private flatBlobs(): FlatBlobs {
    this.blobs ??= FlatBlobs.of(this.larder.cache);
    return this.blobs;
  }

  private isNamed(key: string, canonical: string | undefined): boolean {
    if (canonical !== undefined) return idsSpelling(this.larder.db, canonical).length > 0;
    this.named ??= new Set(listReferences(this.larder.db).map((reference) => this.keyOf(reference)));
    return this.named.has(key);
  }

  [Symbol.dispose](): void {
    this.young[Symbol.dispose]();
  }

  private keyOf(reference: string): string | null {
    if (!this.keys.has(reference)) this.keys.set(reference, cacheKeyOrNull(reference));
    return this.keys.get(reference) ?? null;
  }
}

// What a row speaks for, and before there is one a metadata file: by the digest of a layer, or of a manifest.
const SPOKEN_FOR: Partial<Record<Kind, "layer" | "manifest">> = {
  layer: "layer",
  fsmeta: "manifest",
  vmdk: "manifest",
  flat_ref: "manifest",
};

const NEEDED_BY_REF = "a flat ref needs it";
const SOON = "a metadata file written just now needs it";

// Those whose rows may be about to follow.
function youngMetadata({ cache, now }: Pick<Larder, "cache" | "now">, grace: number): YoungMetadataFiles {
  return new YoungMetadataFiles(cache, now, metadataGrace(grace));
}
