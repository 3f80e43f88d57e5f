import { fileURLToPath } from "node:url";
import { harden } from "./release/harden.ts";
import { hostTarget, type Target } from "./release/targets.ts";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const SOURCE = `${ROOT}src`;
/** Where the executable is put. */
export const EXECUTABLE = `${ROOT}dist/larder`;

/** What to build, where it is not the executable of this machine. */
export interface BuildOptions {
  target?: Target;
  /** The runtime of that target. */
  runtime?: string;
  /** The file's name is part of its bytes: two builds are equal only under one name. */
  outfile?: string;
  commit?: string;
}

/**
 * Compiles larder to one executable. The autoloads are shut, and so are the variables that Bun obeys: a root tool must
 * not read, still less run, what lies in the folder it happens to be started in, or what its environment names.
 */
export async function build({ target, runtime, outfile = EXECUTABLE, commit }: BuildOptions = {}): Promise<void> {
  await Bun.build({
    // A worker is an entry of its own: it starts in a thread, and not through an import.
    entrypoints: ["main", "whole", "lookup", "server/worker", "ops/soundness-worker"].map(
      (name) => `${SOURCE}/${name}.ts`,
    ),
    root: SOURCE,
    minify: true,
    bytecode: true,
    define: {
      LARDER_COMMIT: JSON.stringify(commit ?? (await currentCommit())),
      LARDER_TARGET: JSON.stringify(target?.name ?? hostTarget()),
    },
    compile: {
      outfile,
      ...(target && { target: target.compile }),
      ...(runtime !== undefined && { executablePath: runtime }),
      autoloadBunfig: false,
      autoloadDotenv: false,
      autoloadTsconfig: false,
      autoloadPackageJson: false,
    },
  });
  harden(outfile);
}

/** The commit that is checked out, marked where files differ from it; `unknown` outside a clone. */
export async function currentCommit(): Promise<string> {
  const head = await Bun.$`git -C ${ROOT} rev-parse HEAD`.nothrow().quiet();
  if (head.exitCode !== 0) return "unknown";
  const changes = await Bun.$`git -C ${ROOT} status --porcelain --untracked-files=no`.nothrow().quiet();
  return `${head.text().trim()}${changes.text().trim() === "" ? "" : "-modified"}`;
}

if (import.meta.main) {
  if (process.argv.includes("--all")) {
    const { release } = await import("./release/release.ts");
    await Bun.write(Bun.stdout, (await release()).map((path) => `${path}\n`).join(""));
  } else await build();
}
