import type { DfReport } from "../ops/df.ts";
import type { Metric } from "./prometheus.ts";

/** The account of a cache as gauges; without digests or references as labels, which would be a series an image. */
export function dfMetrics({ kinds, attribution, file_system, images, refused }: DfReport): Metric[] {
  const byKind = (figure: "files" | "allocated_bytes" | "reclaimable_bytes") =>
    kinds.map((row) => ({ labels: { kind: row.kind }, value: row[figure] }));
  const pinned = (kind: "sandbox" | "snapshot") =>
    images.filter(({ pinned_by }) => pinned_by.some((pin) => pin.kind === kind)).length;
  return [
    { name: "larder_cache_files", type: "gauge", help: "Files in the cache by kind.", samples: byKind("files") },
    {
      name: "larder_cache_bytes",
      type: "gauge",
      help: "Allocated bytes of the cache by kind.",
      samples: byKind("allocated_bytes"),
    },
    {
      name: "larder_cache_reclaimable_bytes",
      type: "gauge",
      help: "Allocated bytes that a gc would free now, by kind.",
      samples: byKind("reclaimable_bytes"),
    },
    {
      name: "larder_gc_refused",
      type: "gauge",
      help: "1 where a gc would refuse to sweep, or sweep no more than tmp/, else 0; larder df says why.",
      samples: [{ value: refused === null ? 0 : 1 }],
    },
    {
      name: "larder_cache_shared_bytes",
      type: "gauge",
      help: "Allocated bytes that several images share, counted once.",
      samples: [{ value: attribution.shared_bytes }],
    },
    {
      name: "larder_images",
      type: "gauge",
      help: "Images on record, by whether a reference names them.",
      samples: [
        { labels: { tagged: "true" }, value: images.filter(({ references }) => references.length > 0).length },
        { labels: { tagged: "false" }, value: images.filter(({ references }) => references.length === 0).length },
      ],
    },
    {
      name: "larder_references",
      type: "gauge",
      help: "References on record.",
      samples: [{ value: images.reduce((sum, { references }) => sum + references.length, 0) }],
    },
    {
      name: "larder_pinned_images",
      type: "gauge",
      help: "Images that something pins, by what does.",
      samples: [
        { labels: { by: "sandbox" }, value: pinned("sandbox") },
        { labels: { by: "snapshot" }, value: pinned("snapshot") },
      ],
    },
    {
      name: "larder_filesystem_size_bytes",
      type: "gauge",
      help: "Size of the file system of layers/.",
      samples: [{ value: file_system.total_bytes }],
    },
    {
      name: "larder_filesystem_free_bytes",
      type: "gauge",
      help: "Free bytes of the file system of layers/.",
      samples: [{ value: file_system.free_bytes }],
    },
  ];
}
