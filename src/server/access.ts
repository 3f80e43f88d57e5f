import { timingSafeEqual } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { LarderError, namingPath } from "../error.ts";
import { type Address, isLoopback } from "./address.ts";
import { HttpProblem } from "./problem.ts";

const SHORTEST_TOKEN = 32;

/** Reads a bearer token; throws `failed` for a file that others may read, or a token that is too short. */
export function readToken(path: string): string {
  const token = readPrivate(path).trim();
  // As a header can carry it.
  if (!/^[!-~]*$/.test(token))
    throw new LarderError("failed", `the token in "${path}" must be one line of ASCII characters without a blank`);
  if (token.length >= SHORTEST_TOKEN) return token;
  throw new LarderError("failed", `the token in "${path}" is shorter than ${SHORTEST_TOKEN} characters`);
}

// The file that is looked at is the one that is read, whatever takes its name meanwhile.
function readPrivate(path: string): string {
  const fd = openSync(path, "r");
  try {
    if ((fstatSync(fd).mode & 0o077) === 0) return namingPath(path, () => readFileSync(fd, "utf8"));
  } finally {
    closeSync(fd);
  }
  throw new LarderError("failed", `the token file "${path}" can be read by others: make it private with chmod 600`);
}

/** Decides who may ask. A unix socket is guarded by its mode; a TCP port by a token, and by the names it answers to. */
export class Access {
  private readonly token: Buffer | undefined;
  private readonly names: ReadonlySet<string>;
  // Clients ask for one name, and by the thousand.
  private lastHost: string | undefined;

  constructor(
    private readonly address: Address,
    token: string | undefined,
    hosts: string[],
  ) {
    const names = address.kind === "tcp" ? [address.host, ...hosts] : hosts;
    this.names = new Set(names.map(nameOfHost));
    this.token = token === undefined ? undefined : Buffer.from(token);
  }

  /** Throws `forbidden` or `unauthorized`. Probes need no token, and tell nothing. */
  check(request: Request, isProbe: boolean): void {
    if (this.address.kind === "unix") return;
    const host = request.headers.get("host") ?? "";
    // A page on another site can make a browser ask this port under a name of its own (DNS rebinding).
    if (host !== this.lastHost && !this.answersTo(host))
      throw new HttpProblem("forbidden", "the Host header names another host");
    this.lastHost = host;
    const origin = request.headers.get("origin");
    if (origin !== null && origin !== `http://${host}`)
      throw new HttpProblem("forbidden", "the Origin header names another site");
    if (!isProbe && !this.knows(request.headers.get("authorization") ?? ""))
      throw new HttpProblem("unauthorized", "the bearer token is missing or wrong");
  }

  private answersTo(host: string): boolean {
    const name = nameOfHost(host);
    return isLoopback(name) || this.names.has(name);
  }

  // How long it takes tells nothing of the token but its length.
  private knows(authorization: string): boolean {
    if (this.token === undefined || authorization.slice(0, 7).toLowerCase() !== "bearer ") return false;
    const given = Buffer.from(authorization.slice(7).trimStart());
    return given.length === this.token.length && timingSafeEqual(this.token, given);
  }
}

// Without its port: a bare IPv6 address has none.
function nameOfHost(text: string): string {
  const host = /^[^:]*:\d+$|\]:\d+$/.test(text) ? text.slice(0, text.lastIndexOf(":")) : text;
  return host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
}
