import { describe, expect, test } from "bun:test";
import { LarderError } from "../../src/error.ts";
import { checkMetadata, parseJson, parseMetadata, platformOf } from "../../src/oci/metadata.ts";

const MANIFEST = `sha256:${"1".repeat(64)}`;
const CONFIG = `sha512:${"2".repeat(128)}`;
const BLOB = `sha256:${"3".repeat(64)}`;
const DIFF = `sha384:${"4".repeat(96)}`;

// Written by hand, as msb 0.4.4 writes it and as 0.5.5 and later do.
const OLD = `{"manifest_digest":"${MANIFEST}","config_digest":"${CONFIG}","config":{"env":["A=1","B="],"cmd":["sh","-c"],"entrypoint":null,"working_dir":"/w","user":"1000","exposed_ports":["80/tcp"],"volumes":["/data"],"labels":{"k":"v"},"stop_signal":"SIGINT"},"layers":[{"digest":"${BLOB}","media_type":"application/vnd.oci.image.layer.v1.tar+gzip","size_bytes":123,"diff_id":"${DIFF}"}]}`;
const NEW = OLD.replace(
  ',"config":{',
  `,"raw_manifest_json":"{}","raw_config_json":"{\\"architecture\\":\\"arm64\\",\\"os\\":\\"linux\\",\\"variant\\":\\"v8\\"}","config":{`,
);

// biome-ignore lint/suspicious/noExplicitAny: tests put wrong types in every place
type Document = Record<string, any>;

function changed(change: (document: Document) => void): string {
  const document = JSON.parse(NEW) as Document;
  change(document);
  return JSON.stringify(document);
}

function withSize(literal: string): string {
  return OLD.replace('"size_bytes":123', `"size_bytes":${literal}`);
}

function refusal(text: string): LarderError {
  try {
    parseMetadata(text, "F");
  } catch (error) {
    if (error instanceof LarderError) return error;
    throw error;
  }
  throw new Error(`accepted: ${text.slice(0, 200)}`);
}

