import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { Catalogue, digest, metadata } from "../cli/catalogue.ts";
import { larder, larderJson, run, TemporaryFolder } from "../larder.ts";
import { at, metadataOf, Store } from "../store.ts";
import { hasTool } from "../tools.ts";
import { Server, slowly } from "./server.ts";

const IMAGES = { web: { references: ["ghcr.io/acme/web:1"], layers: ["base", "web"] } };
const modeOf = (path: string) => (statSync(path).mode & 0o7777).toString(8);

describe("the socket", () => {
  test("is at run/larder.sock of the home, mode 0660, and gone after SIGTERM", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path);
    expect(modeOf(join(folder.path, "run/larder.sock"))).toBe("660");
    expect((await server.get("/healthz")).status).toBe(200);
    expect(await server.stop()).toBe(0);
    expect(existsSync(server.socket)).toBe(false);
  });

  test.each([
    ["0600", "600"],
    ["666", "666"],
    ["0640", "640"],
  ])("has the mode of --socket-mode %s", async (given, mode) => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path, { args: ["--socket-mode", given] });
    expect(modeOf(server.socket)).toBe(mode);
  });

  test.each(["rw", "0999", "7777", "66", "+660"])("refuses --socket-mode %s", async (mode) => {
    using folder = new TemporaryFolder();
    const { code, stderr } = await larder(folder.path, "--serve", `--socket-mode=${mode}`);
    expect([code, stderr.split("\n")[0]]).toEqual([
      2,
      `larder: --socket-mode is ${JSON.stringify(mode)}, and must be octal, such as 0660`,
    ]);
  });

  test("is its owner's alone from its first moment on, whatever the umask, and then appears whole", async () => {
    if (!hasTool("strace")) return;
    using folder = new TemporaryFolder();
    const trace = join(folder.path, "trace");
    const calls = "umask,bind,chmod,fchmodat,rename,renameat,renameat2,listen";
    await using server = await Server.start(folder.path, {
      under: ["sh", "-c", 'umask 0; exec "$@"', "sh", "strace", "-D", "-f", "-qq", "-e", `trace=${calls}`, "-o", trace],
    });
    const lines = (await Bun.file(trace).text()).split("\n");
    const find = (what: RegExp) => lines.findIndex((line) => what.test(line));
    const bound = find(/bind\(.*\.larder\.sock\.new/);
    const masks = lines.slice(0, bound).filter((line) => line.includes("umask("));
    expect(masks.at(-1)).toContain("umask(0177)");
    // By its descriptor: a link that is put in its place meanwhile leads to no other file.
    expect(find(/chmod.*"\/proc\/self\/fd\/\d+", 0660/)).toBeGreaterThan(bound);
    expect(find(/rename.*\.larder\.sock\.new.*larder\.sock"/)).toBeGreaterThan(find(/chmod.*0660/));
    expect(lines.filter((line) => /bind\(.*run\/larder\.sock"/.test(line))).toEqual([]);
    expect(modeOf(server.socket)).toBe("660");
  });

  test("of a dead server is replaced", async () => {
    using folder = new TemporaryFolder();
    {
      await using killed = await Server.start(folder.path);
      await killed.stop("SIGKILL");
      expect(existsSync(killed.socket)).toBe(true);
    }
    await using server = await Server.start(folder.path);
    expect((await server.get("/healthz")).status).toBe(200);
  });

  test("of a live larder is refused, and that one serves on", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path);
    const { code, stderr } = await larder(folder.path, "--serve");
    expect([code, stderr]).toEqual([
      1,
      `larder: cannot listen on "${server.socket}": another larder is serving there\n`,
    ]);
    expect((await server.get("/healthz")).status).toBe(200);
  });

  test("of another program that answers is refused, and a dead one of it replaced", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "s.sock");
    const other = createServer((socket) => socket.end());
    await new Promise<void>((resolve) => other.listen(path, resolve));
    const { code, stderr } = await larder(folder.path, "--serve", `unix:${path}`);
    expect([code, stderr]).toEqual([1, `larder: cannot listen on "${path}": another program is serving there\n`]);
    expect(existsSync(path)).toBe(true);
    await new Promise((resolve) => other.close(resolve));
  });

  test("is not taken away where another file has its place by the end", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path);
    rmSync(server.socket);
    writeFileSync(server.socket, "data");
    expect(await server.stop()).toBe(0);
    expect(await Bun.file(server.socket).text()).toBe("data");
  });

  test("takes the place of no file", async () => {
    using folder = new TemporaryFolder();
    const path = join(folder.path, "precious");
    writeFileSync(path, "data");
    const { code, stderr } = await larder(folder.path, "--serve", `unix:${path}`);
    expect([code, stderr]).toEqual([1, `larder: cannot listen on "${path}": it exists, and is not a socket\n`]);
    expect(await Bun.file(path).text()).toBe("data");
  });

  test("whose path is too long to connect to is refused in the home, too", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "x".repeat(100));
    const { code, stderr } = await run(["--serve", "--home", home], { under: ["timeout", "10"] });
    expect(code).toBe(2);
    expect(stderr).toContain(`the socket's path is too long: "${join(home, "run/larder.sock")}"`);
    expect(existsSync(home)).toBe(false);
  });

  test.each([
    ["unix:relative", "the socket's path must be absolute"],
    [`unix:/${"x".repeat(120)}`, "the socket's path is too long"],
    ["nonsense", "is not an address"],
    ["127.0.0.1", "is not an address"],
    ["127.0.0.1:70000", "is not an address"],
    ["0.0.0.0:0", "is not a loopback address"],
    ["[::]:0", "is not a loopback address"],
    ["10.0.0.1:80", "is not a loopback address"],
    ["127.0.0.1.evil.example:80", "is not a loopback address"],
    ["[::ffff:127.0.0.1]:80", "is not a loopback address"],
    ["127.0.0.1:0", "a TCP address needs --token-file"],
    ["localhost:0", "a TCP address needs --token-file"],
    ["[::1]:0", "a TCP address needs --token-file"],
  ])("%s: %s", async (address, message) => {
    using folder = new TemporaryFolder();
    const { code, stderr } = await larder(folder.path, "--serve", address);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });
});

