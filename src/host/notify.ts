import { FFIType } from "bun:ffi";
import { loadLibc } from "./libc.ts";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const ADDRESS_BYTES = 110;

/**
 * Tells the service manager about this process, as systemd's sd_notify does: one datagram to `NOTIFY_SOCKET`, which
 * may be abstract (`@…`). Does nothing where there is no manager; never fails.
 */
export function notify(state: string, socketPath = process.env.NOTIFY_SOCKET): void {
  if (!socketPath) return;
  const path = Buffer.from(socketPath.startsWith("@") ? `\0${socketPath.slice(1)}` : socketPath);
  if (path.length > ADDRESS_BYTES - 3) return;
  try {
    send(Buffer.from(state), path);
  } catch {}
}

function send(message: Buffer, path: Buffer): void {
  const { i32, u32, u64, ptr } = FFIType;
  const libc = loadLibc({
    socket: { args: [i32, i32, i32], returns: i32 },
    sendto: { args: [i32, ptr, u64, i32, ptr, u32], returns: u64 },
    close: { args: [i32], returns: i32 },
  });
  const address = Buffer.alloc(ADDRESS_BYTES);
  address.writeUInt16LE(AF_UNIX, 0);
  path.copy(address, 2);
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  libc.sendto(fd, message, message.length, 0, address, 2 + path.length);
  libc.close(fd);
}
