import { build, type Content, type ImageSpec } from "./archive.ts";

/** A read-only OCI registry on loopback; disposing it cuts what is still in flight. */
export interface Registry extends AsyncDisposable {
  /** `127.0.0.1:PORT`, to put before a spec's tag: `msb pull --insecure HOST/TAG`. */
  host: string;
  /** `METHOD path[ range]` of every request so far, in order of arrival. */
  requests: string[];
  /** Adds images; a tag that is already there moves to the new one. */
  push(...images: ImageSpec[]): void;
}

/** What a test may do to a blob on its way out. */
export interface RegistryOptions {
  /** Awaited when half of a blob's body has been sent; a rejection cuts the connection there, and Bun prints it. */
  midway?(digest: string): Promise<void> | void;
}

/** Serves images by tag and by digest, with Range on blobs. */
export function serveRegistry(images: ImageSpec[], options: RegistryOptions = {}): Registry {
  const manifests = new Map<string, Content>();
  const blobs = new Map<string, Content>();
  const requests: string[] = [];

  function push(...specs: ImageSpec[]): void {
    for (const spec of specs) {
      const { manifest, config, layers } = build(spec);
      for (const blob of [config, ...layers]) blobs.set(blob.digest, blob);
      manifests.set(manifest.digest, manifest);
      for (const tag of spec.tags) {
        const [, repository, name = "latest"] = /^(.*?)(?::([^:/]*))?$/.exec(tag) ?? [];
        manifests.set(`${repository}:${name}`, manifest);
      }
    }
  }

  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    // A blob held midway is an idle connection.
    idleTimeout: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      const range = request.headers.get("range");
      requests.push([request.method, pathname, ...(range === null ? [] : [range])].join(" "));
      if (pathname === "/v2/") return Response.json({});
      const [, repository, kind, reference = ""] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(pathname) ?? [];
      if (kind === "blobs") return reply(request, blobs.get(reference), options.midway);
      const key = reference.includes(":") ? reference : `${repository}:${reference}`;
      return reply(request, manifests.get(key));
    },
  });

  push(...images);
  return {
    host: `127.0.0.1:${server.port}`,
    requests,
    push,
    [Symbol.asyncDispose]: () => server.stop(true),
  };
}

function reply(request: Request, found: Content | undefined, midway?: RegistryOptions["midway"]): Response {
  if (found === undefined) return new Response(null, { status: 404 });
  const { mediaType, digest, bytes } = found;
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.get("range") ?? "") ?? [];
  const part = first === undefined ? bytes : bytes.subarray(Number(first), last ? Number(last) + 1 : undefined);
  const headers = new Headers({
    "content-type": mediaType,
    "content-length": String(part.length),
    "docker-content-digest": digest,
    "accept-ranges": "bytes",
  });
  if (first !== undefined) {
    if (part.length === 0) return new Response(null, { status: 416 });
    headers.set("content-range", `bytes ${first}-${Number(first) + part.length - 1}/${bytes.length}`);
  }
  const status = first === undefined ? 200 : 206;
  if (request.method === "HEAD") return new Response(null, { status, headers });
  if (midway === undefined) return new Response(part, { status, headers });
  const half = part.length >> 1;
  async function* body() {
    yield part.subarray(0, half);
    await midway?.(digest);
    yield part.subarray(half);
  }
  return new Response(body(), { status, headers });
}
