import { TemporaryFolder } from "./larder.ts";

/** Something that is mounted at `path`, for as long as the block lasts that made it. */
export class Mounted implements Disposable {
  constructor(
    readonly path: string,
    ...how: string[]
  ) {
    runTool("mount", ...how, path);
  }

  [Symbol.dispose](): void {
    runTool("umount", this.path);
  }
}

/** Why nothing can be mounted here, and so what a test says that is left out; undefined where it can. */
export function mountingRefused(): string | undefined {
  using folder = new TemporaryFolder();
  try {
    using _ = new Mounted(folder.path, "-t", "tmpfs", "-o", "size=64k", "tmpfs");
    return undefined;
  } catch (error) {
    return `no privilege to mount a file system: ${String(error).trim()}`;
  }
}

/** Runs a command to its end, and throws what it complains of where it fails. */
export function runTool(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
}
