import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Home } from "../../src/home.ts";
import { closeLarder, type Larder, openOrCreate } from "../../src/larder.ts";
import { parseMetadata } from "../../src/oci/metadata.ts";
import { persist } from "../../src/ops/persist.ts";
import { IMAGES, type OracleImage, type OracleReference, pathOf, REFERENCES } from "./oracle.ts";

const DAY = 24 * 60 * 60 * 1000;

/** A home made without msb, two days old, in a folder with a canary beside it that nothing may touch. */
export class Stage {
  // Thousands of commits: memory, where there is some, is a file system like any other.
  readonly folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "larder-stage-"));
  readonly canary = join(this.folder, "canary");
  readonly home: Home;

  constructor(name = "home", cache?: string) {
    const root = join(this.folder, name);
    this.home = {
      root,
      database: join(root, "db", "msb.db"),
      cache: cache ?? join(root, "cache"),
      snapshots: [join(root, "snapshots")],
    };
    for (const path of ["a", "layers/b.erofs", "tmp/c", "manifests/d.json"]) {
      mkdirSync(dirname(join(this.canary, path)), { recursive: true });
      writeFileSync(join(this.canary, path), `canary ${path}`);
      age(join(this.canary, path), 3 * DAY);
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Records an image with all its files, made and used `ms` ago. */
  add(reference: OracleReference, image: OracleImage, ms = 2 * DAY): void {
    this.plant(reference, image, ms);
    this.use((larder) => {
      const metadata = parseMetadata(JSON.stringify(metadataOf(image)), "stage");
      persist({ ...larder, now: () => Date.now() - ms }, [{ reference: reference.typed, metadata }]);
    });
  }

  /** Writes an image's files, as a load of msb leaves them, without a row. */
  plant(reference: OracleReference, image: OracleImage, ms = 2 * DAY): void {
    for (const { diffId, size } of image.layers) this.write(pathOf("layers", diffId, ".erofs"), "x".repeat(size), ms);
    this.write(pathOf("fsmeta", image.digest, ".erofs"), "m".repeat(4096), ms);
    this.write(pathOf("vmdk", image.digest, ".vmdk"), "disk", ms);
    this.write(`manifests/${reference.key}.json`, JSON.stringify(metadataOf(image)), ms);
  }

  /** Three images that share layers, all on record, nothing to collect. */
  fill(): this {
    for (const number of [0, 2, 4]) this.add(REFERENCES[number]!, IMAGES[number]!);
    return this;
  }

  /** Writes a file of the cache that is `ms` old. */
  write(path: string, content: string | Uint8Array, ms: number): void {
    const full = join(this.home.cache, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content);
    age(full, ms);
  }

  /** Opens the home for one piece of work. */
  use<T>(work: (larder: Larder) => T): T {
    const larder = openOrCreate(this.home);
    try {
      return work(larder);
    } finally {
      closeLarder(larder);
    }
  }

  /** The same for work that waits. */
  async useAsync<T>(work: (larder: Larder) => Promise<T>): Promise<T> {
    const larder = openOrCreate(this.home);
    try {
      return await work(larder);
    } finally {
      closeLarder(larder);
    }
  }

  /** The artifacts and metadata files in the cache: what is there but locks and scratch. */
  files(): string[] {
    return Object.keys(treeOf(this.home.cache)).filter(
      (path) => !path.endsWith(".lock") && !path.startsWith("tmp/") && !path.endsWith("/"),
    );
  }

  /** Keeps a copy of the whole home, to begin from it again. */
  keep(): () => void {
    const copy = join(this.folder, "kept");
    cpSync(this.home.root, copy, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    return () => {
      rmSync(this.home.root, { recursive: true });
      cpSync(copy, this.home.root, { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    };
  }
}

/** Sets a file's time to `ms` ago. */
export function age(path: string, ms: number): void {
  const seconds = (Date.now() - ms) / 1000;
  utimesSync(path, seconds, seconds);
}

/** Everything under a folder by its path in it: a hash of each file, where each link points, folders with a slash. */
export function treeOf(folder: string): Record<string, string> {
  const tree: Record<string, string> = {};
  const walk = (prefix: string) => {
    for (const name of readdirSync(join(folder, prefix)).sort()) {
      const path = prefix + name;
      const stat = lstatSync(join(folder, path));
      if (stat.isSymbolicLink()) tree[path] = `-> ${readlinkSync(join(folder, path))}`;
      else if (stat.isDirectory()) {
        tree[`${path}/`] = "";
        walk(`${path}/`);
      } else tree[path] = Bun.hash(readFileSync(join(folder, path))).toString(16);
    }
  };
  walk("");
  return tree;
}

/** The metadata that msb keeps of an image. */
export function metadataOf({ digest, layers }: OracleImage) {
  return {
    manifest_digest: digest,
    config_digest: digest,
    raw_manifest_json: "{}",
    raw_config_json: "{}",
    config: { env: [], exposed_ports: [], volumes: [], labels: {} },
    layers: layers.map(({ diffId, size }) => ({ digest: diffId, size_bytes: size / 2, diff_id: diffId })),
  };
}
