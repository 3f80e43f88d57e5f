import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { Catalogue, digest, snapshot } from "./catalogue.ts";

/** A home, its catalogue, and what `list` then prints with `-q`. */
class Listed {
  readonly folder = new TemporaryFolder();
  readonly home = join(this.folder.path, "home");
  readonly catalogue = Catalogue.create(this.home);

  async names(...args: string[]): Promise<string[]> {
    const { code, stdout, stderr } = await larder(this.home, "list", "-q", ...args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return stdout.split("\n").slice(0, -1);
  }

  [Symbol.dispose](): void {
    this.catalogue[Symbol.dispose]();
    this.folder[Symbol.dispose]();
  }
}

describe("list", () => {
  test("shows the newest first, the undated last, and ties in the order of their rows", async () => {
    using listed = new Listed();
    const { catalogue } = listed;
    catalogue.image({ reference: "undated:1", manifest: digest(1), created: null });
    catalogue.image({ reference: "tie:1", manifest: digest(2), created: "2026-01-02 00:00:00" });
    catalogue.image({ reference: "old:1", manifest: digest(3), created: "2025-12-31 23:59:59.999999999" });
    catalogue.image({ reference: "new:1", manifest: digest(4), created: "2026-01-02 00:00:00.000000001" });
    catalogue.image({ reference: "tie:2", manifest: digest(5), created: "2026-01-02 00:00:00" });
    catalogue.image({ reference: "undated:2", manifest: digest(6), created: null });
    expect(await listed.names()).toEqual(["new:1", "tie:1", "tie:2", "old:1", "undated:1", "undated:2"]);
  });

  test("shows every field of an image, as msb names those that it prints too", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({
      reference: "python",
      manifest: digest(1),
      created: "2026-01-02 03:04:05.123456789",
      used: "2026-02-03 04:05:06.100",
      size: 2n ** 63n - 1n,
    });
    catalogue.db.run("UPDATE manifest SET variant = 'v8', architecture = 'arm64', layer_count = 7");
    catalogue.db.run("INSERT INTO sandbox (id, name, config, status) VALUES (9, 'web-1', '{}', 'running')");
    catalogue.db.run("INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) SELECT 9, id, 'oci' FROM manifest");
    const { stdout } = await larder(home, "list", "--format", "json");
    // Numbers beyond 2^53 would not survive JSON.parse, so the text itself is looked at.
    expect(stdout).toContain('"size_bytes": 9223372036854775807,');
    expect(JSON.parse(stdout.replace("9223372036854775807", "1"))).toEqual([
      {
        architecture: "arm64",
        created_at: "2026-01-02T03:04:05.123456789+00:00",
        digest: digest(1),
        layer_count: 7,
        os: "linux",
        reference: "python",
        size_bytes: 1,
        canonical: "docker.io/library/python:latest",
        last_used_at: "2026-02-03T04:05:06.100+00:00",
        media_type: "application/vnd.oci.image.manifest.v1+json",
        pinned_by: [{ kind: "sandbox", name: "web-1" }],
        variant: "v8",
        damage: [],
      },
    ]);
  });

  test("draws a table: digests short, sizes in binary units, ages, and who uses an image", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    const ago = (hours: number) => new Date(Date.now() - hours * 3_600_000 - 60_000).toISOString().slice(0, 23);
    // 1280 bytes are 1.25 KiB, which msb rounds to the even digit.
    catalogue.image({ reference: "one:1", manifest: digest(1), created: ago(3), size: 1280 });
    catalogue.image({
      reference: "ghcr.io/acme/two:v2",
      manifest: `sha512:${"a".repeat(128)}`,
      created: ago(49),
      size: 0,
    });
    catalogue.image({ reference: "three:3", manifest: digest(3), created: null, size: null });
    expect((await larder(home, "list")).stdout).toBe(
      [
        "REFERENCE            DIGEST                  SIZE  CREATED",
        "one:1                sha256:000000000000  1.2 KiB  3 hours ago",
        "ghcr.io/acme/two:v2  sha512:aaaaaaaaaaaa      0 B  2 days ago",
        "three:3              sha256:000000000000        -  -",
        "",
      ].join("\n"),
    );
    catalogue.db.run(`INSERT INTO sandbox (name, config, status) VALUES ('web-1', '["${digest(3)}"]', 'running')`);
    const lines = (await larder(home, "list")).stdout.split("\n").map((line) => line.trimEnd());
    expect(lines).toEqual([
      "REFERENCE            DIGEST                  SIZE  CREATED      IN USE BY",
      "one:1                sha256:000000000000  1.2 KiB  3 hours ago",
      "ghcr.io/acme/two:v2  sha512:aaaaaaaaaaaa      0 B  2 days ago",
      "three:3              sha256:000000000000        -  -            web-1",
      "",
    ]);
  });

