import { describe, expect, test } from "bun:test";
import { findConfig, upsertConfig } from "../../src/db/configs.ts";
import type { ImageConfig } from "../../src/oci/metadata.ts";
import { digest, TemporaryCatalogue } from "./catalogue.ts";

const EMPTY: ImageConfig = {
  env: [],
  cmd: null,
  entrypoint: null,
  working_dir: null,
  user: null,
  exposed_ports: [],
  volumes: [],
  labels: {},
  stop_signal: null,
};
const FULL: ImageConfig = {
  env: ["PATH=/bin", "EMPTY="],
  cmd: ["sh", "-c", 'echo "ü"'],
  entrypoint: [],
  working_dir: "/w",
  user: "1000:1000",
  exposed_ports: ["80/tcp"],
  volumes: ["/data"],
  labels: { "org.acme": "x", "": "", constructor: "y" },
  stop_signal: "SIGINT",
};

function withManifest(): TemporaryCatalogue {
  const catalogue = new TemporaryCatalogue();
  catalogue.manifest(digest("a"), "tool:1");
  return catalogue;
}

describe("upsertConfig", () => {
  test("stores labels and stop signal beside the rest, lists as JSON text", () => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 1000);
    expect(catalogue.rows("SELECT * FROM config")).toEqual([
      {
        id: 1,
        manifest_id: 1,
        digest: "sha256:c",
        env: '["PATH=/bin","EMPTY="]',
        cmd: '["sh","-c","echo \\"ü\\""]',
        entrypoint: "[]",
        working_dir: "/w",
        user: "1000:1000",
        labels: '{"org.acme":"x","":"","constructor":"y"}',
        stop_signal: "SIGINT",
        created_at: "1970-01-01 00:00:01.000000000",
      },
    ]);
  });

  test("stores what is not there as NULL", () => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", EMPTY, 0);
    expect(catalogue.rows("SELECT env, cmd, entrypoint, working_dir, user, labels, stop_signal FROM config")).toEqual([
      { env: null, cmd: null, entrypoint: null, working_dir: null, user: null, labels: null, stop_signal: null },
    ]);
  });

  test("updates in place, keeping id and date", () => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 1000);
    upsertConfig(catalogue.db, 1, "sha256:d", EMPTY, 2000);
    expect(catalogue.rows("SELECT id, digest, env, created_at FROM config")).toEqual([
      { id: 1, digest: "sha256:d", env: null, created_at: "1970-01-01 00:00:01.000000000" },
    ]);
  });

  test.each<[string, Partial<ImageConfig>]>([
    ["env", { env: [] }],
    ["cmd", { cmd: null }],
    ["entrypoint", { entrypoint: null }],
    ["working_dir", { working_dir: null }],
    ["user", { user: "0" }],
    ["labels", { labels: {} }],
    ["stop_signal", { stop_signal: null }],
  ])("writes nothing where nothing changed, and writes a changed %s", (_, change) => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 1000);
    catalogue.run("CREATE TRIGGER guard BEFORE UPDATE ON config BEGIN SELECT RAISE(ABORT, 'written'); END");
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 2000);
    expect(() => upsertConfig(catalogue.db, 1, "sha256:c", { ...FULL, ...change }, 2000)).toThrow("written");
  });
});

describe("findConfig", () => {
  test("reads back what was stored", () => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 0);
    expect(findConfig(catalogue.db, 1)).toEqual({
      digest: "sha256:c",
      env: ["PATH=/bin", "EMPTY="],
      cmd: ["sh", "-c", 'echo "ü"'],
      entrypoint: [],
      workingDir: "/w",
      user: "1000:1000",
      labels: { "org.acme": "x", "": "", constructor: "y" } as Record<string, string>,
      stopSignal: "SIGINT",
      damage: [],
    });
  });

  test("is undefined for a manifest without one", () => {
    using catalogue = withManifest();
    expect(findConfig(catalogue.db, 1)).toBeUndefined();
  });

  const JSON_DAMAGE = "is not the JSON that belongs there";

  test.each<[string, string | Uint8Array, string]>([
    ["digest", Buffer.from("x"), "is not text"],
    ["env", "PATH=/bin", JSON_DAMAGE],
    ["env", "{}", JSON_DAMAGE],
    ["env", "[1]", JSON_DAMAGE],
    ["env", Buffer.from("[]"), "is not text"],
    ["cmd", '"sh"', JSON_DAMAGE],
    ["entrypoint", "[null]", JSON_DAMAGE],
    ["working_dir", Buffer.from("x"), "is not text"],
    ["user", Buffer.from("x"), "is not text"],
    ["labels", "[]", JSON_DAMAGE],
    ["labels", '{"k":5}', JSON_DAMAGE],
    ["labels", "", JSON_DAMAGE],
    ["stop_signal", Buffer.from("x"), "is not text"],
  ])("loses a wrong %s (%p) and nothing else", (column, value, damage) => {
    using catalogue = withManifest();
    upsertConfig(catalogue.db, 1, "sha256:c", FULL, 0);
    const sound = findConfig(catalogue.db, 1)!;
    catalogue.run(`UPDATE config SET ${column} = ?`, value);
    const field = column.replace(/_([a-z])/, (_, letter) => letter.toUpperCase());
    expect(findConfig(catalogue.db, 1)).toEqual({
      ...sound,
      [field]: column === "env" ? [] : null,
      damage: [`${column} ${damage}`],
    });
  });
});
