/**
 * Everything that can go wrong, by code. The exit codes are larder's contract with scripts.
 */
const EXIT_CODES = {
  failed: 1,
  invalid: 1,
  ambiguous: 1,
  usage: 2,
  not_found: 3,
  in_use: 4,
  damaged: 5,
  unaccounted: 5,
  unreachable: 6,
  busy: 75,
  interrupted: 130,
} as const;

export type Code = keyof typeof EXIT_CODES;
export const CODES = Object.keys(EXIT_CODES) as Code[];

/** The one error type: a code for programs, a sentence for people, and what lay underneath. */
export class LarderError extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "LarderError";
    this.code = code;
  }
}

/** The process exit code for an error's code. */
export function exitCode(code: Code): number {
  return EXIT_CODES[code];
}

const ERRNO: Record<string, string> = {
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  ENOENT: "no such file or directory",
  EEXIST: "something else is in its place (a link that leads nowhere, or a file)",
  ENOTDIR: "a part of the path is not a directory",
  EISDIR: "it is a directory",
  EROFS: "the file system is read-only",
  ENOSPC: "no space is left on the device, or no inode",
  EDQUOT: "the disk quota is used up",
  EMFILE: "too many files are open (raise the limit with ulimit -n)",
  ENFILE: "the system has too many files open",
  EIO: "the device reported an input/output error",
  EUCLEAN: "the file system is damaged (let fsck look at it)",
  EBADMSG: "the file system is damaged (let fsck look at it)",
  EFBIG: "it is larger than 64 MiB, or than a file may be",
  EBUSY: "it is in use, or something is mounted there",
  ESTALE: "the file is gone from the server that it lies on",
  ELOOP: "it is a symbolic link, and larder does not follow links here",
};

interface SystemError {
  code: string;
  path?: string;
  syscall?: string;
}

/** Whether a thrown value is a system call's failure, which says nothing about what a file holds. */
export function isSystemError(error: unknown): error is Error & SystemError {
  // By its form: an error that the table lacks must not pass for one of the file's content.
  return error instanceof Error && "code" in error && typeof error.code === "string" && /^E[A-Z0-9]+$/.test(error.code);
}

/**
 * Any thrown value as a LarderError: what is one already stays; a system call's failure becomes a sentence
 * that names the path; the rest keeps its message under `failed`, a JSON parser's without the words of the text: it may be a
 * file that whoever sees the message may not read, to which a link leads.
 */
export function asLarderError(error: unknown): LarderError {
  if (error instanceof LarderError) return error;
  if (isSystemError(error) && error.code in ERRNO) {
    const what = error.path
      ? `cannot ${error.syscall ?? "use"} "${error.path}"`
      : `${error.syscall ?? "a system call"} failed`;
    return new LarderError("failed", `${what}: ${ERRNO[error.code]}`, error);
  }
  const message = error instanceof Error ? error.message : String(error);
  return new LarderError("failed", error instanceof SyntaxError ? message.replace(/ ".*"$/s, "") : message, error);
}

/** To be given to `catch`: what a signal ended is undefined, and any other failure is thrown on. */
export function unlessInterrupted(error: unknown): undefined {
  if (asLarderError(error).code !== "interrupted") throw error;
}

/** Runs `work` on an open file, and gives the path to what fails: a call on a descriptor does not know it. */
export function namingPath<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (isSystemError(error)) error.path ??= path;
    throw error;
  }
}

/** Whether a thrown value is the system's error `code`, such as `ENOENT`. */
export function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}

/** An error as it crosses between threads; without a code it is none that larder knows. */
export interface Failure {
  code: Code | null;
  message: string;
  stack: string;
}

/** Any thrown value in that form. */
export function toFailure(thrown: unknown): Failure {
  const error = isSystemError(thrown) ? asLarderError(thrown) : thrown;
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return error instanceof LarderError
    ? { code: error.code, message: error.message, stack }
    : { code: null, message: String(error), stack };
}

/** The error that it was. */
export function fromFailure({ code, message, stack }: Failure): Error {
  const error = code === null ? new Error(message) : new LarderError(code, message);
  error.stack = stack;
  return error;
}
