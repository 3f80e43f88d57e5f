import { LarderError } from "../error.ts";
import { readToken } from "../server/access.ts";
import { type Address, parseAddress } from "../server/address.ts";
import { serve } from "../server/serve.ts";
import { defineCommand } from "./command.ts";
import { VERSION } from "./version.ts";

export default defineCommand({
  name: "--serve",
  summary: "Serve the same operations as a JSON endpoint",
  details:
    "ADDR is unix:/path (default: run/larder.sock in the home), 127.0.0.1:7878 or [::1]:7878. A unix socket is guarded\nby its mode; TCP needs --token-file, and stays on this machine unless --listen-anywhere is given. Nothing can be\nchanged unless --allow-writes is. GET /openapi.json describes the routes. SIGTERM drains and ends it.",
  flags: {
    address: { type: "positional", required: false, description: "where to listen" },
    "allow-writes": { type: "boolean", description: "serve persist, remove, gc, prune and repair too" },
    "socket-mode": { type: "string", valueHint: "OCTAL", description: "mode of the unix socket (default 0660)" },
    "token-file": {
      type: "string",
      valueHint: "FILE",
      description: "bearer token for TCP, 32 characters or more, in a file nobody else can read",
    },
    "listen-anywhere": { type: "boolean", description: "allow an address that is not loopback" },
    "allow-host": {
      type: "string",
      valueHint: "NAME",
      multiple: true,
      description: "a further name that requests may ask for",
    },
    "log-format": { type: "enum", options: ["text", "json"], description: "how requests are logged on standard error" },
  },
  operands: { least: 0, most: 1 },
  examples: [
    "larder --serve",
    "larder --serve unix:/run/larder.sock --allow-writes",
    "larder --serve 127.0.0.1:7878 --token-file /etc/larder/token",
    "curl --unix-socket ~/.microsandbox/run/larder.sock http://larder/v1/images",
  ],
  async run({ flags, operands: [text], home }) {
    const where = home();
    const address = parseAddress(text, where);
    if (address.kind === "tcp" && !address.isLoopback && !flags["listen-anywhere"]) {
      throw new LarderError("usage", `"${text}" is not a loopback address (--listen-anywhere allows it)`);
    }
    refuseUseless(address.kind, flags);
    const tokenFile = flags["token-file"];
    if (address.kind === "tcp" && tokenFile === undefined)
      throw new LarderError("usage", "a TCP address needs --token-file");
    await serve({
      home: where,
      address,
      allowWrites: flags["allow-writes"],
      socketMode: parseMode(flags["socket-mode"] ?? "0660"),
      token: tokenFile === undefined ? undefined : readToken(tokenFile),
      hosts: flags["allow-host"],
      logFormat: flags["log-format"] ?? "text",
      build: { version: VERSION, bun: Bun.version },
    });
    return 0;
  },
});

// Who gives a token to a unix socket would believe that it is asked for.
function refuseUseless(kind: Address["kind"], flags: Record<string, string | boolean | string[] | undefined>): void {
  const useless = kind === "tcp" ? ["socket-mode"] : ["token-file", "listen-anywhere", "allow-host"];
  const given = useless.find((name) => [flags[name] || []].flat().length > 0);
  if (given === undefined) return;
  const guard = kind === "tcp" ? "a TCP address has no mode" : "a unix socket is guarded by its mode alone";
  throw new LarderError("usage", `--${given} means nothing here: ${guard}`);
}

function parseMode(text: string): number {
  if (/^0?[0-7]{3}$/.test(text)) return Number.parseInt(text, 8);
  throw new LarderError("usage", `--socket-mode is ${JSON.stringify(text)}, and must be octal, such as 0660`);
}