  test("says that there is nothing on standard error, and prints an empty list", async () => {
    using listed = new Listed();
    expect(await larder(listed.home, "list")).toEqual({ code: 0, stdout: "", stderr: "No images\n" });
    expect(await larder(listed.home, "list", "-q")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await larder(listed.home, "list", "--format", "json")).toEqual({ code: 0, stdout: "[]\n", stderr: "" });
    expect(await larder(listed.home, "list", "--format", "jsonl")).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("shows untagged manifests with -a only, after the names", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: null, manifest: digest(1), created: "2026-06-01 00:00:00" });
    catalogue.image({ reference: "old:1", manifest: digest(2), created: "2025-01-01 00:00:00" });
    catalogue.image({ reference: null, manifest: digest(3), created: "2026-07-01 00:00:00" });
    expect(await listed.names()).toEqual(["old:1"]);
    // What has no name is told by its digest, by which `get` finds it.
    expect(await listed.names("-a")).toEqual(["old:1", digest(3), digest(1)]);
    expect((await larder(home, "list", "-a")).stdout).toContain("\n(untagged)  sha256:");
    expect(await larderJson(home, ["list", "-a"])).toMatchObject([
      { reference: "old:1" },
      { reference: null, canonical: null, digest: digest(3), created_at: "2026-07-01T00:00:00+00:00" },
      { reference: null, canonical: null, digest: digest(1) },
    ]);
  });

  test("lets --format json count for more than -q, as msb does", async () => {
    using listed = new Listed();
    listed.catalogue.image({ reference: "alpine:3", manifest: digest(1) });
    expect(await larderJson(listed.home, ["list", "-q"])).toMatchObject([{ reference: "alpine:3", digest: digest(1) }]);
  });

  test.each(["table", "json", "jsonl"])("adds to the end of a file that was opened for that, as %s", async (format) => {
    using listed = new Listed();
    for (let i = 0; i < 600; i++) listed.catalogue.image({ reference: `image:${i}`, manifest: digest(1) });
    const path = join(listed.folder.path, "log");
    writeFileSync(path, "before\n");
    const script = '"$0" list --format "$1" --home "$2" >> "$3"';
    const { exitCode } = Bun.spawnSync(["sh", "-c", script, EXECUTABLE, format, listed.home, path]);
    expect(exitCode).toBe(0);
    const { stdout } = await larder(listed.home, "list", "--format", format);
    expect(stdout).toContain("image:599");
    expect(readFileSync(path, "utf8")).toBe(`before\n${stdout}`);
  });

  test("changes nothing", async () => {
    using listed = new Listed();
    listed.catalogue.image({ reference: "alpine:3", manifest: digest(1) });
    const before = snapshot(listed.home);
    for (const args of [[], ["-a"], ["-q"], ["--filter", "label=a"], ["--format", "json"]]) {
      await larder(listed.home, "list", ...args);
    }
    expect(snapshot(listed.home)).toEqual(before);
  });

  test("writes control characters of a reference out, for a terminal must not obey them", async () => {
    using listed = new Listed();
    const reference = "a\x1b[2Jb\nc\rd\x9be\u202ef\u2028g";
    listed.catalogue.image({ reference, manifest: digest(1) });
    const written = "a\\u001b[2Jb\\u000ac\\u000dd\\u009be\\u202ef\\u2028g";
    expect(await listed.names()).toEqual([written]);
    expect((await larder(listed.home, "list")).stdout).toContain(`\n${written}  sha256:`);
    // JSON has its own way of writing them, and gives the reference back as it is.
    expect(await larderJson(listed.home, ["list"])).toMatchObject([{ reference }]);
  });
});

