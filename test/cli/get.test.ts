import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { larder, larderJson, TemporaryFolder } from "../larder.ts";
import { Catalogue, digest, snapshot } from "./catalogue.ts";

describe("get", () => {
  test("shows the handle as fields, and as one JSON object", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "python", manifest: digest(1), used: "2026-02-03 04:05:06.5", size: 1234567 });
    catalogue.db.run("UPDATE manifest SET variant = 'v8', architecture = 'arm64', layer_count = 3");
    catalogue.db.run(`INSERT INTO sandbox (name, config, status) VALUES ('web-1', '"${digest(1)}"', 'running')`);
    expect(await larder(folder.path, "get", "python")).toEqual({
      code: 0,
      stderr: "",
      stdout: [
        "Reference   python",
        "Canonical   docker.io/library/python:latest",
        `Digest      ${digest(1)}`,
        "Platform    linux/arm64/v8",
        "Media type  application/vnd.oci.image.manifest.v1+json",
        "Size        1.2 MiB (1234567 bytes compressed)",
        "Layers      3",
        "Created     2026-01-02T03:04:05+00:00",
        "Last used   2026-02-03T04:05:06.500+00:00",
        'Pinned by   sandbox "web-1"',
        "",
      ].join("\n"),
    });
    const handle = {
      architecture: "arm64",
      created_at: "2026-01-02T03:04:05+00:00",
      digest: digest(1),
      layer_count: 3,
      os: "linux",
      reference: "python",
      size_bytes: 1234567,
      canonical: "docker.io/library/python:latest",
      last_used_at: "2026-02-03T04:05:06.500+00:00",
      media_type: "application/vnd.oci.image.manifest.v1+json",
      pinned_by: [{ kind: "sandbox", name: "web-1" }],
      variant: "v8",
      damage: [],
    };
    expect(await larderJson(folder.path, ["get", "python"])).toEqual(handle);
    const { stdout } = await larder(folder.path, "get", "python", "--format", "jsonl");
    expect(stdout.indexOf("\n")).toBe(stdout.length - 1);
    expect(JSON.parse(stdout)).toEqual(handle);
  });

  // What is on record, what is asked for, and which of them answers.
  test.each<[onRecord: string[], asked: string, found: string]>([
    [["docker.io/library/python:latest"], "python", "docker.io/library/python:latest"],
    [["python"], "docker.io/library/python:latest", "python"],
    [["python"], "index.docker.io/python", "python"],
    [["library/python:latest"], "python:latest", "library/python:latest"],
    [["index.docker.io/library/python"], "docker.io/python", "index.docker.io/library/python"],
    [["Foo/bar"], "Foo/bar:latest", "Foo/bar"],
    // As typed comes first, whatever is canonical or newer.
    [["docker.io/library/python:latest", "python:latest", "python"], "python:latest", "python:latest"],
    [["python", "docker.io/library/python:latest"], "python", "python"],
    // Of several other spellings the canonical one, else the newest (here: the later).
    [
      ["python", "docker.io/library/python:latest", "library/python"],
      "python:latest",
      "docker.io/library/python:latest",
    ],
    [["python", "library/python"], "docker.io/python", "library/python"],
    // Near, but another image.
    [["python", "python:3"], "library/python:3", "python:3"],
    [["quay.io/library/python", "python"], "library/python", "python"],
  ])("with %j on record, %p finds %p", async (onRecord, asked, found) => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    onRecord.forEach((reference, i) => {
      catalogue.image({ reference, manifest: digest(i + 1), created: `2026-01-0${i + 1} 00:00:00` });
    });
    expect(await larderJson(folder.path, ["get", asked])).toMatchObject({
      reference: found,
      digest: digest(onRecord.indexOf(found) + 1),
    });
  });

  test("finds an untagged manifest by its whole digest only", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: null, manifest: digest(1) });
    expect(await larderJson(folder.path, ["get", digest(1)])).toMatchObject({ reference: null, digest: digest(1) });
    expect((await larder(folder.path, "get", digest(1))).stdout).toStartWith("Reference   (untagged)\nDigest ");
    expect((await larder(folder.path, "get", digest(1).slice(0, -1))).code).toBe(3);
    expect((await larder(folder.path, "get", digest(1).slice(7))).code).toBe(3);
    const [, hint] = /`larder (.*)digest=/.exec((await larder(folder.path, "get", digest(1).slice(0, 20))).stderr)!;
    const advised = [...hint!.trim().split(" "), `digest=${digest(1).slice(0, 20)}`];
    expect((await larder(folder.path, ...advised)).stdout).toContain(digest(1).slice(0, 19));
  });

  test.each([
    ["absent", 'larder: image not found: "absent"\n'],
    ["pytho", 'larder: image not found: "pytho"\n'],
    ["python:3", 'larder: image not found: "python:3"\n'],
    ["PYTHON", 'larder: image not found: "PYTHON" (it is not a valid reference either)\n'],
    ["pyth%", 'larder: image not found: "pyth%" (it is not a valid reference either)\n'],
    [
      "sha256:0123abc",
      'larder: image not found: "sha256:0123abc" (a digest is given whole, and in lower case: `larder list -a --filter digest=...` finds it)\n',
    ],
    [
      "pyth*",
      'larder: image not found: "pyth*" (no pattern is taken here: `larder list -q --filter reference=...` names what matches one)\n',
    ],
    ["python' OR 1=1 --", 'larder: image not found: "python\' OR 1=1 --" (it is not a valid reference either)\n'],
  ])("does not find %p", async (reference, stderr) => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "python", manifest: digest(1) });
    const before = snapshot(folder.path);
    expect(await larder(folder.path, "get", reference)).toEqual({ code: 3, stdout: "", stderr });
    expect(snapshot(folder.path)).toEqual(before);
  });

  test("finds what is on record as typed though it cannot be parsed", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(folder.path);
    catalogue.image({ reference: "NOT A\x1bREFERENCE", manifest: digest(1) });
    const { code, stdout } = await larder(folder.path, "get", "NOT A\x1bREFERENCE");
    expect(code).toBe(0);
    expect(stdout).toStartWith("Reference   NOT A\\u001bREFERENCE\nDigest ");
  });

  test("names what is damaged, and shows the rest", async () => {
    using folder = new TemporaryFolder();
    using catalogue = Catalogue.create(join(folder.path));
    catalogue.image({ reference: "python", manifest: digest(1), created: "never" });
    catalogue.db.run("UPDATE manifest SET total_size_bytes = 'huge'");
    const { code, stdout } = await larder(folder.path, "get", "python");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Damage +size_bytes is not an integer; created_at .*"never"; updated_at .*"never"$/m);
    expect(stdout).not.toMatch(/^(Size|Created|Last used) /m);
    expect(stdout).toMatch(/^Platform +linux\/amd64$/m);
  });
});
