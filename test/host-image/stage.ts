import { copyFileSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { TemporaryFolder } from "../larder.ts";

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a command with nothing in its environment but what is given. */
export async function runIn(command: string[], env: Record<string, string> = {}, stdin = ""): Promise<Ended> {
  const child = Bun.spawn(command, {
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", ...env },
    cwd: "/",
    stdin: new TextEncoder().encode(stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

/** Whether this machine lets the tests do something, as a command that does it and exits with 0. */
export function may(...command: string[]): boolean {
  return Bun.which(command[0]!) !== null && Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore" }).success;
}

/** A root that holds the executable, its loader, the libraries that it names, and empty folders to mount on. */
export class Root extends TemporaryFolder {
  static async make(): Promise<Root> {
    const root = new Root();
    for (const folder of ["proc", "home", "tmp"]) mkdirSync(join(root.path, folder));
    for (const path of [EXECUTABLE, ...(await librariesOf(EXECUTABLE))]) {
      const place = path === EXECUTABLE ? "/larder" : path;
      mkdirSync(join(root.path, dirname(place)), { recursive: true });
      copyFileSync(path, join(root.path, place));
    }
    return root;
  }

  /** Runs larder with this folder for its root, after `mounts`, lines of shell in which `$1` is the root. */
  run(args: string[], { mounts = "", env = {}, stdin = "" } = {}): Promise<Ended> {
    const script = `set -e; mount -t proc proc "$1/proc"; ${mounts}\nroot=$1; shift; exec chroot "$root" /larder "$@"`;
    return runIn(["unshare", "--mount", "sh", "-c", script, "sh", this.path, ...args], env, stdin);
  }
}

/** The loader and the libraries that an executable needs, as the loader itself finds them. */
export async function librariesOf(executable: string): Promise<string[]> {
  const { stdout } = await runIn(["ldd", executable]);
  return [...stdout.matchAll(/(?:=> |^\s)(\/\S+)/gm)].map(([, path]) => path!);
}

/** The names alone. */
export function names(paths: string[]): string[] {
  return paths.map((path) => basename(path)).sort();
}
