import { start } from "./cli/program.ts";
import { READS } from "./cli/reads.ts";

start({ commands: READS });
