import { asLarderError, LarderError } from "../error.ts";
import { checkMetadata, parseJson } from "../oci/metadata.ts";
import { parseReference } from "../oci/reference.ts";
import type { Entry } from "../ops/persist.ts";

/** Parses one line of a batch, `{"reference", "metadata"}`; throws `invalid`, naming `where` and the place in it. */
export function parseBatchLine(line: string, where: string): Entry {
  const document = parseJson(line, where);
  if (
    typeof document !== "object" ||
    document === null ||
    !("reference" in document) ||
    !("metadata" in document) ||
    typeof document.reference !== "string"
  ) {
    throw new LarderError("invalid", `${where}: must be an object {"reference": "…", "metadata": {…}}`);
  }
  try {
    parseReference(document.reference);
  } catch (error) {
    throw new LarderError("invalid", `${where}: ${asLarderError(error).message}`, error);
  }
  return { reference: document.reference, metadata: checkMetadata(document.metadata, `${where}: metadata`) };
}
