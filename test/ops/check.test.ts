import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { resolveHome } from "../../src/home.ts";
import { FileLock } from "../../src/host/flock.ts";
import { closeLarder, type Larder, openToRead, openToWrite } from "../../src/larder.ts";
import { check, unopenable } from "../../src/ops/check/check.ts";
import type { Problem, ProblemCode } from "../../src/ops/check/problem.ts";
import { repair } from "../../src/ops/check/repair.ts";
import { type CheckReport, examine } from "../../src/ops/check/report.ts";
import { IMAGES, SoundHome, stem } from "../sound.ts";

const GRACE = 600_000;
const ONE = IMAGES.one.manifest.digest;
const TWO = IMAGES.two.manifest.digest;
const FLAT = IMAGES.flat.manifest.digest;
// The layer that only one:1 has, and the one that it shares with two:1.
const OWN = IMAGES.one.layers[1]!.diffId;
const SHARED = IMAGES.one.layers[0]!.diffId;
const NOWHERE = `sha256:${"0".repeat(64)}`;
const KEY_OF_ONE = "docker.io/library/one:1";

// Every code, as the issue sorts them: only damage makes check fail.
const SEVERITY: Record<ProblemCode, "damage" | "note"> = {
  "database-corrupt": "damage",
  "foreign-key": "damage",
  "schema-unknown": "damage",
  "migrations-missing": "damage",
  "timestamp-unreadable": "damage",
  "digest-invalid": "damage",
  "json-unreadable": "damage",
  "column-unreadable": "damage",
  "pin-unreadable": "damage",
  "image-missing": "damage",
  "config-missing": "damage",
  "layers-missing": "damage",
  "layer-count-mismatch": "damage",
  "size-mismatch": "damage",
  "position-gap": "damage",
  "reference-invalid": "damage",
  "reference-conflict": "damage",
  "metadata-missing": "damage",
  "metadata-absent": "note",
  "metadata-unreadable": "damage",
  "metadata-mismatch": "damage",
  "artifact-missing": "damage",
  "artifact-empty": "damage",
  "artifact-misaligned": "damage",
  "artifact-not-erofs": "damage",
  "artifact-truncated": "damage",
  "artifact-is-folder": "damage",
  "artifact-is-link": "damage",
  "artifact-not-a-file": "damage",
  "artifact-bad-checksum": "damage",
  "file-unreadable": "damage",
  "flat-ref-unreadable": "damage",
  "flat-blob-size": "damage",
  "flat-blob-digest": "damage",
  "raw-digest-mismatch": "damage",
  "vmdk-unreadable": "damage",
  "vmdk-extent-missing": "damage",
  "vmdk-incomplete": "damage",
  "vmdk-mislocated": "damage",
  "erofs-size-mismatch": "damage",
  "erofs-size-unrecorded": "note",
  "config-outdated": "note",
  "platform-outdated": "note",
  "metadata-old-shape": "note",
  "catalogue-unaccounted": "damage",
  "metadata-unrecorded": "note",
  "stray-file": "note",
  "staging-stale": "note",
  "untagged-manifest": "note",
  "layer-orphan": "note",
};

interface Case {
  name: string;
  damage(home: SoundHome): void;
  /** Only a deep check sees it. */
  deep?: true;
  /** The codes found, and no others, in alphabetical order. */
  found: ProblemCode[];
  /** The codes left after a repair; without it, none, and every row says again what it said. */
  left?: ProblemCode[];
  /** The files of the cache that the repair removes, by the name in it. */
  gone?: string[];
}