describe("a TCP address", () => {
  const TOKEN = "0123456789abcdef0123456789abcdef";

  function tokenFile(folder: TemporaryFolder, text: string, mode = 0o600): string {
    const path = join(folder.path, "token");
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  }

  test.each([
    ["others may read", `${TOKEN}\n`, 0o604, "can be read by others"],
    ["its group may read", `${TOKEN}\n`, 0o640, "can be read by others"],
    ["its group may write", `${TOKEN}\n`, 0o620, "can be read by others"],
    ["is too short", `${TOKEN.slice(1)}\n`, 0o600, "is shorter than 32 characters"],
    ["is mostly blank", `${" ".repeat(40)}x\n`, 0o600, "is shorter than 32 characters"],
    ["is empty", "", 0o600, "is shorter than 32 characters"],
    ["has two lines", `${TOKEN}\n${TOKEN}\n`, 0o600, "must be one line of ASCII"],
    ["no header can carry", `${TOKEN}é\n`, 0o600, "must be one line of ASCII"],
  ])("is not served with a token file that %s", async (_, text, mode, message) => {
    using folder = new TemporaryFolder();
    const path = tokenFile(folder, text, mode);
    const { code, stderr } = await larder(folder.path, "--serve", "127.0.0.1:0", "--token-file", path);
    expect([code, stderr.includes(message), stderr.includes(TOKEN.slice(2))]).toEqual([1, true, false]);
  });

  test.each([
    [["unix:SOCKET", "--token-file", "token"], "--token-file means nothing here"],
    [["unix:SOCKET", "--listen-anywhere"], "--listen-anywhere means nothing here"],
    [["unix:SOCKET", "--allow-host", "example"], "--allow-host means nothing here"],
    [["127.0.0.1:0", "--socket-mode", "0660"], "--socket-mode means nothing here"],
  ])("is not served with a flag that would be without effect: %j", async (args, message) => {
    using folder = new TemporaryFolder();
    const [address, ...flags] = args.map((arg) => arg.replace("SOCKET", join(folder.path, "socket")));
    const { code, stderr } = await larder(folder.path, "--serve", address!, ...flags);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });

  test("is not served without the token file that is named", async () => {
    using folder = new TemporaryFolder();
    const { code, stderr } = await larder(folder.path, "--serve", "127.0.0.1:0", "--token-file", "/nowhere/token");
    expect([code, stderr]).toEqual([1, 'larder: cannot open "/nowhere/token": no such file or directory\n']);
  });

  // A container may have no IPv6.
  const hasIpv6 = existsSync("/proc/net/if_inet6") && readFileSync("/proc/net/if_inet6", "utf8").includes(" lo\n");
  const ADDRESSES: [string, string[]][] = [
    ["127.0.0.1:0", []],
    ["[::1]:0", []],
    ["0.0.0.0:0", ["--listen-anywhere"]],
  ];
  test.each(ADDRESSES.filter(([address]) => hasIpv6 || address !== "[::1]:0"))(
    "%s answers to its token, and to no other Host than its own",
    async (address, more) => {
      using folder = new TemporaryFolder();
      const token = tokenFile(folder, `  ${TOKEN}\n`);
      const args = ["--token-file", token, "--allow-host", "Larder.Example:7878", "--allow-host", "[fd00::1]", ...more];
      await using server = await Server.start(folder.path, { address, args });
      const ask = async (headers: Record<string, string>) =>
        (await fetch(`${server.origin.replace("0.0.0.0", "127.0.0.1")}/v1/images`, { headers })).status;
      const authorization = `Bearer ${TOKEN}`;
      expect(await ask({ authorization })).toBe(200);
      expect(await ask({ authorization: `bearer ${TOKEN}` })).toBe(200);
      expect(await ask({})).toBe(401);
      for (const host of ["localhost:1", "127.0.0.1", "[::1]:99", "LARDER.example:80", "[FD00::1]:80"])
        expect([host, await ask({ authorization, host })]).toEqual([host, 200]);
      for (const host of [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "1.2.3.4",
        "127.0.0.1@evil",
      ])
        expect([host, await ask({ authorization, host })]).toEqual([host, 403]);
      expect(await ask({ authorization, host: "localhost:5", origin: "http://localhost:5" })).toBe(200);
      expect(await ask({ authorization, host: "localhost:5", origin: "https://localhost:5" })).toBe(403);
      expect(server.logs).not.toContain(TOKEN);
    },
  );

  test("in use is refused", async () => {
    using folder = new TemporaryFolder();
    const token = tokenFile(folder, TOKEN);
    await using server = await Server.start(folder.path, { address: "127.0.0.1:0", args: ["--token-file", token] });
    const address = server.origin.slice("http://".length);
    const { code, stderr } = await larder(folder.path, "--serve", address, "--token-file", token);
    expect([code, stderr]).toEqual([1, expect.stringContaining("in use")]);
  });
});

