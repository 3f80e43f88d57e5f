import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { LarderError } from "../../src/error.ts";
import {
  cacheKey,
  canonicalKey,
  canonicalOrNull,
  canonicalReference,
  isReference,
  parseReference,
  repositoryOf,
  spellings,
} from "../../src/oci/reference.ts";

const H64 = "0123456789abcdef".repeat(4);
const H96 = "0123456789abcdef".repeat(6);
const H128 = "0123456789abcdef".repeat(8);

// What is typed, and the canonical form that msb computes for it.
const ACCEPTED: [typed: string, canonical: string][] = [
  // Docker Hub's short names.
  ["busybox", "docker.io/library/busybox:latest"],
  ["busybox:1.36", "docker.io/library/busybox:1.36"],
  ["library/busybox", "docker.io/library/busybox:latest"],
  ["docker.io/busybox", "docker.io/library/busybox:latest"],
  ["docker.io/library/busybox:latest", "docker.io/library/busybox:latest"],
  ["index.docker.io/busybox", "docker.io/library/busybox:latest"],
  ["index.docker.io/library/busybox:1", "docker.io/library/busybox:1"],
  ["index.docker.io/acme/tool", "docker.io/acme/tool:latest"],
  ["acme/tool", "docker.io/acme/tool:latest"],
  ["acme/team/tool:v2", "docker.io/acme/team/tool:v2"],
  ["a", "docker.io/library/a:latest"],
  ["7/7", "docker.io/7/7:latest"],
  ["busybox:0", "docker.io/library/busybox:0"],
  // Hosts.
  ["quay.io/acme/tool:v1.2.3", "quay.io/acme/tool:v1.2.3"],
  ["quay.io/tool", "quay.io/tool:latest"],
  ["registry.k8s.io/a/b/c/d:e", "registry.k8s.io/a/b/c/d:e"],
  ["registry.test:443/a/b", "registry.test:443/a/b:latest"],
  ["registry.test:0/a", "registry.test:0/a:latest"],
  ["registry.test:123456/a", "registry.test:123456/a:latest"],
  ["10.0.0.1/tool", "10.0.0.1/tool:latest"],
  ["10.0.0.1:5000/tool:t", "10.0.0.1:5000/tool:t"],
  ["registry:5000/tool", "registry:5000/tool:latest"],
  ["localhost/tool", "localhost/tool:latest"],
  ["localhost:5000/tool", "localhost:5000/tool:latest"],
  ["Registry.Test/tool:T", "Registry.Test/tool:T"],
  ["Docker.io/busybox", "Docker.io/busybox:latest"],
  ["docker.io:443/busybox", "docker.io:443/busybox:latest"],
  [`${"h".repeat(63)}.${"h".repeat(63)}.test/x`, `${"h".repeat(63)}.${"h".repeat(63)}.test/x:latest`],
  ["a--b.test/x", "a--b.test/x:latest"],
  // What looks like a host and is none.
  ["localhost", "docker.io/library/localhost:latest"],
  ["localhost:5000", "docker.io/library/localhost:5000"],
  ["registry.test:5000", "docker.io/library/registry.test:5000"],
  ["registry.test", "docker.io/library/registry.test:latest"],
  ["Acme/tool", "docker.io/Acme/tool:latest"],
  ["LOCALHOST/tool", "docker.io/LOCALHOST/tool:latest"],
  ["docker.io/localhost/tool", "docker.io/localhost/tool:latest"],
  ["a_b/c", "docker.io/a_b/c:latest"],
  ["a_b.test/c", "a_b.test/c:latest"],
  // Separators inside a component.
  ["busy--box", "docker.io/library/busy--box:latest"],
  ["busy-----box", "docker.io/library/busy-----box:latest"],
  ["busy_box", "docker.io/library/busy_box:latest"],
  ["busy__box", "docker.io/library/busy__box:latest"],
  ["busy.box", "docker.io/library/busy.box:latest"],
  // Tags.
  ["busybox:Latest", "docker.io/library/busybox:Latest"],
  ["busybox:_x", "docker.io/library/busybox:_x"],
  ["busybox:x.", "docker.io/library/busybox:x."],
  ["busybox:x-", "docker.io/library/busybox:x-"],
  [`busybox:${"t".repeat(128)}`, `docker.io/library/busybox:${"t".repeat(128)}`],
  ["busybox:tägé", "docker.io/library/busybox:tägé"],
  ["busybox:タグ", "docker.io/library/busybox:タグ"],
  // 128 characters outside the first plane are 256 of JavaScript's units.
  [`busybox:${"𝒳".repeat(128)}`, `docker.io/library/busybox:${"𝒳".repeat(128)}`],
  ["oci:busybox", "docker.io/library/oci:busybox"],
  // Digests.
  [`busybox@sha256:${H64}`, `docker.io/library/busybox@sha256:${H64}`],
  [`busybox@sha384:${H96}`, `docker.io/library/busybox@sha384:${H96}`],
  [`busybox@sha512:${H128}`, `docker.io/library/busybox@sha512:${H128}`],
  [`busybox:1@sha256:${H64}`, `docker.io/library/busybox:1@sha256:${H64}`],
  [`busybox:latest@sha256:${H64}`, `docker.io/library/busybox:latest@sha256:${H64}`],
  [`registry:5000/tool@sha256:${H64}`, `registry:5000/tool@sha256:${H64}`],
  [`registry:5000/tool:t@sha256:${H64}`, `registry:5000/tool:t@sha256:${H64}`],
  [`busybox@sha256:${H64.toUpperCase()}`, `docker.io/library/busybox@sha256:${H64.toUpperCase()}`],
  // A digest alone is a repository called sha256, or 64 digits long.
  [`sha256:${H64}`, `docker.io/library/sha256:${H64}`],
  [H64, `docker.io/library/${H64}:latest`],
  // The longest repositories: 255 bytes, `library/` counted, the host not.
  ["r".repeat(247), `docker.io/library/${"r".repeat(247)}:latest`],
  [`acme/${"r".repeat(250)}`, `docker.io/acme/${"r".repeat(250)}:latest`],
  [`quay.io/${"r".repeat(255)}`, `quay.io/${"r".repeat(255)}:latest`],
];