const ROWS: Case[] = [
  {
    name: "a reference to a manifest row that never was",
    damage: (home) => home.sql("UPDATE image_ref SET manifest_id = 999 WHERE reference = 'one:1'"),
    found: ["foreign-key", "foreign-key", "untagged-manifest"],
  },
  {
    name: "a manifest row that is gone",
    damage: (home) => home.sql(`DELETE FROM manifest WHERE digest = '${ONE}'`),
    found: ["foreign-key", "foreign-key", "foreign-key", "foreign-key", "foreign-key"],
  },
  {
    name: "a layer row that is gone",
    damage: (home) => home.sql(`DELETE FROM layer WHERE diff_id = '${OWN}'`),
    found: ["foreign-key", "layer-count-mismatch", "layers-missing"],
  },
  {
    name: "everything of an image gone but its reference",
    damage: (home) =>
      home.sql(
        "DELETE FROM manifest; DELETE FROM config; DELETE FROM manifest_layer; DELETE FROM layer WHERE diff_id <> ''",
      ),
    found: ["foreign-key", "foreign-key", "foreign-key", "foreign-key", "foreign-key", "foreign-key"],
  },
  {
    name: "no migration history",
    damage: (home) => home.sql("DELETE FROM seaql_migrations; UPDATE layer SET erofs_size_bytes = NULL"),
    found: [
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "migrations-missing",
    ],
    left: [
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "migrations-missing",
    ],
  },
  ...["image_ref.created_at", "image_ref.updated_at", "manifest.created_at", "config.created_at"].map(
    (column): Case => ({
      name: `an empty ${column}`,
      damage: (home) => home.sql(`UPDATE ${column.replace(".", " SET ")} = '' WHERE id = 1`),
      found: ["timestamp-unreadable"],
      left: ["timestamp-unreadable"],
    }),
  ),
  {
    name: "a layer's time without a clock",
    damage: (home) => home.sql(`UPDATE layer SET last_used_at = '2026-01-01' WHERE diff_id = '${SHARED}'`),
    found: ["timestamp-unreadable"],
    left: ["timestamp-unreadable"],
  },
  {
    name: "a layer's time that is no text",
    damage: (home) => home.sql(`UPDATE layer SET created_at = x'00ff' WHERE diff_id = '${SHARED}'`),
    found: ["timestamp-unreadable"],
    left: ["timestamp-unreadable"],
  },
  {
    // Its files have no row now, and its metadata names a manifest without one: nothing of it may be swept.
    name: "a manifest digest that leads out of the cache",
    damage: (home) => home.sql(`UPDATE manifest SET digest = 'sha256:../../etc' WHERE digest = '${ONE}'`),
    found: ["catalogue-unaccounted", "digest-invalid", "metadata-mismatch", "stray-file", "stray-file"],
    left: ["catalogue-unaccounted", "digest-invalid", "metadata-mismatch", "stray-file", "stray-file"],
  },
  {
    name: "a manifest digest that is no text",
    damage: (home) => home.sql(`UPDATE manifest SET digest = x'00' WHERE digest = '${ONE}'`),
    found: ["catalogue-unaccounted", "column-unreadable", "stray-file", "stray-file"],
    left: ["catalogue-unaccounted", "column-unreadable", "stray-file", "stray-file"],
  },
  {
    // The image gets a row of its own again; the bad one stays, and is named as what it is.
    name: "a diff ID that leads out of the cache",
    damage: (home) => home.sql(`UPDATE layer SET diff_id = 'a/../b:x' WHERE diff_id = '${OWN}'`),
    found: ["digest-invalid", "layers-missing"],
    left: ["digest-invalid"],
  },
  {
    name: "a blob digest in upper case",
    damage: (home) => home.sql(`UPDATE layer SET blob_digest = upper(blob_digest) WHERE diff_id = '${SHARED}'`),
    found: ["digest-invalid"],
    left: ["digest-invalid"],
  },
  {
    name: "a manifest's config digest that is none",
    damage: (home) => home.sql(`UPDATE manifest SET config_digest = 'md5:1' WHERE digest = '${ONE}'`),
    found: ["digest-invalid"],
    left: ["digest-invalid"],
  },
  {
    name: "a config's digest that is none",
    damage: (home) => home.sql("UPDATE config SET digest = '' WHERE id = 1"),
    found: ["digest-invalid"],
  },
  {
    name: "an environment that is not JSON",
    damage: (home) => home.sql("UPDATE config SET env = '{' WHERE id = 1"),
    found: ["json-unreadable"],
  },
  {
    name: "labels that are a list",
    damage: (home) => home.sql("UPDATE config SET labels = '[]' WHERE id = 2"),
    found: ["json-unreadable"],
  },
  {
    name: "an architecture that is no text",
    damage: (home) => home.sql(`UPDATE manifest SET architecture = x'00' WHERE digest = '${ONE}'`),
    found: ["column-unreadable", "platform-outdated"],
  },
  {
    name: "a media type that is no text",
    damage: (home) => home.sql(`UPDATE layer SET media_type = x'00' WHERE diff_id = '${SHARED}'`),
    found: ["column-unreadable"],
    left: ["column-unreadable"],
  },
  {
    name: "a sandbox whose configuration is not JSON",
    damage: (home) => home.sql("INSERT INTO sandbox (name, config, status) VALUES ('web', 'oops', 'stopped')"),
    found: ["pin-unreadable"],
    left: ["pin-unreadable"],
  },
  {
    name: "no config",
    damage: (home) => home.sql("DELETE FROM config WHERE id = 1"),
    found: ["config-missing"],
  },
  {
    name: "no layers",
    damage: (home) =>
      home.sql(`DELETE FROM manifest_layer WHERE manifest_id = (SELECT id FROM manifest WHERE digest = '${ONE}')`),
    found: ["layer-orphan", "layers-missing"],
  },
  {
    name: "other layers than its metadata names",
    damage: (home) => home.sql("UPDATE manifest_layer SET layer_id = 1 WHERE id = 2"),
    found: ["layer-orphan", "layers-missing"],
  },
  {
    name: "a layer count that disagrees",
    damage: (home) => home.sql("UPDATE manifest SET layer_count = 9 WHERE id = 1"),
    found: ["layer-count-mismatch"],
  },
  {
    name: "a size that disagrees",
    damage: (home) => home.sql("UPDATE manifest SET total_size_bytes = 9 WHERE id = 1"),
    found: ["size-mismatch"],
  },
  {
    name: "a gap between positions",
    damage: (home) => home.sql("UPDATE manifest_layer SET position = 5 WHERE id = 2"),
    found: ["position-gap"],
  },
  {
    name: "a reference that is none",
    damage: (home) => home.sql("INSERT INTO image_ref (reference, manifest_id) VALUES ('No Such', 1)"),
    found: ["reference-invalid"],
    left: ["reference-invalid"],
  },
  {
    name: "two spellings of one reference for different images",
    damage: (home) =>
      home.sql(
        `INSERT INTO image_ref (reference, manifest_id)
         SELECT 'docker.io/library/one:1', id FROM manifest WHERE digest = '${TWO}'`,
      ),
    found: ["metadata-mismatch", "reference-conflict"],
    left: ["metadata-mismatch", "reference-conflict"],
  },
  {
    name: "an artifact's size not on record",
    damage: (home) => home.sql(`UPDATE layer SET erofs_size_bytes = NULL WHERE diff_id = '${SHARED}'`),
    found: ["erofs-size-unrecorded"],
  },
  {
    name: "another size of an artifact on record",
    damage: (home) => home.sql(`UPDATE layer SET erofs_size_bytes = 1 WHERE diff_id = '${SHARED}'`),
    found: ["erofs-size-mismatch"],
  },
  {
    name: "labels and stop signal that msb did not store",
    damage: (home) => home.sql("UPDATE config SET labels = NULL, stop_signal = NULL"),
    found: ["config-outdated"],
  },
  {
    name: "the host's platform instead of the image's",
    damage: (home) => home.sql("UPDATE manifest SET architecture = 'amd64', variant = NULL"),
    found: ["platform-outdated"],
  },
  {
    name: "a manifest without a name",
    damage: (home) => {
      home.sql("DELETE FROM image_ref WHERE reference = 'one:1'");
      rmSync(home.metadata(KEY_OF_ONE));
    },
    found: ["untagged-manifest"],
    left: ["untagged-manifest"],
  },
  {
    name: "a layer row that no manifest has",
    damage: (home) => home.sql(`INSERT INTO layer (diff_id, blob_digest) VALUES ('${NOWHERE}', '${NOWHERE}')`),
    found: ["layer-orphan"],
    left: ["layer-orphan"],
  },
];