describe("signals", () => {
  test.each(["SIGTERM", "SIGINT"] as const)(
    "%s ends a server that has idle and half-sent connections",
    async (signal) => {
      using folder = new TemporaryFolder();
      await using server = await Server.start(folder.path);
      const idle = server.raw("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", () => false);
      await server.logged("target=/healthz");
      expect(await server.stop(signal)).toBe(0);
      expect(await idle).toContain("200 OK");
      expect(server.logs).toContain(`stopping signal=${signal}`);
      expect(existsSync(server.socket)).toBe(false);
    },
  );

  const stops = "SIGTERM lets a running request end, and tells long work to stop";
  test.skipIf(!hasTool("strace"))(stops, async () => {
    using store = await Store.make(IMAGES);
    for (let i = 0; i < 6000; i++) store.write(`layers/stray-${i}`, "x");
    // So slow that most of it is there yet when the signal comes, however busy the machine is.
    const under = slowly("unlink,unlinkat:delay_enter=2000");
    await using server = await Server.start(store.path, { args: ["--allow-writes"], under });
    const answer = server.post("/v1/gc", {});
    const half = server.raw("POST /v1/gc HTTP/1.1\r\nHost", () => false);
    while (store.files().length > 5990) await Bun.sleep(1);
    expect(await server.stop()).toBe(0);
    const { status, text } = await answer;
    expect([200, 503]).toContain(status);
    expect(JSON.parse(text)).toBeObject();
    expect(/ stopped id=\S+ left="the next gc takes it/.test(server.logs)).toBe(status === 200);
    await half;
    expect(store.unsound()).toEqual([]);
    expect(store.files().length).toBeGreaterThan(1000);
    // What was cut short is done by the next one.
    expect((await larder(store.path, "gc")).code).toBe(0);
    expect(store.files()).toEqual(store.filesOf("web"));
  });

  test.skipIf(!hasTool("strace"))("SIGTERM stops a check", async () => {
    using store = await Store.make();
    const layers = (i: number) => Array.from({ length: 12 }, (_, n) => `layer-${i}-${n}`);
    const line = (i: number) => ({ reference: `acme/app:${i}`, metadata: metadataOf(`image-${i}`, layers(i)) });
    await store.persist(Array.from({ length: 1000 }, (_, i) => line(i)));
    const calls = join(store.path, "calls");
    // It looks at 12,000 layers, slowly enough that the signal comes meanwhile.
    await using server = await Server.start(store.path, { under: slowly("%%stat:delay_exit=1000", { log: calls }) });
    const answer = server.get("/v1/check");
    while (!(await Bun.file(calls).text()).includes("/cache/layers/sha256_")) await Bun.sleep(5);
    expect(await server.stop()).toBe(0);
    const { status, text } = await answer;
    expect({ status, code: JSON.parse(text).code }).toEqual({ status: 503, code: "interrupted" });
  });

  test.each(["SIGHUP", "SIGUSR1", "SIGUSR2"] as const)("%s does nothing", async (signal) => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path);
    for (let i = 0; i < 5; i++) server.child.kill(signal);
    expect((await server.get("/healthz")).status).toBe(200);
    expect(await server.stop()).toBe(0);
  });
});

