// The pictures at the bottom: what is labelled, and what to label next.

import * as api from "./api.js";
import { $, h } from "./dom.js";

const PAGE = 100;
/** Milliseconds after which a ranking that is still being made is looked at again. */
const LOOK_AGAIN = 3000;

export class Strip {
  /** `open` is called with the picture that was chosen, `current` gives the one at work; what goes wrong goes to `attempt`. */
  constructor({ open, current, attempt }) {
    Object.assign(this, { open, current, attempt, pictures: [], total: 0, labelled: 0, ranked: 0, timer: null });
    $("which").addEventListener("change", () => attempt(() => this.load()));
  }

  async load(more = false) {
    clearTimeout(this.timer);
    const which = $("which").value;
    const offset = more ? this.pictures.length : 0;
    // A ranking changes as it is made: what is shown is asked for anew.
    const limit = more ? PAGE : Math.min(500, Math.max(PAGE, which === this.which ? this.pictures.length : 0));
    const list = await api.get(`/api/images?offset=${offset}&limit=${limit}&which=${which}`);
    const grown = which !== this.which || list.ranked > this.ranked;
    this.pictures = more ? [...this.pictures, ...list.images] : list.images;
    Object.assign(this, { which, total: list.total, labelled: list.labelled, ranked: list.ranked });
    $("empty").hidden = list.total > 0 || which !== "all" || this.current() !== null;
    this.render();
    if (which === "next" && list.ranked < Math.min(200, list.total) && (grown || !this.resting)) {
      this.resting = !grown;
      this.timer = setTimeout(() => { if ($("which").value === "next") this.attempt(() => this.load()); }, LOOK_AGAIN);
    }
  }

  /** How many there are, in words. */
  words() {
    const shown = `${this.labelled} labelled · ${this.pictures.length} of ${this.total} shown`;
    if (this.which !== "next" || this.ranked >= this.total) return shown;
    return `${shown} · ${this.ranked} ranked${this.timer ? ", looking at the others …" : ""}`;
  }

  render() {
    $("progress").textContent = this.words();
    const current = this.current();
    const buttons = this.pictures.map((picture, at) => {
      const rank = this.which === "next" && at < this.ranked ? at + 1 : null;
      const label = `${rank ? `number ${rank} to label: ` : ""}${picture.name}${picture.done ? ", done" : ""}, ${picture.objects} objects`;
      const button = h("button", {
        role: "option", title: picture.name, "aria-label": label, "aria-selected": String(picture.id === current?.id), tabIndex: -1,
        onclick: () => this.open(picture),
      });
      if (picture.problem) button.append(h("span", { className: "broken" }, `${picture.name}: cannot be read`));
      else button.append(h("img", { src: `/api/images/${picture.id}/thumbnail`, loading: "lazy", alt: "" }));
      if (picture.done || picture.objects) button.append(h("span", { className: picture.done ? "mark done" : "mark" }, picture.done ? "✓" : String(picture.objects)));
      if (rank) button.append(h("span", { className: "rank" }, String(rank)));
      return button;
    });
    if (this.pictures.length < this.total) buttons.push(h("button", { tabIndex: -1, onclick: () => this.attempt(() => this.load(true)) }, "more …"));
    const strip = $("strip");
    strip.replaceChildren(...buttons);
    strip.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** The mark of the picture at work, after its labels changed. */
  remark(changes) {
    const known = this.pictures.find((picture) => picture.id === this.current()?.id);
    if (!known) return;
    const isLabelled = () => Number(known.done || known.objects > 0);
    const before = isLabelled();
    Object.assign(known, changes);
    this.labelled += isLabelled() - before;
    this.render();
  }

  /** The next picture that is wanted, or none. */
  beside(by, wanted = () => true) {
    const at = this.pictures.findIndex((picture) => picture.id === this.current()?.id);
    for (let next = at + by; next >= 0 && next < this.pictures.length; next += by) {
      if (wanted(this.pictures[next])) return this.pictures[next];
    }
    return null;
  }
}
