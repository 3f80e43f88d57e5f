import { join } from "node:path";
import { LarderError } from "../error.ts";
import type { Home } from "../home.ts";

/** Where to listen: a unix socket, or a TCP address. */
export type Address = { kind: "unix"; path: string } | { kind: "tcp"; host: string; port: number; isLoopback: boolean };

/** Parses an address: `unix:/run/larder.sock`, `127.0.0.1:7878`, `[::1]:7878`; by default a socket in the home. */
export function parseAddress(asked: string | undefined, home: Home): Address {
  const text = asked ?? `unix:${join(home.root, "run", "larder.sock")}`;
  if (text.startsWith("unix:")) return parseUnix(text, text.slice("unix:".length));
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535) {
    throw new LarderError(
      "usage",
      `${JSON.stringify(text)} is not an address (write unix:/path, 127.0.0.1:7878 or [::1]:7878)`,
    );
  }
  const host = match[1] ?? match[2]!;
  return { kind: "tcp", host, port, isLoopback: isLoopback(host) };
}

// The kernel takes 107 bytes, and the name that the socket has until it is published is longer by 5.
const LONGEST_SOCKET_PATH = 107 - 5;

function parseUnix(text: string, path: string): Address {
  if (!path.startsWith("/"))
    throw new LarderError("usage", `${JSON.stringify(text)} is not an address: the socket's path must be absolute`);
  if (Buffer.byteLength(path) > LONGEST_SOCKET_PATH)
    throw new LarderError("usage", `the socket's path is too long: "${path}"`);
  return { kind: "unix", path };
}

/** Whether a host is this machine's own. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(?:\.\d{1,3}){3}$/.test(host);
}
