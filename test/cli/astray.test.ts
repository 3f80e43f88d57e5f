import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Unlinker } from "../../src/host/unlink.ts";
import { SocketPlace } from "../../src/server/socket.ts";
import { run, TemporaryFolder } from "../larder.ts";

import { IN_NAMESPACE, namespaceRefused } from "../namespace.ts";
import { at, digestOf, metadataOf, OLD, Store } from "../store.ts";

const USER = 1234;
const OTHER = 4321;
const ONE = "docker.io/library/one:latest";

/** A folder of root's, laid out like a cache, with old files in it that have names of a cache's. */
class Precious extends TemporaryFolder {
  readonly files = [join("tmp", "others", "file"), at.layer("a"), at.layer("stray"), at.vmdk("one")];

  constructor() {
    super();
    for (const file of this.files) {
      mkdirSync(join(this.path, file, ".."), { recursive: true });
      writeFileSync(join(this.path, file), "precious");
    }
    const old = (Date.now() - OLD) / 1000;
    for (const file of [...this.files, join("tmp", "others")]) lutimesSync(join(this.path, file), old, old);
  }

  expectWhole(): void {
    for (const file of this.files) expect(readFileSync(join(this.path, file), "utf8")).toBe("precious");
    for (const folder of ["", "tmp", "layers", "vmdk"]) expect(statSync(join(this.path, folder)).uid).toBe(0);
    expect([...this.files, "tmp/others", "tmp", "layers", "vmdk"].map((file) => join(this.path, file)).sort()).toEqual(
      readdirSync(this.path, { recursive: true, encoding: "utf8" })
        .map((file) => join(this.path, file))
        .sort(),
    );
  }
}

async function hostileStore(): Promise<Store> {
  const store = await Store.make({ one: { references: [`one=${ONE}`], layers: ["a"] } });
  for (const name of [".", ...readdirSync(store.path, { recursive: true, encoding: "utf8" })])
    lchownSync(join(store.path, name), USER, USER);
  return store;
}

function link(target: string, path: string): void {
  rmSync(path, { recursive: true, force: true });
  symlinkSync(target, path);
  lchownSync(path, USER, USER);
}