describe("sd_notify", () => {
  test.each([
    ["a path", (folder: string) => join(folder, "notify")],
    ["an abstract name", (folder: string) => `@larder-test${folder}`],
  ])("tells %s when the server is ready, and when it stops", async (_, nameOf) => {
    using folder = new TemporaryFolder();
    const name = nameOf(folder.path);
    const listener = Bun.spawn(["python3", "-uc", LISTENER, name], { stdout: "pipe" });
    const lines = listener.stdout.pipeThrough(new TextDecoderStream()).getReader();
    expect((await lines.read()).value).toBe("bound\n");
    await using server = await Server.start(folder.path, { env: { NOTIFY_SOCKET: name } });
    expect((await lines.read()).value).toBe("READY=1\n");
    expect((await server.get("/healthz")).status).toBe(200);
    expect(await server.stop()).toBe(0);
    expect((await lines.read()).value).toBe("STOPPING=1\n");
    await listener.exited;
  });
});

const LISTENER = `
import socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name.startswith("@") else name)
sys.stdout.write("bound\\n")
for _ in range(2): sys.stdout.write(s.recv(100).decode() + "\\n")
`;

describe("the request log", () => {
  test("is JSON lines where that is asked for, each one whole whatever the client sent", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path, { args: ["--log-format", "json"] });
    await server.get("/v1/image?reference=%22%0A%1b[31m");
    await server.raw(Buffer.from('GET /\xff\xfe" HTTP/1.1\r\nHost: x\r\n\r\n', "latin1"));
    expect(await server.stop()).toBe(0);
    const lines = server.logs
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ event }) => event)).toEqual(["listening", "request", "request", "stopping"]);
    expect(lines[1]).toMatchObject({ method: "GET", status: 404, id: expect.any(String), ms: expect.any(Number) });
    expect(lines[0].database).toBe(join(folder.path, "db/msb.db"));
  });

  test("is text that no client can break out of", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path);
    await server.raw(Buffer.from('GET /a"b=c\x80\xff?status=200 HTTP/1.1\r\nHost: x\r\n\r\n', "latin1"));
    expect(await server.stop()).toBe(0);
    expect(server.logs).toMatch(/^[\x20-\x7e\n]*$/);
    expect(server.logs.split("\n")).toHaveLength(4);
    expect(server.logs).toMatch(/ request id=\S+ method=GET target="[^ ]*" status=404 ms=/);
  });
});

