// Stands in for the worker: it dies of its first job, and answers the jobs of its second life.
import { existsSync, writeFileSync } from "node:fs";

declare const self: Worker;

self.onmessage = ({ data: { id, home } }: MessageEvent<{ id: number; home: { root: string; cache: string } }>) => {
  const mark = `${home.root}/died`;
  if (existsSync(mark)) return self.postMessage({ id, result: "alive" });
  writeFileSync(mark, "");
  if (home.cache === "throw") throw new Error("spoilt");
  process.exit(3);
};
