import { runTool } from "./mount.ts";

/** What to run under as the root of a user namespace, which is the user's own and knows no other. */
export const IN_NAMESPACE = ["unshare", "--user", "--map-root-user"];

/** Why no other user's namespace can be had here, and so what a test says that is left out; undefined where it can. */
export function namespaceRefused(): string | undefined {
  if (process.geteuid?.() !== 0) return "needs root";
  try {
    runTool("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...IN_NAMESPACE, "true");
    return undefined;
  } catch (error) {
    return `no user namespace: ${String(error).trim()}`;
  }
}