describe("a catalogue that changes under the server", () => {
  const one = (home: string, reference: string) => {
    using catalogue = Catalogue.create(home);
    catalogue.image({ reference, manifest: digest(1) });
  };
  const names = async (server: Server) =>
    (await server.get("/v1/images")).json().map(({ reference }: { reference: string }) => reference);

  test("is read anew where another takes its place, vanishes, or comes back", async () => {
    using folder = new TemporaryFolder();
    using other = new TemporaryFolder();
    one(folder.path, "old:1");
    one(other.path, "new:1");
    await using server = await Server.start(folder.path);
    expect(await names(server)).toEqual(["old:1"]);
    const etag = (await server.get("/v1/images")).headers.get("etag")!;
    renameSync(join(other.path, "db/msb.db"), join(folder.path, "db/msb.db"));
    expect(await names(server)).toEqual(["new:1"]);
    expect((await server.get("/v1/images", { "if-none-match": etag })).status).toBe(200);
    rmSync(join(folder.path, "db"), { recursive: true });
    expect(await names(server)).toEqual([]);
    expect((await server.get("/readyz")).json().status).toBe("ready, without a catalogue");
    one(folder.path, "third:1");
    expect(await names(server)).toEqual(["third:1"]);
    expect((await server.get("/readyz")).json().status).toBe("ready");
  });

  test("keeps the write-ahead log of the one that took its place, in which everything may be", async () => {
    using store = await Store.make(IMAGES);
    await using server = await Server.start(store.path, { args: ["--allow-writes"] });
    const put = (name: string) =>
      server.ask("PUT", `/v1/image?reference=${name}`, { body: JSON.stringify(metadataOf(name, ["base"])) });
    // Both connections are warm now: the one that reads and the one that persists.
    expect((await put("first")).status).toBe(200);
    expect(await names(server)).toContain("first");
    // The new catalogue as msb leaves one: an open writer, and every row still in the log.
    using other = new TemporaryFolder();
    one(other.path, "restored:1");
    for (const file of ["msb.db-wal", "msb.db-shm", "msb.db"]) rmSync(join(store.path, "db", file), { force: true });
    renameSync(join(other.path, "db/msb.db"), join(store.path, "db/msb.db"));
    using writer = new Database(join(store.path, "db/msb.db"), { readwrite: true });
    writer.run("PRAGMA wal_autocheckpoint = 0");
    writer.run("UPDATE image_ref SET reference = 'in-the-log:1'");
    const { ino } = statSync(join(store.path, "db/msb.db-wal"));
    expect(await names(server)).toEqual(["in-the-log:1"]);
    expect((await put("second")).status).toBe(200);
    expect(statSync(join(store.path, "db/msb.db-wal")).ino).toBe(ino);
    expect((await names(server)).sort()).toEqual(["in-the-log:1", "second"]);
    expect(writer.query("SELECT count(*) AS n FROM image_ref").get()).toEqual({ n: 2 });
    expect(store.unsound()).toEqual([]);
  });

  test.each<[string, (path: string) => void]>([
    ["is overwritten by junk", (path) => writeFileSync(path, "junk".repeat(5000))],
    [
      "is a folder",
      (path) => {
        rmSync(path);
        mkdirSync(path);
      },
    ],
    [
      "lacks a table",
      (path) => {
        using db = new Database(path);
        db.run("PRAGMA foreign_keys = OFF");
        db.run("DROP TABLE image_ref");
      },
    ],
  ])("that %s makes a problem, no crash, and is served again when it is whole", async (_, spoil) => {
    using folder = new TemporaryFolder();
    one(folder.path, "old:1");
    const path = join(folder.path, "db/msb.db");
    const copy = join(folder.path, "copy");
    copyFileSync(path, copy);
    await using server = await Server.start(folder.path);
    expect(await names(server)).toEqual(["old:1"]);
    spoil(path);
    for (const target of ["/v1/images", "/v1/image?reference=old:1", "/v1/df"]) {
      const answer = await server.get(target);
      expect([500, 503]).toContain(answer.status);
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
    }
    const ready = await server.get("/readyz");
    // Nothing to be waited for.
    expect([ready.status, ready.json().code, ready.headers.get("retry-after")]).toEqual([503, "not_ready", null]);
    expect((await server.get("/healthz")).status).toBe(200);
    expect((await server.get("/metrics")).text).toContain("larder_http_requests_total");
    rmSync(path, { recursive: true });
    for (const end of ["-wal", "-shm"]) rmSync(path + end, { force: true });
    copyFileSync(copy, path);
    expect(await names(server)).toEqual(["old:1"]);
    expect((await server.get("/readyz")).status).toBe(200);
  });

  test("that nobody else may even read is busy, and soon said to be", async () => {
    using folder = new TemporaryFolder();
    one(folder.path, "old:1");
    await using server = await Server.start(folder.path);
    using owner = new Database(join(folder.path, "db/msb.db"), { readwrite: true });
    owner.run("PRAGMA locking_mode = EXCLUSIVE");
    owner.run("PRAGMA journal_mode = DELETE");
    owner.run("BEGIN EXCLUSIVE");
    const answer = await server.get("/v1/images");
    expect([answer.status, answer.json().code]).toEqual([503, "busy"]);
    owner.run("ROLLBACK");
    owner.close();
    expect(await names(server)).toEqual(["old:1"]);
  });

  const canSwitch = process.getuid?.() === 0 && Bun.which("setpriv") !== null;
  const under = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];

  test.skipIf(!canSwitch).each([[true], [false]])(
    "can be written by a user who once might not, as soon as that is mended (needs root and setpriv; with a log: %p)",
    async (hasLog) => {
      using folder = new TemporaryFolder();
      one(folder.path, "old:1");
      for (const path of [folder.path, join(folder.path, "run")]) {
        mkdirSync(path, { recursive: true });
        chmodSync(path, 0o755);
        chownSync(path, 54321, 54321);
      }
      // With its log and the index of that, as another user's msb leaves it.
      using open = Catalogue.open(folder.path);
      if (hasLog) expect(open.rows("SELECT 1 FROM image_ref")).toHaveLength(1);
      const executable = join(folder.path, "larder");
      copyFileSync(EXECUTABLE, executable);
      await using server = await Server.start(folder.path, { args: ["--allow-writes"], under, executable });
      expect(await names(server)).toEqual(["old:1"]);
      const persist = () => server.ask("PUT", "/v1/image?reference=new:1", { body: metadata() });
      const refused = await persist();
      expect([refused.status, refused.json().code]).toEqual([500, "failed"]);
      expect(refused.json().detail).toContain("cannot be written");
      Bun.spawnSync(["chown", "-R", "54321:54321", join(folder.path, "db")]);
      expect((await persist()).status).toBe(200);
      expect(await names(server)).toEqual(["new:1", "old:1"]);
    },
  );
});

