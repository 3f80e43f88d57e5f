import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { EXECUTABLE } from "../../build.ts";
import { processStatus } from "../larder.ts";

interface Start {
  /** A TCP address; by default the server has a unix socket in the home. */
  address?: string;
  args?: string[];
  env?: Record<string, string>;
  /** A command that runs the executable, such as `strace -f …`. */
  under?: string[];
  /** A copy of it, where another user can run it. */
  executable?: string;
}

/** An answer, its body read. */
export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads what it expects, and fails where it is not there
  json(): any;
}

/** The compiled executable, serving a home; disposing ends it. */
export class Server {
  private log = "";
  private readonly ended: Promise<void>;
  private readonly waiting = new Set<() => void>();

  private constructor(
    readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">,
    private readonly home: string,
  ) {
    this.ended = this.readLog();
  }

  /** Starts a server and waits until it listens; fails with its stderr where it does not. */
  static async start(
    home: string,
    { address, args = [], env = {}, under = [], executable = EXECUTABLE }: Start = {},
  ): Promise<Server> {
    const child = Bun.spawn(
      [...under, executable, "--serve", ...(address === undefined ? [] : [address]), "--home", home, ...args],
      {
        env: { PATH: process.env.PATH ?? "", TZ: "UTC", ...env },
        stdin: "ignore",
        stdout: "pipe",
        stderr: "pipe",
      },
    );
    const server = new Server(child, home);
    await server.logged("listening");
    return server;
  }

  get socket(): string {
    return join(this.home, "run", "larder.sock");
  }

  /** Where a TCP server listens, as its log says. */
  get origin(): string {
    return `http://${/address="?([^\s"]+)/.exec(this.log)![1]}`;
  }

  /** Everything logged so far. */
  get logs(): string {
    return this.log;
  }

  /** Waits until the log holds `text`. */
  async logged(text: string): Promise<string> {
    for (;;) {
      if (this.log.includes(text)) return this.log;
      if (this.child.exitCode !== null) {
        await this.ended;
        if (this.log.includes(text)) return this.log;
        throw new Error(`the server ended without ${JSON.stringify(text)}: ${this.log}`);
      }
      await new Promise<void>((resolve) => this.waiting.add(resolve));
    }
  }

  /** Asks over the unix socket, each time on a connection of its own. */
  async ask(method: string, target: string, options: { body?: string; headers?: Record<string, string> } = {}) {
    const { body, headers = {} } = options;
    const response = await this.reach(() =>
      fetch(`http://larder${target}`, {
        method,
        unix: this.socket,
        headers: { connection: "close", ...(body !== undefined && { "content-type": "application/json" }), ...headers },
        ...(body !== undefined && { body }),
      }),
    );
    return read(response);
  }

  get(target: string, headers: Record<string, string> = {}): Promise<Answer> {
    return this.ask("GET", target, { headers });
  }

  /** Sends a JSON body. */
  post(target: string, body: unknown): Promise<Answer> {
    return this.ask("POST", target, { body: JSON.stringify(body) });
  }

  /** Sends bytes as they are, and gives what came back until the server closed, or until `enough` says so. */
  async raw(bytes: string | Uint8Array, enough: (text: string) => boolean = isWhole): Promise<string> {
    const socket = await this.connect();
    return new Promise((resolve) => {
      let text = "";
      socket.on("data", (data) => {
        text += data.toString("latin1");
        if (enough(text)) socket.destroy();
      });
      socket.on("close", () => resolve(text));
      socket.write(bytes);
    });
  }

  /** A connection to the unix socket. A server may cut it off while the client still sends: that is no error here. */
  connect(): Promise<Socket> {
    return this.reach(
      () =>
        new Promise((resolve, reject) => {
          const socket = connect(this.socket, () => resolve(socket));
          socket.on("error", reject);
        }),
    );
  }

  /** Resident memory in MiB. */
  memory(): number {
    return Number.parseInt(processStatus(this.child.pid, "VmRSS")!, 10) / 1024;
  }

  /** Ends the server with a signal, and gives its exit code. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number> {
    this.child.kill(signal);
    await this.child.exited;
    await this.ended;
    return this.child.exitCode ?? 128;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode === null) await this.stop("SIGKILL");
  }

  // The kernel refuses a unix socket's client while as many wait as the server's queue takes. On a busy machine a burst
  // of a test's own gets there; what it wants to know is what the server does with those that reach it.
  private async reach<T>(attempt: () => Promise<T>): Promise<T> {
    for (let tries = 0; ; tries++) {
      try {
        return await attempt();
      } catch (error) {
        const isQueueFull = ["EAGAIN", "ECONNREFUSED"].includes((error as NodeJS.ErrnoException).code ?? "");
        if (!isQueueFull || this.child.exitCode !== null || tries === 500) throw error;
        await Bun.sleep(10);
      }
    }
  }

  private async readLog(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.child.stderr) {
      this.log += decoder.decode(chunk, { stream: true });
      this.wake();
    }
    await this.child.exited;
    this.wake();
  }

  private wake(): void {
    for (const resolve of this.waiting) resolve();
    this.waiting.clear();
  }
}

/** For `Start.under`: strace that slows calls down, as its `inject` says; those of one `path`, or all. */
export function slowly(inject: string, { path, log = "/dev/null" }: { path?: string; log?: string } = {}): string[] {
  const calls = inject.slice(0, inject.indexOf(":"));
  const those = path === undefined ? [] : ["-P", path];
  return ["strace", "-D", "-f", "-qq", "-o", log, ...those, "-e", `trace=${calls}`, "-e", `inject=${inject}`];
}

/** Reads an answer whole. */
export async function read(response: Response): Promise<Answer> {
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) };
}

// One answer with its whole body, as its length says.
function isWhole(text: string): boolean {
  const [head = "", body] = text.split(/\r\n\r\n(.*)/s);
  const length = /^content-length: (\d+)/im.exec(head)?.[1];
  return body !== undefined && length !== undefined && body.length >= Number(length);
}
