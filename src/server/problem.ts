import type { Code } from "../error.ts";

/** Codes that only HTTP knows. */
export type HttpCode =
  | "unauthorized"
  | "forbidden"
  | "no_such_route"
  | "method_not_allowed"
  | "too_slow"
  | "too_large"
  | "unsupported_media"
  | "running"
  | "not_ready"
  | "overloaded"
  | "internal";

// The one table of statuses, for larder's codes and HTTP's own.
const STATUSES: Record<Code | HttpCode, [status: number, title: string]> = {
  failed: [500, "The operation failed"],
  invalid: [422, "The input is not valid"],
  usage: [422, "The input is not valid"],
  ambiguous: [409, "The reference is ambiguous"],
  not_found: [404, "Not found"],
  in_use: [409, "In use"],
  damaged: [500, "The catalogue is damaged"],
  unaccounted: [409, "The catalogue does not account for its cache"],
  unreachable: [409, "The target cannot be reached"],
  busy: [503, "Busy"],
  interrupted: [503, "Shutting down"],
  unauthorized: [401, "A bearer token is needed"],
  forbidden: [403, "Forbidden"],
  no_such_route: [404, "No such route"],
  method_not_allowed: [405, "Method not allowed"],
  too_slow: [408, "The request took too long"],
  too_large: [413, "The body is too large"],
  unsupported_media: [415, "Unsupported media type"],
  running: [409, "Already running"],
  not_ready: [503, "Not ready"],
  overloaded: [503, "Too many requests at once"],
  internal: [500, "Internal error"],
};

/** The codes that a problem may have. */
export const HTTP_CODES = (Object.keys(STATUSES) as (Code | HttpCode)[]).filter((code) => code !== "usage");

/** An answer that is a problem, thrown from wherever it is found. */
export class HttpProblem extends Error {
  constructor(
    readonly code: Code | HttpCode,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
  }
}

// What is worth another try soon.
const PASSING: (Code | HttpCode)[] = ["busy", "running", "overloaded", "interrupted"];

/** The status of a code. */
export function statusOf(code: Code | HttpCode): number {
  return STATUSES[code][0];
}

/** A problem as RFC 9457 writes it. */
export function toProblem({ code, message, headers }: HttpProblem, requestId: string): Response {
  const [status, title] = STATUSES[code];
  const body = { type: "about:blank", title, status, code, detail: message, request_id: requestId };
  return new Response(`${JSON.stringify(body)}\n`, {
    status,
    headers: {
      "content-type": "application/problem+json",
      "x-request-id": requestId,
      ...(PASSING.includes(code) && { "retry-after": "1" }),
      ...(status === 401 && { "www-authenticate": 'Bearer realm="larder"' }),
      ...headers,
    },
  });
}
