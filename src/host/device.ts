/** The major number of a device as `stat` gives it: what kind it is. */
export function majorOf(device: number): number {
  return (device >>> 8) & 0xfff;
}

/** Which of its kind it is. */
export function minorOf(device: number): number {
  return ((device >>> 12) & 0xfff00) | (device & 0xff);
}
