// What the tests need from Debian: the command, and the package that has it.
const TOOLS: [command: string, packageName: string][] = [
  ["strace", "strace"],
  ["zsh", "zsh"],
  ["fish", "fish"],
  ["mandoc", "mandoc"],
  ["promtool", "prometheus"],
  ["wrk", "wrk"],
  ["mkfs.btrfs", "btrfs-progs"],
  ["systemd-analyze", "systemd"],
  ["cloud-init", "cloud-init"],
  ["ansible-playbook", "ansible-core"],
  ["packer", "packer"],
];

/** Installs missing tools where that is possible: as root, on Debian. Tests say for themselves what they then lack. */
export async function installTools(): Promise<void> {
  const missing = TOOLS.filter(([command]) => !Bun.which(command)).map(([, name]) => name);
  if (missing.length === 0 || process.geteuid?.() !== 0 || !Bun.which("apt-get")) return;
  await Bun.$`apt-get update -qq && apt-get install -y -qq --no-install-recommends ${missing}`
    .env({ ...process.env, DEBIAN_FRONTEND: "noninteractive" })
    .nothrow();
}

/** Whether a tool is there. On CI its absence is a failure, and not a reason to skip. */
export function hasTool(command: string): boolean {
  if (Bun.which(command)) return true;
  if (process.env.CI === "true") throw new Error(`${command} is missing, and CI must not skip what needs it`);
  return false;
}
