import * as v from "valibot";
import { KINDS } from "../cache/paths.ts";
import { CODES } from "../error.ts";
import type { Digest } from "../oci/digest.ts";
import { PROBLEM_CODES } from "../ops/check/problem.ts";
import type { CheckReport } from "../ops/check/report.ts";
import type { DfReport } from "../ops/df.ts";
import type { GcReport } from "../ops/gc.ts";
import type { Handle } from "../ops/images.ts";
import type { Detail } from "../ops/inspect.ts";
import type { Persisted } from "../ops/persist.ts";
import type { PruneReport } from "../ops/prune.ts";
import { CAUSES } from "../ops/prune-plan.ts";
import type { RemoveReport } from "../ops/remove.ts";
import { HTTP_CODES } from "./problem.ts";

// What goes in is validated by these at run time; what comes out is described by them, checked against the operations'
// own types when larder is compiled, and against real answers by the tests.

/** A value as it looks once it has been through JSON: a BigInt is an integer there. */
type Json<T> = T extends bigint
  ? number
  : T extends Digest
    ? string
    : T extends (infer I)[]
      ? Json<I>[]
      : T extends object
        ? { [K in keyof T]: Json<T[K]> }
        : T;

// Fails to compile where a schema and the type that it describes differ.
function describes<T>() {
  return <S extends v.GenericSchema<unknown, Json<T>>>(schema: Json<T> extends v.InferOutput<S> ? S : never): S =>
    schema;
}

const integer = v.pipe(v.number(), v.integer());
const text = v.nullable(v.string());
const Pin = v.object({ kind: v.picklist(["sandbox", "snapshot"]), name: v.string() });

const handle = {
  architecture: text,
  created_at: text,
  digest: text,
  layer_count: v.nullable(integer),
  os: text,
  reference: text,
  size_bytes: v.nullable(integer),
  canonical: text,
  last_used_at: text,
  media_type: text,
  pinned_by: v.array(Pin),
  variant: text,
  damage: v.array(v.string()),
};
export const HandleSchema = describes<Handle>()(v.object(handle));
export const HandlesSchema = v.array(HandleSchema);

const strings = v.array(v.string());
export const DetailSchema = describes<Detail>()(
  v.object({
    ...handle,
    config: v.nullable(
      v.object({
        cmd: v.nullable(strings),
        digest: text,
        entrypoint: v.nullable(strings),
        env: strings,
        labels: v.nullable(v.record(v.string(), v.string())),
        stop_signal: text,
        user: text,
        working_dir: text,
        exposed_ports: v.nullable(strings),
        volumes: v.nullable(strings),
      }),
    ),
    layers: v.array(
      v.object({
        blob_digest: text,
        compressed_size_bytes: v.nullable(integer),
        diff_id: text,
        erofs_size_bytes: v.nullable(integer),
        media_type: text,
        position: v.nullable(integer),
        created_at: text,
        last_used_at: text,
      }),
    ),
  }),
);

export const PersistedSchema = describes<Persisted>()(
  v.object({ reference: v.string(), canonical: v.string(), digest: v.string() }),
);
export const BatchSchema = v.object({
  persisted: v.array(PersistedSchema),
  refused: v.array(v.object({ line: integer, message: v.string() })),
});

const kind = v.picklist(KINDS);
const left = v.array(v.object({ kind, path: v.string(), reason: v.string() }));
const disk = {
  database: v.string(),
  cache: v.string(),
  dry_run: v.boolean(),
  files: v.array(v.object({ kind, path: v.string(), bytes: integer })),
  skipped: left,
  failed: left,
  bytes_reclaimed: integer,
};
const code = v.picklist(CODES);

export const RemoveSchema = describes<RemoveReport>()(
  v.object({
    removed: v.array(v.object({ reference: v.string(), digest: text })),
    manifests: strings,
    layers: strings,
    untagged: v.array(v.object({ digest: v.string(), pinned_by: v.array(Pin) })),
    unsafe: strings,
    refused: v.array(v.object({ reference: v.string(), code, message: v.string() })),
    ...disk,
  }),
);

const collected = {
  manifests: strings,
  layers: strings,
  unsafe: strings,
  spared: v.array(v.object({ digest: v.string(), reason: v.string() })),
  unaccounted: text,
};
export const GcSchema = describes<GcReport>()(v.object({ ...collected, ...disk }));

