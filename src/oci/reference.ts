import { LarderError } from "../error.ts";

// name[:tag][@digest], the grammar that msb's parser accepts (interop §4). The component form is written so that
// no two parts of it can match the same text: it stays linear where the usual `[-]*` form is exponential.
const COMPONENT = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const LABEL = "[a-zA-Z0-9]+(?:-+[a-zA-Z0-9]+)*";
const NAME = `(?:${LABEL}(?:\\.${LABEL})*(?::[0-9]+)?/)?${COMPONENT}(?:/${COMPONENT})*`;
// Rust's Unicode \w, which counts characters, not bytes.
const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const TAG = `[${WORD}][${WORD}.\\-]{0,127}`;
const ALGORITHM = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*";
const REFERENCE = new RegExp(`^(${NAME})(?::(${TAG}))?(?:@(${ALGORITHM}:[0-9a-fA-F]{32,}))?$`, "u");

const HEX_DIGITS: Record<string, number> = { sha256: 64, sha384: 96, sha512: 128 };
const DEFAULT_HOST = "docker.io";
const OFFICIAL = "library/";

/** A parsed OCI reference; `tag` and `digest` as msb would see them, `latest` filled in when both were absent. */
export interface Reference {
  host: string;
  repository: string;
  tag: string | undefined;
  digest: string | undefined;
}

/** Parses a reference as typed; throws `invalid` with msb's own words (interop §4). */
export function parseReference(text: string): Reference {
  const fail = (why: string): never => {
    throw new LarderError("invalid", `${JSON.stringify(text.slice(0, 200))} is not an image reference: ${why}`);
  };
  if (text === "") fail("repository name must have at least one component");
  const match = REFERENCE.exec(text) ?? fail("invalid reference format");
  const { host, repository } = splitHost(match[1]!);
  if (Buffer.byteLength(repository) > 255) fail("repository name must not be more than 255 characters");
  const digest = match[3];
  if (digest !== undefined) {
    const [algorithm, hex] = digest.split(":") as [string, string];
    const digits = Object.hasOwn(HEX_DIGITS, algorithm) ? HEX_DIGITS[algorithm] : fail("unsupported digest algorithm");
    if (hex.length !== digits) fail("invalid checksum digest length");
  }
  return { host, repository, tag: match[2] ?? (digest === undefined ? "latest" : undefined), digest };
}

/** Whether `text` parses as a reference. */
export function isReference(text: string): boolean {
  if (isPlain(text)) return true;
  try {
    parseReference(text);
    return true;
  } catch {
    return false;
  }
}

function splitHost(name: string): { host: string; repository: string } {
  const slash = name.indexOf("/");
  const first = name.slice(0, slash);
  // A first part that looks like no host (`Foo/bar`, `LOCALHOST/app`) belongs to the repository.
  const isHost = slash >= 0 && (/[.:]/.test(first) || first === "localhost");
  let host = isHost ? first : DEFAULT_HOST;
  let repository = isHost ? name.slice(slash + 1) : name;
  if (host === "index.docker.io") host = DEFAULT_HOST;
  if (host === DEFAULT_HOST && !repository.includes("/")) repository = OFFICIAL + repository;
  return { host, repository };
}

// How an image of a registry is nearly always called, and canonical as it stands: a host with a dot that is not Docker
// Hub's, lower-case parts, a tag. It takes a tenth of the time that parsing takes, and a list asks it of each row.
const PLAIN =
  /^(?!(?:index\.)?docker\.io[/:])[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+(?:-[a-z0-9]+)*)+(?:\/[a-z0-9]+(?:[._-][a-z0-9]+)*)+:\w[\w.-]{0,127}$/;
const LONGEST_PLAIN = 255;

function isPlain(text: string): boolean {
  return text.length <= LONGEST_PLAIN && PLAIN.test(text);
}

/** A reference's canonical form, under which msb keys its metadata file; throws `invalid`. */
export function canonicalReference(text: string): string {
  return isPlain(text) ? text : writeReference(parseReference(text));
}

/** The same, or null for what is no reference. */
export function canonicalOrNull(text: string): string | null {
  try {
    return canonicalReference(text);
  } catch {
    return null;
  }
}

/** A reference's repository with its host, the group that `--keep-last` counts in; throws `invalid`. */
export function repositoryOf(text: string): string {
  const { host, repository } = parseReference(text);
  return `${host}/${repository}`;
}

function writeReference({ host, repository, tag, digest }: Reference): string {
  return `${host}/${repository}${tag === undefined ? "" : `:${tag}`}${digest === undefined ? "" : `@${digest}`}`;
}

/** The metadata file's key: lowercase hex sha256 of the canonical reference (interop §3); throws `invalid`. */
export function cacheKey(reference: string): string {
  return canonicalKey(canonicalReference(reference));
}

/** The same, or null for what is no reference. */
export function cacheKeyOrNull(reference: string): string | null {
  const canonical = canonicalOrNull(reference);
  return canonical === null ? null : canonicalKey(canonical);
}

/** The key of what is canonical already, which cannot always be typed (see `spellings`). */
export function canonicalKey(canonical: string): string {
  return Bun.SHA256.hash(canonical, "hex");
}

/**
 * Every way to type a reference that has this canonical form. Rows hold references as typed (interop §4), so
 * "which rows mean this image" is a look-up of these few strings instead of a walk over every row.
 */
export function spellings(canonical: string): string[] {
  const { host, repository, tag, digest } = parseReference(canonicalToTypable(canonical));
  const names = [`${host}/${repository}`];
  if (host === DEFAULT_HOST) {
    const short = repository.startsWith(OFFICIAL) ? repository.slice(OFFICIAL.length) : repository;
    for (const repo of [repository, short]) names.push(repo, `docker.io/${repo}`, `index.docker.io/${repo}`);
  }
  const suffix = digest === undefined ? "" : `@${digest}`;
  const tags = tag === undefined ? [""] : tag === "latest" && digest === undefined ? [":latest", ""] : [`:${tag}`];
  const typed = new Set(names.flatMap((name) => tags.map((written) => name + written + suffix)));
  // Some combinations mean another image (`foo.com/x` is a host) or none; what does not lead back is dropped.
  return [...typed].filter((text) => isReference(text) && canonicalReference(text) === canonical);
}

// `docker.io/Foo/bar` is the canonical form of `Foo/bar`, and cannot itself be typed: an upper-case part is only
// ever accepted in first place (interop §4).
function canonicalToTypable(canonical: string): string {
  if (isReference(canonical) && canonicalReference(canonical) === canonical) return canonical;
  return canonical.startsWith(`${DEFAULT_HOST}/`) ? canonical.slice(DEFAULT_HOST.length + 1) : canonical;
}
