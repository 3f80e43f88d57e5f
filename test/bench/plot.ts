/** How long a prune took, in milliseconds, at some number of images. */
export interface Point {
  images: number;
  larder: number;
  msb?: number;
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 400, 70, 90, 40, 50];

/** An SVG of both curves, time on a logarithmic scale. */
export function plot(points: Point[]): string {
  const most = Math.max(...points.map(({ images }) => images));
  const times = points.flatMap(({ larder, msb }) => [larder, msb ?? larder]);
  const [low, high] = [Math.floor(Math.log10(Math.min(...times))), Math.ceil(Math.log10(Math.max(...times)))];
  const x = (images: number) => LEFT + (images / most) * (WIDTH - LEFT - RIGHT);
  const y = (ms: number) => HEIGHT - BOTTOM - ((Math.log10(ms) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const line = (name: string, colour: string, data: [number, number][]) => {
    const path = data.map(([images, ms]) => `${x(images).toFixed(1)},${y(ms).toFixed(1)}`).join(" ");
    const [lastImages, lastMs] = data.at(-1)!;
    return [
      `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...data.map(
        ([images, ms]) => `<circle cx="${x(images).toFixed(1)}" cy="${y(ms).toFixed(1)}" r="3" fill="${colour}"/>`,
      ),
      `<text x="${(x(lastImages) + 8).toFixed(1)}" y="${(y(lastMs) + 4).toFixed(1)}" fill="${colour}">${name}</text>`,
    ].join("\n");
  };
  const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  const ticks = Array.from({ length: 5 }, (_, i) => Math.round((most / 4) * i));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="13">
<title>Prune time against catalogue size, larder beside msb</title>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>
<text x="${LEFT}" y="22" fill="#333">Time of a prune with half of the images in use, by images in the catalogue</text>
${decades.map((ms) => `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(ms)}" y2="${y(ms)}" stroke="#ddd"/>\n<text x="${LEFT - 8}" y="${y(ms) + 4}" text-anchor="end" fill="#666">${ms >= 1000 ? `${ms / 1000} s` : `${ms} ms`}</text>`).join("\n")}
${ticks.map((images) => `<text x="${x(images)}" y="${HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#666">${images}</text>`).join("\n")}
${line(
  "larder",
  "#0a7d4f",
  points.map(({ images, larder }) => [images, larder]),
)}
${line(
  "msb",
  "#b3261e",
  points.flatMap(({ images, msb }): [number, number][] => (msb === undefined ? [] : [[images, msb]])),
)}
</svg>
`;
}
