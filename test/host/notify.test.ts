import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { notify } from "../../src/host/notify.ts";
import { TemporaryFolder } from "../larder.ts";

const LISTENER = `
import socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name.startswith("@") else name)
sys.stdout.write("bound\\n")
sys.stdout.flush()
sys.stdout.write(s.recv(100).decode())
`;

/** What another process receives at `name`. */
async function received(name: string, send: () => void): Promise<string> {
  const child = Bun.spawn(["python3", "-c", LISTENER, name], { stdout: "pipe" });
  let text = "";
  for await (const chunk of child.stdout) {
    text += new TextDecoder().decode(chunk);
    if (text === "bound\n") send();
  }
  return text.slice("bound\n".length);
}

describe("notify", () => {
  test.each([
    ["a socket's path", (folder: string) => join(folder, "notify")],
    ["an abstract name", (folder: string) => `@${folder}/notify`],
    ["a path as long as the kernel takes", (folder: string) => join(folder, "n".repeat(106 - folder.length))],
  ])("sends the state as one datagram to %s", async (_, nameOf) => {
    using folder = new TemporaryFolder();
    const name = nameOf(folder.path);
    const state = "READY=1\nSTATUS=grüß";
    expect(await received(name, () => notify(state, name))).toBe(state);
  });

  test.each([
    ["nobody listens", (folder: string) => join(folder, "gone")],
    ["a plain file is", (folder: string) => join(folder, "file")],
    ["the path is too long", (folder: string) => join(folder, "x".repeat(200))],
    ["the name is empty", () => ""],
  ])("fails silently where %s", (_, nameOf) => {
    using folder = new TemporaryFolder();
    writeFileSync(join(folder.path, "file"), "");
    expect(() => notify("READY=1", nameOf(folder.path))).not.toThrow();
  });
});
