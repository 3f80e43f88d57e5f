/** JSON that was worked out, and the state of the catalogue that it is of. */
export interface Answer {
  body: string | Blob;
  tag: string | undefined;
  link: string | undefined;
}

const KEPT_CHARACTERS = 4 * 1024 * 1024;
/** From how many characters on an answer is large. */
export const LARGE_CHARACTERS = KEPT_CHARACTERS / 4;

/** Answers of one state of the catalogue, by what was asked: few that are not large, and the last that was. */
export class AnswerCache {
  private tag: string | undefined;
  private readonly answers = new Map<string, Answer>();
  private characters = 0;
  private large: { target: string; answer: Answer } | undefined;

  get(target: string, tag: string | undefined): Answer | undefined {
    if (tag === undefined || tag !== this.tag) return undefined;
    return this.large?.target === target ? this.large.answer : this.answers.get(target);
  }

  set(target: string, answer: Answer): void {
    const { body, tag } = answer;
    const size = target.length + (typeof body === "string" ? body.length : 0);
    if (tag !== this.tag || this.characters + size > KEPT_CHARACTERS) {
      this.answers.clear();
      this.characters = 0;
    }
    if (tag !== this.tag) this.large = undefined;
    this.tag = tag;
    if (typeof body !== "string") this.large = { target, answer };
    else if (!this.answers.has(target)) {
      this.answers.set(target, answer);
      this.characters += size;
    }
  }
}
