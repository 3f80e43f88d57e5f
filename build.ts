import { fileURLToPath } from "node:url";

const SOURCE = fileURLToPath(new URL("src", import.meta.url));
/** Where the executable is put. */
export const EXECUTABLE = fileURLToPath(new URL("dist/larder", import.meta.url));

/**
 * Compiles larder to one executable. The autoloads are shut: a root tool must not read, still less run, what lies in
 * the folder it happens to be started in.
 */
export async function build(): Promise<void> {
  await Bun.build({
    // The worker is an entry of its own: it starts in a thread, and not through an import.
    entrypoints: [`${SOURCE}/main.ts`, `${SOURCE}/server/worker.ts`],
    root: SOURCE,
    minify: true,
    bytecode: true,
    compile: {
      outfile: EXECUTABLE,
      autoloadBunfig: false,
      autoloadDotenv: false,
      autoloadTsconfig: false,
      autoloadPackageJson: false,
    },
  });
}

if (import.meta.main) await build();
