import { writeFile } from "node:fs/promises";

/** A layer's files by path: a trailing `/` makes a folder, a `.wh.` name a whiteout. Parent folders come by themselves. */
export interface LayerSpec {
  files: Record<string, string | Uint8Array>;
  /** How the blob is packed, gzip by default. It changes the blob digest and never the diff ID. */
  compression?: "none" | "gzip" | "zstd";
}

/** An image to build. The same spec always gives the same bytes, so equal layers share their diff ID across images. */
export interface ImageSpec {
  /** References, written into an archive as they are; a registry reads them as `repository[:tag]`. */
  tags: string[];
  /** Bottom to top. */
  layers: LayerSpec[];
  config?: {
    env?: string[];
    cmd?: string[];
    entrypoint?: string[];
    workingDir?: string;
    user?: string;
    labels?: Record<string, string>;
    stopSignal?: string;
    exposedPorts?: string[];
    volumes?: string[];
  };
  /** `amd64` by default. */
  architecture?: string;
  /** `linux` by default. */
  os?: string;
  variant?: string;
  /** Spaces by which manifest and config are indented, as Docker and BuildKit write them; none by default. */
  indent?: number;
}

/** One addressable blob. */
export interface Content {
  mediaType: string;
  digest: string;
  bytes: Uint8Array;
}

/** A layer blob, and the digest of the tar that it unpacks to. */
export interface Layer extends Content {
  diffId: string;
}

/** An image as an archive or a registry carries it. */
export interface Image {
  manifest: Content;
  config: Content;
  layers: Layer[];
}

/** Builds the blobs of an image: OCI layers, config and manifest. */
export function build(spec: ImageSpec): Image {
  const layers = spec.layers.map(buildLayer);
  const { config: run = {}, indent } = spec;
  const config = json("application/vnd.oci.image.config.v1+json", indent, {
    architecture: spec.architecture ?? "amd64",
    os: spec.os ?? "linux",
    variant: spec.variant,
    config: {
      Env: run.env,
      Cmd: run.cmd,
      Entrypoint: run.entrypoint,
      WorkingDir: run.workingDir,
      User: run.user,
      Labels: run.labels,
      StopSignal: run.stopSignal,
      ExposedPorts: run.exposedPorts && keySet(run.exposedPorts),
      Volumes: run.volumes && keySet(run.volumes),
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
  });
  const manifest = json("application/vnd.oci.image.manifest.v1+json", indent, {
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: descriptor(config),
    layers: layers.map(descriptor),
  });
  return { manifest, config, layers };
}

/**
 * Packs images as one OCI layout tar that `msb load -i` accepts. Each tag becomes an entry of `index.json`, in order;
 * an image without tags gets one unnamed entry, which msb takes only as the first of the archive and with `--tag`.
 */
export function archive(images: ImageSpec[]): Uint8Array {
  const blobs = new Map<string, Uint8Array>();
  const manifests = images.flatMap((spec) => {
    const { manifest, config, layers } = build(spec);
    for (const { digest, bytes } of [manifest, config, ...layers]) {
      blobs.set(`blobs/${digest.replace(":", "/")}`, bytes);
    }
    // An entry without a platform is never filtered out, so images of a foreign architecture load as well.
    const entry = descriptor(manifest);
    if (spec.tags.length === 0) return [entry];
    return spec.tags.map((tag) => ({ ...entry, annotations: { "org.opencontainers.image.ref.name": tag } }));
  });
  const index = { schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests };
  return tar([
    ["oci-layout", Buffer.from(JSON.stringify({ imageLayoutVersion: "1.0.0" }))],
    ["index.json", Buffer.from(JSON.stringify(index))],
    ...blobs,
  ]);
}

/** Writes {@link archive} to a file. */
export async function writeArchive(path: string, images: ImageSpec[]): Promise<void> {
  await writeFile(path, archive(images));
}

/** Bytes that do not compress, the same for the same seed: an xorshift32 stream. */
export function noise(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = Math.imul(seed, 0x9e3779b1) || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** The sha256 digest of some bytes, as `sha256:` and lowercase hex. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

function buildLayer({ files, compression = "gzip" }: LayerSpec): Layer {
  const plain = tar(treeEntries(files));
  const mediaType = "application/vnd.oci.image.layer.v1.tar";
  const diffId = digestOf(plain);
  if (compression === "none") return { ...content(mediaType, plain), diffId };
  const packed = compression === "gzip" ? Bun.gzipSync(plain) : Bun.zstdCompressSync(plain);
  return { ...content(`${mediaType}+${compression}`, packed), diffId };
}

function content(mediaType: string, bytes: Uint8Array): Content {
  return { mediaType, digest: digestOf(bytes), bytes };
}

function json(mediaType: string, indent: number | undefined, value: object): Content {
  return content(mediaType, Buffer.from(JSON.stringify(value, null, indent)));
}

function descriptor({ mediaType, digest, bytes }: Content) {
  return { mediaType, digest, size: bytes.length };
}

/** OCI writes a set of strings as an object with empty values. */
function keySet(names: string[]): Record<string, object> {
  return Object.fromEntries(names.map((name) => [name, {}]));
}

/** Sorted, and each path after its parents, so that the order of a spec's keys does not show in the digest. */
function treeEntries(files: LayerSpec["files"]): Map<string, Uint8Array> {
  const entries = new Map<string, Uint8Array>();
  for (const path of Object.keys(files).sort()) {
    for (let slash = path.indexOf("/"); slash !== -1; slash = path.indexOf("/", slash + 1)) {
      entries.set(path.slice(0, slash + 1), new Uint8Array());
    }
    const data = files[path] ?? "";
    entries.set(path, typeof data === "string" ? Buffer.from(data) : data);
  }
  return entries;
}

/** A ustar archive with nothing in it that changes from run to run: owner, group and times are 0. */
function tar(entries: Iterable<[path: string, bytes: Uint8Array]>): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const [path, bytes] of entries) {
    parts.push(tarHeader(path, bytes.length), bytes, new Uint8Array(-bytes.length & 511));
  }
  return Buffer.concat([...parts, new Uint8Array(1024)]);
}

function tarHeader(path: string, size: number): Uint8Array {
  if (Buffer.byteLength(path) > 100) throw new Error(`path longer than a tar name field: ${path}`);
  const folder = path.endsWith("/");
  const header = Buffer.alloc(512);
  header.write(path, 0);
  header.write(folder ? "0000755\0" : "0000644\0", 100);
  header.write("0000000\0", 108);
  header.write("0000000\0", 116);
  header.write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  header.write("00000000000\0", 136);
  header.write(folder ? "5" : "0", 156);
  header.write("ustar\x0000", 257);
  // The checksum counts its own field as eight spaces.
  header.write(" ".repeat(8), 148);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}
