import { LarderError } from "../error.ts";
import { defineCommand } from "./command.ts";
import { print } from "./terminal.ts";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

export default defineCommand({
  name: "completion",
  summary: "Print a shell's completion script",
  details:
    "It completes commands, flags, their values, and references from the catalogue of the home on the line.\nA release's tarball carries the scripts as files.",
  flags: { shell: { type: "positional", options: SHELLS, description: "bash, zsh or fish" } },
  operands: { least: 1, most: 1 },
  examples: [
    "source <(larder completion bash)",
    "larder completion zsh > /usr/local/share/zsh/site-functions/_larder",
    "larder completion fish > ~/.config/fish/completions/larder.fish",
  ],
  async run({ operands: [name] }) {
    const shell = SHELLS.find((shell) => shell === name);
    if (!shell) throw new LarderError("usage", `no completion for ${JSON.stringify(name)} (${SHELLS.join(", ")})`);
    await print(await completionFor(shell));
    return 0;
  },
});

/** The script that makes a shell complete larder's command line, from the commands' own declarations. */
export async function completionFor(shell: Shell): Promise<string> {
  // Here, and not above: the list of commands loads this one.
  const { describeLine } = await import("./completion/line.ts");
  const { bash, fish, zsh } = await import("./completion/shells.ts");
  return { bash, zsh, fish }[shell](await describeLine());
}
