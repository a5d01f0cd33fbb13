// Learning from what was labelled: start, watch, compare, adopt or discard.

import * as api from "./api.js";
import { h, open, svg, toast } from "./dom.js";
import * as rle from "./rle.js";
import { DRAFT } from "./tools.js";
import { tinted } from "./view.js";

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

/** A curve over steps; `read` gives a point's value or null. */
function chart(title, curve, steps, read, lowest) {
  const points = curve.map((point) => [point.step, read(point)]).filter(([, value]) => value !== null);
  const [width, height, left, right, top, bottom] = [400, 190, 46, 10, 24, 24];
  const element = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  element.append(svg("text", { x: left, y: 15 }, title));
  if (!points.length) {
    element.append(svg("text", { x: left, y: height / 2 }, "nothing yet"));
    return element;
  }
  const values = points.map(([, value]) => value);
  const low = lowest ?? Math.min(...values);
  const high = Math.max(...values, low + 1e-6);
  const x = (step) => left + ((width - left - right) * step) / Math.max(1, steps);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);
  element.append(
    svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - right}` }),
    svg("text", { x: left - 4, y: top + 8, "text-anchor": "end" }, high.toPrecision(3)),
    svg("text", { x: left - 4, y: height - bottom, "text-anchor": "end" }, low.toPrecision(3)),
    svg("text", { x: width - right, y: height - 8, "text-anchor": "end" }, `step ${steps}`),
    svg("path", { class: "curve", d: points.map(([s, v], at) => `${at ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("") }),
  );
  if (points.length < 30) for (const [s, v] of points) element.append(svg("circle", { cx: x(s), cy: y(v), r: 3 }));
  return element;
}

const METHODS = ["gsam", "lora", "adapt-former", "decoder-only", "full"];
const KINDS = {
  semantic: {
    words: "to suggest labels: my classes, pixel by pixel",
    about: "The model learns to label every pixel with your classes, from the pictures that have objects or are called done. It runs beside your work; what it then suggests can be kept or corrected.",
    fields: ["name", "steps", "method", "crop", "batch", "learning_rate"],
    values: { steps: "300", method: "gsam", crop: "256", batch: "4", learning_rate: "0.001" },
  },
  continual: {
    words: "to answer clicks better: a new kind of pictures",
    about: "The model learns to cut out what you labelled when it is clicked or boxed, all of it in a picture as one. Once adopted, pictures that are like these are answered by what was learned of them; others by what was learned before, or by the model as it is. Nothing that was learned before changes.",
    fields: ["name", "class", "steps", "batch", "learning_rate"],
    values: { steps: "150", batch: "8", learning_rate: "0.0005" },
  },
};

const heads = (...words) => h("tr", {}, ...words.map((word, at) => h("th", { className: at ? "number" : "" }, word)));
const line = (name, ...values) => h("tr", {}, h("td", {}, name), ...values.map((value) => h("td", { className: "number" }, value)));

function classTable(job) {
  return h("table", {}, heads("IoU held out", "before", "best"),
    ...job.classes.map((score) => line(score.name, percent(score.before), percent(score.best))),
    line("mean", percent(job.miou_before), percent(job.miou_best)));
}

function domainTable({ pictures, held_out: heldOut, before, after, recognised }) {
  return h("table", {}, heads(heldOut ? "on pictures held out" : "on the picture learned from", "before", "after"),
    line("IoU, asked by a box", percent(before), percent(after)),
    line("recognised as of this kind", "", `${recognised} of ${pictures}`));
}

export class Train {
  /** `page` gives the current picture, its objects, the classes, and is told when a model was adopted, or other domains are at work. */
  constructor(dialog, page) {
    this.dialog = dialog;
    this.page = page;
    this.watching = null;
    dialog.addEventListener("close", () => this.watching?.abort());
  }

  async show() {
    const { jobs } = await api.get("/api/jobs");
    this.jobs = jobs;
    this.render();
    const running = jobs.find((job) => job.state === "running");
    if (running) this.watch(running.id);
  }

  async watch(id) {
    this.watching?.abort();
    this.watching = new AbortController();
    try {
      await api.events(
        `/api/jobs/${id}/events`,
        null,
        (name, job) => {
          if (name !== "job") return;
          this.jobs = this.jobs.map((old) => (old.id === id ? job : old));
          this.render();
        },
        this.watching.signal,
      );
    } catch (error) {
      if (error.name !== "AbortError") toast(error.message, true);
    }
  }

  async act(work) {
    try {
      await work();
    } catch (error) {
      toast(error.message, true);
    }
    if (this.dialog.open) await this.show().catch((error) => toast(error.message, true));
  }