describe.if(process.geteuid?.() === 0)("run by root in a home whose owner leads it astray", () => {
  const DELETING = [
    ["gc"],
    ["gc", "--sweep-unrecorded"],
    ["prune", "--unused", "--min-age", "0s"],
    ["rm", "one"],
    ["check", "--repair"],
  ];

  test.each(DELETING)(
    "%s %s deletes and makes nothing in a folder of root's to which the cache is a link",
    async (...args) => {
      using store = await hostileStore();
      using precious = new Precious();
      link(precious.path, store.cache);
      await run([...args, "--home", store.path]);
      precious.expectWhole();
    },
  );

  test.each(DELETING)(
    "%s %s deletes nothing in a folder of root's to which one of the cache is a link",
    async (...args) => {
      using store = await hostileStore();
      using precious = new Precious();
      for (const folder of ["tmp", "layers", "vmdk"]) link(join(precious.path, folder), join(store.cache, folder));
      await run([...args, "--home", store.path]);
      precious.expectWhole();
    },
  );

  test("gc says why it leaves such a folder, and foresees it", async () => {
    using store = await hostileStore();
    using precious = new Precious();
    link(precious.path, store.cache);
    for (const args of [["gc", "-n"], ["gc"]]) {
      const { stdout } = await run([...args, "--format", "json", "--home", store.path]);
      expect(JSON.parse(stdout).files).toEqual([]);
      expect(stdout).toContain("run larder as that user");
    }
  });

  test("no row goes whose files are in a folder of root's to which the cache is a link", async () => {
    using store = await hostileStore();
    using precious = new TemporaryFolder();
    for (const file of [at.metadata(ONE), at.metadataLock(ONE), at.layer("a"), at.layerLock("a")]) {
      mkdirSync(join(precious.path, file, ".."), { recursive: true });
      writeFileSync(join(precious.path, file), "precious");
    }
    link(precious.path, store.cache);
    const { code, stderr } = await run(["rm", "one", "--home", store.path]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("nothing was deleted")]);
    expect(store.rows().manifests).toEqual(["one"]);
  });

  test("a config.json of the user's moves nothing to a folder of root's", async () => {
    using store = await hostileStore();
    using precious = new Precious();
    const config = join(store.path, "config.json");
    for (const moved of [
      { paths: { cache: precious.path } },
      { paths: { snapshots: precious.path } },
      { home: precious.path },
    ]) {
      writeFileSync(config, JSON.stringify(moved));
      for (const args of [["list"], ...DELETING]) {
        const { code, stderr } = await run(args, { env: { MSB_HOME: store.path } });
        expect([code, stderr]).toEqual([1, expect.stringContaining(`will not follow the configuration "${config}"`)]);
      }
      precious.expectWhole();
    }
    const list = () => run(["list"], { env: { MSB_HOME: store.path } });
    expect((await list()).stderr).toContain("or chown the folder where it should be that user's");
    chownSync(precious.path, USER, USER);
    expect((await list()).code).toBe(0);
    // A disk that is not mounted.
    renameSync(precious.path, `${precious.path}.away`);
    expect((await list()).stderr).toContain("or mount or make the other, as that user's: it is not there");
    renameSync(`${precious.path}.away`, precious.path);
    expect((await list()).code).toBe(0);
  });

  test("a folder of the user's own store that root has made is refused behind a link until it is given away", async () => {
    using store = await hostileStore();
    using elsewhere = new TemporaryFolder();
    renameSync(store.cache, join(elsewhere.path, "cache"));
    link(join(elsewhere.path, "cache"), store.cache);
    const layers = join(store.cache, "layers");
    chownSync(layers, 0, 0);
    const rm = () => run(["rm", "one", "--home", store.path]);
    const refused = await rm();
    expect([refused.code, refused.stderr]).toEqual([
      1,
      expect.stringContaining(`"${layers}" as root: user ${USER} has it lead to what is another's`),
    ]);
    expect(refused.stderr).toContain("run larder as that user, or chown the folder where it should be that user's");
    chownSync(layers, USER, USER);
    expect((await rm()).code).toBe(0);
    expect(store.files()).toEqual([]);
  });

  test("a config.json of the user's moves the cache to no folder of whoever owns what the home lies in", async () => {
    using place = new TemporaryFolder();
    chownSync(place.path, OTHER, OTHER);
    const home = join(place.path, "home");
    mkdirSync(home);
    const theirs = join(place.path, "theirs");
    mkdirSync(theirs);
    chownSync(theirs, OTHER, OTHER);
    writeFileSync(join(home, "config.json"), JSON.stringify({ paths: { cache: theirs } }));
    chownSync(home, USER, USER);
    const { code, stderr } = await run(["list", "--home", home]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(`user ${USER} can change the one`)]);
    writeFileSync(join(home, "config.json"), JSON.stringify({ paths: { cache: join(home, "moved") } }));
    expect((await run(["list", "--home", home])).code).toBe(0);
  });

  test.each(["db", "db/msb.db"])("no row goes from root's catalogue, to which %s is a link", async (name) => {
    using store = await hostileStore();
    using roots = await Store.make({ one: { references: [`one=${ONE}`], layers: ["a"] } });
    const before = roots.rows();
    link(join(roots.path, name), join(store.path, name));
    for (const args of DELETING.flatMap((args) => (args[0] === "check" ? [] : [args, [...args, "-n"]]))) {
      const { code, stderr } = await run([...args, "--home", store.path]);
      expect([args, code, stderr]).toEqual([args, 1, expect.stringContaining(`will not follow "${store.database}"`)]);
      expect(roots.rows()).toEqual(before);
    }
    for (const path of [join(roots.path, name), roots.database]) chownSync(path, USER, USER);
    expect((await run(["gc", "-n", "--home", store.path])).code).toBe(0);
  });

  test("no catalogue is made where the user's link leads, nor anything of another's that is being made taken away", async () => {
    using store = await hostileStore();
    using precious = new TemporaryFolder();
    const files = ["msb.db-shm", "msb.db.migration.lock", "msb.db.new"];
    for (const file of files) writeFileSync(join(precious.path, file), "");
    link(precious.path, join(store.path, "db"));
    const { code } = await run(["gc", "--sweep-unrecorded", "--home", store.path]);
    expect(code).toBe(1);
    expect(readdirSync(precious.path).sort()).toEqual(files);
  });

  test("no word of a file to which config.json or a snapshot leads is told", async () => {
    using store = await hostileStore();
    using precious = new Precious();
    const secret = join(precious.path, "manifest.json");
    for (const text of ["S3cret", '{"password": S3cret}', "S3cret:19000:0:"]) {
      writeFileSync(secret, text, { mode: 0o600 });
      link(secret, join(store.path, "config.json"));
      const { code, stderr } = await run(["list", "--home", store.path]);
      expect([code, stderr]).toEqual([1, expect.stringContaining("cannot read the configuration")]);
      expect(stderr).not.toContain("S3cret");
      rmSync(join(store.path, "config.json"));
      store.snapshotOnDisk("x", text);
      const { stdout } = await run(["check", "--format", "json", "--home", store.path]);
      expect(stdout).toContain("pin-unreadable");
      expect(stdout).not.toContain("S3cret");
    }
  });

  test("a link of the user's leads to no snapshots in what is not the user's", async () => {
    using store = await hostileStore();
    using precious = new Precious();
    const snapshots = join(store.path, "snapshots");
    mkdirSync(snapshots);
    chownSync(snapshots, USER, USER);
    mkdirSync(join(precious.path, "deep", "down"), { recursive: true });
    writeFileSync(join(precious.path, "deep", "down", "manifest.json"), "{}");
    writeFileSync(
      join(precious.path, "manifest.json"),
      JSON.stringify({ image: { manifest_digest: digestOf("one") } }),
    );
    const check = async () => (await run(["check", "--format", "json", "--home", store.path])).stdout;
    for (const place of [join(snapshots, "x"), snapshots]) {
      link(precious.path, place);
      const stdout = await check();
      expect(stdout).toContain(`will not follow \\"${place}\\" as root`);
      expect(stdout).not.toContain("down");
    }
    // By way of a link that is the user's own.
    const config = join(store.path, "config.json");
    writeFileSync(config, JSON.stringify({ paths: { snapshots: join(snapshots, "deep") } }));
    const stdout = await check();
    expect(stdout).toContain(`will not follow \\"${join(snapshots, "deep")}\\" as root`);
    expect(stdout).not.toContain("down");
    rmSync(config);
    lchownSync(precious.path, USER, USER);
    expect(await check()).toContain("deep/down");
  });

  test.each(["tmp", "vmdk"])(
    "a repair changes no disk by way of a folder of root's to which %s is a link",
    async (folder) => {
      using store = await hostileStore();
      using precious = new TemporaryFolder();
      const disk = join(store.cache, at.vmdk("one"));
      const text = readFileSync(disk, "utf8").replaceAll(store.cache, "/elsewhere/cache");
      if (folder === "vmdk") link(precious.path, join(store.cache, folder));
      writeFileSync(disk, text);
      if (folder === "tmp") link(precious.path, join(store.cache, folder));
      const { stdout } = await run(["check", "--repair", "--format", "json", "--home", store.path]);
      expect(stdout).toContain(`will not follow \\"${join(store.cache, folder)}\\" as root`);
      expect(readFileSync(disk, "utf8")).toBe(text);
    },
  );

  test("what a folder held goes, and nothing of where its path leads by now", async () => {
    using store = await hostileStore();
    using precious = new Precious();
    mkdirSync(join(store.cache, "tmp", "others"));
    store.write("tmp/others/mine");
    chownSync(join(store.cache, "tmp", "others"), USER, USER);
    const path = join(store.cache, "tmp", "others");
    await using unlinker = new Unlinker(store.cache);
    using held = unlinker.hold(path)!;
    renameSync(join(store.cache, "tmp"), join(store.cache, "old"));
    link(join(precious.path, "tmp"), join(store.cache, "tmp"));
    held.unlinkTree();
    precious.expectWhole();
    expect(existsSync(join(store.cache, "old", "others"))).toBe(false);
  });

  test("a link in the place of a socket that is being made changes no other file's mode or owner", async () => {
    using folder = new TemporaryFolder();
    const secret = join(folder.path, "secret");
    writeFileSync(secret, "", { mode: 0o600 });
    const home = join(folder.path, "home");
    mkdirSync(home);
    chownSync(home, USER, USER);
    using place = await SocketPlace.take(join(home, "larder.sock"), 0o666);
    for (const make of [link, linkSync]) {
      make(secret, place.staged);
      expect(() => place.publish()).toThrow();
      expect([statSync(secret).mode & 0o777, statSync(secret).uid]).toEqual([0o600, 0]);
      rmSync(place.staged);
    }
  });

  test("a socket is made and taken away where its folder was, wherever that folder's path leads before or meanwhile", async () => {
    using folder = new TemporaryFolder();
    using precious = new TemporaryFolder();
    for (const file of ["larder.sock.lock", ".larder.sock.new"]) writeFileSync(join(precious.path, file), "precious");
    const home = join(folder.path, "home");
    mkdirSync(join(home, "run"), { recursive: true });
    for (const path of [home, join(home, "run")]) chownSync(path, USER, USER);
    const path = join(home, "run", "larder.sock");
    {
      using place = await SocketPlace.take(path, 0o660);
      renameSync(join(home, "run"), join(home, "old"));
      link(precious.path, join(home, "run"));
      const server = place.listen((unix) => Bun.serve({ unix, fetch: () => new Response() }));
      place.publish();
      expect(readdirSync(join(home, "old")).sort()).toEqual(["larder.sock", "larder.sock.lock"]);
      await server.stop(true);
    }
    expect(readdirSync(join(home, "old"))).toEqual(["larder.sock.lock"]);
    await expect(SocketPlace.take(path, 0o660)).rejects.toThrow("will not follow");
    for (const file of readdirSync(precious.path))
      expect(readFileSync(join(precious.path, file), "utf8")).toBe("precious");
    expect(readdirSync(precious.path)).toHaveLength(2);
  });
});

