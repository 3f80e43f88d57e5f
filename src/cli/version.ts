import manifest from "../../package.json" with { type: "json" };

export const NAME: string = manifest.name;
export const VERSION: string = manifest.version;

// Put in by the build. Where the source runs as it is, as in a unit test, nothing is known of either.
declare const LARDER_COMMIT: string | undefined;
declare const LARDER_TARGET: string | undefined;

/** What this executable is, and what it was made of. */
export function describeBuild() {
  return {
    name: NAME,
    version: VERSION,
    commit: typeof LARDER_COMMIT === "undefined" ? null : LARDER_COMMIT,
    target: typeof LARDER_TARGET === "undefined" ? null : LARDER_TARGET,
    bun: Bun.version,
    sqlite: process.versions.sqlite ?? null,
    schema: SCHEMA,
  };
}

// A catalogue is judged by its tables and columns; these are the ends of the range that this was held against.
const SCHEMA = {
  creates: { msb: "0.4.4", migration: "m20260501_000001_create_snapshot_index" },
  newest_known: { msb: "0.7.2", migration: "m20260910_000001_snapshot_groups" },
};
