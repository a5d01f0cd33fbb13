// Fine-tuning on what was labelled: start, watch, compare, adopt or discard.

import * as api from "./api.js";
import { h, open, svg, toast } from "./dom.js";
import * as rle from "./rle.js";
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

export class Train {
  /** `page` gives the current picture, its objects, the classes, and is told when a model was adopted. */
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
    const field = (label, name, value, rest = {}) =>
      h("label", {}, label, h("input", { name, value: kept?.[name] ?? value, type: "number", ...rest }));
    const methods = ["gsam", "lora", "adapt-former", "decoder-only", "full"];
    const running = this.jobs.some((job) => job.state === "running");
    this.form = h(
      "form",
      { className: "row-of", onsubmit: (event) => this.start(event) },
      field("Name", "name", "", { type: "text", maxLength: 100 }),
      field("Steps", "steps", "300", { min: 1, max: 100000 }),
      h("label", {}, "Method", h("select", { name: "method" }, ...methods.map((m) => h("option", { value: m, selected: (kept?.method ?? "gsam") === m }, m)))),
      field("Crop, pixels", "crop", "256", { min: 32, max: 2048 }),
      field("Crops a step", "batch", "4", { min: 1, max: 64 }),
      field("Learning rate", "learning_rate", "0.001", { min: 0.000001, max: 1, step: "any" }),
      h("button", { className: "primary", disabled: running }, "Start"),
    );
    open(
      this.dialog,
      "Fine-tune on what is labelled",
      h("p", { className: "dim" }, "The model learns to label every pixel with your classes, from the pictures that have objects or are called done. It runs beside your work; what it then suggests can be kept or corrected."),
      this.form,
      ...this.jobs.map((job) => this.card(job)),
    );
    if (focused) this.form.elements[focused]?.focus();
  }

  async start(event) {
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(this.form)]);
    const settings = {
      name: values.name,
      method: values.method,
      steps: Number(values.steps),
      crop: Number(values.crop),
      batch: Number(values.batch),
      learning_rate: Number(values.learning_rate),
    };
    await this.act(() => api.post("/api/jobs", settings));
  }

  card(job) {
    const { settings } = job;
    const act = (words, path, props = {}) =>
      h("button", { ...props, onclick: () => this.act(async () => {
        await api.post(`/api/jobs/${job.id}/${path}`);
        if (path === "adopt") this.page.adopted(job.id);
      }) }, words);
    const buttons = h("div", { className: "row-of" });
    if (job.state === "running") buttons.append(act("Stop and save", "stop"));
    if (job.state === "stopped" || job.state === "failed") buttons.append(act("Go on", "resume"));
    if (job.has_model && !job.adopted) buttons.append(act("Adopt: let it suggest", "adopt", { className: "primary" }));
    if (job.has_model) buttons.append(h("button", { onclick: () => this.compare(job) }, "Compare on this picture"));
    if (job.has_report) buttons.append(h("a", { href: `/api/jobs/${job.id}/report`, target: "_blank", rel: "noopener" }, "Report"));
    if (job.state !== "running") {
      buttons.append(h("button", { onclick: () => {
        if (confirm(`Discard the run ${job.name || job.id} and its model?`)) this.act(async () => {
          await api.remove(`/api/jobs/${job.id}`);
          if (job.adopted) this.page.adopted(null);
        });
      } }, "Discard"));
    }
    const state = { running: `step ${job.step} of ${settings.steps}`, done: "done", stopped: `stopped at step ${job.step}`, failed: "failed" }[job.state];
    const scores = job.classes.map((score) =>
      h("tr", {}, h("td", {}, score.name), h("td", { className: "number" }, percent(score.before)), h("td", { className: "number" }, percent(score.best))));
    return h(
      "section",
      { className: "job", "data-job": job.id },
      h("h3", {}, `${job.name || `Run ${job.id}`} `, h("span", { className: "dim" }, `${settings.method}, ${settings.steps} steps — `), h("span", { className: "state" }, state), job.adopted ? " — suggests" : ""),
      job.state === "running" && h("progress", { max: settings.steps, value: job.step }),
      job.message && h("p", { className: "bad" }, job.message),
      h(
        "div",
        { className: "curves" },
        chart("Loss", job.curve, settings.steps, (p) => p.loss),
        job.miou_before !== null && chart("Mean IoU on pictures held out", job.curve, settings.steps, (p) => p.miou, 0),
        scores.length > 0 && h("table", {}, h("tr", {}, h("th", {}, "IoU held out"), h("th", { className: "number" }, "before"), h("th", { className: "number" }, "best")), ...scores,
          h("tr", {}, h("th", {}, "mean"), h("th", { className: "number" }, percent(job.miou_before)), h("th", { className: "number" }, percent(job.miou_best)))),
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
}
