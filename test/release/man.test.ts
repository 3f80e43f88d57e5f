import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { manualPage } from "../../release/man.ts";
import { run, TemporaryFolder } from "../larder.ts";
import { hasTool } from "../tools.ts";

async function render(command: string[]): Promise<{ code: number; text: string; complaints: string }> {
  using folder = new TemporaryFolder();
  const page = join(folder.path, "larder.1");
  await Bun.write(page, await manualPage("2026-01-02"));
  const child = Bun.spawn([...command, page], { env: { PATH: "/usr/bin:/bin", LC_ALL: "C.UTF-8" }, stderr: "pipe" });
  const [code, text, complaints] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  // Bold and underlined characters are written over each other.
  return { code, text: text.replaceAll(/.[\b]/g, ""), complaints };
}

describe("manualPage", () => {
  test.skipIf(!hasTool("mandoc"))("is a page of which mandoc complains in nothing", async () => {
    expect(await render(["mandoc", "-T", "lint", "-W", "warning"])).toEqual({ code: 0, text: "", complaints: "" });
  });

  test("names every variable that larder obeys", async () => {
    const page = await manualPage("2026-01-02");
    for (const name of ["MSB_HOME", "MSB_CONFIG_PATH", "LARDER_DEBUG", "COLUMNS"])
      expect(page).toContain(`\n.B ${name}\n`);
  });

  test.skipIf(!hasTool("mandoc"))("names every command with its flags, as the help does", async () => {
    const { text } = await render(["mandoc", "-T", "utf8", "-O", "width=200"]);
    expect(text).toStartWith("LARDER(1)");
    expect(text).toContain("2026-01-02");
    for (const command of ["persist", "get", "list", "inspect", "remove", "gc", "prune", "check", "df", "--serve"]) {
      const section = new RegExp(`^ {3}${command}[ ,\\n][^]*?(?=^(?: {3})?\\S|$(?![^]))`, "m").exec(text)?.[0];
      const help = (await run([command, "--help"])).stdout;
      const flags = [...new Set(help.match(/(?<=^ +(?:-\w, )?)--[\w-]+/gm))];
      expect(flags.length).toBeGreaterThanOrEqual(3);
      for (const flag of flags) expect(section).toMatch(new RegExp(`^ +(?:-\\w, )?${flag}(?: |$)`, "m"));
    }
  });
});