  render() {
    const kept = this.form && Object.fromEntries([...new FormData(this.form)]);
    const focused = document.activeElement?.name;
    const kind = this.kind ?? "semantic";
    const { fields, about, values } = KINDS[kind];
    // What was typed stays, unless it was for the other kind.
    const value = (name) => (this.shown === kind ? kept?.[name] : undefined) ?? values[name] ?? "";
    const field = (label, name, rest = {}) => h("label", {}, label, h("input", { name, value: value(name), type: "number", ...rest }));
    const choice = (label, name, options) => h("label", {}, label, h("select", { name },
      ...options.map(([key, words]) => h("option", { value: key, selected: String(value(name)) === String(key) }, words))));
    const parts = {
      name: () => field(kind === "semantic" ? "Name" : "Name of this kind of pictures", "name",
        { type: "text", maxLength: kind === "semantic" ? 100 : 60, ...(kind === "semantic" ? {} : { pattern: "[A-Za-z0-9_\\-]*", title: "Letters, digits, - and _" }) }),
      class: () => choice("What is to be cut out", "class", [["", "all objects"], ...this.page.current().classes.map((found) => [found.id, found.name])]),
      steps: () => field("Steps", "steps", { min: 1, max: 100000 }),
      method: () => choice("Method", "method", METHODS.map((method) => [method, method])),
      crop: () => field("Crop, pixels", "crop", { min: 32, max: 2048 }),
      batch: () => field(kind === "semantic" ? "Crops a step" : "Pictures a step", "batch", { min: 1, max: 64 }),
      learning_rate: () => field("Learning rate", "learning_rate", { min: 0.000001, max: 1, step: "any" }),
    };
    const kinds = h("select", { name: "kind", onchange: (event) => { this.kind = event.target.value; this.render(); } },
      ...Object.entries(KINDS).map(([key, { words }]) => h("option", { value: key, selected: key === kind }, words)));
    const running = this.jobs.some((job) => job.state === "running");
    this.form = h(
      "form",
      { onsubmit: (event) => this.start(event) },
      h("div", { className: "row-of" }, h("label", {}, "What it is to learn", kinds)),
      h("p", { className: "dim" }, about),
      h("div", { className: "row-of" }, ...fields.map((name) => parts[name]()), h("button", { className: "primary", disabled: running }, "Start")),
    );
    open(this.dialog, "Teach the model what is labelled", this.form, ...this.jobs.map((job) => this.card(job)));
    this.shown = kind;
    if (focused) this.form.elements[focused]?.focus();
  }

