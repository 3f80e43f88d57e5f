import type { Database } from "bun:sqlite";
import { readSnapshots } from "../cache/snapshots.ts";
import { untaggedManifests } from "../db/manifests.ts";
import { findUnknownPins, type Pins, readPins, type SnapshotImage, whyUnknown } from "../db/pins.ts";
import { dataVersion } from "../db/write.ts";
import { LarderError } from "../error.ts";
import type { Larder } from "../larder.ts";

/**
 * The pins of one operation that may delete. Snapshots on disk are read once, before any transaction; the catalogue's
 * pins are read inside each, and again only if another process committed since.
 */
export class PinWatch {
  private readonly snapshots: SnapshotImage[];
  private version = -1n;
  private pins: Pins | undefined;

  constructor(private readonly larder: Larder) {
    this.snapshots = readSnapshots(...larder.home.snapshots);
  }

  read(): Pins {
    const version = dataVersion(this.larder.db);
    if (this.pins === undefined || version !== this.version) {
      const pins = readPins(this.larder.db, this.snapshots);
      this.pins = { ...pins, unreadable: [...pins.unreadable, ...findUnknownPins(this.larder.db)] };
      this.version = version;
    }
    return this.pins;
  }

  /** The same, but throws `damaged` while anything that may pin an image cannot be read; `outcome` is what that means. */
  readAll(outcome = "nothing was deleted"): Pins {
    const pins = this.read();
    const unknown = whyUnknown(pins);
    if (unknown === undefined) return pins;
    throw new LarderError("damaged", `${outcome}, because ${unknown}`);
  }
}

/** The manifests, by row id and digest, that neither a reference names nor a pin needs: what a gc collects. */
export function unusedManifests(db: Database, { byDigest }: Pins): { id: number; digest: string }[] {
  return untaggedManifests(db).filter(({ digest }) => !byDigest.has(digest));
}
