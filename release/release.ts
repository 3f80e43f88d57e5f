import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build, currentCommit } from "../build.ts";
import manifest from "../package.json" with { type: "json" };
import { completionFor, SHELLS } from "../src/cli/completion.ts";
import { billOfMaterials, bundledPackages } from "./bill.ts";
import { licencesOfBun } from "./bun.ts";
import { manualPage } from "./man.ts";
import { fetchRuntimes, TARGETS, type Target } from "./targets.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const OUT = `${ROOT}dist/release`;

/**
 * Makes the release: for each target a tarball with executable, documents, man page, completions and host integration,
 * its bill of materials, and the SHA256SUMS of them all. The same commit gives the same bytes. Returns the files.
 */
export async function release(
  targets: Target[] = TARGETS,
  out = OUT,
  runtimeOf?: (target: Target) => string,
): Promise<string[]> {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  runtimeOf ??= await fetchRuntimes();
  const commit = await currentCommit();
  const date = await commitDate();
  const made: string[] = [];
  for (const target of targets) {
    const name = `larder-${manifest.version}-${target.name}`;
    const folder = `${out}/${name}`;
    const executable = `${folder}/larder`;
    await build({ target, runtime: runtimeOf(target), outfile: executable, commit });
    const bill = billOfMaterials(target, commit, sha256(executable), date);
    await fillFolder(folder, date);
    for (const path of [`${folder}/sbom.cdx.json`, `${out}/${name}.cdx.json`]) writeFileSync(path, bill);
    await pack(out, name, date);
    rmSync(folder, { recursive: true });
    made.push(`${name}.tar.gz`, `${name}.cdx.json`);
  }
  const sums = made.map((name) => `${sha256(`${out}/${name}`)}  ${name}\n`);
  writeFileSync(`${out}/SHA256SUMS`, sums.join(""));
  return [...made, "SHA256SUMS"].map((name) => `${out}/${name}`);
}

/** Puts everything beside the executable that a tarball carries. */
async function fillFolder(folder: string, date: string): Promise<void> {
  mkdirSync(`${folder}/man/man1`, { recursive: true });
  mkdirSync(`${folder}/completions`);
  writeFileSync(`${folder}/man/man1/larder.1`, await manualPage(date.slice(0, 10)));
  for (const shell of SHELLS) {
    const file = { bash: "larder.bash", zsh: "_larder", fish: "larder.fish" }[shell];
    writeFileSync(`${folder}/completions/${file}`, await completionFor(shell));
  }
  writeFileSync(`${folder}/LICENSES.md`, licences());
  cpSync(`${ROOT}release/host`, `${folder}/host`, { recursive: true });
  for (const name of ["README.md", "CHANGELOG.md", "LICENSE"]) cpSync(ROOT + name, `${folder}/${name}`);
}

function licences(): string {
  const packages = bundledPackages().map(({ name, version }) => {
    const folder = `${ROOT}node_modules/${name}`;
    const file = ["LICENSE", "LICENSE.md"].map((each) => `${folder}/${each}`).find(existsSync);
    if (!file) throw new Error(`"${folder}" has no licence text`);
    return `## ${name} ${version}\n\n${readFileSync(file, "utf8").trim()}\n`;
  });
  return [`# Licences of what is inside larder ${manifest.version}\n`, ...packages, licencesOfBun()].join("\n");
}

// Nothing of the machine or the moment: names in order, one owner, one time.
async function pack(out: string, name: string, date: string): Promise<void> {
  const tar = await Bun.$`tar --create --file=- --format=ustar --sort=name --mtime=${date} --owner=0 --group=0 \
    --numeric-owner --mode=u=rwX,go=rX --directory=${out} ${name}`
    .env({ ...process.env, LC_ALL: "C", TZ: "UTC" })
    .arrayBuffer();
  writeFileSync(`${out}/${name}.tar.gz`, Bun.gzipSync(new Uint8Array(tar), { level: 6 }));
}

// RFC 3339 in UTC; of a source without a history the time that SOURCE_DATE_EPOCH says.
async function commitDate(): Promise<string> {
  const log = await Bun.$`git -C ${ROOT} log -1 --format=%ct`.nothrow().quiet();
  const seconds = Number(process.env.SOURCE_DATE_EPOCH ?? (log.exitCode === 0 ? log.text() : 0));
  return new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
}

function sha256(path: string): string {
  return new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");
}
