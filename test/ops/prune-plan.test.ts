import { describe, expect, test } from "bun:test";
import { canonicalReference, isReference } from "../../src/oci/reference.ts";
import {
  type BudgetTarget,
  type PruneImage,
  type PrunePlan,
  type PrunePolicy,
  type PruneState,
  planPrune,
} from "../../src/ops/prune-plan.ts";
import { freed, type OracleVerdict, oracle } from "./prune-oracle.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const NOW = Date.UTC(2026, 4, 17, 12);

/** An image as a case writes it. Times are ages in milliseconds; a negative one lies in the future. */
interface Given {
  /** Its names; none for an untagged manifest. */
  names?: string[];
  /** Ages by creation of these names, in order; where it was last used, if not given. */
  created?: (number | null)[];
  used: number | null;
  /** Files: of its own by size, shared ones by name. */
  own?: number;
  shares?: string[];
  pinnedBy?: PruneImage["pinnedBy"];
  locked?: string;
  /** What the digest starts with, for ties. */
  digest?: string;
}

interface Case {
  title: string;
  images: Given[];
  shared?: Record<string, number>;
  policy: Partial<PrunePolicy>;
  disk?: Partial<PruneState["disk"]>;
  /** By name, or by `untagged`: what becomes of it, and the bytes that frees where that matters. */
  expected: Record<string, string>;
  target?: Omit<BudgetTarget, "waits_for">;
}

const a: Given = { names: ["acme/a:1"], used: 3 * DAY };
const b: Given = { names: ["acme/b:1"], used: 2 * DAY };
const c: Given = { names: ["acme/c:1"], used: 1 * DAY };

