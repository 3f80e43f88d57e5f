import { readFileSync, realpathSync, statSync } from "node:fs";
import { isErrno } from "../error.ts";

/** A place at which something is mounted. */
export interface Mount {
  path: string;
  /** Major and minor number. */
  fileSystem: string;
  /** Whether it is only a part of its file system, as a bind mount of a folder is: others may have that part elsewhere. */
  isPart: boolean;
}

/** What is mounted at or below a folder. Nothing where the folder is gone. */
export function mountsIn(folder: string): Mount[] {
  let real: string;
  try {
    real = realpathSync(folder);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return [];
    throw error;
  }
  return readMounts().filter(({ path }) => path === real || path.startsWith(`${real}/`));
}

/**
 * The file system that a path which is there lies on, by its number: that of its subvolumes, too. In a changed root, which
 * may have no mount of its own, that of the path alone.
 */
export function fileSystemAt(path: string): string {
  const real = realpathSync(path);
  let deepest: Mount | undefined;
  for (const mount of readMounts()) {
    const holds = mount.path === "/" || real === mount.path || real.startsWith(`${mount.path}/`);
    // Of several at one place the last hides the others.
    if (holds && mount.path.length >= (deepest?.path.length ?? 0)) deepest = mount;
  }
  return deepest?.fileSystem ?? String(statSync(real).dev);
}

// As this process sees them: proc_pid_mountinfo(5).
function readMounts(): Mount[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .flatMap((line) => {
      const [, , fileSystem, root, path] = line.split(" ").map(decode);
      if (fileSystem === undefined || path === undefined) return [];
      // A subvolume of Btrfs is a whole one, and has its own name as its root.
      const [, subvolume = "/"] = /[ ,]subvol=([^, ]+)/.exec(line) ?? [];
      return { path, fileSystem, isPart: root !== "/" && root !== decode(subvolume) };
    });
}

// A blank, a tab, a line end and a backslash are written in octal.
function decode(field: string): string {
  return field.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
