import { isSet } from "./status.ts";

/** <linux/capability.h>: the right to give files away, and that to pass over their modes. */
export const CAP_CHOWN = 0;
export const CAP_DAC_OVERRIDE = 1;

/** Whether this process has a capability in effect, as root's has them all where nothing took one away. */
export function hasCapability(capability: number): boolean {
  return isSet("CapEff", capability) ?? true;
}
