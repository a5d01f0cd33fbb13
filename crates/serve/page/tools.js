// What is being made at the moment: a mask that is asked for by clicks, or masks to choose from.

import * as api from "./api.js";
import * as rle from "./rle.js";

export const DRAFT = "#ff5c00";

/** A mask on its way: prompts, the model's answer, and pixels painted by hand. */
export class Draft {
  constructor(image, changed) {
    this.image = image;
    this.changed = changed;
    this.asked = 0;
    this.clear();
  }

  clear() {
    this.points = [];
    this.box = null;
    this.mask = null;
    this.iou = null;
    this.logits = null;
    this.painted = false;
    this.past = [];
    this.asked += 1;
    this.busy = false;
    this.domain = null;
    this.clicked = null;
    this.tint = null;
    this.area = 0;
  }

  get empty() {
    return !this.mask && !this.points.length && !this.box;
  }

  remember() {
    const { points, box, mask, iou, logits, painted } = this;
    this.past.push({ points: [...points], box, mask, iou, logits, painted });
  }

  back() {
    const before = this.past.pop();
    if (!before) return;
    this.asked += 1;
    this.busy = false;
    Object.assign(this, before);
    this.setMask(this.mask);
    this.changed();
  }

  /** Its tint is made when it is painted: once a frame, however often it changes. */
  setMask(mask) {
    this.area = mask ? rle.area(mask) : 0;
    this.mask = this.area ? mask : null;
    this.tint = null;
  }

  /** `clicked` is when it was asked for, in the page's time. */
  async point(x, y, on, clicked) {
    this.remember();
    this.points = [...this.points, [x, y, on ? 1 : 0]];
    await this.ask(clicked);
  }

  async setBox(box, clicked) {
    this.remember();
    this.box = box;
    this.points = [];
    this.logits = null;
    await this.ask(clicked);
  }

  /** Asks the model. Of several questions on their way only the last one's answer counts. */
  async ask(clicked) {
    this.asked += 1;
    const number = this.asked;
    this.busy = true;
    this.clicked = null;
    this.changed();
    const prompt = { points: this.points };
    if (this.box) prompt.box = this.box;
    // The answer before says which of the things under a point is meant.
    if (this.logits && this.points.length > 1) prompt.mask_input = this.logits;
    const path = `/api/images/${this.image.id}/predict`;
    try {
      let answer;
      try {
        answer = await api.post(path, { prompts: [prompt] });
      } catch (error) {
        if (error.status !== 422 || !prompt.mask_input) throw error;
        delete prompt.mask_input;
        answer = await api.post(path, { prompts: [prompt] });
      }
      if (number !== this.asked) return;
      const found = answer.answers[0].masks[0];
      this.iou = found.predicted_iou;
      this.logits = found.logits;
      this.painted = false;
      this.setMask(rle.decode(found.segmentation));
      this.domain = answer.domain;
      this.server = answer.milliseconds;
      this.clicked = clicked;
    } finally {
      if (number === this.asked) {
        this.busy = false;
        this.changed();
      }
    }
  }

  paint(from, to, radius, value) {
    const mask = this.mask ?? rle.blank(this.image.width, this.image.height);
    this.mask = rle.paint(mask, from, to, radius, value);
    this.area = rle.area(this.mask);
    this.painted = true;
    this.tint = null;
    this.changed();
  }

  /** What is kept of it. */
  toObject(classId) {
    return {
      class: classId,
      segmentation: rle.encode(this.mask),
      predicted_iou: this.painted ? null : this.iou,
      points: this.points,
    };
  }
}

/** Masks to choose from, those that a search or a fine-tuned model found. */
export class Choice {
  constructor(regions, colourOf) {
    this.regions = regions.map((region) => ({ ...region, mask: rle.decode(region.segmentation), colour: colourOf(region) }));
    this.hovered = null;
  }

  /** The smallest region at a place: what lies on top of larger things. */
  at(x, y) {
    let best = null;
    for (const region of this.regions) {
      if (rle.covers(region.mask, x, y) && (!best || region.area < best.area)) best = region;
    }
    return best;
  }

  take(region) {
    this.regions = this.regions.filter((other) => other !== region);
    if (this.hovered === region) this.hovered = null;
  }

  static toObject(region, classId) {
    return {
      class: classId,
      segmentation: region.segmentation,
      predicted_iou: region.predicted_iou ?? null,
      points: (region.point_coords ?? []).map(([x, y]) => [x, y, 1]),
    };
  }
}
