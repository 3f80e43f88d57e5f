import * as v from "valibot";
import { LarderError } from "../error.ts";
import { type Digest, isDigest } from "./digest.ts";

/** A digest, checked. */
export const DigestSchema = v.custom<Digest>(isDigest, "must be a sha256, sha384 or sha512 digest in lowercase hex");
const strings = v.array(v.string());
const MAX_SIZE = 2n ** 64n - 1n;
const size = v.pipe(
  v.bigint("must be an integer from 0 to 18446744073709551615"),
  v.minValue(0n, "must not be negative"),
  v.maxValue(MAX_SIZE, "must be at most 18446744073709551615"),
);

// Not v.record, which drops labels called `constructor` or `prototype`, and takes an array for an object.
const labels = v.pipe(
  v.custom<Record<string, string>>(isObject, "must be an object"),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    for (const [key, value] of Object.entries<unknown>(dataset.value)) {
      if (typeof value === "string") continue;
      const path = { type: "object", origin: "value", input: dataset.value, key, value } as const;
      addIssue({ message: "must be a string", input: value, path: [path] });
    }
  }),
);

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const ImageConfig = v.object({
  env: strings,
  cmd: v.nullish(strings, null),
  entrypoint: v.nullish(strings, null),
  working_dir: v.nullish(v.string(), null),
  user: v.nullish(v.string(), null),
  exposed_ports: strings,
  volumes: strings,
  labels,
  stop_signal: v.nullish(v.string(), null),
});

const LayerMetadata = v.object({
  digest: DigestSchema,
  media_type: v.nullish(v.string(), null),
  size_bytes: v.nullish(size, null),
  diff_id: DigestSchema,
});

/** What msb keeps of an image beside its layers (interop §5). The raw documents are absent from 0.4.4's files. */
export const MetadataSchema = v.object({
  manifest_digest: DigestSchema,
  config_digest: DigestSchema,
  raw_manifest_json: v.optional(v.string()),
  raw_config_json: v.optional(v.string()),
  config: ImageConfig,
  layers: v.array(LayerMetadata),
});

export type ImageConfig = v.InferOutput<typeof ImageConfig>;
export type LayerMetadata = v.InferOutput<typeof LayerMetadata>;
export type ImageMetadata = v.InferOutput<typeof MetadataSchema>;

/**
 * Parses one metadata document. `size_bytes` are BigInt, so that 2^64-1 is read exactly.
 * Throws `invalid` with the place and the reason, such as `layers[3].diff_id: must be …`.
 */
export function parseMetadata(text: string, source: string): ImageMetadata {
  return checkMetadata(parseJson(text, source), source);
}

/** The same for a document that was parsed with `parseJson` already. */
export function checkMetadata(document: unknown, source: string): ImageMetadata {
  const result = v.safeParse(MetadataSchema, document);
  if (result.success) return result.output;
  const issue = result.issues[0];
  if (issue.received === "undefined")
    throw new LarderError("invalid", `${source}: ${writePath(issue.path)}: is missing`);
  const got = issue.received.length > 80 ? `${issue.received.slice(0, 80)}…` : issue.received;
  throw new LarderError("invalid", `${source}: ${writePath(issue.path)}: ${issue.message} (found ${got})`);
}

function writePath(path: { key?: unknown }[] | undefined): string {
  if (path === undefined) return "document";
  return path
    .map(({ key }, i) => (typeof key === "number" ? `[${key}]` : `${i === 0 ? "" : "."}${String(key)}`))
    .join("");
}

/**
 * JSON with every `size_bytes` as the integer that was written, or the raw number where it is none. Throws `invalid` for
 * what is no JSON, and for half a surrogate pair, which no UTF-8 text can have, and msb refuses.
 */
export function parseJson(text: string, source: string): unknown {
  try {
    return UNUSUAL.test(text) ? JSON.parse(text, exactValue) : exactSizes(JSON.parse(text));
  } catch (error) {
    throw new LarderError("invalid", `${source}: not JSON: ${error instanceof Error ? error.message : error}`, error);
  }
}

// Whether a number could be lost that only its text tells: a size of 16 digits, one written as `1.0` or `1e3`, or a key
// behind an escape. Hardly any document has one, and to be told each value's text makes parsing several times slower.
const UNUSUAL = /\\u|"size_bytes"\s*:(?!\s*(?:null|(?:0|[1-9]\d{0,14})\s*[,}]))/;

function exactValue(key: string, value: unknown, context?: { source?: string }): unknown {
  for (const part of [key, value])
    if (typeof part === "string" && !part.isWellFormed()) throw new SyntaxError("half a surrogate pair");
  return key === "size_bytes" && typeof value === "number" && /^(?!-0$)-?\d+$/.test(context?.source ?? "")
    ? BigInt(context!.source!)
    : value;
}

function exactSizes(value: unknown): unknown {
  if (Array.isArray(value)) for (const item of value) exactSizes(item);
  else if (typeof value === "object" && value !== null) {
    const members = value as Record<string, unknown>;
    for (const key in members) {
      const member = members[key];
      if (typeof member === "object") exactSizes(member);
      else if (key === "size_bytes" && typeof member === "number") members[key] = BigInt(member);
    }
  }
  return value;
}

/** Architecture, OS and variant of an image. */
export interface Platform {
  architecture: string | null;
  os: string | null;
  variant: string | null;
}

/** The platform that the image's own config states, or undefined where the metadata carries no raw config. */
export function platformOf(metadata: ImageMetadata): Platform | undefined {
  if (metadata.raw_config_json === undefined) return undefined;
  const result = v.safeParse(RawConfig, safeJson(metadata.raw_config_json));
  return result.success ? result.output : undefined;
}

const RawConfig = v.object({
  architecture: v.string(),
  os: v.string(),
  variant: v.nullish(v.string(), null),
});

/** Whether a manifest, as JSON text, names the config and the layers that the metadata has, and in its order. */
export function namesSameBlobs({ config_digest, layers }: ImageMetadata, manifest: string): boolean {
  const { success, output } = v.safeParse(RawManifest, safeJson(manifest));
  return (
    success &&
    output.config.digest === config_digest &&
    output.layers.length === layers.length &&
    output.layers.every(({ digest }, i) => digest === layers[i]!.digest)
  );
}

const Blob = v.object({ digest: v.string() });
const RawManifest = v.object({ config: Blob, layers: v.array(Blob) });

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
