import { EXECUTABLE } from "../../build.ts";

/** What a pseudo-terminal was sent, and how the program ended. Lines end in `\n`, as the program wrote them. */
export interface Shown {
  code: number;
  screen: string;
}

/**
 * Runs the executable with standard output on a terminal, and with standard error there as well or in a file.
 * `wiring` is what a shell does with the rest: `2>FILE`, or `>FILE` to leave only standard error on the terminal.
 * `under` is a command that runs the executable.
 */
export async function onTerminal(
  args: string[],
  {
    wiring = "",
    env = {},
    columns = 80,
    under = [],
  }: { wiring?: string; env?: Record<string, string>; columns?: number; under?: string[] } = {},
): Promise<Shown> {
  const chunks: Uint8Array[] = [];
  const ended = Promise.withResolvers<void>();
  const child = Bun.spawn(["sh", "-c", `exec "$@" ${wiring}`, "sh", ...under, EXECUTABLE, ...args], {
    env: { TZ: "UTC", ...env },
    terminal: {
      cols: columns,
      rows: 24,
      data: (_, bytes) => {
        chunks.push(bytes.slice());
      },
      // The last bytes may come after the program has gone.
      exit: () => ended.resolve(),
    },
  });
  const code = await child.exited;
  await ended.promise;
  child.terminal?.close();
  return { code, screen: Buffer.concat(chunks).toString().replaceAll("\r\n", "\n") };
}