const METADATA: Case[] = [
  {
    name: "the name that msb makes when it boots a snapshot",
    damage: (home) =>
      home.sql(
        `INSERT INTO image_ref (reference, manifest_id, created_at, updated_at)
         SELECT 'docker.io/library/one@' || digest, id, created_at, created_at FROM manifest WHERE digest = '${ONE}'`,
      ),
    found: ["metadata-absent"],
    left: ["metadata-absent"],
  },
  {
    name: "no metadata",
    damage: (home) => rmSync(home.metadata(KEY_OF_ONE)),
    found: ["metadata-missing"],
    left: ["metadata-missing"],
  },
  {
    name: "metadata cut short",
    damage: (home) => truncateSync(home.metadata(KEY_OF_ONE), 100),
    found: ["metadata-unreadable"],
    left: ["metadata-unreadable"],
  },
  {
    name: "a link in the place of metadata",
    damage: (home) => replaceByLink(home.metadata(KEY_OF_ONE), home.metadata("docker.io/library/two:1")),
    found: ["metadata-unreadable"],
    left: ["metadata-unreadable"],
  },
  {
    name: "metadata of another image",
    damage: (home) => writeFileSync(home.metadata(KEY_OF_ONE), readFileSync(home.metadata("docker.io/library/two:1"))),
    found: ["metadata-mismatch"],
    left: ["metadata-mismatch"],
  },
  {
    name: "metadata in the shape of msb 0.4.4",
    damage: (home) =>
      changeJson(home.metadata(KEY_OF_ONE), ({ raw_manifest_json: _, raw_config_json: __, ...rest }) => rest),
    found: ["metadata-old-shape"],
    left: ["metadata-old-shape"],
  },
  {
    name: "metadata that no reference has",
    damage: (home) => home.sql("DELETE FROM image_ref WHERE reference = 'one:1'"),
    found: ["metadata-unrecorded", "untagged-manifest"],
    left: ["metadata-unrecorded", "untagged-manifest"],
  },
  {
    name: "a raw config with another digest",
    deep: true,
    damage: (home) =>
      changeJson(home.metadata(KEY_OF_ONE), (metadata) => ({
        ...metadata,
        raw_config_json: `${metadata.raw_config_json} `,
      })),
    found: ["raw-digest-mismatch"],
    left: ["raw-digest-mismatch"],
  },
  ...Object.entries({
    "without layers": { layers: [] },
    "with other layers": { layers: [{ digest: TWO }, { digest: TWO }] },
    "with another config": { config: { digest: TWO } },
    "without a config": { config: undefined },
  }).map(
    ([name, change]): Case => ({
      name: `a raw manifest ${name}`,
      deep: true,
      damage: (home) =>
        changeJson(home.metadata(KEY_OF_ONE), (metadata) => ({
          ...metadata,
          raw_manifest_json: JSON.stringify({ ...JSON.parse(metadata.raw_manifest_json), ...change }),
        })),
      found: ["raw-digest-mismatch"],
      left: ["raw-digest-mismatch"],
    }),
  ),
];

