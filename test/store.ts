import { Database } from "bun:sqlite";
import {
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { resolveHome } from "../src/home.ts";
import { closeLarder, type Larder, openToWrite } from "../src/larder.ts";
import { run, TemporaryFolder } from "./larder.ts";

/** What a test wants on record. Layers are names; their digests follow from them, and so do shared layers. */
export interface StoredImage {
  /** As typed. The canonical form stands after `=` where the two differ: `one=docker.io/library/one:latest`. */
  references: string[];
  layers: string[];
  /** Give the image a flat root whose blob is named so. */
  flat?: string;
}

/** Milliseconds that make a file an old one, and a young one, under the default grace of ten minutes. */
export const OLD = 3_600_000;
export const YOUNG = 1000;

/** What no row may make a path of, with a name each. */
export const HOSTILE_DIGESTS: [what: string, digest: string][] = [
  ["a path that climbs", "../../canary:x"],
  ["an algorithm that climbs", "a/../../../canary:x"],
  ["an absolute path", "/canary:x"],
  ["a NUL", `sha256:${"a".repeat(63)}\0`],
  ["uppercase hex", `sha256:${"A".repeat(64)}`],
  ["a megabyte", `sha256:${"a".repeat(2 ** 20)}`],
  ["nothing", ""],
];

/** The digest that stands for a name. */
export function digestOf(name: string): string {
  return `sha256:${hex(name)}`;
}

/** The same as file names hold it. */
export function stemOf(name: string): string {
  return `sha256_${hex(name)}`;
}

/** The descriptor of a disk that joins these files, of a block each. */
export function vmdkOf(paths: string[]): string {
  return `# Disk DescriptorFile\n${paths.map((path) => `RW 8 FLAT "${path}" 0\n`).join("")}`;
}

/** Where the cache keeps what belongs to a name, relative to the cache. */
export const at = {
  metadata: (canonical: string) => `manifests/${hex(canonical)}.json`,
  metadataLock: (canonical: string) => `manifests/${hex(canonical)}.lock`,
  layer: (layer: string) => `layers/${stemOf(layer)}.erofs`,
  layerLock: (layer: string) => `layers/${stemOf(layer)}.erofs.lock`,
  fsmeta: (image: string) => `fsmeta/${stemOf(image)}.erofs`,
  fsmetaLock: (image: string) => `fsmeta/${stemOf(image)}.erofs.lock`,
  vmdk: (image: string) => `vmdk/${stemOf(image)}.vmdk`,
  flatRef: (image: string) => `flat/refs/${stemOf(image)}.json`,
  flatBlob: (blob: string) => `flat/blobs/${stemOf(blob)}.raw`,
  flatLock: (blob: string) => `flat/locks/${stemOf(`derivation of ${blob}`)}.lock`,
  downloadLock: (blob: string) => `tmp/${stemOf(blob)}.download.lock`,
};

/** A home as msb leaves one, built directly: rows through `larder persist --batch`, files beside them. All are old. */
export class Store extends TemporaryFolder {
  private constructor(
    private readonly images: Record<string, StoredImage>,
    /** Where the cache is, if not in the home. */
    private readonly moved?: string,
  ) {
    super();
  }

  /** Builds the images, by name: the name stands for the manifest. */
  static async make(images: Record<string, StoredImage> = {}, cache?: string): Promise<Store> {
    const store = new Store(images, cache);
    if (cache !== undefined)
      writeFileSync(join(store.path, "config.json"), JSON.stringify({ paths: { cache: store.cache } }));
    for (const folder of ["manifests", "layers", "fsmeta", "vmdk", "flat/refs", "flat/blobs", "flat/locks", "tmp"])
      mkdirSync(join(store.cache, folder), { recursive: true });
    const lines = Object.keys(images).flatMap((name) => store.writeImage(name));
    if (lines.length > 0) await store.persist(lines);
    return store;
  }

  get cache(): string {
    return join(this.path, this.moved ?? "cache");
  }

  get database(): string {
    return join(this.path, "db", "msb.db");
  }

  /** Puts `reference` on record for an image whose files may be there or not. */
  async persist(lines: { reference: string; metadata: unknown }[]): Promise<void> {
    const stdin = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
    const { code, stderr } = await run(["persist", "--batch", "-", "--home", this.path], { stdin });
    if (code !== 0) throw new Error(`persist exited with ${code}: ${stderr}`);
  }

  /** Writes an image's files, and returns the lines that put it on record. */
  private writeImage(name: string): { reference: string; metadata: unknown }[] {
    const { references, layers, flat } = this.images[name]!;
    const metadata = metadataOf(name, layers);
    for (const layer of layers) this.write(at.layer(layer), erofs(layer));
    this.write(at.fsmeta(name), erofs(name));
    this.write(at.vmdk(name), vmdkOf([at.fsmeta(name), ...layers.map(at.layer)].map((path) => join(this.cache, path))));
    if (flat !== undefined) {
      this.write(at.flatRef(name), JSON.stringify(flatRefOf(name, flat)));
      this.write(at.flatBlob(flat), `flat root ${flat}`);
    }
    return references.map((reference) => {
      this.write(at.metadata(canonicalOf(reference)), JSON.stringify(metadata));
      return { reference: typedOf(reference), metadata };
    });
  }

  /** Writes a file of the cache, `age` milliseconds old, and returns its path. */
  write(path: string, content: string | Uint8Array = "junk", age = OLD): string {
    const full = join(this.cache, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content);
    this.age(path, age);
    return full;
  }

  /** Sets how old a file, a folder or a link of the cache looks. */
  age(path: string, age: number): void {
    const time = (Date.now() - age) / 1000;
    lutimesSync(join(this.cache, path), time, time);
  }

  has(path: string): boolean {
    return lstatSync(join(this.cache, path), { throwIfNoEntry: false }) !== undefined;
  }

  /** Every entry of the cache but its folders and its locks, sorted; a folder inside one of msb's ends in a slash. */
  files(): string[] {
    return walk(this.cache)
      .filter((path) => !path.endsWith(".lock") && !FOLDERS.has(path))
      .sort();
  }

  /** Every lock file of the cache. */
  locks(): string[] {
    return walk(this.cache)
      .filter((path) => path.endsWith(".lock"))
      .sort();
  }

  /** The files that the cache holds for some of its images, shared ones once: what must be left when those stay. */
  filesOf(...names: string[]): string[] {
    const files = names.flatMap((name) => {
      const { references, layers, flat } = this.images[name]!;
      return [
        ...references.map((reference) => at.metadata(canonicalOf(reference))),
        ...layers.map(at.layer),
        at.fsmeta(name),
        at.vmdk(name),
        ...(flat === undefined ? [] : [at.flatRef(name), at.flatBlob(flat)]),
      ];
    });
    return [...new Set(files)].sort();
  }

  // Another process may hold the log for a moment, at its first opening or its last closing.
  private connect(options: { readonly: true } | { readwrite: true }): Database {
    const db = new Database(this.database, options);
    db.run("PRAGMA busy_timeout = 5000");
    return db;
  }

  /** What is on record, in the tests' own names where the digest is one of theirs. */
  rows(): { references: string[]; manifests: string[]; layers: string[]; configs: number; junctions: number } {
    using db = this.connect({ readonly: true });
    const names = new Map<string, string>();
    for (const [name, { layers }] of Object.entries(this.images))
      for (const each of [name, ...layers]) names.set(digestOf(each), each);
    const column = (sql: string) =>
      db
        .query<{ value: string }, []>(sql)
        .all()
        .map(({ value }) => names.get(value) ?? value)
        .sort();
    const count = (table: string) => db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()!.n;
    return {
      references: column("SELECT reference AS value FROM image_ref"),
      manifests: column("SELECT digest AS value FROM manifest"),
      layers: column("SELECT diff_id AS value FROM layer"),
      configs: count("config"),
      junctions: count("manifest_layer"),
    };
  }

  /** Runs SQL on the catalogue as another program would. */
  sql(statement: string, ...values: (string | number | null | Uint8Array)[]): void {
    using db = this.connect({ readwrite: true });
    db.run("PRAGMA foreign_keys = ON");
    db.run(statement, values);
  }

  /** What SQLite itself finds wrong with the catalogue; empty for a sound one. */
  unsound(): unknown[] {
    using db = this.connect({ readwrite: true });
    const integrity = db.query<{ integrity_check: string }, []>("PRAGMA integrity_check").all();
    return [
      ...integrity.filter(({ integrity_check }) => integrity_check !== "ok"),
      ...db.query("PRAGMA foreign_key_check").all(),
    ];
  }

  /** A sandbox row; `boots` names the image whose rootfs row it has. */
  sandbox(name: string, config: string, boots?: string): void {
    this.sql("INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'running')", name, config);
    if (boots === undefined) return;
    this.sql(
      `INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode)
       SELECT s.id, m.id, 'managed' FROM sandbox AS s, manifest AS m WHERE s.name = ? AND m.digest = ?`,
      name,
      digestOf(boots),
    );
  }

  /** A row of the snapshot index; `digest` is the image's. */
  snapshotRow(name: string, digest: string): void {
    this.sql(
      `INSERT INTO snapshot_index
         (digest, name, image_ref, image_manifest_digest, format, fstype, artifact_path, created_at, indexed_at)
       VALUES (?, ?, 'x', ?, 'raw', 'ext4', '/nowhere', '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
      digestOf(`snapshot ${name}`),
      name,
      digest,
    );
  }

  /** A snapshot on disk, with its descriptor's text. */
  snapshotOnDisk(name: string, descriptor: string, file = "snapshot.json"): void {
    const folder = join(this.path, "snapshots", name);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, file), descriptor);
  }

  /** The home opened in this process, as operations receive it. */
  open(): Larder & Disposable {
    const larder = openToWrite(resolveHome(this.path, {}));
    if (!larder) throw new Error(`no catalogue at ${this.database}`);
    return { ...larder, [Symbol.dispose]: () => closeLarder(larder) };
  }

  /**
   * Everything that a write would change anywhere in the home: names, kinds, modes, owners, sizes, times and content.
   * SQLite's shared memory is left out, since readers coordinate through it.
   */
  fingerprint(): string[] {
    return walk(this.path)
      .filter((path) => !path.endsWith("-shm"))
      .map((path) => {
        const full = join(this.path, path);
        const { mode, uid, gid, size, ino, mtimeNs, ctimeNs } = lstatSync(full, { bigint: true });
        // As root, SQLite sets the owner of a log that it opens, which changes nothing but this one time.
        const changed = path.endsWith("-wal") ? "" : ctimeNs;
        return [path, mode, uid, gid, size, ino, mtimeNs, changed, contentOf(full)].join(" ");
      });
  }

  /** Gives the home and all in it to another user, as root can. */
  give(uid: number): void {
    for (const path of ["", ...walk(this.path)]) chownSync(join(this.path, path), uid, uid);
  }

  /** What to run larder under, so that permissions hold for it: root may write anywhere, and gives the home away. */
  asNobody(): string[] {
    if (process.geteuid?.() !== 0) return [];
    this.give(65534);
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  }
}

/** The metadata document of an image. */
export function metadataOf(name: string, layers: string[]): Record<string, unknown> {
  return {
    manifest_digest: digestOf(name),
    config_digest: digestOf(`config of ${name}`),
    raw_manifest_json: "{}",
    raw_config_json: "{}",
    config: { env: [], exposed_ports: [], volumes: [], labels: {} },
    layers: layers.map((layer) => ({
      digest: digestOf(`blob of ${layer}`),
      media_type: null,
      size_bytes: 100,
      diff_id: digestOf(layer),
    })),
  };
}

/** What msb writes to tell which blob is an image's flat root. */
export function flatRefOf(image: string, blob: string): Record<string, unknown> {
  return {
    schema: 1,
    manifest_digest: digestOf(image),
    derivation_digest: digestOf(`derivation of ${blob}`),
    artifact_digest: digestOf(blob),
    virtual_size_bytes: 4096,
  };
}

/** The least that msb takes for a layer: EROFS magic, and a root inode that is a folder. */
export function erofs(name: string): Uint8Array {
  const bytes = Buffer.alloc(8192);
  bytes.writeUInt32LE(0xe0f5e1e2, 1024);
  bytes.writeUInt32LE(1, 1024 + 0x28);
  bytes.writeUInt16LE(0o040755, 4096 + 4);
  bytes.write(name, 6000);
  return bytes;
}

/** A whole-file lock held by another process, as a running msb holds it; disposing lets it go. */
export async function holdLock(path: string): Promise<AsyncDisposable> {
  mkdirSync(dirname(path), { recursive: true });
  const child = Bun.spawn(["flock", path, "sh", "-c", "echo held; read line"], { stdin: "pipe", stdout: "pipe" });
  await child.stdout.getReader().read();
  return {
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await child.exited;
    },
  };
}

const FOLDERS = new Set(
  ["manifests", "layers", "fsmeta", "vmdk", "flat", "flat/refs", "flat/blobs", "flat/locks", "tmp"].map(
    (folder) => `${folder}/`,
  ),
);

function hex(name: string): string {
  return new Bun.CryptoHasher("sha256").update(name).digest("hex");
}

function typedOf(reference: string): string {
  return reference.split("=")[0]!;
}

function canonicalOf(reference: string): string {
  return reference.split("=").at(-1)!;
}

/** Every entry below a folder, relative to it, without following links; folders end in a slash. */
function walk(root: string, prefix = ""): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = prefix + entry.name;
      return entry.isDirectory() ? [`${path}/`, ...walk(join(root, entry.name), `${path}/`)] : [path];
    });
}

function contentOf(path: string): string {
  const stat = lstatSync(path);
  if (stat.isSymbolicLink()) return readlinkSync(path);
  return stat.isFile() ? new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex") : "";
}

/** So many names make a folder that larder watches, where the kernel tells it of every change. */
export const MANY = 7000;

/** Gives a folder so many lock files: links of one, which are made more quickly than files. */
export function fillWithLocks(folder: string, count: number): void {
  writeFileSync(join(folder, "0.lock"), "");
  for (let i = 1; i < count; i++) linkSync(join(folder, "0.lock"), join(folder, `${i}${"0".repeat(60)}.lock`));
}
