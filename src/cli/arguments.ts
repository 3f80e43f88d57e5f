import type { BooleanArgDef, EnumArgDef, PositionalArgDef, StringArgDef } from "citty";
import { LarderError } from "../error.ts";

type EnumFlag = Omit<EnumArgDef, "options"> & { options: readonly string[] };

// `options` of an operand are for completion; the command itself refuses another.
type Operand = PositionalArgDef & { options?: readonly string[] };

/** citty's own argument definition, and whether a flag may be given more than once. */
export type Flag = (BooleanArgDef | StringArgDef | EnumFlag | Operand) & {
  multiple?: boolean;
  alias?: string;
};
export type Flags = Record<string, Flag>;

type Value<F extends Flag> = F extends { type: "boolean" }
  ? boolean
  : F extends { multiple: true }
    ? string[]
    : F extends { type: "enum"; options: readonly (infer O)[] }
      ? O | undefined
      : string | undefined;

/** The values of a command's flags, by the names that it declared. */
export type Values<F extends Flags> = {
  [K in keyof F as F[K] extends { type: "positional" } ? never : K]: Value<F[K]>;
};

export interface Parsed<F extends Flags> {
  values: Values<F>;
  operands: string[];
  /** What follows the first operand, where parsing was to stop there. */
  rest: string[];
}

/**
 * Parses arguments strictly: what citty would let pass (unknown or repeated flags, a value that is the next flag, an
 * empty string) is a `usage` error here, before anything is opened.
 */
export function parseArguments<F extends Flags>(flags: F, argv: string[], stopAtOperand = false): Parsed<F> {
  const parser = new Parser(flags, argv);
  return parser.parse(stopAtOperand) as Parsed<F>;
}

class Parser {
  private readonly values: Record<string, boolean | string | string[] | undefined> = Object.create(null);
  private readonly given = new Set<string>();
  private readonly operands: string[] = [];
  private next = 0;

  constructor(
    private readonly flags: Flags,
    private readonly argv: string[],
  ) {
    for (const [name, flag] of Object.entries(flags)) {
      if (flag.type === "positional") continue;
      this.values[name] = flag.type === "boolean" ? false : flag.multiple ? [] : undefined;
    }
  }

  parse(stopAtOperand: boolean): { values: unknown; operands: string[]; rest: string[] } {
    while (this.next < this.argv.length) {
      const token = this.argv[this.next++]!;
      if (token === "--") {
        // Which command the rest belongs to, and where its own flags begin, could not be told.
        if (stopAtOperand) throw usage("-- can stand only after the command");
        for (const operand of this.argv.slice(this.next)) this.operand(operand);
        break;
      }
      if (token.startsWith("--")) this.long(token.slice(2));
      else if (token.startsWith("-") && token !== "-") this.short(token.slice(1));
      else {
        this.operand(token);
        if (stopAtOperand) return { values: this.values, operands: this.operands, rest: this.argv.slice(this.next) };
      }
    }
    return { values: this.values, operands: this.operands, rest: [] };
  }

  private operand(text: string): void {
    if (text === "") throw usage("an argument is empty");
    this.operands.push(text);
  }

  private long(text: string): void {
    const equals = text.indexOf("=");
    const name = equals < 0 ? text : text.slice(0, equals);
    const flag = Object.hasOwn(this.flags, name) ? this.flags[name] : undefined;
    if (!flag || flag.type === "positional") throw usage(`unknown flag --${name}${this.suggest(name)}`);
    this.set(name, flag, `--${name}`, equals < 0 ? undefined : text.slice(equals + 1));
  }

  private short(letters: string): void {
    for (const letter of letters) {
      const found = Object.entries(this.flags).find(([, flag]) => flag.type !== "positional" && flag.alias === letter);
      if (!found) throw usage(`unknown flag -${letter}`);
      const [name, flag] = found;
      if (flag.type !== "boolean" && letters.length > 1)
        throw usage(`-${letter} takes a value, so it cannot stand in -${letters}`);
      this.set(name, flag, `-${letter}`, undefined);
    }
  }

  private set(name: string, flag: Flag, written: string, attached: string | undefined): void {
    if (this.given.has(name) && !flag.multiple) throw usage(`${written} is given twice`);
    this.given.add(name);
    if (flag.type === "boolean") {
      if (attached !== undefined) throw usage(`${written} takes no value`);
      this.values[name] = true;
      return;
    }
    const value = attached ?? this.follow(written);
    if (value === "") throw usage(`${written} needs a value`);
    if (flag.type === "enum" && !flag.options.includes(value)) {
      throw usage(`${written} is ${JSON.stringify(value)}, and must be one of: ${flag.options.join(", ")}`);
    }
    if (flag.multiple) (this.values[name] as string[]).push(value);
    else this.values[name] = value;
  }

  // `--limit --force` must not eat the flag; a value that starts so can be attached: `--label=--x`.
  private follow(written: string): string {
    const value = this.argv[this.next];
    if (value === undefined || (value.startsWith("-") && value !== "-")) throw usage(`${written} needs a value`);
    this.next++;
    return value;
  }

  private suggest(name: string): string {
    const plain = (text: string) => text.replaceAll(/[-_]/g, "").toLowerCase();
    const near = Object.keys(this.flags).find(
      (flag) => this.flags[flag]!.type !== "positional" && (plain(flag) === plain(name) || flag.startsWith(name)),
    );
    return near ? ` (did you mean --${near}?)` : "";
  }
}

function usage(message: string): LarderError {
  return new LarderError("usage", message);
}