const ARTIFACTS: Case[] = [
  {
    name: "a layer that is gone",
    damage: (home) => rmSync(home.layer(OWN)),
    found: ["artifact-missing", "vmdk-extent-missing"],
    left: ["artifact-missing", "vmdk-extent-missing"],
  },
  {
    name: "an empty layer",
    damage: (home) => truncateSync(home.layer(OWN), 0),
    found: ["artifact-empty"],
    left: ["artifact-missing", "vmdk-extent-missing"],
    gone: [`layers/${stem(OWN)}.erofs`],
  },
  {
    name: "a misaligned layer",
    damage: (home) => appendFileSync(home.layer(OWN), "x"),
    found: ["artifact-misaligned"],
    left: ["artifact-missing", "vmdk-extent-missing"],
    gone: [`layers/${stem(OWN)}.erofs`],
  },
  {
    name: "a layer that is not EROFS",
    damage: (home) => writeFileSync(home.layer(OWN), new Uint8Array(8192).fill(1)),
    found: ["artifact-not-erofs"],
    left: ["artifact-missing", "vmdk-extent-missing"],
    gone: [`layers/${stem(OWN)}.erofs`],
  },
  {
    // msb does not see it, so nothing would make it anew; and its size on record stays, which tells the same.
    name: "a layer cut at a block",
    damage: (home) => truncateSync(home.layer(OWN), 8192),
    found: ["artifact-truncated"],
    left: ["artifact-truncated"],
  },
  {
    name: "a folder in a layer's place",
    damage: (home) => {
      rmSync(home.layer(OWN));
      mkdirSync(home.layer(OWN));
      writeFileSync(join(home.layer(OWN), "precious"), "");
    },
    found: ["artifact-is-folder", "vmdk-extent-missing"],
    left: ["artifact-is-folder", "vmdk-extent-missing"],
  },
  {
    name: "a link in a layer's place",
    damage: (home) => replaceByLink(home.layer(OWN), home.layer(SHARED)),
    found: ["artifact-is-link", "vmdk-extent-missing"],
    left: ["artifact-is-link", "vmdk-extent-missing"],
  },
  {
    name: "a pipe in a layer's place",
    damage: (home) => {
      rmSync(home.layer(OWN));
      Bun.spawnSync(["mkfifo", home.layer(OWN)]);
    },
    found: ["artifact-not-a-file", "vmdk-extent-missing"],
    left: ["artifact-not-a-file", "vmdk-extent-missing"],
  },
  {
    name: "a layer whose superblock was changed",
    deep: true,
    // The volume name: nothing but the checksum tells.
    damage: (home) => patch(home.layer(OWN), 1024 + 64, 0x78),
    found: ["artifact-bad-checksum"],
    left: ["artifact-bad-checksum"],
  },
  {
    name: "a broken layer whose row is wrong as well",
    damage: (home) => {
      truncateSync(home.layer(OWN), 0);
      home.sql("UPDATE manifest SET layer_count = 9; UPDATE layer SET erofs_size_bytes = NULL");
    },
    found: [
      "artifact-empty",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "erofs-size-unrecorded",
      "layer-count-mismatch",
      "layer-count-mismatch",
      "layer-count-mismatch",
    ],
    left: ["artifact-missing", "vmdk-extent-missing"],
    gone: [`layers/${stem(OWN)}.erofs`],
  },
  {
    name: "a merged tree that is empty",
    damage: (home) => truncateSync(home.fsmeta(ONE), 0),
    found: ["artifact-empty"],
    left: ["artifact-missing", "vmdk-extent-missing"],
    gone: [`fsmeta/${stem(ONE)}.erofs`],
  },
  {
    name: "a merged tree whose superblock was changed",
    deep: true,
    damage: (home) => patch(home.fsmeta(ONE), 1024 + 64, 0x78),
    found: ["artifact-bad-checksum"],
    left: ["artifact-bad-checksum"],
  },
  {
    name: "a broken layer of an image in use",
    damage: (home) => {
      truncateSync(home.layer(SHARED), 0);
      pin(home, TWO);
    },
    found: ["artifact-empty"],
    left: ["artifact-empty"],
  },
  {
    name: "a broken disk of an image in use that has no name left",
    damage: (home) => {
      home.sql("DELETE FROM image_ref WHERE reference = 'one:1'");
      rmSync(home.metadata(KEY_OF_ONE));
      writeFileSync(home.vmdk(ONE), "");
      pin(home, ONE);
    },
    found: ["untagged-manifest", "vmdk-unreadable"],
    left: ["untagged-manifest", "vmdk-unreadable"],
  },
  {
    name: "a disk that is gone",
    damage: (home) => rmSync(home.vmdk(ONE)),
    found: ["artifact-missing"],
    left: ["artifact-missing"],
  },
  ...(
    [
      ["an empty disk", ""],
      ["a disk of bytes that are no text", new Uint8Array(512).fill(0xff)],
      ["a disk that names nothing", "# Disk DescriptorFile\nversion=1\n"],
    ] as const
  ).map(
    ([name, content]): Case => ({
      name,
      damage: (home) => writeFileSync(home.vmdk(ONE), content),
      found: ["vmdk-unreadable"],
      left: ["artifact-missing"],
      gone: [`vmdk/${stem(ONE)}.vmdk`],
    }),
  ),
  {
    name: "a link in a disk's place",
    damage: (home) => replaceByLink(home.vmdk(ONE), home.vmdk(TWO)),
    found: ["artifact-is-link"],
    left: ["artifact-is-link"],
  },
  {
    name: "a disk that names its files where the cache was",
    damage: (home) => changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old cache")),
    found: ["vmdk-mislocated"],
  },
  {
    name: "a disk that names its files by a link to the cache",
    damage: (home) => {
      const link = join(home.path, "by link");
      symlinkSync(home.cache, link);
      changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, link));
    },
    found: [],
  },
  {
    name: "a disk that names a file that is none of a cache",
    damage: (home) => changeText(home.vmdk(ONE), (text) => text.replace(home.layer(OWN), "/etc/passwd")),
    found: ["vmdk-mislocated"],
    left: ["vmdk-mislocated"],
  },
  {
    name: "a disk whose part cannot even be asked for, and others that can",
    damage: (home) => {
      changeText(home.vmdk(ONE), (text) => text.replace(home.layer(OWN), `/${"x".repeat(300)}`));
      rmSync(home.vmdk(TWO));
    },
    found: ["artifact-missing", "file-unreadable"],
    left: ["artifact-missing", "file-unreadable"],
  },
  {
    name: "a disk that names the old place of a file that did not come along",
    damage: (home) => {
      changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old"));
      rmSync(home.layer(OWN));
    },
    found: ["artifact-missing", "vmdk-mislocated"],
    left: ["artifact-missing", "vmdk-mislocated"],
  },
  {
    name: "a disk that names the old place of a file that is shorter here",
    damage: (home) =>
      changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old").replace("RW 24 ", "RW 9000 ")),
    found: ["vmdk-mislocated"],
    left: ["vmdk-mislocated"],
  },
  {
    name: "a disk that was cut off behind a line",
    damage: (home) => changeText(home.vmdk(ONE), (text) => text.slice(0, text.lastIndexOf("RW "))),
    found: ["vmdk-incomplete"],
    left: ["vmdk-incomplete"],
  },
  {
    name: "a flat ref that is not JSON",
    damage: (home) => writeFileSync(home.flatRef(FLAT), "{"),
    // It may name any blob, so none is a stray.
    found: ["flat-ref-unreadable"],
    left: ["flat-ref-unreadable"],
  },
  {
    name: "a flat ref of another manifest",
    damage: (home) => changeJson(home.flatRef(FLAT), (ref) => ({ ...ref, manifest_digest: ONE })),
    found: ["flat-ref-unreadable"],
    left: ["flat-ref-unreadable"],
  },
  {
    name: "a flat blob that is gone",
    damage: (home) => rmSync(home.flatBlobPath),
    found: ["artifact-missing"],
    left: ["artifact-missing"],
  },
  {
    name: "a flat blob of another length",
    damage: (home) => truncateSync(home.flatBlobPath, 4096),
    found: ["flat-blob-size"],
    left: ["flat-blob-size"],
  },
  {
    name: "a flat blob that was changed",
    deep: true,
    damage: (home) => patch(home.flatBlobPath, 5000, 8),
    found: ["flat-blob-digest"],
    left: ["flat-blob-digest"],
  },
];

