import { LarderError } from "../error.ts";
import { resolveHome } from "../home.ts";
import type { Flags, Values } from "./arguments.ts";
import type { Call, Command, GLOBAL_FLAGS } from "./command.ts";

/** Makes the call of a parsed command; the home is looked for only when it is asked for. */
export function makeCall(command: Command, values: Values<typeof GLOBAL_FLAGS>, operands: string[]): Call<Flags> {
  checkOperands(command, operands);
  return {
    flags: values as unknown as Values<Flags>,
    operands,
    format: values.format ?? "table",
    home: () => resolveHome(values.home, process.env),
  };
}

function checkOperands({ name, flags, operands: { least, most } }: Command, operands: string[]): void {
  if (operands.length > most)
    throw new LarderError(
      "usage",
      `${name} takes ${most === 0 ? "no argument" : `at most ${most}`}, and ${JSON.stringify(operands[most])} is one too many`,
    );
  if (operands.length < least) {
    const [operand] = Object.keys(flags).filter((flag) => flags[flag]!.type === "positional");
    throw new LarderError("usage", `${name} needs a ${operand!.replace("...", "")}`);
  }
}
