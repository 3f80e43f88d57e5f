import { rmSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../build.ts";
import { type ImageSpec, noise } from "./interop/archive.ts";
import { load, MSB } from "./interop/msb.ts";
import { TemporaryFolder } from "./larder.ts";

// A walk through larder on a home that the real msb made: every command is printed before it runs.

const base = { files: { "etc/os-release": "ID=demo\n", "usr/lib/base": noise(1, 3_000_000) } };
const python = { files: { "usr/bin/python": noise(2, 1_500_000) } };
const IMAGES: ImageSpec[] = [
  {
    tags: ["python:3.12", "python:latest"],
    layers: [base, python],
    config: { cmd: ["python"], env: ["LANG=C.UTF-8"], labels: { team: "data" }, stopSignal: "SIGINT" },
  },
  {
    tags: ["ghcr.io/acme/web:1.4"],
    layers: [base, { files: { "srv/web": noise(3, 800_000) } }],
    config: { entrypoint: ["/srv/web"] },
  },
  {
    tags: ["ghcr.io/acme/edge:1.4"],
    layers: [base, { files: { "srv/edge": "edge" } }],
    architecture: "arm64",
    variant: "v8",
  },
];

using folder = new TemporaryFolder();
const home = join(folder.path, "home");
await load(home, IMAGES);
console.log(`A home with three images, loaded by ${MSB}\n`);

await show("What is here, newest first", "list");
await show("One image, with its layers", "inspect", "python:3.12");
await show("What the cache takes, and who shares it", "df", "-v");

// Somebody deleted the database; the layers are still in the cache.
rmSync(join(home, "db"), { recursive: true });
await show(
  "The database is lost: put images on record again from the cache",
  "persist",
  "python:3.12",
  "python:latest",
  "ghcr.io/acme/web:1.4",
);
await show("Its name finds it however it is written", "get", "docker.io/library/python:3.12");
await show("What would a removal take?", "rm", "--dry-run", "python:3.12", "python:latest");
await show("The base layer stays: another image needs it", "rm", "python:3.12", "python:latest");
await show("One image is in the cache and not on record: it is not swept unasked", "gc", "--grace", "0s");
await show("Asked, it sweeps", "gc", "--grace", "0s", "--sweep-unrecorded");
await show("What is left", "list");
await run("And msb agrees", [MSB, "image", "ls"], "msb image ls");

async function show(what: string, ...args: string[]): Promise<void> {
  await run(what, [EXECUTABLE, ...args], `larder ${args.join(" ")}`);
}

async function run(what: string, command: string[], written: string): Promise<void> {
  console.log(`# ${what}\n$ ${written}`);
  const code = await Bun.spawn(command, {
    env: { PATH: process.env.PATH ?? "", MSB_HOME: home, HOME: home },
    stdio: ["ignore", "inherit", "inherit"],
  }).exited;
  console.log(code === 0 ? "" : `(exit ${code})\n`);
}
