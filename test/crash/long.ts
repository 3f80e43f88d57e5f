import { fileURLToPath } from "node:url";
import { build } from "../../build.ts";
import { installTools } from "../tools.ts";

// The long form of the bench: every boundary, every error, every fill level.
await installTools();
await build();
const bench = Bun.spawn(["bun", "test", "test/crash"], {
  cwd: fileURLToPath(new URL("../..", import.meta.url)),
  env: { ...process.env, LARDER_BENCH: "long" },
  stdio: ["ignore", "inherit", "inherit"],
});
process.exit(await bench.exited);
