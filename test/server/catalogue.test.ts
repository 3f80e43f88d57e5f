import { describe, expect, test } from "bun:test";
import { existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { listNames } from "../../src/db/images.ts";
import { resolveHome } from "../../src/home.ts";
import { openToRead, openToWrite } from "../../src/larder.ts";
import { WarmHome } from "../../src/server/catalogue.ts";
import { TemporaryFolder } from "../larder.ts";
import { Mounted, mountingRefused, runTool } from "../mount.ts";
import { metadataOf, Store } from "../store.ts";

describe("WarmHome", () => {
  test("leaves the log that another process has begun beside a backup copied over the file", async () => {
    using store = await Store.make({ web: { references: ["ghcr.io/acme/web:1"], layers: ["base"] } });
    const backup = join(store.path, "backup");
    const copy = (from: string, to: string) => Bun.spawnSync(["cp", from, to]);
    copy(store.database, backup);
    const warm = new WarmHome(resolveHome(store.path, {}), openToWrite);
    const names = () => warm.use((larder) => Array.from(listNames(larder!.db), ({ reference }) => reference).sort());
    expect(names()).toEqual(["ghcr.io/acme/web:1"]);
    copy(backup, store.database);
    for (const end of ["-wal", "-shm"]) rmSync(store.database + end, { force: true });
    // What it commits stays in the log: the warm connection has the file open, too.
    await store.persist([{ reference: "late:1", metadata: metadataOf("late", ["base"]) }]);
    const { ino } = statSync(`${store.database}-wal`);
    expect(names()).toEqual(["ghcr.io/acme/web:1", "late:1"]);
    expect(statSync(`${store.database}-wal`).ino).toBe(ino);
    warm.close();
    expect(store.unsound()).toEqual([]);
  });

  const refusal = mountingRefused();

  test.skipIf(refusal !== undefined)(
    `follows who writes where it may make no log${refusal ? ` (${refusal})` : ""}`,
    async () => {
      using store = await Store.make({ web: { references: ["ghcr.io/acme/web:1"], layers: ["base"] } });
      using view = new TemporaryFolder();
      using _ = new Mounted(view.path, "--bind", store.path);
      runTool("mount", "-o", "remount,bind,ro", view.path);
      const warm = new WarmHome(resolveHome(view.path, {}), openToRead);
      const names = () => warm.use((larder) => Array.from(listNames(larder!.db), ({ reference }) => reference).sort());
      expect(names()).toEqual(["ghcr.io/acme/web:1"]);
      await store.persist([{ reference: "late:1", metadata: metadataOf("late", ["base"]) }]);
      expect(existsSync(`${store.database}-shm`)).toBe(false);
      expect(names()).toEqual(["ghcr.io/acme/web:1", "late:1"]);
      warm.close();
    },
  );
});