const STRAYS: Case[] = [
  {
    name: "files that no row accounts for",
    damage: (home) => {
      writeFileSync(home.layer(NOWHERE), "layer");
      writeFileSync(join(home.cache, "vmdk", "notes.txt"), "foreign");
      writeFileSync(home.metadata("docker.io/library/gone:1"), "not metadata");
      home.age();
    },
    found: ["stray-file", "stray-file", "stray-file"],
    left: [],
    gone: [
      `layers/${stem(NOWHERE)}.erofs`,
      "manifests/KEY.json".replace(
        "KEY",
        new Bun.CryptoHasher("sha256").update("docker.io/library/gone:1").digest("hex"),
      ),
      "vmdk/notes.txt",
    ],
  },
  {
    name: "a file that no row accounts for, written just now",
    damage: (home) => writeFileSync(home.layer(NOWHERE), "layer"),
    found: ["stray-file"],
    left: ["stray-file"],
  },
  {
    name: "a folder where a file belongs",
    damage: (home) => {
      mkdirSync(home.layer(NOWHERE));
      home.age();
    },
    found: ["stray-file"],
    left: ["stray-file"],
  },
  {
    name: "a stray link, whose target stays",
    damage: (home) => symlinkSync(home.layer(OWN), home.layer(NOWHERE)),
    found: ["stray-file"],
    left: ["stray-file"],
  },
  {
    name: "scratch of a load that was killed",
    damage: (home) => {
      writeFileSync(join(home.cache, "tmp", "load-1-2-3.blob"), "scratch");
      home.age();
    },
    found: ["staging-stale"],
    left: [],
    gone: ["tmp/load-1-2-3.blob"],
  },
  {
    // Another home's image, or one of a catalogue that was lost: only scratch may go.
    name: "files beside an image that is not on record",
    damage: (home) => {
      const metadata = readFileSync(home.metadata(KEY_OF_ONE), "utf8").replace(ONE, NOWHERE);
      writeFileSync(home.metadata("docker.io/library/other:1"), metadata);
      writeFileSync(home.layer(NOWHERE), "layer");
      writeFileSync(join(home.cache, "tmp", "load-1-2-3.blob"), "scratch");
      home.age();
    },
    found: ["catalogue-unaccounted", "metadata-unrecorded", "staging-stale", "stray-file"],
    left: ["catalogue-unaccounted", "metadata-unrecorded", "stray-file"],
    gone: ["tmp/load-1-2-3.blob"],
  },
];

// What a sandbox or snapshot needs is gone altogether, or only looks like that.
const PINNED: Case[] = [
  {
    name: "a snapshot on the disk whose image is gone",
    damage: (home) => snapshot(home, NOWHERE),
    found: ["image-missing"],
    left: ["image-missing"],
  },
  {
    name: "a snapshot in the index, and the same on the disk, whose image is gone",
    damage: (home) => {
      snapshot(home, NOWHERE);
      home.sql(
        `INSERT INTO snapshot_index (digest, name, scope, state_kind, image_ref, image_manifest_digest, artifact_path, created_at, indexed_at)
         VALUES ('${ONE}', 'base', 'disk', 'file', 'gone:1', '${NOWHERE}', '/nowhere', '2026-01-01 00:00:00', '2026-01-01 00:00:00')`,
      );
    },
    found: ["image-missing"],
    left: ["image-missing"],
  },
  ...["config", "active_config"].map(
    (column): Case => ({
      name: `a sandbox whose ${column} was made of an image that is gone`,
      damage: (home) => sandbox(home, { [column]: { manifest_digest: NOWHERE } }),
      found: ["image-missing"],
      left: ["image-missing"],
    }),
  ),
  {
    name: "no image in a layer, a config and an index of platforms that a sandbox names by digest",
    damage: (home) => {
      const digests = [OWN, IMAGES.one.config.digest, NOWHERE];
      sandbox(home, { config: { env: digests, image: { Oci: { reference: `one@${NOWHERE}` } } } });
    },
    found: [],
  },
  {
    name: "a snapshot whose image msb has put on record by its digest, when it booted it",
    damage: (home) => {
      home.sql(`UPDATE image_ref SET reference = 'docker.io/library/one@${ONE}' WHERE reference = 'one:1'`);
      snapshot(home, ONE);
    },
    // The metadata of the name that went stays for the snapshot.
    found: ["metadata-missing", "stray-file"],
    left: ["metadata-missing", "stray-file"],
  },
  {
    name: "a snapshot whose image is not on record, and still has a file",
    damage: (home) => {
      snapshot(home, NOWHERE);
      writeFileSync(home.vmdk(NOWHERE), "disk");
      home.age();
    },
    found: ["catalogue-unaccounted", "stray-file"],
    left: ["catalogue-unaccounted", "stray-file"],
  },
  {
    name: "a snapshot whose image has lost its rows and its files, but not what the rows can be made of",
    damage: (home) => {
      snapshot(home, ONE);
      home.sql(`DELETE FROM manifest WHERE digest = '${ONE}'`);
      for (const path of [home.vmdk(ONE), home.fsmeta(ONE)]) rmSync(path);
    },
    found: ["foreign-key", "foreign-key", "foreign-key", "foreign-key", "foreign-key"],
    left: ["artifact-missing", "artifact-missing"],
  },
];

const CASES = [...ROWS, ...METADATA, ...ARTIFACTS, ...STRAYS, ...PINNED];

let sound: SoundHome;
beforeAll(async () => {
  sound = await SoundHome.make();
});
afterAll(() => sound[Symbol.dispose]());

function using<T>(home: SoundHome, open: typeof openToRead, work: (larder: Larder) => T): T {
  const larder = open(resolveHome(home.path, {}))!;
  const result = work(larder);
  if (!(result instanceof Promise)) closeLarder(larder);
  else result.finally(() => closeLarder(larder)).catch(() => {});
  return result;
}

async function look(home: SoundHome, deep = true): Promise<Problem[]> {
  return using(home, openToRead, (larder) => check(larder, { deep, grace: GRACE }));
}

/** A repair as the command runs it: nothing to mend, nothing opened. */
async function mend(home: SoundHome): Promise<void> {
  const problems = await look(home);
  if (!problems.some(({ mend }) => mend)) return;
  await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
}

function codes(problems: Problem[]): ProblemCode[] {
  return problems.map(({ code }) => code).sort();
}

function ids(rows: Record<string, unknown[]>, table: string): number[] {
  return (rows[table] as { id: number }[]).map(({ id }) => id);
}

