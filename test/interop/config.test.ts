import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { resolveHome } from "../../src/home.ts";
import { TemporaryFolder } from "../larder.ts";
import { writeArchive } from "./archive.ts";
import { msb } from "./msb.ts";

// Beside a path for the cache; where one of these makes msb drop the whole file, its images go into the default cache.
const CONFIGS: object[] = [
  {},
  { unknown: 5, profile: 5 },
  { log_level: "info" },
  { log_level: null },
  { log_level: "loud" },
  { log_level: 5 },
  { home: 5 },
  { home: null },
  { paths: { sandboxes: 5 } },
  { paths: { logs: null, unknown: 5 } },
  { paths: { libkrunfw: [] } },
  { database: 5 },
  { database: null },
  { database: [] },
  { database: { url: 5 } },
  { database: { url: null, unknown: 5 } },
  { database: { max_connections: "5" } },
  { database: { max_connections: 2 ** 32 } },
  { database: { busy_timeout_secs: null } },
  { database: { connect_timeout_secs: 2 ** 32 } },
  { sandbox_defaults: null },
  { sandbox_defaults: { cpus: 256 } },
  { sandbox_defaults: { cpus: 255, memory_mib: 512, shell: "sh", workdir: null, oci: {} } },
  { sandbox_defaults: { memory_mib: 1.5 } },
  { sandbox_defaults: { shell: null } },
  { sandbox_defaults: { oci: null } },
  { sandbox_defaults: { oci: { upper_size_mib: "x" } } },
  { sandbox_defaults: { oci: { upper_size_mib: 5 }, metrics_sample_interval_ms: 5 } },
  { sandbox_defaults: { metrics_sample_interval_ms: "x" } },
  { database: { connect_timeout_secs: 2 ** 60 } },
  { registries: { hosts: 5 } },
  { registries: { hosts: {} } },
  { registries: { hosts: { a: 5 } } },
  { registries: { hosts: { a: {}, b: { insecure: true, auth: null, unknown: 5 } } } },
  { registries: { hosts: { a: { insecure: null } } } },
  { registries: { hosts: { a: { auth: "x" } } } },
  { registries: { ca_certs: 5 } },
  { registries: { ca_certs: "x" } },
  { registries: { ca_certs: null } },
  { sandbox_defaults: { oci: { root_disk: null } } },
  { sandbox_defaults: { oci: { root_disk: 5 } } },
  { runtime: { block_writeback: null } },
  { runtime: { block_writeback: 5 } },
  { runtime: { placement_profiles: {} } },
  { runtime: { placement_profiles: [] } },
  { registries: 5 },
  { registries: { unknown: 5 } },
  { runtime: "x" },
  { metrics: true },
];

describe("a config.json that moves the cache", () => {
  const folder = new TemporaryFolder();
  const archive = join(folder.path, "images.tar");
  beforeAll(() => writeArchive(archive, [{ tags: ["tool:1"], layers: [{ files: { tool: "tool" } }] }]));
  afterAll(() => folder[Symbol.dispose]());

  // What JSON.stringify would not write.
  test.each(['"cpus":1.0', '"cpus":1e1', '"cpus":-0', '"memory_mib":512.0'].map((member, i) => [member, i] as const))(
    "is dropped by both for a number that is no count: %s",
    async (member, i) => {
      const home = join(folder.path, `odd-${i}`);
      mkdirSync(home);
      const text = `{"paths":{"cache":"${join(home, "moved")}"},"sandbox_defaults":{${member}}}`;
      writeFileSync(join(home, "config.json"), text);
      expect((await msb(home, "load", "-i", archive)).code).toBe(0);
      expect(readdirSync(join(home, "cache", "layers"))).not.toEqual([]);
      expect(resolveHome(home, {}).cache).toBe(join(home, "cache"));
    },
  );

  test.each(CONFIGS.map((config, i) => [JSON.stringify(config), config, i] as const))(
    "means the same cache to larder as to msb, with %s",
    async (_, config, i) => {
      const home = join(folder.path, `home-${i}`);
      const cache = join(folder.path, `cache-${i}`);
      const paths = { cache, ...("paths" in config ? (config.paths as object) : {}) };
      mkdirSync(home);
      writeFileSync(join(home, "config.json"), JSON.stringify({ ...config, paths }));
      expect((await msb(home, "load", "-i", archive)).code).toBe(0);
      const used = [cache, join(home, "cache")].filter(
        (path) => existsSync(join(path, "layers")) && readdirSync(join(path, "layers")).length > 0,
      );
      expect([resolveHome(home, {}).cache]).toEqual(used);
    },
  );
});
