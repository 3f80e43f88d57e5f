import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import manifest from "../package.json" with { type: "json" };
import { componentsOfBun } from "./bun.ts";
import type { Target } from "./targets.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** A package of the registry, as a lockfile pins it. */
interface Pinned {
  name: string;
  version: string;
  /** Hexadecimal. */
  sha512: string;
}

/** The packages whose code is in the executable: those that package.json calls dependencies, and what they need. */
export function bundledPackages(): Pinned[] {
  const lock = readLock(`${ROOT}bun.lock`);
  const names = new Set<string>();
  const add = (name: string) => {
    if (names.has(name)) return;
    names.add(name);
    for (const needed of Object.keys(lock[name]![2].dependencies ?? {})) add(needed);
  };
  for (const name of Object.keys(manifest.dependencies)) add(name);
  return [...names].sort().map((name) => pinned(name, lock));
}

type Entry = [id: string, registry: string, about: { dependencies?: Record<string, string> }, integrity: string];

function pinned(name: string, lock: Record<string, Entry>): Pinned {
  const [id, , , integrity] = lock[name]!;
  const sha512 = Buffer.from(integrity.slice("sha512-".length), "base64").toString("hex");
  return { name, version: id.slice(name.length + 1), sha512 };
}

// Bun's lockfile is JSON with trailing commas.
function readLock(path: string): Record<string, Entry> {
  return JSON.parse(readFileSync(path, "utf8").replaceAll(/,(\s*[\]}])/g, "$1")).packages;
}

/** The bill of materials of one target's executable: CycloneDX 1.6, in JSON. `date` is in RFC 3339. */
export function billOfMaterials(target: Target, commit: string, executable: string, date: string): string {
  const runtime = pinned(target.runtime, readLock(`${ROOT}release/runtimes/bun.lock`));
  const self = `pkg:generic/larder@${manifest.version}?target=${target.name}`;
  const components = [
    ...bundledPackages().map((each) => ({
      type: "library",
      ...named(each.name, each.version),
      hashes: [{ alg: "SHA-512", content: each.sha512 }],
      licenses: [{ license: { id: licenceOf(each.name) } }],
    })),
    {
      type: "platform",
      ...named(runtime.name, runtime.version),
      hashes: [{ alg: "SHA-512", content: runtime.sha512 }],
      licenses: [{ license: { id: "MIT" } }],
    },
    ...componentsOfBun().map(({ name, version, licence }) => ({
      type: "library",
      name,
      version,
      "bom-ref": `pkg:generic/${name}@${version}`,
      purl: `pkg:generic/${name}@${version}`,
      licenses: [licence.includes(" ") ? { expression: licence } : { license: { id: licence } }],
    })),
  ];
  const bill = {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      timestamp: date,
      component: {
        type: "application",
        name: manifest.name,
        version: manifest.version,
        "bom-ref": self,
        purl: self,
        hashes: [{ alg: "SHA-256", content: executable }],
        licenses: [{ license: { id: manifest.license } }],
        properties: [
          { name: "larder:commit", value: commit },
          { name: "larder:target", value: target.name },
        ],
      },
    },
    components,
    dependencies: [{ ref: self, dependsOn: components.map((component) => component["bom-ref"]) }],
  };
  return `${JSON.stringify(bill, undefined, 2)}\n`;
}

function named(name: string, version: string) {
  const purl = `pkg:npm/${name.replace(/^@/, "%40")}@${version}`;
  return { name, version, "bom-ref": purl, purl };
}

function licenceOf(name: string): string {
  return JSON.parse(readFileSync(`${ROOT}node_modules/${name}/package.json`, "utf8")).license;
}