describe("check", () => {
  test("finds nothing in a sound home, nor in its copy", async () => {
    using copy = sound.copy();
    expect(await look(sound)).toEqual([]);
    expect(await look(copy)).toEqual([]);
  });

  test.each(CASES)("finds $name", async ({ damage, deep = false, found }) => {
    using home = sound.copy();
    damage(home);
    const problems = await look(home);
    expect(codes(problems)).toEqual(found);
    for (const { code, severity } of problems) expect([code, severity]).toEqual([code, SEVERITY[code]]);
    expect(codes(await look(home, false))).toEqual(deep ? [] : found);
  });

  test("has a case for every code", () => {
    const apart: ProblemCode[] = ["database-corrupt", "schema-unknown"];
    const tried = new Set([...apart, ...CASES.flatMap(({ found }) => found)]);
    expect([...tried].sort()).toEqual((Object.keys(SEVERITY) as ProblemCode[]).sort());
  });

  test("names one fault of a layer once, however many images share it", async () => {
    using home = sound.copy();
    home.sql(`UPDATE layer SET media_type = x'00' WHERE diff_id = '${SHARED}'`);
    expect((await look(home)).map(({ subject }) => subject)).toEqual([`layer ${SHARED}`]);
  });

  test("names the image of a layer that has no diff ID to be named by", async () => {
    using home = sound.copy();
    home.sql(`UPDATE layer SET diff_id = CAST(diff_id AS BLOB) WHERE diff_id = '${OWN}'`);
    const unreadable = (await look(home)).filter(({ code }) => code === "column-unreadable");
    expect(unreadable.map(({ subject }) => subject)).toEqual(["one:1, layer 1"]);
  });

  test("takes the metadata of whichever name of an image still has it", async () => {
    using home = sound.copy();
    // Newer, so that it comes first.
    home.sql(
      `INSERT INTO image_ref (reference, manifest_id, created_at)
       SELECT 'alias:1', id, '2999-01-01 00:00:00' FROM manifest WHERE digest = '${ONE}';
       UPDATE config SET labels = NULL`,
    );
    const problems = await look(home);
    expect(codes(problems)).toEqual(["config-outdated", "metadata-missing"]);
    expect(problems.filter(({ mend }) => mend).map(({ code }) => code)).toEqual(["config-outdated"]);
  });

  test("stops at a database that SQLite finds damaged, and plans nothing", async () => {
    using home = sound.copy();
    home.sql("UPDATE layer SET erofs_size_bytes = NULL");
    truncateSync(home.layer(OWN), 0);
    home.corrupt();
    const problems = await look(home);
    expect(new Set(codes(problems))).toEqual(new Set(["database-corrupt"]));
    expect(problems.filter(({ mend }) => mend)).toEqual([]);
  });
});

describe("unopenable", () => {
  test.each([
    [
      "a catalogue without a column",
      "schema-unknown",
      (home: SoundHome) => home.sql("ALTER TABLE layer DROP COLUMN media_type"),
    ],
    ["no database at all", "database-corrupt", (home: SoundHome) => writeFileSync(home.database, "x".repeat(8192))],
  ])("names %s", async (_, code, damage) => {
    using home = sound.copy();
    damage(home);
    for (const path of [`${home.database}-wal`, `${home.database}-shm`]) rmSync(path, { force: true });
    let found: Problem | undefined;
    try {
      await look(home);
    } catch (error) {
      found = unopenable(error);
    }
    expect(found).toMatchObject({ code, severity: "damage", subject: "database" });
    expect(found?.message).toContain(home.database);
  });

  test("passes on what is no damage", () => {
    const error = new Error("no");
    expect(() => unopenable(error)).toThrow(error);
  });
});

