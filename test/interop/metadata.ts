import { build, type ImageSpec } from "./archive.ts";

/** Which msb a metadata document is like: 0.4.4 did not keep the raw documents, 0.5.5 and later insist on them. */
export type Shape = "0.4.4" | "0.5.5";

/** The metadata document that msb writes for an image, to the byte. */
export function metadataOf(spec: ImageSpec, shape: Shape = "0.5.5"): string {
  const { manifest, config, layers } = build(spec);
  const { config: run = {} } = spec;
  const text = new TextDecoder();
  return JSON.stringify({
    manifest_digest: manifest.digest,
    config_digest: config.digest,
    ...(shape === "0.5.5" && {
      raw_manifest_json: text.decode(manifest.bytes),
      raw_config_json: text.decode(config.bytes),
    }),
    config: {
      env: run.env ?? [],
      cmd: run.cmd ?? null,
      entrypoint: run.entrypoint ?? null,
      working_dir: run.workingDir ?? null,
      user: run.user ?? null,
      exposed_ports: run.exposedPorts ?? [],
      volumes: run.volumes ?? [],
      labels: run.labels ?? {},
      stop_signal: run.stopSignal ?? null,
    },
    layers: layers.map(({ digest, mediaType, bytes, diffId }) => ({
      digest,
      media_type: mediaType,
      size_bytes: bytes.length,
      diff_id: diffId,
    })),
  });
}