describe("list --filter", () => {
  // name, digest, days since it was put on record, labels, whether a sandbox uses it
  const IMAGES: [
    reference: string | null,
    manifest: string,
    days: number | null,
    labels: string | undefined,
    used: boolean,
  ][] = [
    ["python", `sha256:aa${"0".repeat(62)}`, 1, '{"team":"web","tier":""}', true],
    ["docker.io/library/python:3.12", `sha256:ab${"0".repeat(62)}`, 3, '{"team":"data"}', false],
    ["ghcr.io/acme/app/api:v1", `sha256:b0${"0".repeat(62)}`, 10, '{"team":"web","toString":"x"}', false],
    ["ghcr.io/acme/tool:v1", `sha512:aa${"0".repeat(126)}`, 20, undefined, false],
    ["undated", `sha256:cc${"0".repeat(62)}`, null, "{}", false],
    [null, `sha256:dd${"0".repeat(62)}`, 40, '{"team":"web"}', false],
  ];

  async function filtered(args: string[]): Promise<string[]> {
    using listed = new Listed();
    for (const [reference, manifest, days, labels, used] of IMAGES) {
      const created = days === null ? null : new Date(Date.now() - days * 86_400_000 - 1000).toISOString().slice(0, 23);
      listed.catalogue.image({ reference, manifest, created, ...(labels === undefined ? {} : { labels }) });
      if (!used) continue;
      listed.catalogue.db
        .query("INSERT INTO sandbox (name, config, status) VALUES (?, ?, 'stopped')")
        .run(`s-${reference}`, JSON.stringify({ image: { Oci: { reference: `python@${manifest}` } } }));
    }
    const names = await listed.names(...args);
    return names.map((name) => name.slice(0, 20));
  }

  const untagged = `sha256:dd${"0".repeat(62)}`.slice(0, 20);
  const api = "ghcr.io/acme/app/api";
  const tool = "ghcr.io/acme/tool:v1";
  const python312 = "docker.io/library/py";

  test.each<[filters: string[], expected: string[]]>([
    [["reference=python"], ["python"]],
    [["reference=docker.io/library/python:*"], ["python", python312]],
    [["reference=*python*"], ["python", python312]],
    [["reference=ghcr.io/acme/*"], [api, tool]],
    [["reference=ghcr.io/*/api:v?"], [api]],
    [["reference=pyth"], []],
    [["reference=PYTHON"], []],
    [
      ["reference=python", "reference=*tool*"],
      ["python", tool],
    ],
    [["label=team"], ["python", python312, api]],
    [["label=team=web"], ["python", api]],
    [["label=tier"], ["python"]],
    [["label=tier="], ["python"]],
    [["label=toString"], [api]],
    [["label=constructor"], []],
    [
      ["label=team=data", "label=tier"],
      ["python", python312],
    ],
    [["pinned=true"], ["python"]],
    [["pinned=false"], [python312, api, tool, "undated"]],
    [["untagged=true"], [untagged]],
    [["untagged=false"], ["python", python312, api, tool, "undated"]],
    [["until=2d"], [python312, api, tool]],
    [["until=239h"], [api, tool]],
    [["until=100d"], []],
    [["digest=aa"], ["python", tool]],
    [["digest=sha256:a"], ["python", python312]],
    [["digest=sha512:"], [tool]],
    [
      ["digest=sha256:aa", "digest=b0"],
      ["python", api],
    ],
    [["digest=a", "label=team=web"], ["python"]],
    [["until=2d", "pinned=false", "reference=ghcr.io/*", "label=team"], [api]],
    [["pinned=true", "until=2d"], []],
    [["untagged=true", "label=team=web", "until=30d"], [untagged]],
  ])("%j", async (filters, expected) => {
    expect(await filtered(filters.flatMap((filter) => ["--filter", filter]))).toEqual(expected);
  });

  test("shows untagged manifests among what matches with -a", async () => {
    expect(await filtered(["-a", "--filter", "label=team=web"])).toEqual(["python", api, untagged]);
    expect(await filtered(["-a", "--filter", "until=30d"])).toEqual([untagged]);
    expect(await filtered(["-a", "--filter=untagged=false", "--filter=until=19d"])).toEqual([tool]);
  });

  test("knows what a snapshot pins, in the catalogue and on disk", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    for (const n of [1, 2, 3]) catalogue.image({ reference: `image:${n}`, manifest: digest(n) });
    catalogue.db.run(
      `INSERT INTO snapshot_index (digest, name, image_ref, image_manifest_digest, format, fstype, artifact_path, created_at, indexed_at)
       VALUES ('sha256:1', 'indexed', 'image:1', '${digest(1)}', 'raw', 'ext4', '/x', '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
    );
    mkdirSync(join(home, "snapshots", "on-disk"), { recursive: true });
    writeFileSync(
      join(home, "snapshots", "on-disk", "manifest.json"),
      JSON.stringify({ schema: 1, image: { reference: "image:2", manifest_digest: digest(2) } }),
    );
    expect(await larderJson(home, ["list", "--filter", "pinned=true"])).toMatchObject([
      { reference: "image:1", pinned_by: [{ kind: "snapshot", name: "indexed" }] },
      { reference: "image:2", pinned_by: [{ kind: "snapshot", name: "on-disk" }] },
    ]);
    expect(await listed.names("--filter", "pinned=false")).toEqual(["image:3"]);
  });
});

describe("list where a newer msb's table may need an image", () => {
  test("does not say of any that it is in no use", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: "image:1", manifest: digest(1) });
    catalogue.db.run("CREATE TABLE novelty (id integer, manifest_id integer REFERENCES manifest (id))");
    expect(await listed.names()).toEqual(["image:1"]);
    const { code, stdout, stderr } = await larder(home, "list", "--filter", "pinned=false");
    expect([code, stdout]).toEqual([5, ""]);
    expect(stderr).toContain('table "novelty" of a newer msb may need any image');
  });
});

describe("list where a sandbox cannot be read", () => {
  test("says that more may be in use, and refuses to tell what is not", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: "image:1", manifest: digest(1) });
    catalogue.db.run("INSERT INTO sandbox (name, config, status) VALUES ('odd', '{bad', 'Running')");
    const trouble = 'sandbox "odd" cannot be read: its config is not JSON';
    for (const [flags, said] of [
      [[], `more may be in use than is shown: ${trouble}\n`],
      [["--format", "json"], `more may be in use than is shown: ${trouble}\n`],
      // Which shows nothing of what is in use.
      [["-q"], ""],
    ] as const) {
      const { code, stdout, stderr } = await larder(home, "list", ...flags);
      expect([code, stdout, stderr]).toEqual([0, expect.stringContaining("image:1"), said]);
    }
    const [listedImage] = await larderJson(home, ["list"]);
    expect(listedImage).toMatchObject({ pinned_by: [], damage: [`pinned_by may lack something: ${trouble}`] });
    for (const command of ["get", "inspect"])
      expect((await larderJson(home, [command, "image:1"])).damage).toContain(
        `pinned_by may lack something: ${trouble}`,
      );
    for (const pinned of ["true", "false"])
      expect(await larder(home, "list", "--filter", `pinned=${pinned}`)).toEqual({
        code: 5,
        stdout: "",
        stderr: `larder: what is in use cannot be told: ${trouble}\n`,
      });
  });
});

describe("list of damaged rows", () => {
  // Each leaves `good:1` alone, and damages `bad:1` or its manifest.
  const DAMAGE: [what: string, sql: string, shown: object, damage: RegExp][] = [
    [
      "a created_at that is no time",
      "UPDATE image_ref SET created_at = 'yesterday' WHERE reference = 'bad:1'",
      { created_at: null },
      /^created_at .*"yesterday"/,
    ],
    [
      "a created_at that is a number",
      "UPDATE image_ref SET created_at = 1700000000 WHERE reference = 'bad:1'",
      { created_at: null },
      /^created_at /,
    ],
    [
      "an empty created_at",
      "UPDATE image_ref SET created_at = '' WHERE reference = 'bad:1'",
      { created_at: null },
      /^created_at /,
    ],
    [
      "a created_at without a time of day",
      "UPDATE image_ref SET created_at = '2026-01-02' WHERE reference = 'bad:1'",
      { created_at: null },
      /^created_at /,
    ],
    [
      "a day that no calendar has",
      "UPDATE image_ref SET updated_at = '2026-02-30 00:00:00' WHERE reference = 'bad:1'",
      { last_used_at: null, created_at: "2026-01-02T03:04:05+00:00" },
      /^updated_at /,
    ],
    [
      "a created_at that is a blob",
      "UPDATE image_ref SET created_at = x'00ff' WHERE reference = 'bad:1'",
      { created_at: null },
      /^created_at is not text/,
    ],
    [
      "a size that is text",
      "UPDATE manifest SET total_size_bytes = 'huge' WHERE digest LIKE '%2'",
      { size_bytes: null },
      /^size_bytes is not an integer/,
    ],
    [
      "a size that is a fraction",
      "UPDATE manifest SET total_size_bytes = 1.5 WHERE digest LIKE '%2'",
      { size_bytes: null },
      /^size_bytes is not an integer/,
    ],
    [
      "a layer count that is text",
      "UPDATE manifest SET layer_count = 'seven' WHERE digest LIKE '%2'",
      { layer_count: null },
      /^layer_count is not an integer/,
    ],
    [
      "a digest that is none",
      "UPDATE manifest SET digest = 'sha256:../../etc/passwd' WHERE digest LIKE '%2'",
      { digest: "sha256:../../etc/passwd" },
      /^digest is not a digest/,
    ],
    [
      "a digest of characters that msb cuts in two",
      "UPDATE manifest SET digest = 'ääääääääääääääääääää€€€' WHERE digest LIKE '%2'",
      { digest: "ääääääääääääääääääää€€€" },
      /^digest is not a digest/,
    ],
    [
      "a digest that is a blob",
      "UPDATE manifest SET digest = x'01' WHERE digest LIKE '%2'",
      { digest: null },
      /^digest is not text/,
    ],
    [
      "an architecture that is a blob",
      "UPDATE manifest SET architecture = x'01' WHERE digest LIKE '%2'",
      { architecture: null },
      /^architecture is not text/,
    ],
    [
      "no manifest",
      "UPDATE image_ref SET manifest_id = 999 WHERE reference = 'bad:1'",
      { digest: null, size_bytes: null, layer_count: null },
      /^manifest is missing/,
    ],
  ];

  test.each(DAMAGE)("with %s shows the rest, and which is damaged", async (_, sql, shown, damage) => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: "good:1", manifest: digest(1) });
    catalogue.image({ reference: "bad:1", manifest: digest(2) });
    catalogue.image({ reference: "good:2", manifest: digest(3) });
    catalogue.db.run("PRAGMA foreign_keys = OFF");
    expect(catalogue.db.run(sql).changes).toBe(1);
    const before = snapshot(home);
    const handles: { reference: string; damage: string[] }[] = await larderJson(home, ["list"]);
    const find = (reference: string) => handles.find((handle) => handle.reference === reference)!;
    expect(handles).toHaveLength(3);
    expect(find("good:1").damage).toEqual([]);
    expect(find("good:2").damage).toEqual([]);
    expect(find("bad:1")).toMatchObject(shown);
    expect(find("bad:1").damage[0]).toMatch(damage);
    const { code, stdout, stderr } = await larder(home, "list");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(/^bad:1 \(damaged\) {2}/m);
    expect(stdout).toMatch(/^good:1 +sha256:/m);
    expect((await listed.names()).sort()).toEqual(["bad:1", "good:1", "good:2"]);
    expect(snapshot(home)).toEqual(before);
  });

  test.each([
    ["no JSON", "{"],
    ["a list", "[1]"],
    ["values that are no text", '{"team":5}'],
  ])("whose labels are %s matches no label", async (_, labels) => {
    using listed = new Listed();
    listed.catalogue.image({ reference: "bad:1", manifest: digest(1), labels });
    listed.catalogue.image({ reference: "good:1", manifest: digest(2), labels: '{"team":"web"}' });
    expect(await listed.names("--filter", "label=team")).toEqual(["good:1"]);
    expect((await listed.names()).sort()).toEqual(["bad:1", "good:1"]);
  });

  test("tolerates a reference that cannot be parsed, or is no text", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: "UPPER CASE!", manifest: digest(1) });
    catalogue.image({ reference: "", manifest: digest(2) });
    catalogue.image({ reference: "blob", manifest: digest(3) });
    catalogue.db.run("UPDATE image_ref SET reference = x'ff00' WHERE reference = 'blob'");
    expect(await larderJson(home, ["list"])).toMatchObject([
      { reference: "UPPER CASE!", canonical: null, damage: [] },
      { reference: "", canonical: null },
      { reference: null, digest: digest(3), damage: ["reference is not text"] },
    ]);
  });

  test("is not confused by sandboxes and snapshots that cannot be read", async () => {
    using listed = new Listed();
    const { catalogue, home } = listed;
    catalogue.image({ reference: "good:1", manifest: digest(1) });
    catalogue.db.run("INSERT INTO sandbox (name, config, status) VALUES ('torn', '{', 'running')");
    mkdirSync(join(home, "snapshots", "torn"), { recursive: true });
    writeFileSync(join(home, "snapshots", "torn", "manifest.json"), "{");
    expect(await larder(home, "list", "-q")).toMatchObject({ code: 0, stdout: "good:1\n" });
  });
});