  async start(event) {
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(this.form)]);
    for (const name of ["steps", "crop", "batch", "learning_rate", "class"]) {
      if (!(name in values)) continue;
      if (values[name] === "") delete values[name];
      else values[name] = Number(values[name]);
    }
    await this.act(() => api.post("/api/jobs", values));
  }

  card(job) {
    const { settings } = job;
    const isContinual = settings.kind === "continual";
    // Others are told what changed.
    const tell = (adopted) => (isContinual ? this.page.domains() : this.page.adopted(adopted ? job.id : null));
    const act = (words, path, props = {}) =>
      h("button", { ...props, onclick: (event) => this.act(async () => {
        event.target.disabled = true;
        await api.post(`/api/jobs/${job.id}/${path}`);
        if (path === "adopt") await tell(true);
      }) }, words);
    const buttons = h("div", { className: "row-of" });
    if (job.state === "running") buttons.append(act("Stop and save", "stop"));
    if (job.state === "stopped" || job.state === "failed") buttons.append(act("Go on", "resume"));
    if (job.has_model && !job.adopted) buttons.append(act(isContinual ? "Adopt: let it answer clicks" : "Adopt: let it suggest", "adopt", { className: "primary" }));
    if (job.has_model) buttons.append(h("button", { onclick: () => (isContinual ? this.compareClicks(job) : this.compare(job)) }, "Compare on this picture"));
    if (job.has_report) buttons.append(h("a", { href: `/api/jobs/${job.id}/report`, target: "_blank", rel: "noopener" }, "Report"));
    if (job.state !== "running") {
      buttons.append(h("button", { onclick: () => {
        if (confirm(`Discard the run ${job.name || job.id} and its model?`)) this.act(async () => {
          await api.remove(`/api/jobs/${job.id}`);
          if (job.adopted) await tell(false);
        });
      } }, "Discard"));
    }
    const state = { running: `step ${job.step} of ${settings.steps}`, done: "done", stopped: `stopped at step ${job.step}`, failed: "failed" }[job.state];
    const measured = job.curve.some((point) => point.miou !== null);
    const adopted = job.adopted ? (isContinual ? " — answers clicks" : " — suggests") : "";
    return h(
      "section",
      { className: "job", "data-job": job.id },
      h("h3", {}, `${job.name || `Run ${job.id}`} `, h("span", { className: "dim" }, `${isContinual ? "clicks" : settings.method}, ${settings.steps} steps — `), h("span", { className: "state" }, state), adopted),
      job.state === "running" && h("progress", { max: settings.steps, value: job.step }),
      job.message && h("p", { className: "bad" }, job.message),
      h(
        "div",
        { className: "curves" },
        chart("Loss", job.curve, settings.steps, (p) => p.loss),
        measured && chart("Mean IoU on pictures held out", job.curve, settings.steps, (p) => p.miou, 0),
        job.domain ? domainTable(job.domain) : job.classes.length > 0 && classTable(job),
      ),
      buttons,
    );
  }

  /** The current picture twice: what people labelled, or another run's model, beside this one's. */
  async compare(job) {
    const { image, bitmap } = this.page.current();
    if (!image) return toast("Choose a picture first.", true);
    this.watching?.abort();
    const others = this.jobs.filter((other) => other.has_model && other.id !== job.id);
    const before = h("canvas", { width: image.width, height: image.height });
    const after = h("canvas", { width: image.width, height: image.height });
    const choose = h("select", { "aria-label": "Beside it" },
      h("option", { value: "people" }, "labelled by people"),
      h("option", { value: "none" }, "before: no labels"),
      ...others.map((other) => h("option", { value: other.id }, `model of ${other.name || `run ${other.id}`}`)));
    const status = h("p", { className: "dim", role: "status" }, "The model is at work …");
    const draw = (canvas, regions) => {
      const context = canvas.getContext("2d");
      context.drawImage(bitmap, 0, 0, image.width, image.height);
      for (const region of regions) {
        const mask = region.mask ?? rle.decode(region.segmentation);
        const tint = tinted(mask, this.page.colour(region.class, region.name), 0.5);
        if (tint) context.drawImage(tint, mask.x, mask.y);
      }
    };
    const ask = async (id) => (await api.post(`/api/images/${image.id}/suggest`, { job: id })).regions;
    const left = async () => {
      try {
        if (choose.value === "people") draw(before, this.page.current().objects);
        else if (choose.value === "none") draw(before, []);
        else draw(before, await ask(Number(choose.value)));
      } catch (error) {
        toast(error.message, true);
      }
    };
    choose.addEventListener("change", left);
    open(
      this.dialog,
      `${image.name}: before and after`,
      h("div", { className: "compare" }, h("div", {}, h("p", {}, choose), before), h("div", {}, h("p", {}, `model of ${job.name || `run ${job.id}`}`), after)),
      status,
      h("button", { onclick: () => this.act(async () => {}) }, "Back"),
    );
    draw(after, []);
    await left();
    try {
      const regions = await ask(job.id);
      draw(after, regions);
      status.textContent = `${regions.length} regions found.`;
    } catch (error) {
      status.textContent = error.message;
    }
  }
  /** What is labelled in the current picture, asked for by the box around it: before, and after a kind of pictures was learned. */
  async compareClicks(job) {
    const { image, bitmap } = this.page.current();
    if (!image) return toast("Choose a picture first.", true);
    this.watching?.abort();
    const canvases = [0, 1].map(() => h("canvas", { width: image.width, height: image.height }));
    const choose = h("select", { "aria-label": "Beside it" }, h("option", { value: "before" }, "before: the model as it is"), h("option", { value: "labelled" }, "labelled by people"));
    const words = h("p", {}, `after: ${job.name}`);
    const status = h("p", { className: "dim", role: "status" }, "The models are at work …");
    let found = null;
    const draw = (canvas, cut) => {
      const context = canvas.getContext("2d");
      context.drawImage(bitmap, 0, 0, image.width, image.height);
      if (!cut) return;
      const mask = rle.decode(cut.segmentation);
      const tint = tinted(mask, job.settings.class === null ? DRAFT : this.page.colour(job.settings.class), 0.5, "#ffffff");
      if (tint) context.drawImage(tint, mask.x, mask.y);
      const [x0, y0, x1, y1] = found.box;
      context.strokeStyle = "#ffffff";
      context.lineWidth = Math.max(1, image.width / 500);
      context.setLineDash([4 * context.lineWidth, 4 * context.lineWidth]);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    };
    const show = () => { draw(canvases[0], found?.[choose.value]); draw(canvases[1], found?.after); };
    choose.addEventListener("change", show);
    open(
      this.dialog,
      `${image.name}: before and after`,
      h("div", { className: "compare" }, h("div", {}, h("p", {}, choose), canvases[0]), h("div", {}, words, canvases[1])),
      status,
      h("button", { onclick: () => this.act(async () => {}) }, "Back"),
    );
    show();
    try {
      found = await api.post(`/api/images/${image.id}/compare`, { job: job.id });
      show();
      const recognised = found.recognised ? "The picture is recognised as of this kind." : "The picture is not recognised as of this kind: the model as it is would answer it.";
      status.textContent = `IoU with the labels ${percent(found.before.iou)} before, ${percent(found.after.iou)} after. ${recognised}`;
    } catch (error) {
      status.textContent = error.message;
    }
  }
}
