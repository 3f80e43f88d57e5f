import { describe, expect, test } from "bun:test";
import type { ImageRow } from "../../src/db/images.ts";
import type { Pin, Pins } from "../../src/db/pins.ts";
import { planRemoval, type RemovalPlan } from "../../src/ops/remove.ts";
import type { Obstacle } from "../../src/ops/settled.ts";

const A = `sha256:${"a".repeat(64)}`;
const B = `sha256:${"b".repeat(64)}`;
const WEB: Pin = { kind: "sandbox", name: "web-1" };
const BASE: Pin = { kind: "snapshot", name: "base" };

/** A reference row; `manifest` is a row id and its digest. */
function row(id: number, reference: string, manifest: [id: number, digest: string | null] = [1, A]): ImageRow {
  return {
    id,
    reference,
    manifestId: manifest[0],
    digest: manifest[1],
    mediaType: null,
    architecture: "amd64",
    os: "linux",
    variant: null,
    layerCount: 1,
    sizeBytes: 1n,
    createdAt: null,
    storedCreatedAt: null,
    updatedAt: null,
    damage: [],
  };
}

const UNTAGGED: ImageRow = { ...row(0, ""), id: null, reference: null };
const DANGLING: ImageRow = { ...row(1, "a:1"), manifestId: null, digest: null, damage: ["manifest is missing"] };

function pins(pinned: Record<string, Pin[]> = {}, unreadable: string[] = []): Pins {
  return { byDigest: new Map(Object.entries(pinned)), unreadable };
}

function names(...entries: [manifestId: number, ...ids: number[]][]): Map<number, Set<number>> {
  return new Map(entries.map(([manifestId, ...ids]) => [manifestId, new Set(ids)]));
}

interface Case {
  asked: [text: string, ...rows: ImageRow[]][];
  names: Map<number, Set<number>>;
  pins?: Pins;
  force?: boolean;
  ignoreMissing?: boolean;
  obstacles?: [canonical: string, Obstacle][];
  plan: Partial<RemovalPlan>;
}

const [a1, a2] = [row(1, "a:1"), row(2, "a:2")];
const b1 = row(3, "b:1", [2, B]);
const dropA1 = { id: 1, reference: "a:1", digest: A };
const dropA2 = { id: 2, reference: "a:2", digest: A };
const IN_USE = 'cannot remove "a:1": in use by sandbox "web-1" (--force drops the name and keeps its data)';
const UNREADABLE = 'sandbox "db" cannot be read: its config is not JSON';

