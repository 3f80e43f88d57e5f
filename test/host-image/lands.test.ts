import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { Catalogue, digest, metadata, SOUND } from "../cli/catalogue.ts";
import { larder, TemporaryFolder } from "../larder.ts";
import { librariesOf, may, names, Root, runIn } from "./stage.ts";

// What the kernel must allow; where it does not, the test's name says what was missing.
const MOUNTS = may("unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt && chroot / true");
const USERS = may("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "true");
const MEMORY = "/sys/fs/cgroup/memory";
const CGROUPS = may("sh", "-c", `mkdir ${MEMORY}/larder-probe && rmdir ${MEMORY}/larder-probe`);

const PERSIST = ["persist", "alpine:3", "--metadata", "-"];

describe("the executable", () => {
  test("needs the loader and the C library alone", async () => {
    const loader = process.arch === "arm64" ? "ld-linux-aarch64.so.1" : "ld-linux-x86-64.so.2";
    expect(names(await librariesOf(EXECUTABLE))).toEqual(
      [loader, "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0"].sort(),
    );
  });
});

describe.skipIf(!MOUNTS)("in an empty root (skipped without CAP_SYS_ADMIN and CAP_SYS_CHROOT)", () => {
  let root: Root;
  beforeAll(async () => {
    root = await Root.make();
  });
  afterAll(() => root[Symbol.dispose]());

  test("puts an image on record, lists it, checks it and sweeps", async () => {
    const env = { MSB_HOME: "/home/store" };
    expect(await root.run(PERSIST, { env, stdin: metadata() })).toMatchObject({ code: 0, stderr: "" });
    expect(await root.run(["list", "-q"], { env })).toEqual({ code: 0, stdout: "alpine:3\n", stderr: "" });
    expect((await root.run(["gc", "--format", "json"], { env })).code).toBe(0);
    const { code, stdout } = await root.run(["check", "--deep", "--format", "json"], { env });
    // No msb has been here: the metadata is not in the cache, and nothing else is wrong.
    expect(JSON.parse(stdout).problems.map(({ code }: { code: string }) => code)).toContain("metadata-missing");
    expect(code).toBe(5);
    using catalogue = Catalogue.open(join(root.path, "home/store"));
    expect(catalogue.check()).toEqual(SOUND);
  });

  test("works on a read-only root, with a home beside it and a TMPDIR that runs nothing", async () => {
    const mounts = [
      'mount --bind "$1" "$1"',
      // What lies on the root is remounted with it, so that the two come after.
      'mount -o remount,bind,ro "$1"',
      'mount -t proc proc "$1/proc"',
      'mount -t tmpfs -o noexec,nosuid,nodev tmpfs "$1/tmp"',
      'mount -t tmpfs -o noexec tmpfs "$1/home"',
    ].join("; ");
    const env = { MSB_HOME: "/home/store", TMPDIR: "/tmp" };
    expect(await root.run(PERSIST, { mounts, env, stdin: metadata() })).toMatchObject({ code: 0, stderr: "" });
    // The home that an earlier run left on the root itself cannot be written, and says so.
    const onRoot = mounts.replace(/; [^;]*home"$/, "");
    using catalogue = Catalogue.create(join(root.path, "home/fixed"));
    catalogue.image({ reference: "debian:12", manifest: digest(1) });
    catalogue.db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    catalogue[Symbol.dispose]();
    const fixed = { MSB_HOME: "/home/fixed" };
    expect(await root.run(["list", "-q"], { mounts: onRoot, env: fixed })).toMatchObject({
      code: 0,
      stdout: "debian:12\n",
    });
    const refused = await root.run(PERSIST, { mounts: onRoot, env: fixed, stdin: metadata() });
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toStartWith("larder: ");
  });
});

describe.skipIf(!USERS)("as a user without HOME (skipped without CAP_SETUID)", () => {
  const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

  test("takes the home that it is told, and leaves files of that user's", async () => {
    using folder = new TemporaryFolder();
    chmodSync(folder.path, 0o755);
    const home = join(folder.path, "home");
    mkdirSync(home);
    chownSync(home, 65534, 65534);
    const command = [...asNobody, EXECUTABLE];
    expect((await runIn([...command, ...PERSIST, "--home", home], {}, metadata())).code).toBe(0);
    expect(await runIn([...command, "list", "-q", "--home", home])).toMatchObject({ code: 0, stdout: "alpine:3\n" });
    // One without an entry, as a container may run as.
    expect(
      await runIn(["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", EXECUTABLE, "list"]),
    ).toMatchObject({
      code: 2,
      stdout: "",
      stderr: expect.stringContaining("no home is known"),
    });
    // The user's entry says /nonexistent, and so does the message.
    expect((await runIn([...command, "list"])).stderr).toBe(
      'No images (there is no catalogue at "/nonexistent/.microsandbox/db/msb.db")\n',
    );
  });
});

describe("with little memory", () => {
  let folder: TemporaryFolder;
  let home: string;
  beforeAll(() => {
    folder = new TemporaryFolder();
    home = join(folder.path, "home");
    using catalogue = Catalogue.create(home);
    catalogue.db.transaction(() => {
      for (let i = 1; i <= 2000; i++) catalogue.image({ reference: `ghcr.io/acme/image-${i}:v1`, manifest: digest(i) });
    })();
  });
  afterAll(() => folder[Symbol.dispose]());

  const WORK: [args: string[]][] = [
    [["list", "--format", "json"]],
    [["df"]],
    [["prune", "--unused", "--min-age", "1s", "--dry-run"]],
    [["check", "--deep", "--format", "json"]],
  ];

  test.each(WORK)("does %j under an address space of 512 MiB", async (args) => {
    const limited = ["sh", "-c", 'ulimit -v 524288; exec "$@"', "sh", EXECUTABLE, ...args, "--home", home];
    const { code, stdout } = await runIn(limited);
    expect({ code, stdout: stdout.length }).toEqual({
      code: (await larder(home, ...args)).code,
      stdout: expect.any(Number),
    });
    expect(stdout.length).toBeGreaterThan(0);
  });

  test.skipIf(!CGROUPS).each(WORK)("does %j in a memory cgroup of 64 MiB (skipped without cgroup v1)", async (args) => {
    const group = `${MEMORY}/larder-${process.pid}`;
    mkdirSync(group);
    try {
      writeFileSync(`${group}/memory.limit_in_bytes`, String(64 * 1024 * 1024));
      const inside = [
        "sh",
        "-c",
        `echo $$ >${group}/cgroup.procs; exec "$@"`,
        "sh",
        EXECUTABLE,
        ...args,
        "--home",
        home,
      ];
      const { code, stdout, stderr } = await runIn(inside);
      expect({ code, stderr }).toEqual({ code: (await larder(home, ...args)).code, stderr: expect.any(String) });
      expect(stdout.length).toBeGreaterThan(0);
    } finally {
      rmdirSync(group);
    }
  });
});
