import { explainSqlite } from "../db/write.ts";
import { openToRead, withLarder } from "../larder.ts";
import { notFound } from "../ops/images.ts";
import { type Detail, inspect } from "../ops/inspect.ts";
import { renderFields, renderTable } from "../output/table.ts";
import { formatSize } from "../output/units.ts";
import { defineCommand, firstFailure, tryEach } from "./command.ts";
import { handleFields } from "./get.ts";
import { complain, emit, emitList } from "./terminal.ts";

export default defineCommand({
  name: "inspect",
  summary: "Show images with their config and layers",
  details: "With one reference, `--format json` prints one object; with several, an array of those that were found.",
  flags: { "reference...": { type: "positional", description: "the images" } },
  operands: { least: 1, most: Number.POSITIVE_INFINITY },
  examples: ["larder inspect python:3.12", "larder inspect --format json python:3.12 | jq -r '.layers[].diff_id'"],
  exits: [
    [3, "no such image"],
    [5, "the database is damaged, or the file is no database"],
  ],
  async run({ operands, format, home }) {
    const where = home();
    const larder = openToRead(where);
    const { done, failed } = larder
      ? await withLarder(larder, (larder) =>
          tryEach(operands, (reference) => explainSqlite(where.database, () => inspect(larder, reference))),
        )
      : tryEach(operands, (reference): Detail => {
          throw notFound(reference, where.database);
        });
    const render = () => done.map(renderDetail).join("\n");
    if (operands.length > 1) await emitList(format, done, render);
    else if (done[0]) await emit(format, done[0], render);
    for (const { message } of failed) complain(message);
    return firstFailure(failed);
  },
});

function renderDetail(detail: Detail): string {
  const layers = detail.layers.map((layer) => [
    String(layer.position ?? "-"),
    layer.diff_id ?? "-",
    layer.compressed_size_bytes === null ? "-" : formatSize(layer.compressed_size_bytes),
    layer.erofs_size_bytes === null ? "-" : formatSize(layer.erofs_size_bytes),
  ]);
  return [
    renderFields(handleFields(detail)),
    detail.config ? `\nConfig\n${renderFields(configFields(detail.config))}` : "",
    layers.length > 0
      ? `\nLayers, bottom to top\n${renderTable([{ title: "#", align: "right" }, { title: "DIFF ID" }, { title: "COMPRESSED", align: "right" }, { title: "ON DISK", align: "right" }], layers)}`
      : "",
  ].join("");
}

function configFields(config: NonNullable<Detail["config"]>): [string, string][] {
  const words = (values: string[] | null) =>
    values?.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word))).join(" ") ?? null;
  const fields: [string, string | null][] = [
    ["Digest", config.digest],
    ["Entrypoint", words(config.entrypoint)],
    ["Command", words(config.cmd)],
    ["Working dir", config.working_dir],
    ["User", config.user],
    ["Stop signal", config.stop_signal],
    ...config.env.map((value): [string, string] => ["Env", value]),
    ...Object.entries(config.labels ?? {}).map(([key, value]): [string, string] => ["Label", `${key}=${value}`]),
    ["Ports", words(config.exposed_ports)],
    ["Volumes", words(config.volumes)],
  ];
  return fields.filter((field): field is [string, string] => field[1] !== null && field[1] !== "");
}
