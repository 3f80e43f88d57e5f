import { readFileSync } from "node:fs";

/** Whether a bit is set in one of the masks that the kernel tells of this process (proc_pid_status(5)); undefined without it. */
export function isSet(mask: "CapEff" | "SigIgn", bit: number): boolean | undefined {
  const [, text] = new RegExp(`^${mask}:\\s+([0-9a-f]+)$`, "m").exec(readFileSync("/proc/self/status", "latin1")) ?? [];
  return text === undefined ? undefined : ((BigInt(`0x${text}`) >> BigInt(bit)) & 1n) === 1n;
}
