import { Database } from "bun:sqlite";

// Holds a catalogue's write lock: DATABASE MILLISECONDS.
const [path, ms] = process.argv.slice(2) as [string, string];
const db = new Database(path, { readwrite: true });
db.run("PRAGMA busy_timeout = 5000");
db.run("BEGIN IMMEDIATE");
Bun.sleepSync(Number(ms));
db.run("ROLLBACK");