const FORMAT = "invalid reference format";
const LONG = "repository name must not be more than 255 characters";
const ALGORITHM = "unsupported digest algorithm";
const LENGTH = "invalid checksum digest length";

const REFUSED: [typed: string, why: string][] = [
  ["", "repository name must have at least one component"],
  [" ", FORMAT],
  [" busybox", FORMAT],
  ["busybox ", FORMAT],
  ["busybox\n", FORMAT],
  ["busybox\0", FORMAT],
  ["busy box", FORMAT],
  ["busybox\tx", FORMAT],
  ["Busybox", FORMAT],
  ["BUSYBOX:1", FORMAT],
  ["quay.io/Acme/tool", FORMAT],
  ["acme/Tool", FORMAT],
  ["busybox:", FORMAT],
  [":1", FORMAT],
  ["@", FORMAT],
  [`@sha256:${H64}`, FORMAT],
  ["busybox@", FORMAT],
  ["acme//tool", FORMAT],
  ["acme/", FORMAT],
  ["/acme/tool", FORMAT],
  ["../busybox", FORMAT],
  ["acme/../tool", FORMAT],
  ["./busybox", FORMAT],
  ["-busybox", FORMAT],
  ["busybox-", FORMAT],
  [".busybox", FORMAT],
  ["busybox.", FORMAT],
  ["_busybox", FORMAT],
  ["busybox_", FORMAT],
  ["busy..box", FORMAT],
  ["busy___box", FORMAT],
  ["busy._box", FORMAT],
  ["busybox:1:2", FORMAT],
  ["busybox:.1", FORMAT],
  ["busybox:-1", FORMAT],
  ["busybox:a/b", FORMAT],
  ["busybox:a b", FORMAT],
  ["busybox:😀", FORMAT],
  [`busybox:${"t".repeat(129)}`, FORMAT],
  [`busybox:${"é".repeat(129)}`, FORMAT],
  ["büsybox", FORMAT],
  ["-a.test/x", FORMAT],
  ["a-.test/x", FORMAT],
  ["a.test./x", FORMAT],
  ["a.test:/x", FORMAT],
  ["a.test:port/x", FORMAT],
  ["[::1]:5000/x", FORMAT],
  ["http://a.test/x", FORMAT],
  ["docker.io/", FORMAT],
  ["docker.io/Acme/tool", FORMAT],
  [`busybox@sha256:${"g".repeat(64)}`, FORMAT],
  [`busybox@sha256:${"f".repeat(31)}`, FORMAT],
  [`busybox@sha256:${H64}@sha256:${H64}`, FORMAT],
  [`busybox@:${H64}`, FORMAT],
  [`busybox@sha256:${H64}:1`, FORMAT],
  [`busybox@sha256:${H64.slice(1)}`, LENGTH],
  [`busybox@sha256:${H64}0`, LENGTH],
  [`busybox@sha384:${H64}`, LENGTH],
  [`busybox@sha512:${H96}`, LENGTH],
  [`busybox@SHA256:${H64}`, ALGORITHM],
  [`busybox@md5:${"f".repeat(32)}`, ALGORITHM],
  [`busybox@sha256+b64:${H64}`, ALGORITHM],
  [`busybox@constructor:${H64}`, ALGORITHM],
  [`busybox@toString:${H64}`, ALGORITHM],
  ["r".repeat(248), LONG],
  [`acme/${"r".repeat(251)}`, LONG],
  [`quay.io/${"r".repeat(256)}`, LONG],
];