const CASES: Case[] = [
  // Protections.
  {
    title: "keeps an image in use by a sandbox, whatever the rules",
    images: [{ ...a, pinnedBy: [{ kind: "sandbox", name: "web" }] }, b],
    policy: { unused: true, olderThan: DAY, keepLast: 0 },
    expected: { "acme/a:1": "keep pinned", "acme/b:1": "evict older-than 100" },
  },
  {
    title: "keeps an image in use by a snapshot from a budget that it would meet",
    images: [{ ...a, pinnedBy: [{ kind: "snapshot", name: "base" }] }, b],
    policy: { maxSize: 100 },
    expected: { "acme/a:1": "keep pinned", "acme/b:1": "evict budget 100" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "keeps an untagged image in use",
    images: [{ used: 30 * DAY, pinnedBy: [{ kind: "sandbox", name: "web" }] }],
    policy: { untagged: true },
    expected: { untagged: "keep pinned" },
  },
  {
    title: "keeps an image that a pull has locked",
    images: [{ ...a, locked: "/cache/layers/x.lock" }, b],
    policy: { unused: true },
    expected: { "acme/a:1": "keep locked", "acme/b:1": "evict unused" },
  },
  {
    title: "keeps a locked image from the budget",
    images: [{ ...a, locked: "/cache/layers/x.lock" }],
    policy: { maxSize: 0 },
    expected: { "acme/a:1": "keep locked" },
    target: { needed: 100, planned: 0, missing: 100 },
  },
  {
    title: "keeps what is younger than min-age, and nothing that is exactly as old",
    images: [
      { ...a, used: 10 * MINUTE - 1 },
      { ...b, used: 10 * MINUTE },
    ],
    policy: { unused: true },
    expected: { "acme/a:1": "keep min-age", "acme/b:1": "evict unused" },
  },
  {
    title: "keeps the young from the budget",
    images: [{ ...a, used: 0 }, b],
    policy: { maxSize: 0 },
    expected: { "acme/a:1": "keep min-age", "acme/b:1": "evict budget 100" },
    target: { needed: 200, planned: 100, missing: 100 },
  },
  {
    title: "counts a last use in the future as now, never as old",
    images: [{ ...a, used: -5 * 365 * DAY, created: [30 * DAY] }],
    policy: { unused: true, olderThan: MINUTE },
    expected: { "acme/a:1": "keep min-age" },
  },
  {
    title: "counts an unknown last use as now",
    images: [{ ...a, used: null, created: [30 * DAY] }],
    policy: { unused: true },
    expected: { "acme/a:1": "keep min-age" },
  },
  {
    title: "does not let an unknown last use match older-than even without a min-age",
    images: [{ ...a, used: null, created: [null] }],
    policy: { olderThan: 1, minAge: 0 },
    expected: { "acme/a:1": "keep no-rule" },
  },
  {
    title: "lets a min-age of nothing protect nothing",
    images: [{ ...a, used: 0 }],
    policy: { unused: true, minAge: 0 },
    expected: { "acme/a:1": "evict unused" },
  },
  {
    title: "keeps an image whose newest name is young",
    images: [{ names: ["acme/a:1", "acme/a:2"], used: 3 * DAY, created: [3 * DAY, MINUTE] }],
    policy: { unused: true },
    expected: { "acme/a:1": "keep min-age", "acme/a:2": "keep min-age" },
  },
  {
    title: "names the pin before any other protection",
    images: [{ ...a, used: 0, pinnedBy: [{ kind: "sandbox", name: "web" }], locked: "x" }],
    policy: { unused: true, keep: ["*"] },
    expected: { "acme/a:1": "keep pinned" },
  },
  // --keep, in each spelling.
  ...(
    [
      ["the reference as typed", "python:3.12", "python:3.12"],
      ["another spelling of it", "docker.io/library/python:3.12", "python:3.12"],
      ["a short spelling of a long one", "python:3.12", "index.docker.io/library/python:3.12"],
      ["a name without a tag for :latest", "python", "docker.io/library/python:latest"],
      ["a glob over what was typed", "python:3.*", "python:3.12"],
      ["a glob over the canonical form", "docker.io/library/*", "python:3.12"],
      ["a glob with one open character", "python:3.1?", "python:3.12"],
      ["a glob across slashes", "ghcr.io/*:stable", "ghcr.io/acme/base/deep:stable"],
      ["a star for everything", "*", "python:3.12"],
      ["a glob over a stored name that is no reference", "Bad*", "Bad Name"],
    ] as const
  ).map(
    ([title, keep, reference]): Case => ({
      title: `keeps by ${title}: ${keep}`,
      images: [{ names: [reference], used: 9 * DAY }],
      policy: { unused: true, keep: ["other/*", keep] },
      expected: { [reference]: "keep keep" },
    }),
  ),
  ...(
    [
      ["a tag that only begins alike", "python:3.1", "python:3.12"],
      ["another host", "ghcr.io/python:3.12", "python:3.12"],
      ["a name without a tag, for another tag", "python", "python:3.12"],
      ["a regular expression", "python:3..2", "python:3.12"],
      ["another letter case", "PYTHON:*", "python:3.12"],
      ["one open character for none", "python:3.12?", "python:3.12"],
    ] as const
  ).map(
    ([title, keep, reference]): Case => ({
      title: `does not keep by ${title}: ${keep}`,
      images: [{ names: [reference], used: 9 * DAY }],
      policy: { unused: true, keep: [keep] },
      expected: { [reference]: "evict unused" },
    }),
  ),
  {
    title: "keeps one alias, and drops the other by rule",
    images: [{ names: ["acme/a:1", "acme/a:stable"], used: 9 * DAY }],
    policy: { unused: true, keep: ["*:stable"] },
    expected: { "acme/a:1": "evict unused 0", "acme/a:stable": "keep keep 0" },
  },
  {
    title: "keeps an image with one kept alias from the budget, whole",
    images: [{ names: ["acme/a:1", "acme/a:stable"], used: 9 * DAY }],
    policy: { maxSize: 0, keep: ["*:stable"] },
    expected: { "acme/a:1": "keep keep 0", "acme/a:stable": "keep keep 0" },
    target: { needed: 100, planned: 0, missing: 100 },
  },
  {
    title: "keeps a name by a glob for another way to write it",
    images: [{ names: ["docker.io/library/python:3.12", "index.docker.io/library/node:20"], used: 9 * DAY }],
    policy: { unused: true, keep: ["python:*", "docker.io/node:*"] },
    expected: { "docker.io/library/python:3.12": "keep keep", "index.docker.io/library/node:20": "keep keep" },
  },
  // Rules, one by one.
  { title: "decides nothing about nothing", images: [], policy: { unused: true }, expected: {} },
  {
    title: "evicts by --unused whatever nothing protects",
    images: [a, b, c],
    policy: { unused: true },
    expected: { "acme/a:1": "evict unused 100", "acme/b:1": "evict unused 100", "acme/c:1": "evict unused 100" },
  },
  {
    title: "evicts by --older-than what was not used for that long, to the millisecond",
    images: [{ ...a, used: DAY }, { ...b, used: DAY - 1 }, c],
    policy: { olderThan: DAY },
    expected: { "acme/a:1": "evict older-than", "acme/b:1": "keep no-rule", "acme/c:1": "evict older-than" },
  },
  {
    title: "counts --older-than from the last use and not from creation",
    images: [{ ...a, used: HOUR, created: [90 * DAY] }],
    policy: { olderThan: DAY },
    expected: { "acme/a:1": "keep no-rule" },
  },
  {
    title: "keeps by --keep-last the newest by creation of each repository",
    images: [
      { names: ["acme/a:1"], used: HOUR, created: [3 * DAY] },
      { names: ["acme/a:2"], used: 9 * DAY, created: [2 * DAY] },
      { names: ["acme/a:3"], used: 9 * DAY, created: [DAY] },
      { names: ["acme/b:1"], used: 9 * DAY },
    ],
    policy: { keepLast: 2 },
    expected: {
      "acme/a:1": "evict keep-last",
      "acme/a:2": "keep no-rule",
      "acme/a:3": "keep no-rule",
      "acme/b:1": "keep no-rule",
    },
  },
  {
    title: "counts the spellings of one repository together",
    images: [
      { names: ["python:3.10"], used: 9 * DAY },
      { names: ["docker.io/python:3.11"], used: 8 * DAY },
      { names: ["index.docker.io/library/python:3.12"], used: 7 * DAY },
      { names: ["ghcr.io/library/python:3.12"], used: 9 * DAY },
    ],
    policy: { keepLast: 1 },
    expected: {
      "python:3.10": "evict keep-last",
      "docker.io/python:3.11": "evict keep-last",
      "index.docker.io/library/python:3.12": "keep no-rule",
      "ghcr.io/library/python:3.12": "keep no-rule",
    },
  },
  {
    title: "does not cut a registry's port off as a tag",
    images: [
      { names: ["localhost:5000/a"], used: 9 * DAY },
      { names: ["localhost:5001/a"], used: 8 * DAY },
    ],
    policy: { keepLast: 1 },
    expected: { "localhost:5000/a": "keep no-rule", "localhost:5001/a": "keep no-rule" },
  },
  {
    title: "takes every name by --keep-last 0",
    images: [a, b],
    policy: { keepLast: 0 },
    expected: { "acme/a:1": "evict keep-last", "acme/b:1": "evict keep-last" },
  },
  {
    title: "counts protected images among the newest",
    images: [
      { names: ["acme/a:1"], used: 9 * DAY },
      { names: ["acme/a:2"], used: 8 * DAY },
      { names: ["acme/a:3"], used: 7 * DAY, pinnedBy: [{ kind: "sandbox", name: "web" }] },
    ],
    policy: { keepLast: 1 },
    expected: { "acme/a:1": "evict keep-last", "acme/a:2": "evict keep-last", "acme/a:3": "keep pinned" },
  },
  {
    title: "counts a creation that is unknown or in the future as newest",
    images: [
      { names: ["acme/a:1"], used: 9 * DAY, created: [HOUR] },
      { names: ["acme/a:2"], used: 9 * DAY, created: [null] },
      { names: ["acme/b:1"], used: 9 * DAY, created: [HOUR] },
      { names: ["acme/b:2"], used: 9 * DAY, created: [-DAY] },
    ],
    policy: { keepLast: 1, minAge: 0 },
    expected: {
      "acme/a:1": "evict keep-last",
      "acme/a:2": "keep no-rule",
      "acme/b:1": "evict keep-last",
      "acme/b:2": "keep no-rule",
    },
  },
  {
    title: "decides about aliases singly by rule, and frees nothing while one name stays",
    images: [
      { names: ["acme/a:1", "acme/a:2"], used: 9 * DAY, created: [9 * DAY, 2 * DAY] },
      { names: ["acme/a:3"], used: 9 * DAY, created: [3 * DAY] },
    ],
    policy: { keepLast: 1 },
    expected: { "acme/a:1": "evict keep-last 0", "acme/a:2": "keep no-rule 0", "acme/a:3": "evict keep-last 100" },
  },
  {
    title: "collects by --untagged untagged images only",
    images: [a, { used: 9 * DAY }],
    policy: { untagged: true },
    expected: { "acme/a:1": "keep no-rule", untagged: "evict untagged 100" },
  },
  {
    title: "spares a young untagged image",
    images: [{ used: 9 * MINUTE }],
    policy: { untagged: true },
    expected: { untagged: "keep min-age" },
  },
  {
    title: "leaves untagged images to the gc that follows any rule",
    images: [a, { used: HOUR }],
    policy: { olderThan: 2 * DAY },
    expected: { "acme/a:1": "evict older-than 100", untagged: "evict untagged 100" },
  },
  // Rules together.
  {
    title: "wants every rule that is given to match",
    images: [
      { names: ["acme/a:1"], used: 9 * DAY, created: [9 * DAY] },
      { names: ["acme/a:2"], used: HOUR, created: [8 * DAY] },
      { names: ["acme/a:3"], used: 9 * DAY, created: [7 * DAY] },
    ],
    policy: { unused: true, olderThan: DAY, keepLast: 1 },
    expected: { "acme/a:1": "evict older-than", "acme/a:2": "keep no-rule", "acme/a:3": "keep no-rule" },
  },
  {
    title: "matches no named image by --untagged with another rule",
    images: [a, { used: 9 * DAY }],
    policy: { untagged: true, unused: true, keepLast: 0 },
    expected: { "acme/a:1": "keep no-rule", untagged: "evict untagged" },
  },
  // Budgets.
  {
    title: "evicts nothing for a size that the cache just has",
    images: [a, b],
    policy: { maxSize: 200 },
    expected: { "acme/a:1": "keep within-budget", "acme/b:1": "keep within-budget" },
    target: { needed: 0, planned: 0, missing: 0 },
  },
  {
    title: "evicts the least recently used for one byte too much, and no more",
    images: [c, b, a],
    policy: { maxSize: 299 },
    expected: { "acme/c:1": "keep within-budget", "acme/b:1": "keep within-budget", "acme/a:1": "evict budget 100" },
    target: { needed: 1, planned: 100, missing: 0 },
  },
  {
    title: "breaks a tie of age by digest",
    images: [
      { names: ["acme/z:1"], used: DAY, digest: "b" },
      { names: ["acme/y:1"], used: DAY, digest: "a" },
      { names: ["acme/x:1"], used: DAY, digest: "c" },
    ],
    policy: { maxSize: 150 },
    expected: { "acme/z:1": "evict budget", "acme/y:1": "evict budget", "acme/x:1": "keep within-budget" },
    target: { needed: 150, planned: 200, missing: 0 },
  },
  {
    title: "takes ages in the future for equal, so that the digest decides",
    images: [
      { names: ["acme/z:1"], used: -DAY, created: [DAY], digest: "b" },
      { names: ["acme/y:1"], used: null, created: [DAY], digest: "a" },
      { names: ["acme/x:1"], used: -2 * DAY, created: [DAY], digest: "c" },
    ],
    policy: { maxSize: 200, minAge: 0 },
    expected: { "acme/z:1": "keep within-budget", "acme/y:1": "evict budget", "acme/x:1": "keep within-budget" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "counts for the space freed only what no kept image shares",
    images: [{ ...a, shares: ["base"] }, { ...b, shares: ["base"], pinnedBy: [{ kind: "sandbox", name: "s" }] }, c],
    shared: { base: 1000 },
    policy: { maxSize: 1150 },
    expected: { "acme/a:1": "evict budget 100", "acme/b:1": "keep pinned 0", "acme/c:1": "evict budget 100" },
    target: { needed: 150, planned: 200, missing: 0 },
  },
  {
    title: "frees a shared file with the last image that has it",
    images: [{ ...a, shares: ["base"] }, { ...b, shares: ["base"] }, c],
    shared: { base: 1000 },
    policy: { maxSize: 200 },
    expected: { "acme/a:1": "evict budget 100", "acme/b:1": "evict budget 1100", "acme/c:1": "keep within-budget 0" },
    target: { needed: 1100, planned: 1200, missing: 0 },
  },
  {
    title: "counts a file twice in one image once",
    images: [{ ...a, shares: ["base"] }],
    shared: { base: 50, other: 7 },
    policy: { maxSize: 0 },
    expected: { "acme/a:1": "evict budget 150" },
    target: { needed: 157, planned: 150, missing: 7 },
  },
  {
    title: "spares, newest first, what the target holds without",
    images: [
      { ...a, own: 10 },
      { ...b, own: 20 },
      { ...c, own: 100 },
    ],
    policy: { maxSize: 40 },
    expected: { "acme/a:1": "keep within-budget", "acme/b:1": "keep within-budget", "acme/c:1": "evict budget 100" },
    target: { needed: 90, planned: 100, missing: 0 },
  },
  {
    title: "spares the newer of two images of which either would do",
    images: [
      { ...a, own: 50 },
      { ...b, own: 50 },
      { ...c, own: 100 },
    ],
    policy: { maxSize: 50 },
    expected: { "acme/a:1": "evict budget 50", "acme/b:1": "keep within-budget", "acme/c:1": "evict budget 100" },
    target: { needed: 150, planned: 150, missing: 0 },
  },
  {
    title: "spares an image that frees nothing where the target is reached",
    images: [
      { ...a, own: 0, shares: ["base"] },
      { ...b, own: 100 },
      { ...c, own: 0, shares: ["base"] },
    ],
    shared: { base: 1000 },
    policy: { maxSize: 1000 },
    expected: { "acme/a:1": "keep within-budget", "acme/b:1": "evict budget 100", "acme/c:1": "keep within-budget" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "takes all that frees bytes and nothing else for a target out of reach, and says what is missing",
    images: [
      { ...a, own: 0, shares: ["base"] },
      { ...b, own: 70 },
      { ...c, own: 30, shares: ["base"], pinnedBy: [{ kind: "snapshot", name: "s" }] },
    ],
    shared: { base: 1000 },
    policy: { maxSize: 0 },
    expected: { "acme/a:1": "keep within-budget 0", "acme/b:1": "evict budget 70", "acme/c:1": "keep pinned" },
    target: { needed: 1100, planned: 70, missing: 1030 },
  },
  {
    title: "lets garbage serve the target first",
    images: [a, b],
    policy: { maxSize: 200 },
    disk: { garbageBytes: 100, cacheBytes: 300 },
    expected: { "acme/a:1": "keep within-budget", "acme/b:1": "keep within-budget" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "evicts only for what garbage leaves to free",
    images: [a, b],
    policy: { maxSize: 99 },
    disk: { garbageBytes: 100, cacheBytes: 300 },
    expected: { "acme/a:1": "evict budget 100", "acme/b:1": "evict budget 100" },
    target: { needed: 201, planned: 300, missing: 0 },
  },
  {
    title: "counts garbage in what is missing",
    images: [],
    policy: { maxSize: 0 },
    disk: { garbageBytes: 30, cacheBytes: 100 },
    expected: {},
    target: { needed: 100, planned: 30, missing: 70 },
  },
  {
    title: "lets the untagged images that go anyway serve the target",
    images: [a, { used: 9 * DAY, own: 60 }],
    policy: { maxSize: 100 },
    expected: { "acme/a:1": "keep within-budget", untagged: "evict untagged 60" },
    target: { needed: 60, planned: 60, missing: 0 },
  },
  {
    title: "frees up to --min-free in bytes",
    images: [a, b],
    policy: { minFree: { bytes: 1050 } },
    disk: { totalBytes: 10_000, freeBytes: 1000 },
    expected: { "acme/a:1": "evict budget", "acme/b:1": "keep within-budget" },
    target: { needed: 50, planned: 100, missing: 0 },
  },
  {
    title: "does nothing where --min-free holds already",
    images: [a],
    policy: { minFree: { bytes: 1000 } },
    disk: { totalBytes: 10_000, freeBytes: 1000 },
    expected: { "acme/a:1": "keep within-budget" },
    target: { needed: 0, planned: 0, missing: 0 },
  },
  {
    title: "frees up to --min-free in percent, rounded up to a byte",
    images: [a],
    policy: { minFree: { percent: 10 } },
    disk: { totalBytes: 9991, freeBytes: 999 },
    expected: { "acme/a:1": "evict budget" },
    target: { needed: 1, planned: 100, missing: 0 },
  },
  {
    title: "does nothing below the high watermark, however far above the low one",
    images: [a],
    policy: { watermarks: { high: 85, low: 10 } },
    disk: { totalBytes: 10_000, freeBytes: 1501 },
    expected: { "acme/a:1": "keep within-budget" },
    target: { needed: 0, planned: 0, missing: 0 },
  },
  {
    title: "frees down to the low watermark at the high one",
    images: [a, b, c],
    policy: { watermarks: { high: 85, low: 84 } },
    disk: { totalBytes: 10_000, freeBytes: 1500 },
    expected: { "acme/a:1": "evict budget", "acme/b:1": "keep within-budget", "acme/c:1": "keep within-budget" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "frees down to the low watermark from above the high one",
    images: [a, b, c],
    policy: { watermarks: { high: 85, low: 84 } },
    disk: { totalBytes: 10_000, freeBytes: 1450 },
    expected: { "acme/a:1": "evict budget", "acme/b:1": "evict budget", "acme/c:1": "keep within-budget" },
    target: { needed: 150, planned: 200, missing: 0 },
  },
  {
    title: "takes equal watermarks for one line",
    images: [a],
    policy: { watermarks: { high: 90, low: 90 } },
    disk: { totalBytes: 10_000, freeBytes: 1000 },
    expected: { "acme/a:1": "keep within-budget" },
    target: { needed: 0, planned: 0, missing: 0 },
  },
  {
    title: "meets the hardest of several budgets",
    images: [a, b, c],
    policy: { maxSize: 250, minFree: { bytes: 1150 }, watermarks: { high: 99, low: 0 } },
    disk: { totalBytes: 10_000, freeBytes: 1000 },
    expected: { "acme/a:1": "evict budget", "acme/b:1": "evict budget", "acme/c:1": "keep within-budget" },
    target: { needed: 150, planned: 200, missing: 0 },
  },
  // Rules, then a budget on what is left.
  {
    title: "counts what rules free towards the budget",
    images: [a, b, c],
    policy: { olderThan: 3 * DAY, maxSize: 200 },
    expected: {
      "acme/a:1": "evict older-than 100",
      "acme/b:1": "keep within-budget",
      "acme/c:1": "keep within-budget",
    },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "goes on by budget where rules do not free enough, whatever the rules say of the rest",
    images: [a, b, c],
    policy: { olderThan: 3 * DAY, maxSize: 100 },
    expected: { "acme/a:1": "evict older-than 100", "acme/b:1": "evict budget 100", "acme/c:1": "keep within-budget" },
    target: { needed: 200, planned: 200, missing: 0 },
  },
  {
    title: "spares nothing that a rule took",
    images: [a, { ...b, own: 1000 }],
    policy: { olderThan: 3 * DAY, maxSize: 100 },
    expected: { "acme/a:1": "evict older-than 100", "acme/b:1": "evict budget 1000" },
    target: { needed: 1000, planned: 1100, missing: 0 },
  },
  {
    title: "gives a file that a rule and the budget free to the image that went last",
    images: [
      { ...a, shares: ["base"] },
      { ...b, shares: ["base"] },
    ],
    shared: { base: 1000 },
    policy: { olderThan: 3 * DAY, maxSize: 0 },
    expected: { "acme/a:1": "evict older-than 100", "acme/b:1": "evict budget 1100" },
    target: { needed: 1200, planned: 1200, missing: 0 },
  },
  {
    title: "lets aliases fall together by budget",
    images: [{ names: ["acme/a:1", "acme/a:2"], used: 9 * DAY }, b],
    policy: { maxSize: 100 },
    expected: { "acme/a:1": "evict budget 0", "acme/a:2": "evict budget 100", "acme/b:1": "keep within-budget" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "takes by budget the alias that the rules left",
    images: [{ names: ["acme/a:1", "acme/a:2"], used: 9 * DAY, created: [9 * DAY, 8 * DAY] }],
    policy: { keepLast: 1, maxSize: 0 },
    expected: { "acme/a:1": "evict keep-last 0", "acme/a:2": "evict budget 100" },
    target: { needed: 100, planned: 100, missing: 0 },
  },
  {
    title: "works with --untagged beside a budget",
    images: [a, { used: 9 * DAY }],
    policy: { untagged: true, maxSize: 0 },
    expected: { "acme/a:1": "evict budget 100", untagged: "evict untagged 100" },
    target: { needed: 200, planned: 200, missing: 0 },
  },
];

describe("planPrune", () => {
  test.each(CASES.map((each): [string, Case] => [each.title, each]))("%s", (_, each) => {
    const state = stateOf(each);
    const plan = planPrune(state, { keep: [], minAge: 10 * MINUTE, ...each.policy }, NOW);
    const found: Record<string, string> = {};
    for (const { reference, action, cause, bytes } of plan.decisions) {
      const name = reference ?? "untagged";
      const hasBytes = / \d+$/.test(each.expected[name] ?? "");
      found[name] = `${action} ${cause}${hasBytes ? ` ${bytes}` : ""}`;
    }
    expect(found).toEqual(each.expected);
    expect(plan.decisions).toHaveLength(Object.keys(each.expected).length);
    expect(plan.target).toEqual(each.target ? { ...each.target, waits_for: null } : null);
  });

  test("evicts nothing by budget while work runs, unless rules and garbage are enough", () => {
    const images: Given[] = [
      { names: ["acme/a:1"], used: 9 * DAY },
      { names: ["acme/b:1"], used: 2 * DAY },
    ];
    const state = { ...stateOf({ images }), work: "/cache/tmp/x.download.lock" };
    const decide = (policy: Partial<PrunePolicy>) => planPrune(state, { keep: [], minAge: 0, ...policy }, NOW);
    const waiting = decide({ maxSize: 50 });
    expect(waiting.decisions.map(({ action, cause }) => `${action} ${cause}`)).toEqual(["keep locked", "keep locked"]);
    expect(waiting.decisions[0]!.reason).toBe(
      'a pull or load is running ("/cache/tmp/x.download.lock"), and no file may go',
    );
    expect(waiting.target).toEqual({ needed: 150, planned: 0, missing: 0, waits_for: "/cache/tmp/x.download.lock" });
    const short = decide({ olderThan: 3 * DAY, maxSize: 50 });
    expect(short.decisions.map(({ action, cause }) => `${action} ${cause}`)).toEqual([
      "evict older-than",
      "keep locked",
    ]);
    expect(short.target).toEqual({ needed: 150, planned: 100, missing: 0, waits_for: "/cache/tmp/x.download.lock" });
    const enough = decide({ olderThan: 3 * DAY, maxSize: 100 });
    expect(enough.decisions.map(({ action, cause }) => `${action} ${cause}`)).toEqual([
      "evict older-than",
      "keep within-budget",
    ]);
    expect(enough.target).toEqual({ needed: 100, planned: 100, missing: 0, waits_for: null });
  });

  test("says in words why each image stays or goes", () => {
    const images: Given[] = [
      { names: ["acme/a:1"], used: 3 * DAY, pinnedBy: [{ kind: "sandbox", name: "web-1" }] },
      { names: ["acme/a:2"], used: 3 * DAY, locked: "/cache/fsmeta/x.lock" },
      { names: ["acme/a:3"], used: 90_000 },
      { names: ["acme/a:4"], used: 3 * HOUR },
      { names: ["acme/a:5"], used: 14 * DAY },
      { names: ["acme/a:6"], used: 14 * DAY },
      { used: 2 * DAY },
    ];
    const plan = planPrune(stateOf({ images }), { keep: ["*:6"], minAge: 10 * MINUTE, olderThan: DAY }, NOW);
    expect(plan.decisions.map(({ reason }) => reason)).toEqual([
      'in use by sandbox "web-1"',
      'a pull or load may be at work on "/cache/fsmeta/x.lock"',
      "used 90s ago, less than 10m",
      "used 3h ago, less than 1d",
      "not used for 14d",
      'kept by "*:6"',
      "no reference names it",
    ]);
  });

  test("names the repository that --keep-last counts in", () => {
    const images: Given[] = [
      { names: ["python:3.11"], used: 3 * DAY },
      { names: ["python:3.12"], used: 2 * DAY },
    ];
    const plan = planPrune(stateOf({ images }), { keep: [], minAge: 0, keepLast: 1 }, NOW);
    expect(plan.decisions.map(({ reason }) => reason)).toEqual([
      "not among the newest 1 of docker.io/library/python",
      "among the newest 1 of docker.io/library/python",
    ]);
  });

  test("agrees with the naive oracle on 2,000 random catalogues", () => {
    const seen = new Map<string, number>();
    const base = Number(process.env.PRUNE_SEED ?? 20_260_517);
    for (let seed = base; seed < base + 2000; seed++) {
      const world = randomWorld(seed);
      const trouble = disagreement(world);
      if (trouble) {
        const small = shrink(world);
        throw new Error(`PRUNE_SEED=${seed}: ${disagreement(small)}\n${JSON.stringify(small, null, 1)}`);
      }
      const { decisions, target } = planPrune(world.state, world.policy, NOW);
      const kinds = new Set<string>(decisions.map(({ cause }) => cause));
      if (target && target.missing > 0) kinds.add("missing");
      if (oracle(world.state, world.policy, NOW).byBudget.size > 1) kinds.add("several by budget");
      for (const kind of kinds) seen.set(kind, (seen.get(kind) ?? 0) + 1);
    }
    // A generator that never gets somewhere proves nothing about it.
    for (const kind of [
      ...["pinned", "keep", "min-age", "locked", "no-rule", "within-budget", "unused", "older-than", "keep-last"],
      ...["untagged", "budget", "missing", "several by budget"],
    ]) {
      expect([kind, (seen.get(kind) ?? 0) > 50]).toEqual([kind, true]);
    }
  });
});

function stateOf({ images: given, shared = {}, disk = {} }: Pick<Case, "images" | "shared" | "disk">): PruneState {
  const files = Object.values(shared);
  let nameId = 0;
  const images = given.map((each, i): PruneImage => {
    const names = (each.names ?? []).map((reference, n) => {
      const age = each.created ? each.created[n]! : each.used;
      nameId++;
      const canonical = isReference(reference) ? canonicalReference(reference) : null;
      return { id: nameId, reference, canonical, createdAt: age === null ? null : NOW - age };
    });
    files.push(each.own ?? 100);
    return {
      manifestId: 1000 + i,
      digest: `sha256:${(each.digest ?? "").padEnd(60, "0")}${i.toString(16).padStart(4, "0")}`,
      names,
      lastUsed: each.used === null ? null : NOW - each.used,
      pinnedBy: each.pinnedBy ?? [],
      files: [files.length - 1, ...(each.shares ?? []).map((name) => Object.keys(shared).indexOf(name))],
      ...(each.locked !== undefined && { locked: each.locked }),
    };
  });
  const cacheBytes = files.reduce((sum, bytes) => sum + bytes, 0);
  // Frozen, because a planner that changes what it is given is not pure.
  return deepFreeze({
    images,
    files,
    disk: { cacheBytes, garbageBytes: 0, totalBytes: 1e9, freeBytes: 5e8, ...disk },
  });
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null)
    for (const each of Object.values(Object.freeze(value))) deepFreeze(each);
  return value;
}

interface World {
  state: PruneState;
  policy: PrunePolicy;
}

/** How the plan departs from the oracle or from what every plan must hold; undefined where it does not. */
function disagreement({ state, policy }: World): string | undefined {
  const plan = planPrune(state, policy, NOW);
  const truth = oracle(state, policy, NOW);
  const byImage = Map.groupBy(plan.decisions, ({ manifestId }) => manifestId);
  const evicted = new Set(
    state.images.filter(({ manifestId }) => byImage.get(manifestId)!.every(({ action }) => action === "evict")),
  );
  const written = (images: Iterable<PruneImage>) =>
    [...images]
      .map(({ manifestId }) => manifestId)
      .sort()
      .join();
  if (written(evicted) !== written(truth.evicted))
    return `it evicts ${written(evicted)}, and the oracle ${written(truth.evicted)}`;
  if (plan.decisions.length !== state.images.reduce((sum, { names }) => sum + Math.max(names.length, 1), 0))
    return "it does not decide about each name once";
  for (const { action, referenceId, manifestId, cause } of plan.decisions) {
    const image = state.images.find((each) => each.manifestId === manifestId)!;
    const isProtected = truth.protectedImages.has(image) || truth.protectedNames.has(referenceId ?? -1);
    if (isProtected && action === "evict") return `it evicts name ${referenceId} of ${manifestId}, which is protected`;
    const goes =
      referenceId === null ? truth.evicted.has(image) : truth.byRule.has(referenceId) || truth.byBudget.has(image);
    if (goes !== (action === "evict")) return `name ${referenceId} of ${manifestId}: ${action} ${cause}`;
    const isForBudget = referenceId !== null && !truth.byRule.has(referenceId);
    if (action === "evict" && isForBudget !== (cause === "budget"))
      return `name ${referenceId} of ${manifestId} goes for the wrong cause, ${cause}`;
  }
  return wrongFigures({ state, policy }, plan, evicted, truth);
}

function wrongFigures(
  { state }: World,
  { decisions, target }: PrunePlan,
  evicted: Set<PruneImage>,
  { byRule, byBudget, needed, missing }: OracleVerdict,
): string | undefined {
  const bytes = freed(state, evicted, byRule);
  const attributed = decisions.reduce((sum, decision) => sum + decision.bytes, 0);
  if (attributed !== bytes) return `its decisions free ${attributed} bytes, and the files that go have ${bytes}`;
  if ((target === null) !== (needed === null)) return "it has a target without a budget, or a budget without a target";
  if (!target) return undefined;
  const planned = state.disk.garbageBytes + bytes;
  if (target.needed !== needed || target.missing !== missing || target.planned !== planned)
    return `its target is ${JSON.stringify(target)}, and not ${JSON.stringify({ needed, planned, missing })}`;
  if (planned + target.missing < target.needed) return "it neither frees the target nor reports the shortfall";
  const goal = Math.min(target.needed, planned);
  for (const image of byBudget) {
    const without = new Set([...evicted].filter((other) => other !== image));
    if (state.disk.garbageBytes + freed(state, without, byRule) >= goal) return `${image.manifestId} could be spared`;
  }
  return undefined;
}

/** The smallest world found, by leaving out images and options one at a time, that still shows a disagreement. */
function shrink(world: World): World {
  for (let smaller: World | undefined = world; smaller; ) {
    world = smaller;
    const { state, policy } = world;
    const options = ["unused", "olderThan", "keepLast", "untagged", "maxSize", "minFree", "watermarks"] as const;
    const tries = [
      ...state.images.map((image) => ({
        state: { ...state, images: state.images.filter((i) => i !== image) },
        policy,
      })),
      ...state.images.flatMap((image) =>
        image.names.map((name) => {
          const fewer = { ...image, names: image.names.filter((other) => other !== name) };
          return { state: { ...state, images: state.images.map((i) => (i === image ? fewer : i)) }, policy };
        }),
      ),
      ...options.filter((option) => option in policy).map((option) => ({ state, policy: omit(policy, option) })),
      ...policy.keep.map((line) => ({ state, policy: { ...policy, keep: policy.keep.filter((l) => l !== line) } })),
    ];
    smaller = tries.find((each) => disagreement(each) !== undefined);
  }
  return world;
}

function omit(policy: PrunePolicy, option: keyof PrunePolicy): PrunePolicy {
  const rest = { ...policy };
  delete (rest as Partial<PrunePolicy>)[option];
  return rest;
}

const REPOSITORIES = ["a", "b", "docker.io/library/a", "docker.io/a", "acme/a", "ghcr.io/acme/a", "localhost:5000/a"];
const KEEPS = ["a", "a:1", "*:2", "ghcr.io/*", "docker.io/library/*", "acme/?:1", "docker.io/acme/a", "*bad*", "b:?"];

/** A random catalogue with its policy. Few ages, sizes and digests, so that ties and exact fits are common. */
function randomWorld(seed: number): World {
  const random = mulberry32(seed);
  const below = (n: number) => Math.floor(random() * n);
  const pick = <T>(from: readonly T[]): T => from[below(from.length)]!;
  const chance = (probability: number) => random() < probability;
  const ages = [-DAY, 0, MINUTE, HOUR, HOUR, 2 * HOUR, DAY, DAY, 2 * DAY, 9 * DAY, 30 * DAY];
  const time = () => (chance(0.05) ? null : NOW - pick(ages));
  const files = Array.from({ length: 1 + below(14) }, () => pick([0, 1, 4096, 4096, 8192, 100_000]));
  const taken = new Set<string>();
  let id = 0;
  const images = Array.from({ length: below(10) }, (_, i): PruneImage => {
    const names = Array.from({ length: pick([0, 1, 1, 1, 1, 2, 3]) }, () => {
      const tag = below(5);
      const reference = chance(0.03) ? `Bad name ${id}` : `${pick(REPOSITORIES)}${tag === 0 ? "" : `:${tag}`}`;
      return { reference, createdAt: time() };
    }).filter(({ reference }) => !taken.has(reference) && taken.add(reference));
    const needed = new Set(Array.from({ length: below(5) }, () => below(files.length)));
    const locked = chance(0.07) ? "/cache/some.lock" : undefined;
    return {
      manifestId: 100 + i,
      digest: `sha256:${(i * 7) % 10}${"0".repeat(63)}`,
      names: names.map(({ reference, createdAt }) => ({
        id: ++id,
        reference,
        createdAt,
        canonical: isReference(reference) ? canonicalReference(reference) : null,
        ...(names.length > 1 && chance(0.8) && { metadata: below(files.length) }),
      })),
      lastUsed: time(),
      pinnedBy: chance(0.12) ? [{ kind: pick(["sandbox", "snapshot"] as const), name: "p" }] : [],
      files: [...needed],
      ...(locked !== undefined && { locked }),
    };
  });
  const sum = files.reduce((total, bytes) => total + bytes, 0);
  const garbageBytes = chance(0.3) ? pick([1, 4096, 50_000]) : 0;
  const totalBytes = pick([1_000_000, 999_983]);
  const disk = { cacheBytes: sum + garbageBytes, garbageBytes, totalBytes, freeBytes: below(totalBytes) };
  const policy: PrunePolicy = {
    keep: chance(0.3) ? [pick(KEEPS), pick(KEEPS)] : [],
    minAge: pick([0, 10 * MINUTE, 10 * MINUTE, HOUR]),
    ...(chance(0.15) && { unused: true }),
    ...(chance(0.3) && { olderThan: pick([HOUR, DAY, 2 * DAY]) }),
    ...(chance(0.25) && { keepLast: below(3) }),
    ...(chance(0.1) && { untagged: true }),
    ...(chance(0.5) && { maxSize: chance(0.2) ? 0 : below(disk.cacheBytes + 1) }),
    ...(chance(0.2) && {
      minFree: chance(0.5) ? { bytes: below(totalBytes) } : { percent: pick([0, 5, 12.5, 50, 100]) },
    }),
    ...(chance(0.2) && {
      watermarks: pick([
        { high: 85, low: 70 },
        { high: 50, low: 50 },
        { high: 10, low: 0 },
      ]),
    }),
  };
  return { state: deepFreeze({ images, files, disk }), policy };
}

function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