describe("repair", () => {
  test.each(CASES)("of $name loses nothing, and leaves nothing for a second one", async ({ damage, left, gone }) => {
    using home = sound.copy();
    damage(home);
    const before = { rows: home.rows(), files: home.files() };
    await mend(home);
    const once = { rows: home.rows(), files: home.files() };
    expect(codes(await look(home))).toEqual(left ?? []);
    if (left === undefined) expect(home.facts()).toEqual(sound.facts());
    for (const table of ["image_ref", "manifest", "config", "layer"])
      expect(ids(once.rows, table)).toEqual(expect.arrayContaining(ids(before.rows, table)));
    const lost = Object.keys(before.files).filter((name) => !(name in once.files));
    expect(lost).toEqual([...(gone ?? [])].sort());
    await mend(home);
    expect({ rows: home.rows(), files: home.files() }).toEqual(once);
  });

  test.each([
    ["is removed", 0],
    ["was cut short", 8192],
  ])("records no size of an artifact that %s", async (_, length) => {
    using home = sound.copy();
    const whole = statSync(home.layer(OWN)).size;
    truncateSync(home.layer(OWN), length);
    // Wrong as well, so that the image's rows are written anew.
    home.sql("UPDATE manifest SET layer_count = 9");
    await mend(home);
    const layers = home.rows().layer as { diff_id: string; erofs_size_bytes: number }[];
    expect(layers.find(({ diff_id }) => diff_id === OWN)?.erofs_size_bytes).toBe(whole);
    expect(home.facts()).toEqual(sound.facts());
  });

  test("points a disk at its files as msb wrote it, and leaves nothing beside it", async () => {
    using home = sound.copy();
    const before = home.files();
    changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old"));
    await mend(home);
    expect(home.files()).toEqual(before);
  });

  test("keeps the blobs while one image's disk cannot be looked at and its flat ref names another's", async () => {
    using home = sound.copy();
    const FLAT = IMAGES.flat.manifest.digest;
    changeText(home.flatRef(FLAT), (text) =>
      text.replace(FLAT, NOWHERE).replace(/"artifact_digest":"[^"]*"/, `"artifact_digest":"${NOWHERE}"`),
    );
    writeFileSync(home.vmdk(FLAT), `RW 8 FLAT "/${"x".repeat(300)}" 0\n`);
    home.age();
    expect(codes(await look(home))).toEqual(["file-unreadable", "flat-ref-unreadable", "stray-file"]);
    await mend(home);
    expect(existsSync(home.flatBlobPath)).toBe(true);
  });

  test("sweeps a flat blob after the ref that names it, in whatever order they were found", async () => {
    using home = sound.copy();
    changeText(home.flatRef(FLAT), (text) => text.replace(FLAT, NOWHERE));
    renameSync(home.flatRef(FLAT), home.flatRef(NOWHERE));
    home.age();
    const problems = (await look(home)).filter(({ code }) => code === "stray-file");
    expect(problems.map(({ subject }) => subject)).toEqual([home.flatRef(NOWHERE), home.flatBlobPath]);
    const sweepAll = (larder: Larder) => repair(larder, problems.toReversed(), { grace: GRACE });
    const outcomes = await using(home, openToWrite, sweepAll);
    expect([...outcomes.values()]).toEqual([{ mended: true }, { mended: true }]);
    expect([home.flatRef(NOWHERE), home.flatBlobPath].filter(existsSync)).toEqual([]);
  });

  test("takes no layer off the record, though the metadata lacks it", async () => {
    using home = sound.copy();
    dropLayers(home.metadata(KEY_OF_ONE));
    // What else is wrong is mended of the others all the same.
    home.sql("UPDATE manifest SET layer_count = 9");
    const before = home.rows();
    await mend(home);
    const after = home.rows();
    expect(after.manifest_layer).toEqual(before.manifest_layer!);
    const counts = (after.manifest as { digest: string; layer_count: number }[]).filter(({ digest }) => digest !== ONE);
    expect(counts.map(({ layer_count }) => layer_count)).toEqual([2, 1]);
    expect(codes(await look(home))).toEqual(["layer-count-mismatch", "layers-missing", "size-mismatch"]);
  });

  test.each([
    ["a column of its manifest cannot be read", "UPDATE manifest SET architecture = x'00'"],
    ["its manifest row is gone", `DELETE FROM manifest WHERE digest = '${ONE}'`],
    ["its reference names a row that never was", "UPDATE image_ref SET manifest_id = 999 WHERE reference = 'one:1'"],
  ])("promises no rebuild by metadata that lacks a layer where %s", async (_, damage) => {
    using home = sound.copy();
    dropLayers(home.metadata(KEY_OF_ONE));
    home.sql(damage);
    const rebuilt = (await look(home)).flatMap(({ mend }) => (mend?.kind === "rebuild" ? mend.reference : []));
    expect(rebuilt).not.toContain("one:1");
    const files = home.files();
    await mend(home);
    expect(home.files()).toEqual(files);
  });

  test("rebuilds the other images though one is refused, and says which", async () => {
    using home = sound.copy();
    home.sql("UPDATE manifest SET layer_count = 9");
    const problems = await look(home);
    // Put on record since, by metadata of the same digest that has a layer more.
    home.sql(
      `INSERT INTO manifest_layer (manifest_id, layer_id, position)
       SELECT m.id, l.id, 2 FROM manifest AS m, layer AS l
       WHERE m.digest = '${ONE}' AND l.diff_id = '${IMAGES.two.layers[1]!.diffId}'`,
    );
    const outcomes = await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
    expect(Object.fromEntries(problems.map((problem) => [problem.subject, outcomes.get(problem)]))).toEqual({
      "one:1": { mended: false, reason: expect.stringContaining(ONE), code: "invalid" },
      "two:1": { mended: true },
      "flat:1": { mended: true },
    });
    expect((await look(home)).map(({ subject }) => subject)).toEqual(expect.not.arrayContaining(["two:1", "flat:1"]));
  });

  test("makes no disk where there is none by now", async () => {
    using home = sound.copy();
    changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old"));
    const problems = await look(home);
    rmSync(home.vmdk(ONE));
    const outcomes = await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
    expect([...outcomes.values()]).toMatchObject([{ mended: false, code: "busy" }]);
    expect(existsSync(home.vmdk(ONE))).toBe(false);
  });

  test("writes a disk through no link that lies in its way", async () => {
    using home = sound.copy();
    const canary = join(home.path, "canary");
    writeFileSync(canary, "alive");
    symlinkSync(canary, join(home.cache, "tmp", `${stem(ONE)}.vmdk.part`));
    changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old"));
    await mend(home);
    expect(readFileSync(canary, "utf8")).toBe("alive");
    expect(readFileSync(home.vmdk(ONE), "utf8")).toBe(
      readFileSync(sound.vmdk(ONE), "utf8").replaceAll(sound.path, home.path),
    );
  });

  test("keeps the pin of a sandbox whose manifest row was lost", async () => {
    using home = sound.copy();
    home.sql(
      `INSERT INTO sandbox (id, name, config, status) VALUES (1, 'web', '{}', 'running');
       INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode) SELECT 1, id, 'erofs' FROM manifest WHERE digest = '${ONE}';
       DELETE FROM manifest WHERE digest = '${ONE}'`,
    );
    await mend(home);
    expect(await look(home)).toEqual([]);
    expect(home.facts()).toEqual(sound.facts());
  });

  test("does not bring back an image that was removed since the check", async () => {
    using home = sound.copy();
    home.sql("UPDATE manifest SET layer_count = 9 WHERE id = 1");
    const problems = await look(home);
    const reference = problems[0]!.subject;
    home.sql(`DELETE FROM image_ref WHERE reference = '${reference}';
      DELETE FROM manifest_layer WHERE manifest_id = 1; DELETE FROM config WHERE manifest_id = 1; DELETE FROM manifest WHERE id = 1`);
    const before = home.rows();
    await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
    expect(home.rows()).toEqual(before);
  });

  test("leaves what got a pin since the check, and what became sound", async () => {
    using home = sound.copy();
    truncateSync(home.layer(OWN), 0);
    truncateSync(home.fsmeta(TWO), 0);
    const problems = await look(home);
    pin(home, ONE);
    writeFileSync(home.fsmeta(TWO), readFileSync(sound.fsmeta(TWO)));
    const files = home.files();
    const outcomes = await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
    expect(home.files()).toEqual(files);
    expect([...outcomes.values()].map((outcome) => outcome.mended)).toEqual([false, false]);
  });

  test.skipIf(process.geteuid?.() !== 0)(
    "gives a disk that it writes anew to the owner of its folder (needs root)",
    async () => {
      using home = sound.copy();
      changeText(home.vmdk(ONE), (text) => text.replaceAll(home.cache, "/srv/old"));
      Bun.spawnSync(["chown", "-R", "12345:23456", home.path]);
      await mend(home);
      expect(codes(await look(home))).toEqual([]);
      const { uid, gid } = statSync(home.vmdk(ONE));
      expect([uid, gid]).toEqual([12345, 23456]);
    },
  );

  test("sweeps nothing once something needs a file of an image that is not on record", async () => {
    using home = sound.copy();
    // The layer may be its, too: nothing tells.
    for (const path of [home.fsmeta(NOWHERE), home.layer(NOWHERE)]) writeFileSync(path, "stray");
    home.age();
    const problems = await look(home);
    pin(home, NOWHERE);
    const files = home.files();
    const outcomes = await using(home, openToWrite, (larder) => repair(larder, problems, { grace: GRACE }));
    expect(home.files()).toEqual(files);
    const reason = `sandbox "web" needs "${home.fsmeta(NOWHERE)}", whose image is not on record`;
    const left = { mended: false, reason: expect.stringContaining(reason) };
    expect([...outcomes.values()]).toEqual([left, left]);
  });

  test("is no use of an image whose rows it writes anew", async () => {
    using home = sound.copy();
    const long = "2026-01-01 00:00:00.000000000";
    home.sql(`UPDATE layer SET last_used_at = '${long}';
      UPDATE image_ref SET updated_at = '${long}';
      UPDATE manifest SET layer_count = 9`);
    await mend(home);
    expect(home.facts()).toEqual(sound.facts());
    const { layer, image_ref } = home.rows() as Record<string, { last_used_at?: string; updated_at?: string }[]>;
    expect(new Set(layer!.map(({ last_used_at }) => last_used_at))).toEqual(new Set([long]));
    expect(new Set(image_ref!.map(({ updated_at }) => updated_at))).toEqual(new Set([long]));
  });
});