describe("a path that the system refuses", () => {
  test("is named, by what looks up and by what works in a thread", async () => {
    using folder = new TemporaryFolder();
    for (const name of ["db", "cache"]) symlinkSync(name, join(folder.path, name));
    await using server = await Server.start(folder.path);
    for (const [target, path] of [
      ["/v1/images", "db/msb.db"],
      ["/v1/df", "db/msb.db"],
    ] as const) {
      const answer = await server.get(target);
      expect([answer.status, answer.json().code]).toEqual([500, "failed"]);
      expect(answer.json().detail).toContain(`"${join(folder.path, path)}"`);
    }
  });
});

describe("larder --serve", () => {
  test("makes nothing but its socket's folder in a home that is not there", async () => {
    using folder = new TemporaryFolder();
    const home = join(folder.path, "home");
    await using server = await Server.start(home);
    expect((await server.get("/v1/images")).text).toBe("[]\n");
    expect(await server.stop()).toBe(0);
    expect(existsSync(join(home, "db"))).toBe(false);
  });

  test.each<[string, string, string | undefined, number]>([
    ["PUT", "/v1/image?reference=python:3.12", undefined, 404],
    ["PUT", "/v1/image?reference=python:3.12", "{}", 422],
    ["PUT", "/v1/image?reference=NOT+ONE", JSON.stringify(metadataOf("web", ["base"])), 422],
    ["POST", "/v1/images", "", 200],
    ["POST", "/v1/images", "{}\n", 200],
    ["DELETE", "/v1/image?reference=python:3.12", undefined, 404],
    ["POST", "/v1/gc", "{}", 200],
    ["POST", "/v1/prune", '{"unused":true}', 200],
    ["POST", "/v1/repair", "{}", 200],
    ["GET", "/v1/df", undefined, 200],
  ])("makes no catalogue where nothing is put on record: %s %s %p", async (method, target, body, status) => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path, { args: ["--allow-writes"] });
    const headers = { "content-type": target === "/v1/images" ? "application/x-ndjson" : "application/json" };
    const answer = await server.ask(method, target, body === undefined ? {} : { body, headers });
    expect(answer.status).toBe(status);
    expect(existsSync(join(folder.path, "db"))).toBe(false);
  });

  test("reports the disk without a catalogue as the command does, and sweeps nothing that none accounts for", async () => {
    using folder = new TemporaryFolder();
    await using server = await Server.start(folder.path, { args: ["--allow-writes"] });
    for (const [target, body, command] of [
      ["/v1/gc", {}, ["gc"]],
      ["/v1/prune", { unused: true }, ["prune", "--unused"]],
    ] as const)
      expect((await server.post(target, body)).json()).toEqual(await larderJson(folder.path, [...command]));
    const file = join(folder.path, "cache", at.layer("base"));
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, "layer");
    expect((await server.get("/v1/df")).json().total.files).toBe(1);
    for (const dry_run of [true, false]) {
      const refused = await server.post("/v1/gc", { dry_run });
      expect([refused.status, refused.json().code]).toEqual([409, "unaccounted"]);
    }
    expect(existsSync(file)).toBe(true);
  });

  test("shows its help, and refuses flags that it does not have", async () => {
    const help = await run(["--serve", "--help"]);
    expect([help.code, help.stdout.includes("--allow-writes")]).toEqual([0, true]);
    expect((await run(["--serve", "--bogus"])).code).toBe(2);
    expect((await run(["--serve", "unix:/a", "unix:/b"])).code).toBe(2);
    expect(EXECUTABLE).toEndWith("dist/larder");
  });

  test("answers with the catalogue of the home that it was given", async () => {
    using store = await Store.make(IMAGES);
    await using server = await Server.start(store.path);
    expect((await server.get("/v1/images")).json()).toEqual(await larderJson(store.path, ["list"]));
    expect(store.has(at.layer("base"))).toBe(true);
  });
});
