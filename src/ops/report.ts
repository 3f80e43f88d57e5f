import type { Deleted, DeleteReport, Skipped, Target } from "../cache/delete.ts";
import { groupLinks } from "../cache/file.ts";
import type { Larder } from "../larder.ts";

/** What every destructive operation reports about the disk. In a dry run `files` are those that would go. */
export interface DiskReport {
  database: string;
  cache: string;
  dry_run: boolean;
  files: Deleted[];
  /** What a guard refused; the next gc takes it. */
  skipped: Skipped[];
  /** What the system refused. */
  failed: Skipped[];
  /** Allocated bytes of `files`. */
  bytes_reclaimed: number;
}

/** The report of files that were deleted; `skipped` are those that were left before a guard saw them. */
export function reportDeleted(larder: Larder, { deleted, skipped, failed }: DeleteReport, left: Skipped[]): DiskReport {
  return {
    ...head(larder),
    dry_run: false,
    files: deleted,
    skipped: [...left, ...skipped],
    failed,
    bytes_reclaimed: sum(deleted),
  };
}

/** The report of files that a dry run would delete. Of a file with several names the last to go frees the blocks. */
export function reportPlanned(larder: Larder, targets: Target[], left: Skipped[]): DiskReport {
  const last = new Set(groupLinks(targets).flatMap((names) => (isWhole(names) ? names.at(-1)! : [])));
  const files = targets.map((file) => {
    const { kind, path, bytes } = file;
    return { kind, path, bytes: !file.link || last.has(file) ? bytes : 0 };
  });
  return { ...head(larder), dry_run: true, files, skipped: left, failed: [], bytes_reclaimed: sum(files) };
}

function isWhole(names: Target[]): boolean {
  return names.length === names[0]!.link!.of;
}

function head({ home }: Larder) {
  return { database: home.database, cache: home.cache };
}

function sum(files: { bytes: number }[]): number {
  return files.reduce((total, { bytes }) => total + bytes, 0);
}
