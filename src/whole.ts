import { COMMANDS, SERVE } from "./cli/commands.ts";
import { start } from "./cli/program.ts";

start({ commands: COMMANDS, serve: SERVE });