describe("parseMetadata", () => {
  test("reads what msb 0.4.4 wrote, which has no raw documents", () => {
    const metadata = parseMetadata(OLD, "F");
    expect<unknown>(metadata).toEqual({
      manifest_digest: MANIFEST,
      config_digest: CONFIG,
      config: {
        env: ["A=1", "B="],
        cmd: ["sh", "-c"],
        entrypoint: null,
        working_dir: "/w",
        user: "1000",
        exposed_ports: ["80/tcp"],
        volumes: ["/data"],
        labels: { k: "v" },
        stop_signal: "SIGINT",
      },
      layers: [
        {
          digest: BLOB,
          media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
          size_bytes: 123n,
          diff_id: DIFF,
        },
      ],
    });
    expect("raw_config_json" in metadata).toBe(false);
  });

  test("reads what later ones write", () => {
    const metadata = parseMetadata(NEW, "F");
    expect(metadata.raw_manifest_json).toBe("{}");
    expect(metadata.raw_config_json).toContain("arm64");
    expect<string>(metadata.manifest_digest).toBe(MANIFEST);
  });

  test("takes white space, unknown fields at every level, and any order", () => {
    const text = changed((document) => {
      document.new_field = { size_bytes: "not checked" };
      document.config.new_field = 1;
      document.layers[0].new_field = null;
      document.manifest_digest = document.manifest_digest as string;
    });
    const reversed = JSON.stringify(
      Object.fromEntries(Object.entries(JSON.parse(text) as Document).reverse()),
      null,
      2,
    );
    expect(parseMetadata(`${reversed}\n`, "F").layers[0]?.size_bytes).toBe(123n);
  });

  test.each(["cmd", "entrypoint", "working_dir", "user", "stop_signal"])("takes config.%s absent or null", (field) => {
    const absent = changed((document) => delete document.config[field]);
    const none = changed((document) => {
      document.config[field] = null;
    });
    for (const text of [absent, none]) {
      expect(parseMetadata(text, "F").config).toHaveProperty(field, null);
    }
  });

  test.each(["media_type", "size_bytes"])("takes a layer's %s absent or null", (field) => {
    const absent = changed((document) => delete document.layers[0][field]);
    const none = changed((document) => {
      document.layers[0][field] = null;
    });
    for (const text of [absent, none]) {
      expect(parseMetadata(text, "F").layers[0]).toHaveProperty(field, null);
    }
  });

  test.each([
    ["0", 0n],
    ["9007199254740993", 9007199254740993n],
    ["9223372036854775807", 9223372036854775807n],
    ["9223372036854775808", 9223372036854775808n],
    ["18446744073709551615", 18446744073709551615n],
  ])("reads size_bytes %s without rounding", (literal, expected) => {
    expect(parseMetadata(withSize(literal), "F").layers[0]?.size_bytes).toBe(expected);
  });

  test.each([
    "18446744073709551616",
    "99999999999999999999999999",
    "-1",
    "1.0",
    "-0",
    "1.5",
    "1e3",
    '"123"',
    "true",
    "[]",
    "{}",
  ])("refuses size_bytes %s and names the place", (literal) => {
    const { code, message } = refusal(withSize(literal));
    expect(code).toBe("invalid");
    expect(message).toStartWith("F: layers[0].size_bytes: must ");
  });

  test("names the layer that is wrong among many", () => {
    const text = changed((document) => {
      const [layer] = document.layers;
      document.layers = [layer, layer, layer, { ...layer, diff_id: "../../etc/passwd:x" }];
    });
    expect(refusal(text).message).toBe(
      'F: layers[3].diff_id: must be a sha256, sha384 or sha512 digest in lowercase hex (found "../../etc/passwd:x")',
    );
  });

  const REQUIRED = [
    "manifest_digest",
    "config_digest",
    "config",
    "config.env",
    "config.exposed_ports",
    "config.volumes",
    "config.labels",
    "layers",
    "layers[0].digest",
    "layers[0].diff_id",
  ];

  function at(document: Document, place: string): [holder: Document, key: string] {
    const keys = place.split(/[.[\]]+/).filter(Boolean);
    const last = keys.pop()!;
    return [keys.reduce((holder, key) => holder[key], document), last];
  }

  test.each(REQUIRED)("refuses %s missing, and names it", (place) => {
    const text = changed((document) => {
      const [holder, key] = at(document, place);
      delete holder[key];
    });
    expect(refusal(text).message).toStartWith(`F: ${place}: `);
  });

  test.each([...REQUIRED, "raw_manifest_json", "raw_config_json"])("refuses %s null, and names it", (place) => {
    const text = changed((document) => {
      const [holder, key] = at(document, place);
      holder[key] = null;
    });
    expect(refusal(text).message).toStartWith(`F: ${place}: `);
  });

  test.each<[string, unknown]>([
    ["manifest_digest", 5],
    ["manifest_digest", MANIFEST.toUpperCase()],
    ["config_digest", "sha256:abc"],
    ["raw_config_json", {}],
    ["config.env", "A=1"],
    ["config.cmd", "sh"],
    ["config.entrypoint", {}],
    ["config.working_dir", 5],
    ["config.user", 1000],
    ["config.stop_signal", 2],
    ["config.labels", []],
    ["config.labels", "k=v"],
    ["layers", {}],
    ["layers[0]", null],
    ["layers[0]", "sha256:x"],
    ["layers[0].media_type", 1],
    ["layers[0].digest", "md5:0"],
  ])("refuses %s that is %p, and names it", (place, value) => {
    const text = changed((document) => {
      const [holder, key] = at(document, place);
      holder[key] = value;
    });
    expect(refusal(text).message).toStartWith(`F: ${place}: `);
  });

  test("names an item inside a list, and a label", () => {
    expect(
      refusal(
        changed((document) => {
          document.config.env = ["A=1", 5];
        }),
      ).message,
    ).toStartWith("F: config.env[1]: ");
    expect(
      refusal(
        changed((document) => {
          document.config.labels = { fine: "x", "org.acme": 5 };
        }),
      ).message,
    ).toStartWith("F: config.labels.org.acme: ");
  });

  test("keeps every label, whatever its name", () => {
    const labels = '{"":"empty","constructor":"c","prototype":"p","__proto__":"q","toString":"t"}';
    const metadata = parseMetadata(OLD.replace('{"k":"v"}', labels), "F");
    expect(JSON.stringify(metadata.config.labels)).toBe(labels);
  });

  test.each([
    ["nothing", ""],
    ["a byte order mark", `\ufeff${OLD}`],
    ["something after the end", `${OLD}x`],
    ["two documents", `${OLD}${OLD}`],
    ["a cut end", OLD.slice(0, -1)],
    ["a trailing comma", OLD.replace(/}$/, ",}")],
    ["no JSON", "manifest_digest: x"],
    ["a NUL after the end", `${OLD}\0`],
  ])("refuses %s as not JSON", (_, text) => {
    const { code, message } = refusal(text);
    expect(code).toBe("invalid");
    expect(message).toStartWith("F: not JSON: ");
  });

  test.each(["null", "[]", "5", '"x"', "{}"])("refuses the document %s", (text) => {
    expect(refusal(text).code).toBe("invalid");
  });

  test("does not repeat an endless value", () => {
    const text = changed((document) => {
      document.manifest_digest = "x".repeat(100_000);
    });
    expect(refusal(text).message.length).toBeLessThan(300);
  });
});

