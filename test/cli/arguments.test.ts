import { describe, expect, test } from "bun:test";
import { type Flags, parseArguments } from "../../src/cli/arguments.ts";
import { LarderError } from "../../src/error.ts";

const FLAGS = {
  force: { type: "boolean", alias: "f" },
  quiet: { type: "boolean", alias: "q" },
  "dry-run": { type: "boolean" },
  limit: { type: "string", alias: "n" },
  filter: { type: "string", multiple: true, alias: "F" },
  format: { type: "enum", options: ["table", "json"] },
  reference: { type: "positional", required: false },
} as const satisfies Flags;

const NOTHING = {
  force: false,
  quiet: false,
  "dry-run": false,
  limit: undefined,
  filter: [],
  format: undefined,
};

function parse(...argv: string[]) {
  const { values, operands } = parseArguments(FLAGS, argv);
  return { values: { ...values }, operands };
}

function refusal(...argv: string[]): string {
  try {
    parseArguments(FLAGS, argv);
  } catch (error) {
    expect(error).toBeInstanceOf(LarderError);
    expect((error as LarderError).code).toBe("usage");
    return (error as LarderError).message;
  }
  throw new Error(`accepted: ${argv.join(" ")}`);
}

describe("parseArguments", () => {
  test("gives every declared flag a value, and positionals none", () => {
    expect(parse()).toEqual({ values: NOTHING, operands: [] });
  });

  test.each<[string[], object, string[]]>([
    [["a", "b"], {}, ["a", "b"]],
    [["--force"], { force: true }, []],
    [["-f"], { force: true }, []],
    [["-fq", "a"], { force: true, quiet: true }, ["a"]],
    [["a", "--dry-run", "b"], { "dry-run": true }, ["a", "b"]],
    [["--limit", "5"], { limit: "5" }, []],
    [["--limit=5"], { limit: "5" }, []],
    [["-n", "5"], { limit: "5" }, []],
    [["--limit", "-"], { limit: "-" }, []],
    [["--limit=-5"], { limit: "-5" }, []],
    [["--limit=--force"], { limit: "--force" }, []],
    [["--limit=a=b"], { limit: "a=b" }, []],
    [["--filter", "a=1", "-F", "b", "--filter=c"], { filter: ["a=1", "b", "c"] }, []],
    [["--format", "json"], { format: "json" }, []],
    [["-"], {}, ["-"]],
    [["--", "--force", "-f", "--", "-"], {}, ["--force", "-f", "--", "-"]],
    [["-q", "--", "--help"], { quiet: true }, ["--help"]],
    [["--"], {}, []],
    [["toString", "constructor", "__proto__"], {}, ["toString", "constructor", "__proto__"]],
  ])("reads %p", (argv, values, operands) => {
    expect(parse(...argv)).toEqual({ values: { ...NOTHING, ...values }, operands });
  });

  test.each<[string[], string]>([
    // Unknown, and what could pass for known.
    [["--unknown"], "unknown flag --unknown"],
    [["--unknown=1"], "unknown flag --unknown"],
    [["-x"], "unknown flag -x"],
    [["-fx"], "unknown flag -x"],
    [["--no-force"], "unknown flag --no-force"],
    [["--FORCE"], "unknown flag --FORCE (did you mean --force?)"],
    [["--f"], "unknown flag --f (did you mean --force?)"],
    [["--dryRun"], "unknown flag --dryRun (did you mean --dry-run?)"],
    [["--dry_run"], "unknown flag --dry_run (did you mean --dry-run?)"],
    [["--toString"], "unknown flag --toString"],
    [["--constructor"], "unknown flag --constructor"],
    [["--__proto__=x"], "unknown flag --__proto__"],
    [["--reference", "x"], "unknown flag --reference"],
    [["--help"], "unknown flag --help"],
    [["--version"], "unknown flag --version"],
    [["---force"], "unknown flag ---force (did you mean --force?)"],
    [["-é"], "unknown flag -é"],
    // Given twice.
    [["--force", "--force"], "--force is given twice"],
    [["-f", "--force"], "--force is given twice"],
    [["-ff"], "-f is given twice"],
    [["--limit", "1", "--limit", "2"], "--limit is given twice"],
    [["--limit=1", "-n", "1"], "-n is given twice"],
    [["--format=json", "--format=json"], "--format is given twice"],
    // Values.
    [["--limit"], "--limit needs a value"],
    [["--limit="], "--limit needs a value"],
    [["--limit", ""], "--limit needs a value"],
    [["--limit", "--force"], "--limit needs a value"],
    [["--limit", "-f"], "--limit needs a value"],
    [["--limit", "--"], "--limit needs a value"],
    [["-n"], "-n needs a value"],
    [["--filter", "a", "--filter"], "--filter needs a value"],
    [["--force=true"], "--force takes no value"],
    [["--force=false"], "--force takes no value"],
    [["--force="], "--force takes no value"],
    [["-n5"], "-n takes a value, so it cannot stand in -n5"],
    [["-fn", "5"], "-n takes a value, so it cannot stand in -fn"],
    [["--format", "yaml"], '--format is "yaml", and must be one of: table, json'],
    [["--format", "JSON"], '--format is "JSON", and must be one of: table, json'],
    [["--format=toString"], '--format is "toString", and must be one of: table, json'],
    // Empty arguments come from unset variables of scripts.
    [[""], "an argument is empty"],
    [["a", ""], "an argument is empty"],
    [["--", ""], "an argument is empty"],
  ])("refuses %p", (argv, message) => {
    expect(refusal(...argv)).toBe(message);
  });

  test("does not share what it collects between two calls", () => {
    expect(parse("--filter", "a").values.filter).toEqual(["a"]);
    expect(parse("--filter", "b").values.filter).toEqual(["b"]);
  });

  describe("that stops at the first operand", () => {
    function stop(...argv: string[]) {
      const { values, operands, rest } = parseArguments(FLAGS, argv, true);
      return { values: { ...values }, operands, rest };
    }

    test("leaves what follows it unread", () => {
      expect(stop("--limit", "5", "rm", "--unknown", "x")).toEqual({
        values: { ...NOTHING, limit: "5" },
        operands: ["rm"],
        rest: ["--unknown", "x"],
      });
      expect(stop("-q")).toEqual({ values: { ...NOTHING, quiet: true }, operands: [], rest: [] });
    });

    test("refuses what is unknown before it", () => {
      expect(() => stop("--unknown", "rm")).toThrow("unknown flag --unknown");
      expect(() => stop("", "rm")).toThrow("an argument is empty");
    });

    // `larder -- rm x` would otherwise have removed an image called "rm".
    test("refuses -- before it", () => {
      expect(() => stop("--", "rm", "x")).toThrow("-- can stand only after the command");
      expect(() => stop("-q", "--", "rm", "x")).toThrow("-- can stand only after the command");
    });

    test("leaves -- after it alone", () => {
      expect(stop("rm", "--", "--force").rest).toEqual(["--", "--force"]);
    });
  });
});
