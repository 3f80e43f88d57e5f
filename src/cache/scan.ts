import { namesIn } from "./file.ts";
import { type CacheFile, type CachePaths, FOLDERS, type Folder } from "./paths.ts";

/** Every entry of the cache but locks, by name alone; folders come in the order in which they are safe to sweep. */
export function* scanCache(cache: CachePaths, folders: readonly Folder[] = FOLDERS): Generator<CacheFile> {
  for (const folder of folders) {
    for (const name of namesIn(cache.folder(folder))) {
      const file = cache.classify(folder, name);
      if (file.kind !== "lock") yield file;
    }
  }
}