function keyOf(canonical: string): string {
  return createHash("sha256").update(canonical, "utf8").digest("hex");
}

describe("canonicalReference", () => {
  test.each(ACCEPTED)("makes of %s %s", (typed, canonical) => {
    expect(canonicalReference(typed)).toBe(canonical);
    expect(isReference(typed)).toBe(true);
  });
});

describe("canonicalReference of what is canonical already", () => {
  test("is the same text up to the longest repository, and none beyond it", () => {
    for (let length = 180; length <= 300; length++) {
      const repository = "r".repeat(length);
      const text = `registry.example.com/${repository}:1.0`;
      expect(canonicalOrNull(text)).toBe(length <= 255 ? text : null);
    }
    const tag = "t".repeat(128);
    expect(canonicalOrNull(`registry.example.com/a:${tag}`)).toBe(`registry.example.com/a:${tag}`);
    expect(canonicalOrNull(`registry.example.com/a:${tag}t`)).toBe(null);
  });
});

describe("cacheKey", () => {
  test.each(ACCEPTED)("of %s is the sha256 of %s", (typed, canonical) => {
    expect(cacheKey(typed)).toBe(keyOf(canonical));
    expect(canonicalKey(canonical)).toBe(keyOf(canonical));
  });

  test("is what msb names its file for docker.io/library/alpine:latest", () => {
    expect(cacheKey("alpine")).toBe("c9ef5b1f0b442255774ae31a839ff48ce1206a606a97052db8b4a13ae153fb7c");
  });
});