const namespace = namespaceRefused();

describe.skipIf(namespace !== undefined)(
  `run by a user who is root in a user namespace${namespace ? ` (${namespace})` : ""}`,
  () => {
    test.each<string[]>([
      ["rm", "one"],
      ["prune", "--unused", "--min-age", "0s"],
    ])("%s goes into what a link of that user's leads to, and is that user's", async (...args) => {
      using store = await Store.make({ one: { references: ["one=docker.io/library/one:latest"], layers: ["a"] } });
      using elsewhere = new TemporaryFolder();
      const under = [...store.asNobody(), ...IN_NAMESPACE];
      renameSync(store.cache, join(elsewhere.path, "cache"));
      chmodSync(elsewhere.path, 0o755);
      symlinkSync(join(elsewhere.path, "cache"), store.cache);
      const { code, stderr } = await run([...args, "--home", store.path], { under });
      expect([code, stderr]).toEqual([0, expect.not.stringContaining("as root")]);
      expect(store.rows().references).toEqual([]);
      expect(store.files()).toEqual([]);
    });

    test("persist makes a home in a folder of a group that the namespace does not know", async () => {
      using folder = new TemporaryFolder();
      chownSync(folder.path, 65534, 4321);
      const home = join(folder.path, "home");
      const metadata = join(folder.path, "metadata.json");
      writeFileSync(metadata, JSON.stringify(metadataOf("one", ["a"])));
      const under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...IN_NAMESPACE];
      const { code, stderr } = await run(["persist", "one", "--metadata", metadata, "--home", home], { under });
      expect([code, stderr]).toEqual([0, expect.any(String)]);
      expect(statSync(join(home, "db", "msb.db")).uid).toBe(65534);
    });
  },
);
