import { readFileSync, realpathSync } from "node:fs";

/** A place inside a folder at which something is mounted. */
export interface Mount {
  path: string;
  /** Whether it is only a part of its file system, as a bind mount of a folder is: others may have that part elsewhere. */
  isPart: boolean;
}

/** What is mounted at or below a folder that is there, as this process sees it (proc_pid_mountinfo(5)). */
export function mountsIn(folder: string): Mount[] {
  const real = realpathSync(folder);
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .flatMap((line) => {
      const [, , , root, path] = line.split(" ").map(decode);
      if (path === undefined || (path !== real && !path.startsWith(`${real}/`))) return [];
      // A subvolume of Btrfs is a whole one, and has its own name as its root.
      const [, subvolume = "/"] = /[ ,]subvol=([^, ]+)/.exec(line) ?? [];
      return { path, isPart: root !== "/" && root !== decode(subvolume) };
    });
}

// A blank, a tab, a line end and a backslash are written in octal.
function decode(field: string): string {
  return field.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
