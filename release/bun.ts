/** A library that Bun links statically, so that it is in larder's executable. */
export interface Component {
  name: string;
  /** A version, or the commit that Bun was built from. */
  version: string;
  /** An SPDX identifier or expression. */
  licence: string;
  source: string;
}

// The name in `process.versions`, and what Bun's LICENSE.md says of it. What has no version there is in the notes below.
const COMPONENTS: [key: string, name: string, licence: string, source: string][] = [
  ["sqlite", "sqlite", "blessing", "https://sqlite.org/copyright.html"],
  ["webkit", "webkit", "LGPL-2.0-or-later AND BSD-2-Clause", "https://github.com/oven-sh/WebKit"],
  ["boringssl", "boringssl", "Apache-2.0 AND OpenSSL AND ISC AND MIT", "https://boringssl.googlesource.com/boringssl"],
  ["libarchive", "libarchive", "BSD-2-Clause", "https://github.com/libarchive/libarchive"],
  ["mimalloc", "mimalloc", "MIT", "https://github.com/microsoft/mimalloc"],
  ["picohttpparser", "picohttpparser", "MIT", "https://github.com/h2o/picohttpparser"],
  ["uwebsockets", "uwebsockets", "Apache-2.0", "https://github.com/uNetworking/uWebSockets"],
  ["zlib", "zlib-ng", "Zlib", "https://github.com/zlib-ng/zlib-ng"],
  ["tinycc", "tinycc", "LGPL-2.1-or-later", "https://github.com/oven-sh/tinycc"],
  ["lolhtml", "lol-html", "BSD-3-Clause", "https://github.com/cloudflare/lol-html"],
  ["ares", "c-ares", "MIT", "https://github.com/c-ares/c-ares"],
  ["libdeflate", "libdeflate", "MIT", "https://github.com/ebiggers/libdeflate"],
  ["lshpack", "ls-hpack", "MIT", "https://github.com/litespeedtech/ls-hpack"],
  ["zstd", "zstd", "BSD-3-Clause", "https://github.com/facebook/zstd"],
  ["icu", "icu", "Unicode-3.0", "https://github.com/unicode-org/icu"],
];

/** The libraries inside the Bun that runs, with the versions that it tells; it must be the one that is linked. */
export function componentsOfBun(): Component[] {
  return COMPONENTS.map(([key, name, licence, source]) => {
    const version = process.versions[key];
    if (version === undefined) throw new Error(`Bun ${Bun.version} tells no version of ${key}`);
    return { name, version, licence, source };
  });
}

/** The licences of Bun and of what it links, as text. */
export function licencesOfBun(): string {
  const rows = componentsOfBun().map(
    ({ name, version, licence, source }) => `- ${name} ${version}: ${licence}, ${source}`,
  );
  return `## Bun ${Bun.version}

The executable holds the Bun runtime, which is under the MIT licence
(https://github.com/oven-sh/bun/blob/bun-v${Bun.version}/LICENSE.md, revision ${Bun.revision}). Bun links these
statically; that page also names those which tell no version (brotli, simdutf, libbase64, lsquic, and others):

${rows.join("\n")}

WebKit's JavaScriptCore and tinycc are under the LGPL: whoever gets this executable may relink it with another version
of them. The page above says how Bun is built with another WebKit; \`bun run build.ts\` in larder's source, with the
\`bun\` that results, then makes the executable. One change is made to the linked runtime, in release/harden.ts: the
first byte of the names of some environment variables.
`;
}
