import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { TemporaryFolder } from "../larder.ts";
import { hasTool } from "../tools.ts";

const HOST = join(import.meta.dir, "../../release/host");
const UNITS = readdirSync(join(HOST, "systemd"));

async function check(...command: string[]): Promise<{ code: number; text: string }> {
  const env = { PATH: process.env.PATH ?? "", HOME: "/tmp", LC_ALL: "C.UTF-8", CHECKPOINT_DISABLE: "1" };
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", env });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, text: stdout + stderr };
}

describe("the host's units", () => {
  test.skipIf(!hasTool("systemd-analyze"))("are verified by systemd", async () => {
    using folder = new TemporaryFolder();
    for (const unit of UNITS) {
      const text = readFileSync(join(HOST, "systemd", unit), "utf8");
      await Bun.write(join(folder.path, unit), text.replaceAll("/usr/local/bin/larder", EXECUTABLE));
    }
    const paths = UNITS.map((unit) => join(folder.path, unit));
    // The manual page is not installed here.
    expect(await check("systemd-analyze", "verify", "--man=no", ...paths)).toEqual({ code: 0, text: "" });
  });

  test.skipIf(!hasTool("systemd-analyze")).each(UNITS.filter((unit) => unit.endsWith(".service")))(
    "leave %s exposed to no more than 1 of 10",
    async (unit) => {
      const command = ["systemd-analyze", "security", "--offline=yes", "--threshold=10", "--no-pager"];
      const { code, text } = await check(...command, join(HOST, "systemd", unit));
      console.log(/Overall exposure level.*/.exec(text)?.[0]);
      expect(code).toBe(0);
    },
  );

  test.each(UNITS.filter((unit) => unit.endsWith(".service")))("call larder in %s as it takes it", async (unit) => {
    const text = readFileSync(join(HOST, "systemd", unit), "utf8");
    const policy = /LARDER_PRUNE=([^"]*)"/.exec(text)?.[1]?.replaceAll("%%", "%") ?? "";
    const line = /^ExecStart=\S+ (.*)$/m.exec(text)![1]!.replace("$LARDER_PRUNE", policy);
    // --help is read by the same strict parser, and does nothing.
    expect((await check(EXECUTABLE, ...line.split(/\s+/), "--help")).code).toBe(0);
  });
});

describe("the host's snippets", () => {
  test.skipIf(!hasTool("cloud-init"))("hold a cloud-config that cloud-init's schema accepts", async () => {
    const { code, text } = await check(
      "cloud-init",
      "schema",
      "--config-file",
      join(HOST, "cloud-init/user-data.yaml"),
    );
    expect({ code, text }).toEqual({ code: 0, text: expect.stringContaining("Valid cloud-config") });
  });

  test.skipIf(!hasTool("ansible-playbook"))("hold a playbook that ansible-playbook reads", async () => {
    const command = ["ansible-playbook", "--syntax-check", "-i", "localhost,", "-e", "release=x"];
    expect((await check(...command, join(HOST, "ansible/larder.yml"))).code).toBe(0);
  });

  test.skipIf(!hasTool("packer"))("hold a template that packer reads", async () => {
    expect((await check("packer", "validate", "-syntax-only", join(HOST, "packer"))).code).toBe(0);
  });

  test("hold a DaemonSet that mounts the home which it is told to prune, and calls larder as it takes it", async () => {
    const text = readFileSync(join(HOST, "kubernetes/daemonset.yaml"), "utf8");
    // biome-ignore lint/suspicious/noExplicitAny: a document of another program's, read where it is expected
    const { kind, spec } = Bun.YAML.parse(text) as any;
    expect(kind).toBe("DaemonSet");
    expect(spec.template.metadata.labels).toEqual(spec.selector.matchLabels);
    const [container] = spec.template.spec.containers;
    const home = container.env.find(({ name }: { name: string }) => name === "MSB_HOME").value;
    expect(container.volumeMounts[0].mountPath).toBe(home);
    expect(spec.template.spec.volumes[0].hostPath.path).toBe(home);
    const script: string = container.args[0];
    expect((await check("sh", "-n", "-c", script)).code).toBe(0);
    const words = /larder (prune [^&]*)&/.exec(script)![1]!.trim().split(" ");
    expect((await check(EXECUTABLE, ...words, "--help")).code).toBe(0);
  });
});