describe("examine", () => {
  const REPAIR = { deep: false, mends: true, dryRun: false, grace: GRACE };
  const fates = ({ problems }: CheckReport) => problems.map(({ code, repair }) => [code, repair]);

  /** A home with something to mend by rows, by a removal and by a sweep, and something that no repair mends. */
  function wreck(home: SoundHome): void {
    home.sql(`UPDATE layer SET erofs_size_bytes = NULL WHERE diff_id = '${SHARED}'`);
    truncateSync(home.layer(OWN), 0);
    rmSync(home.vmdk(TWO));
    writeFileSync(home.layer(NOWHERE), "stray");
    home.age();
  }

  test("tells of a repair that is stopped what it has mended, and what is left to mend", async () => {
    using home = sound.copy();
    wreck(home);
    const stopped = () => !existsSync(home.layer(OWN));
    const report = await examine(resolveHome(home.path, {}), { ...REPAIR, stopped });
    expect(fates(report)).toEqual([
      ["artifact-empty", "done"],
      ["erofs-size-unrecorded", "done"],
      ["artifact-missing", null],
      ["stray-file", "possible"],
    ]);
    // What was removed is missing now.
    expect(report).toMatchObject({ damage: 2, notes: 1, failure: null });
    expect(existsSync(home.layer(NOWHERE))).toBe(true);
  });

  test.each([
    ["before its second look", (home: SoundHome) => ({ stopped: () => !existsSync(home.layer(NOWHERE)) })],
    ["in its second look", (home: SoundHome) => stopInSecondLook(home)],
  ])("tells of a repair that is stopped %s what it has mended", async (_when, stop) => {
    using home = sound.copy();
    wreck(home);
    // Left to who uses it, and no failure.
    const lock = `${home.layer(OWN)}.lock`;
    using _ = FileLock.take(lock)!;
    const report = await examine(resolveHome(home.path, {}), { ...REPAIR, ...stop(home) });
    expect(fates(report)).toEqual([
      ["artifact-empty", "left"],
      ["erofs-size-unrecorded", "done"],
      ["artifact-missing", null],
      ["stray-file", "done"],
    ]);
    expect(report).toMatchObject({ damage: 2, notes: 0, failure: null });
    expect(report.problems[0]!.left).toBe(`its lock is held ("${lock}")`);
  });

  /** Long enough for a look to hear of it. */
  function stopInSecondLook(home: SoundHome) {
    let isStopped = false;
    const progress = () => {
      if (isStopped || existsSync(home.layer(NOWHERE))) return;
      isStopped = true;
      Bun.sleepSync(100);
    };
    return { progress, stopped: () => isStopped };
  }

  test("of a check that is stopped tells nothing, and of a repair that has not begun", async () => {
    using home = sound.copy();
    wreck(home);
    const before = { rows: home.rows(), files: home.files() };
    const progress = () => Bun.sleepSync(100);
    for (const mends of [false, true]) {
      const report = examine(resolveHome(home.path, {}), { ...REPAIR, mends, progress, stopped: () => true });
      expect(await report.catch(({ code }) => code)).toBe("interrupted");
    }
    expect({ rows: home.rows(), files: home.files() }).toEqual(before);
  });
});

/** Puts a sandbox on record that is about to boot from a manifest. */
function pin(home: SoundHome, manifest: string): void {
  const config = JSON.stringify({ image: { digest: manifest } });
  home.sql(`INSERT INTO sandbox (name, config, status) VALUES ('web', '${config}', 'starting')`);
}

/** Leaves an image's metadata but its lowest layer. */
function dropLayers(path: string): void {
  changeJson(path, ({ layers, ...rest }) => ({ ...rest, layers: layers.slice(0, 1) }));
}

/** Puts a sandbox on record with its configurations. */
function sandbox(home: SoundHome, columns: { config?: unknown; active_config?: unknown }): void {
  const [config, active] = [columns.config, columns.active_config].map((value) => JSON.stringify(value ?? {}));
  home.sql(
    `INSERT INTO sandbox (name, config, active_config, status) VALUES ('web', '${config}', '${active}', 'Stopped')`,
  );
}

/** Writes the descriptor of a snapshot of a manifest. */
function snapshot(home: SoundHome, manifest: string): void {
  const folder = join(home.path, "snapshots", "base");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "snapshot.json"), JSON.stringify({ image: { manifest_digest: manifest } }));
}

function patch(path: string, offset: number, byte: number): void {
  const bytes = readFileSync(path);
  bytes[offset] = byte;
  writeFileSync(path, bytes);
}

function replaceByLink(path: string, target: string): void {
  rmSync(path);
  symlinkSync(target, path);
}

function changeText(path: string, change: (text: string) => string): void {
  const text = readFileSync(path, "utf8");
  const changed = change(text);
  if (changed === text) throw new Error(`${dirname(path)} was not damaged`);
  writeFileSync(path, changed);
}

// biome-ignore lint/suspicious/noExplicitAny: damage may take any shape
function changeJson(path: string, change: (value: any) => unknown): void {
  changeText(path, (text) => JSON.stringify(change(JSON.parse(text))));
}
