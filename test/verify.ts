import { fileURLToPath } from "node:url";
import { build } from "../build.ts";
import { installTools } from "./tools.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const REPORT = fileURLToPath(new URL("../dist/junit.xml", import.meta.url));

/** Everything that must hold before a change lands: types, lint, the build, and every test on it. */
async function verify(): Promise<number> {
  await installTools();
  for (const step of [["types"], ["lint"]]) {
    const code = await run(["bun", "run", ...step]);
    if (code !== 0) return code;
  }
  await build();
  const code = await run(["bun", "run", "test", "--reporter=junit", `--reporter-outfile=${REPORT}`]);
  console.log(await summarize());
  return code;
}

async function run(command: string[]): Promise<number> {
  return Bun.spawn(command, { cwd: ROOT, stdio: ["ignore", "inherit", "inherit"] }).exited;
}

// The runner's own summary goes to standard error, in words of its own.
async function summarize(): Promise<string> {
  const head = /<testsuites[^>]*>/.exec(await Bun.file(REPORT).text())?.[0] ?? "";
  const count = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0);
  const failed = count("failures") + count("errors");
  const skipped = count("skipped");
  return `${count("tests") - failed - skipped} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

process.exit(await verify());