describe("checkMetadata", () => {
  test("checks what parseJson read, as parseMetadata does", () => {
    expect(checkMetadata(parseJson(NEW, "F"), "F")).toEqual(parseMetadata(NEW, "F"));
    expect(() => checkMetadata(parseJson('{"reference":"x"}', "line 7"), "line 7")).toThrow(
      "line 7: manifest_digest: ",
    );
  });
});

describe("parseJson", () => {
  test.each(['"\\ud800"', '"\\udc00x"', '{"\\ud800":1}', '["x\\ud800\\ud800\\udc00"]'])(
    "refuses half a surrogate pair, as msb does: %s",
    (text) => {
      expect(() => parseJson(text, "F")).toThrow("F: not JSON: half a surrogate pair");
    },
  );

  test("takes a whole one", () => {
    expect(parseJson('{"\\ud835\\udc9c":"\\ud835\\udc9c"}', "F")).toEqual({ 𝒜: "𝒜" });
  });

  test("makes BigInt of size_bytes alone, and only where an integer is written", () => {
    expect(parseJson('{"size_bytes":1,"other":1,"in":[{"size_bytes":18446744073709551616}]}', "F")).toEqual({
      size_bytes: 1n,
      other: 1,
      in: [{ size_bytes: 18446744073709551616n }],
    });
    expect(parseJson('{"size_bytes":1.0}', "F")).toEqual({ size_bytes: 1 });
  });

  // What is plainly written is read by a shorter way than the rest.
  test.each([
    ["0", 0n],
    ["999999999999999", 999999999999999n],
    ["9007199254740993", 9007199254740993n],
    ["-1", -1n],
    ["-0", -0],
    ["1e3", 1000],
    ["1.0", 1],
    ["12345678901234.5", 12345678901234.5],
    ["null", null],
    ['"1"', "1"],
    ["[1]", [1]],
  ])("reads a size of %s as %p, however it is spaced and its key is written", (written, value) => {
    for (const text of [
      `{"a":{"size_bytes":${written}}}`,
      `{ "a" : { "size_bytes" : ${written} } }`,
      `{"a":{"size_bytes":\n\t${written}\n}}`,
      `{"a":{"size\\u005fbytes":${written}}}`,
    ])
      expect([text, parseJson(text, "F")]).toEqual([text, { a: { size_bytes: value } }]);
  });
});

describe("platformOf", () => {
  function platform(raw: string) {
    return platformOf(
      parseMetadata(
        changed((document) => {
          document.raw_config_json = raw;
        }),
        "F",
      ),
    );
  }

  test("is what the image's own config states", () => {
    expect(platformOf(parseMetadata(NEW, "F"))).toEqual({ architecture: "arm64", os: "linux", variant: "v8" });
    expect(platform('{"architecture":"amd64","os":"linux"}')).toEqual({
      architecture: "amd64",
      os: "linux",
      variant: null,
    });
  });

  test("is unknown without a raw config", () => {
    expect(platformOf(parseMetadata(OLD, "F"))).toBeUndefined();
  });

  test.each(["", "{", "null", "[]", "{}", '{"architecture":"amd64"}', '{"architecture":5,"os":"linux"}'])(
    "is unknown where the raw config is %p",
    (raw) => {
      expect(platform(raw)).toBeUndefined();
    },
  );
});