const CASES: Record<string, Case> = {
  "nothing asked": { asked: [], names: names(), plan: {} },
  "an only name takes its image along": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    plan: { drop: [dropA1], collect: [{ id: 1, digest: A }] },
  },
  "one of two names goes alone": {
    asked: [["a:1", a1]],
    names: names([1, 1, 2]),
    plan: { drop: [dropA1] },
  },
  "both names take it along": {
    asked: [
      ["a:1", a1],
      ["a:2", a2],
    ],
    names: names([1, 1, 2]),
    plan: { drop: [dropA1, dropA2], collect: [{ id: 1, digest: A }] },
  },
  "two images": {
    asked: [
      ["a:1", a1],
      ["b:1", b1],
    ],
    names: names([1, 1], [2, 3]),
    plan: {
      drop: [dropA1, { id: 3, reference: "b:1", digest: B }],
      collect: [
        { id: 1, digest: A },
        { id: 2, digest: B },
      ],
    },
  },
  "the last name of an image in use is refused": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [A]: [WEB] }),
    plan: { refused: [{ reference: "a:1", code: "in_use", message: IN_USE }] },
  },
  "every pin is named": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [A]: [WEB, BASE] }),
    plan: {
      refused: [
        {
          reference: "a:1",
          code: "in_use",
          message:
            'cannot remove "a:1": in use by sandbox "web-1", snapshot "base" (--force drops the name and keeps its data)',
        },
      ],
    },
  },
  "an alias of an image in use goes": {
    asked: [["a:1", a1]],
    names: names([1, 1, 2]),
    pins: pins({ [A]: [WEB] }),
    plan: { drop: [dropA1] },
  },
  "of all names of an image in use the last one asked stays": {
    asked: [
      ["a:2", a2],
      ["a:1", a1],
    ],
    names: names([1, 1, 2]),
    pins: pins({ [A]: [WEB] }),
    plan: { drop: [dropA2], refused: [{ reference: "a:1", code: "in_use", message: IN_USE }] },
  },
  "a refusal does not keep the rest from going": {
    asked: [
      ["a:1", a1],
      ["b:1", b1],
    ],
    names: names([1, 1], [2, 3]),
    pins: pins({ [A]: [WEB] }),
    plan: {
      drop: [{ id: 3, reference: "b:1", digest: B }],
      collect: [{ id: 2, digest: B }],
      refused: [{ reference: "a:1", code: "in_use", message: IN_USE }],
    },
  },
  "a pin of another image is no obstacle": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [B]: [WEB] }),
    plan: { drop: [dropA1], collect: [{ id: 1, digest: A }] },
  },
  "force drops the last name of an image in use and keeps its data": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [A]: [WEB, BASE] }),
    force: true,
    plan: { drop: [dropA1], untag: [{ digest: A, pinned_by: [WEB, BASE] }] },
  },
  "force collects what nothing pins": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    force: true,
    plan: { drop: [dropA1], collect: [{ id: 1, digest: A }] },
  },
  "a pin that cannot be read refuses, and is named": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({}, [UNREADABLE]),
    plan: {
      refused: [
        {
          reference: "a:1",
          code: "damaged",
          message: `cannot remove "a:1": what is in use cannot be told: ${UNREADABLE} (--force drops the name and keeps its data)`,
        },
      ],
    },
  },
  "a pin that cannot be read lets an alias go": {
    asked: [["a:1", a1]],
    names: names([1, 1, 2]),
    pins: pins({}, [UNREADABLE]),
    plan: { drop: [dropA1] },
  },
  "force keeps the data while a pin cannot be read": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({}, [UNREADABLE]),
    force: true,
    plan: { drop: [dropA1], untag: [{ digest: A, pinned_by: [] }] },
  },
  "a known pin is told before an unreadable one": {
    asked: [["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [A]: [WEB] }, [UNREADABLE]),
    plan: { refused: [{ reference: "a:1", code: "in_use", message: IN_USE }] },
  },
  "a missing reference": {
    asked: [["a:1"]],
    names: names(),
    plan: { refused: [{ reference: "a:1", code: "not_found", message: 'image not found: "a:1"' }] },
  },
  "a missing reference that is none": {
    asked: [["A B"]],
    names: names(),
    plan: {
      refused: [
        {
          reference: "A B",
          code: "not_found",
          message: 'image not found: "A B" (it is not a valid reference either)',
        },
      ],
    },
  },
  "a missing reference is ignored when asked to, and only that": {
    asked: [["x"], ["a:1", a1]],
    names: names([1, 1]),
    pins: pins({ [A]: [WEB] }),
    ignoreMissing: true,
    plan: { refused: [{ reference: "a:1", code: "in_use", message: IN_USE }] },
  },
  "several rows are ambiguous, even by force": {
    asked: [["a", row(1, "docker.io/a"), row(2, "library/a")]],
    names: names([1, 1, 2]),
    force: true,
    plan: {
      refused: [
        {
          reference: "a",
          code: "ambiguous",
          message: 'cannot remove "a": it could be "docker.io/a" or "library/a" (name one exactly)',
        },
      ],
    },
  },
  "two spellings of one row drop it once": {
    asked: [
      ["a:1", a1],
      ["docker.io/library/a:1", a1],
    ],
    names: names([1, 1]),
    plan: { drop: [dropA1], collect: [{ id: 1, digest: A }] },
  },
  "two spellings of one name do not count as its alias too": {
    asked: [
      ["a:1", a1],
      ["docker.io/library/a:1", a1],
    ],
    names: names([1, 1, 2]),
    pins: pins({ [A]: [WEB] }),
    plan: { drop: [dropA1] },
  },
  "an untagged image by its digest": {
    asked: [[A, UNTAGGED]],
    names: names(),
    plan: { collect: [{ id: 1, digest: A }] },
  },
  "an untagged image in use stays, even by force": {
    asked: [[A, UNTAGGED]],
    names: names(),
    pins: pins({ [A]: [BASE] }),
    force: true,
    plan: {
      refused: [{ reference: A, code: "in_use", message: `cannot remove "${A}": in use by snapshot "base"` }],
    },
  },
  "a name that a pull is at work on stays, in every spelling, and the rest goes": {
    asked: [
      ["a:1", a1],
      ["docker.io/library/a:1", row(2, "docker.io/library/a:1")],
      ["b:1", b1],
    ],
    names: names([1, 1, 2], [2, 3]),
    obstacles: [["docker.io/library/a:1", { code: "busy", message: "a pull runs" }]],
    plan: {
      drop: [{ id: 3, reference: "b:1", digest: B }],
      collect: [{ id: 2, digest: B }],
      refused: [
        { reference: "a:1", code: "busy", message: 'cannot remove "a:1": a pull runs' },
        {
          reference: "docker.io/library/a:1",
          code: "busy",
          message: 'cannot remove "docker.io/library/a:1": a pull runs',
        },
      ],
    },
  },
  "an untagged image stays while a pin cannot be read, even by force": {
    asked: [[A, UNTAGGED]],
    names: names([1]),
    pins: pins({}, [UNREADABLE]),
    force: true,
    plan: {
      refused: [
        {
          reference: A,
          code: "damaged",
          message: `cannot remove "${A}": what is in use cannot be told: ${UNREADABLE}`,
        },
      ],
    },
  },
  "a name whose manifest row is gone": {
    asked: [["a:1", DANGLING]],
    names: names(),
    pins: pins({}, [UNREADABLE]),
    plan: { drop: [{ id: 1, reference: "a:1", digest: null }] },
  },
  "a name whose manifest has no readable digest loses nothing but the name": {
    asked: [["a:1", row(1, "a:1", [1, null])]],
    names: names([1, 1]),
    plan: { drop: [{ id: 1, reference: "a:1", digest: null }] },
  },
};

describe("planRemoval", () => {
  test.each(Object.entries(CASES))("decides: %s", (_, { asked, names, pins: given, plan, ...rest }) => {
    const decided = planRemoval(
      asked.map(([text, ...rows]) => ({ text, rows, named: [] })),
      names,
      given ?? pins(),
      { force: rest.force ?? false, ignoreMissing: rest.ignoreMissing ?? false },
      new Map(rest.obstacles),
    );
    expect(decided).toEqual({ drop: [], collect: [], untag: [], refused: [], ...plan });
  });
});
