/** A metric family: its name, type and help, and its samples. */
export interface Metric {
  name: string;
  type: "gauge" | "counter" | "histogram";
  help: string;
  samples: Sample[];
}

export interface Sample {
  /** What follows the family's name in this sample's, such as `_bucket`. */
  suffix?: string;
  labels?: Record<string, string>;
  value: number;
}

/** Metrics in Prometheus's text format; a family without samples is left out. */
export function toPrometheus(metrics: Metric[]): string {
  return metrics
    .filter(({ samples }) => samples.length > 0)
    .map(
      ({ name, type, help, samples }) =>
        `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${samples.map((sample) => writeSample(name, sample)).join("")}`,
    )
    .join("");
}

function writeSample(name: string, { suffix = "", labels = {}, value }: Sample): string {
  const pairs = Object.entries(labels).map(
    ([key, text]) => `${key}="${text.replace(/[\\"\n]/g, (c) => (c === "\n" ? "\\n" : `\\${c}`))}"`,
  );
  return `${name}${suffix}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value === Number.POSITIVE_INFINITY ? "+Inf" : value}\n`;
}
