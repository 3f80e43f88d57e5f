import { type ConversionConfig, type JsonSchema, toJsonSchema } from "@valibot/to-json-schema";
import type * as v from "valibot";
import { DigestSchema, MetadataSchema } from "../oci/metadata.ts";
import type { Route } from "./routes.ts";
import { ProblemSchema } from "./schemas.ts";

/** The OpenAPI 3.1 document of the routes, made from the schemas that they validate with. */
export function describeRoutes(routes: Route[], version: string): unknown {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    paths[route.path] ??= {};
    paths[route.path]![route.method.toLowerCase()] = describeRoute(route);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "larder",
      version,
      summary: "The image store of a microsandbox host",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    security: [{}, { token: [] }],
    paths,
    components: {
      schemas: { Problem: toSchema(ProblemSchema) },
      securitySchemes: {
        token: {
          type: "http",
          scheme: "bearer",
          description: "Needed over TCP; a unix socket is guarded by its mode.",
        },
      },
    },
  };
}

function describeRoute(route: Route): unknown {
  const { method, path, summary, query, body, answer, isCatalogue, isProbe, problems = [] } = route;
  const common = isProbe ? [403, 422, 500] : [401, 403, 422, 500, 503];
  const statuses = [...new Set([...common, ...(body ? [408, 413, 415] : []), ...problems])].sort();
  return {
    operationId: `${method.toLowerCase()}${path.replace(/^\/v1/, "").replace(/[/.](\w)/g, (_, letter: string) => letter.toUpperCase())}`,
    summary,
    parameters: [...describeQuery(query), ...(isCatalogue ? [IF_NONE_MATCH] : [])],
    ...(body && { requestBody: { content: describeBody(body) } }),
    responses: {
      200: {
        description: "Done",
        ...(isCatalogue && { headers: { ETag, ...(path === "/v1/images" && { Link }) } }),
        content: typeof answer === "string" ? { [answer]: {} } : { "application/json": { schema: toSchema(answer) } },
      },
      ...(isCatalogue && { 304: { description: "Unchanged since the answer that If-None-Match names" } }),
      ...Object.fromEntries(statuses.map((status) => [status, PROBLEM])),
    },
  };
}

const header = (description: string) => ({ description, schema: { type: "string" } });
const ETag = header("The state of the catalogue that the answer is of; not where it looks at the clock");
const Link = header('The next page of a list with a limit: </v1/images?…>; rel="next"');
const IF_NONE_MATCH = { name: "If-None-Match", in: "header", ...header("ETags of answers that are known already") };

const PROBLEM = {
  description: "A problem (RFC 9457)",
  headers: { "Retry-After": header("Seconds after which what stands in the way may have passed") },
  content: { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } },
};

function describeQuery(query: v.GenericSchema): unknown[] {
  const { properties = {}, required = [] } = toSchema(query);
  return Object.entries(properties).map(([name, schema]) => ({
    name,
    in: "query",
    required: required.includes(name),
    schema,
  }));
}

function describeBody(body: NonNullable<Route["body"]>): unknown {
  if (body === "lines") return { "application/x-ndjson": { schema: { type: "string", description: LINES } } };
  return { "application/json": { schema: toSchema(body === "metadata" ? MetadataSchema : body) } };
}

const LINES = 'JSON lines, an image each: {"reference": "…", "metadata": the body of PUT /v1/image}';

const CONFIG: ConversionConfig = {
  errorMode: "ignore",
  // These have no JSON form of their own: text that was checked, labels by any name, and an integer that was not rounded.
  overrideSchema({ valibotSchema, jsonSchema }) {
    if (valibotSchema === DigestSchema)
      return { type: "string", pattern: "^sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})$" };
    if (valibotSchema.type === "custom") return { type: "object", additionalProperties: { type: "string" } };
    if (valibotSchema.type === "bigint") return { ...jsonSchema, type: "integer", minimum: 0 };
    return undefined;
  },
};

function toSchema(schema: v.GenericSchema): JsonSchema {
  const { $schema: _, ...rest } = toJsonSchema(schema as never, CONFIG);
  return rest;
}
