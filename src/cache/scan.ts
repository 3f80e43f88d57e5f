import { dirname, join } from "node:path";
import { namesIn } from "./file.ts";
import { type CacheFile, type CachePaths, FOLDERS, type Folder, isLock, LOCK_FOLDER } from "./paths.ts";

/** The names in each folder of a cache, as they were when that was first asked for: for what scans it twice. */
export class Listing {
  private readonly names = new Map<Folder, string[]>();

  constructor(private readonly cache: CachePaths) {}

  in(folder: Folder): string[] {
    const names = this.names.get(folder) ?? namesIn(this.cache.folder(folder));
    this.names.set(folder, names);
    return names;
  }
}

/** What a scan looks at, and what it passes over. */
export interface Scan {
  folders?: readonly Folder[];
  /** Names that are left out, and not even classified. */
  known?: { [F in Folder]?: { has(name: string): boolean } };
  /** Where the names come from; read anew, and not kept, without it. */
  listing?: Listing | undefined;
}

/** Every entry of the cache but locks, by name alone; folders come in the order in which they are safe to sweep. */
export function* scanCache(
  cache: CachePaths,
  { folders = FOLDERS, known = {}, listing }: Scan = {},
): Generator<CacheFile> {
  for (const folder of folders)
    for (const name of listing?.in(folder) ?? namesIn(cache.folder(folder))) {
      // A half of all entries, and more where msb downloaded much.
      if (!isLock(name) && !known[folder]?.has(name)) yield cache.classify(folder, name);
    }
}

// What lies beside msb's folders: it takes space, and is nobody's to sweep.
function* scanBeside({ root }: CachePaths): Generator<CacheFile> {
  const known = new Set([...FOLDERS, LOCK_FOLDER].flatMap((folder) => [folder, dirname(folder)]));
  for (const parent of new Set([...known].map(dirname)))
    for (const name of namesIn(join(root, parent)))
      if (!known.has(join(parent, name))) yield { kind: "foreign", path: join(root, parent, name) };
}

/** All of the cache: its files, the locks, and what lies beside msb's folders. */
export function* scanEverything(cache: CachePaths, listing: Listing): Generator<CacheFile> {
  yield* scanBeside(cache);
  for (const folder of FOLDERS) for (const name of listing.in(folder)) yield cache.classify(folder, name);
  for (const name of namesIn(cache.folder(LOCK_FOLDER)))
    yield { kind: "lock", path: join(cache.folder(LOCK_FOLDER), name) };
}