describe("parseReference", () => {
  test.each(REFUSED)("refuses %p: %s", (typed, why) => {
    expect(isReference(typed)).toBe(false);
    let thrown: unknown;
    try {
      parseReference(typed);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(LarderError);
    const { code, message } = thrown as LarderError;
    expect(code).toBe("invalid");
    expect(message).toBe(`${JSON.stringify(typed.slice(0, 200))} is not an image reference: ${why}`);
  });

  test("says what each part is", () => {
    expect(parseReference("registry:5000/acme/tool:t")).toEqual({
      host: "registry:5000",
      repository: "acme/tool",
      tag: "t",
      digest: undefined,
    });
    expect(parseReference(`tool@sha256:${H64}`)).toEqual({
      host: "docker.io",
      repository: "library/tool",
      tag: undefined,
      digest: `sha256:${H64}`,
    });
  });

  // The usual grammar is exponential on the first of these; the runner's own limit is the bound.
  test.each([
    ["dashes", "-"],
    ["letters", "a"],
    ["letters and dashes", "a-"],
    ["letters and double dashes", "a--"],
    ["underscores", "a_"],
    ["double underscores", "a__"],
    ["dots", "a."],
    ["slashes", "a/"],
    ["colons", "a:"],
    ["ats", "a@"],
    ["upper case and dots", "A."],
    ["accents", "é"],
  ])("comes to an end on 20,000 characters of %s", (_, unit) => {
    const long = unit.repeat(Math.ceil(20_000 / unit.length));
    for (const text of [long, `a${long}`, `a${long}a`, `a${long}!`, `a.test/${long}!`, `a:${long}!`, `a@x:${long}!`]) {
      expect(isReference(text)).toBe(false);
    }
  });
});

describe("repositoryOf", () => {
  test.each([
    ["busybox", "docker.io/library/busybox"],
    ["busybox:1", "docker.io/library/busybox"],
    [`localhost:5000/tool:1@sha256:${H64}`, "localhost:5000/tool"],
  ])("of %s is %s", (typed, repository) => {
    expect(repositoryOf(typed)).toBe(repository);
  });
});

describe("spellings", () => {
  test("are all that can be typed for one image", () => {
    expect(spellings("docker.io/library/busybox:latest").sort()).toEqual([
      "busybox",
      "busybox:latest",
      "docker.io/busybox",
      "docker.io/busybox:latest",
      "docker.io/library/busybox",
      "docker.io/library/busybox:latest",
      "index.docker.io/busybox",
      "index.docker.io/busybox:latest",
      "index.docker.io/library/busybox",
      "index.docker.io/library/busybox:latest",
      "library/busybox",
      "library/busybox:latest",
    ]);
    expect(spellings("quay.io/acme/tool:1")).toEqual(["quay.io/acme/tool:1"]);
    expect(spellings("docker.io/Acme/tool:1")).toEqual(["Acme/tool:1"]);
    expect(spellings(`docker.io/acme/tool@sha256:${H64}`).sort()).toEqual([
      `acme/tool@sha256:${H64}`,
      `docker.io/acme/tool@sha256:${H64}`,
      `index.docker.io/acme/tool@sha256:${H64}`,
    ]);
  });

  test.each(ACCEPTED)("of what %s means hold it as typed", (typed, canonical) => {
    expect(spellings(canonical)).toContain(typed);
  });

  // Few parts, many ways to put them together: the same image comes up under several names, and near misses too.
  const PREFIXES = [
    "",
    "library/",
    "docker.io/",
    "docker.io/library/",
    "index.docker.io/",
    "index.docker.io/library/",
    "index.docker.io/docker.io/",
    "Docker.io/",
    "docker.io:443/",
    "localhost/",
    "localhost:5000/",
    "quay.io/",
    "Acme/",
    "a_b.test/",
    "library/library/",
    "docker.io/localhost/",
    "docker.io/quay.io/",
  ];
  const NAMES = ["tool", "library", "localhost", "quay.io", "a/b", "library/tool", "index.docker.io", "r".repeat(247)];
  const SUFFIXES = ["", ":latest", ":1", ":Latest", `@sha256:${H64}`, `:latest@sha256:${H64}`, `:1@sha256:${H64}`];
  const generated = PREFIXES.flatMap((prefix) =>
    NAMES.flatMap((name) => SUFFIXES.map((suffix) => prefix + name + suffix)),
  ).filter(isReference);
  const random = mulberry(20_260_305);
  const ALPHABET = ["a", "b", "A", "0", "-", "--", "_", "__", ".", "/", ":", "library", "docker.io", "localhost"];
  for (let i = 0; i < 60_000; i++) {
    const parts = Array.from({ length: 1 + Math.floor(random() * 6) }, () => ALPHABET[Math.floor(random() * 14)]);
    if (isReference(parts.join(""))) generated.push(parts.join(""));
  }
  const references = [...new Set(generated)];

  test("are, for thousands of references, exactly those with the same canonical form", () => {
    expect(references.length).toBeGreaterThan(3000);
    const byCanonical = new Map<string, Set<string>>();
    for (const text of references) {
      const canonical = canonicalReference(text);
      byCanonical.set(canonical, (byCanonical.get(canonical) ?? new Set()).add(text));
    }
    expect([...byCanonical.values()].filter(({ size }) => size > 3).length).toBeGreaterThan(20);
    const wrong: string[] = [];
    for (const [canonical, typed] of byCanonical) {
      const spelt = new Set(spellings(canonical));
      for (const text of typed) if (!spelt.has(text)) wrong.push(`${text} is missing from ${canonical}`);
      for (const text of spelt) {
        if (!isReference(text) || canonicalReference(text) !== canonical) wrong.push(`${text} is not ${canonical}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("of a canonical form never hold another image's reference", () => {
    const canonicals = [...new Set(references.map(canonicalReference))];
    const owner = new Map<string, string>();
    for (const canonical of canonicals) {
      for (const text of spellings(canonical)) {
        expect(owner.get(text) ?? canonical).toBe(canonical);
        owner.set(text, canonical);
      }
    }
    expect(references.filter((text) => !owner.has(text))).toEqual([]);
  });
});

/** Numbers in [0, 1), the same for the same seed. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