const cause = v.picklist(CAUSES);
export const PruneSchema = describes<PruneReport>()(
  v.object({
    decisions: v.array(
      v.object({
        action: v.picklist(["evict", "keep"]),
        reference: text,
        digest: v.string(),
        cause,
        reason: v.string(),
        bytes: integer,
        last_used_at: text,
      }),
    ),
    unmatched_keeps: strings,
    target: v.nullable(
      v.object({
        needed: integer,
        planned: integer,
        missing: integer,
        left: integer,
        lacking: integer,
        waits_for: text,
      }),
    ),
    references: strings,
    ...collected,
    ...disk,
  }),
);

export const CheckSchema = describes<CheckReport>()(
  v.object({
    database: v.string(),
    cache: v.string(),
    deep: v.boolean(),
    dry_run: v.boolean(),
    problems: v.array(
      v.object({
        code: v.picklist(PROBLEM_CODES),
        severity: v.picklist(["damage", "note"]),
        subject: v.string(),
        message: v.string(),
        advice: v.string(),
        repair: v.nullable(v.picklist(["possible", "planned", "done", "left"])),
        remedy: text,
        left: text,
      }),
    ),
    damage: integer,
    notes: integer,
    failure: v.nullable(code),
  }),
);

const figures = { files: integer, bytes: integer, allocated_bytes: integer, reclaimable_bytes: integer };
export const DfSchema = describes<DfReport>()(
  v.object({
    database: v.string(),
    cache: v.string(),
    kinds: v.array(
      v.object({
        kind: v.picklist(["layer", "fsmeta", "vmdk", "flat_ref", "flat_blob", "metadata", "staging", "lock", "stray"]),
        ...figures,
      }),
    ),
    total: v.object(figures),
    refused: text,
    attribution: v.object({ own_bytes: integer, shared_bytes: integer, unattributed_bytes: integer }),
    file_system: v.object({ total_bytes: integer, used_bytes: integer, free_bytes: integer }),
    images: v.array(
      v.object({
        digest: v.string(),
        references: strings,
        own_bytes: integer,
        shared_bytes: integer,
        last_used_at: text,
        pinned_by: v.array(Pin),
      }),
    ),
  }),
);

/** RFC 9457, with larder's own code. */
export const ProblemSchema = v.object({
  type: v.literal("about:blank"),
  title: v.string(),
  status: integer,
  code: v.picklist(HTTP_CODES),
  detail: v.string(),
  request_id: v.string(),
});

export const StatusSchema = v.object({ status: v.string() });

const flag = v.optional(v.picklist(["true", "false"]));
const told = (what: string) => v.optional(v.pipe(v.string(), v.description(what)));
const DURATION = "A whole number with s, m, h or d: 90s, 15m, 12h, 14d";
const duration = told(DURATION);
const percent = told("A percentage of the file system: 85%");
const size = v.optional(
  v.pipe(
    v.union([v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(Number.MAX_SAFE_INTEGER)), v.string()]),
    v.description("Bytes, or text such as 500MB or 20GiB"),
  ),
);
const name = v.pipe(v.string(), v.nonEmpty("must not be empty"));
export const NamedQuery = v.strictObject({ reference: name });
export const RemoveQuery = v.strictObject({ reference: name, force: flag, dry_run: flag });
export const CheckQuery = v.strictObject({ deep: flag, grace: duration });
export const NoQuery = v.strictObject({});
const alternatives = (what: string) =>
  v.optional(v.pipe(v.array(name), v.description(`${what}; any of them may match`)));
export const ListQuery = v.strictObject({
  reference: alternatives("Globs on the reference, as typed or canonical"),
  label: alternatives("Labels of the config: KEY, or KEY=VALUE"),
  digest: alternatives("Prefixes of the digest, with or without its algorithm"),
  pinned: flag,
  untagged: flag,
  until: told(`Put on record longer ago than that. ${DURATION}`),
  all: flag,
  limit: v.optional(v.pipe(v.string(), v.regex(/^[1-9]\d{0,4}$/, "must be a whole number from 1 to 99999"))),
  cursor: told("Where a page begins: from the Link header of the page before"),
});

const option = v.optional(v.boolean());
export const GcBody = v.strictObject({
  layers_only: option,
  grace: duration,
  sweep_unrecorded: option,
  dry_run: option,
});
export const RepairBody = v.strictObject({ deep: option, grace: duration, dry_run: option });
/** The policy, by the names of the command's flags. */
export const PruneBody = v.strictObject({
  unused: option,
  untagged: option,
  older_than: duration,
  keep_last: v.optional(v.union([v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(999_999)), v.string()])),
  max_size: size,
  min_free: v.optional(v.union([size.wrapped, percent.wrapped])),
  high: percent,
  low: percent,
  keep: v.optional(v.array(name)),
  min_age: duration,
  grace: duration,
  sweep_unrecorded: option,
  dry_run: option,
});
