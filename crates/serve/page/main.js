// The page: pictures below, the one at work in the middle, its labels beside it.

import * as api from "./api.js";
import { $, h, open, toast } from "./dom.js";
import * as rle from "./rle.js";
import { Choice, DRAFT, Draft } from "./tools.js";
import { Train } from "./train.js";
import { View, tinted } from "./view.js";

const PAGE = 100;
const NO_CLASS = "#9aa4b4";

const state = {
  pictures: [],
  total: 0,
  labelled: 0,
  image: null,
  bitmap: null,
  objects: [],
  classes: [],
  active: null,
  selected: null,
  tool: "point",
  draft: null,
  choice: null,
  stroke: null,
  cross: null,
  showCross: false,
  search: null,
  opening: 0,
};

const canvas = $("canvas");
const view = new View(canvas, paint);
const ready = () => state.image && state.bitmap;
const classOf = (id) => state.classes.find((found) => found.id === id);
const colour = (id, name) => (classOf(id) ?? state.classes.find((found) => found.name === name))?.colour ?? NO_CLASS;
const say = (text) => { $("status").textContent = text; };

/** Runs something; what goes wrong is said. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError" && error.code !== "offline") toast(error.message, true);
    return undefined;
  }
}

function wait(text, onCancel = null) {
  $("waiting").hidden = text === null;
  $("waiting-text").textContent = text ?? "";
  $("cancel").hidden = !onCancel;
  $("cancel").onclick = onCancel;
  $("waiting-bar").hidden = true;
}

// ---- drawing

function paint(context, scale) {
  const line = 1.5 / scale;
  if (state.choice) {
    for (const region of state.choice.regions) {
      region.tint ??= tinted(region.mask, region.colour, 0.22);
      context.globalAlpha = !state.choice.hovered || region === state.choice.hovered ? 1 : 0.35;
      if (region.tint) context.drawImage(region.tint, region.mask.x, region.mask.y);
    }
    context.globalAlpha = 1;
    const { hovered } = state.choice;
    if (hovered) {
      hovered.bright ??= tinted(hovered.mask, hovered.colour, 0.6);
      if (hovered.bright) context.drawImage(hovered.bright, hovered.mask.x, hovered.mask.y);
    }
  } else {
    for (const object of state.objects) {
      const shade = colour(object.class);
      if (!object.tint || object.shade !== shade) {
        object.tint = tinted(object.mask, shade);
        object.shade = shade;
      }
      const { x, y, w, h: height } = object.mask;
      if (object.tint) context.drawImage(object.tint, x, y);
      if (object.id === state.selected) {
        context.strokeStyle = "#ffffff";
        context.lineWidth = 2 * line;
        context.strokeRect(x, y, w, height);
        context.strokeStyle = "#000000";
        context.setLineDash([4 / scale, 4 / scale]);
        context.strokeRect(x, y, w, height);
        context.setLineDash([]);
      }
    }
  }
  const { draft } = state;
  if (draft?.tint) context.drawImage(draft.tint, draft.mask.x, draft.mask.y);
  const box = state.stroke?.box ?? draft?.box;
  if (box) {
    context.strokeStyle = DRAFT;
    context.lineWidth = line;
    context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
  for (const [x, y, on] of draft?.points ?? []) {
    context.beginPath();
    context.arc(x, y, 5 / scale, 0, 2 * Math.PI);
    context.fillStyle = on ? "#18a957" : "#d4322c";
    context.fill();
    context.lineWidth = line;
    context.strokeStyle = "#ffffff";
    context.stroke();
  }
  const { cross } = state;
  if (cross && (state.tool === "brush" || state.tool === "eraser")) {
    context.beginPath();
    context.arc(cross.x, cross.y, radius(), 0, 2 * Math.PI);
    context.lineWidth = line;
    context.strokeStyle = "#ffffff";
    context.stroke();
    context.setLineDash([3 / scale, 3 / scale]);
    context.strokeStyle = "#000000";
    context.stroke();
    context.setLineDash([]);
  } else if (cross && state.showCross) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = 3 * line;
    for (const shade of ["#ffffff", "#000000"]) {
      context.strokeStyle = shade;
      context.lineWidth = shade === "#ffffff" ? 3 * line : line;
      context.beginPath();
      context.moveTo(cross.x - 12 / scale, cross.y);
      context.lineTo(cross.x + 12 / scale, cross.y);
      context.moveTo(cross.x, cross.y - 12 / scale);
      context.lineTo(cross.x, cross.y + 12 / scale);
      context.stroke();
    }
  }
}

const radius = () => Number($("size").value) / 2;

// ---- pictures

async function loadPictures(more = false) {
  const which = $("which").value;
  const offset = more ? state.pictures.length : 0;
  const list = await api.get(`/api/images?offset=${offset}&limit=${PAGE}&which=${which}`);
  state.pictures = more ? [...state.pictures, ...list.images] : list.images;
  state.total = list.total;
  state.labelled = list.labelled;
  $("empty").hidden = list.total > 0 || which !== "all" || state.image !== null;
  renderStrip();
}

function renderStrip() {
  const strip = $("strip");
  $("progress").textContent = `${state.labelled} labelled · ${state.pictures.length} of ${state.total} shown`;
  const buttons = state.pictures.map((picture) => {
    const label = `${picture.name}${picture.done ? ", done" : ""}, ${picture.objects} objects`;
    const button = h("button", {
      role: "option", title: picture.name, "aria-label": label, "aria-selected": String(picture.id === state.image?.id), tabIndex: -1,
      onclick: () => openPicture(picture),
    });
    if (picture.problem) button.append(h("span", { className: "broken" }, `${picture.name}: cannot be read`));
    else button.append(h("img", { src: `/api/images/${picture.id}/thumbnail`, loading: "lazy", alt: "" }));
    if (picture.done || picture.objects) button.append(h("span", { className: picture.done ? "mark done" : "mark" }, picture.done ? "✓" : String(picture.objects)));
    return button;
  });
  if (state.pictures.length < state.total) buttons.push(h("button", { tabIndex: -1, onclick: () => attempt(() => loadPictures(true)) }, "more …"));
  strip.replaceChildren(...buttons);
  strip.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** The mark of a picture in the strip, after its labels changed. */
function remark(changes) {
  const known = state.pictures.find((picture) => picture.id === state.image?.id);
  if (!known) return;
  const isLabelled = () => Number(known.done || known.objects > 0);
  const before = isLabelled();
  Object.assign(known, changes);
  state.labelled += isLabelled() - before;
  renderStrip();
}

async function openPicture(picture) {
  if (state.draft && !state.draft.empty && state.draft.mask && picture.id !== state.image?.id) await keep();
  state.search?.abort();
  const number = (state.opening += 1);
  Object.assign(state, { image: null, bitmap: null, objects: [], selected: null, choice: null, stroke: null, cross: null });
  state.draft = null;
  $("empty").hidden = true;
  history.replaceState(null, "", `#${picture.id}`);
  $("name").textContent = picture.name;
  document.title = `${picture.name} – kirie`;
  renderAll();
  renderStrip();
  if (picture.problem) {
    view.image = null;
    view.draw();
    wait(null);
    return say(picture.problem);
  }
  wait("Opening the picture …");
  try {
    const bitmap = new Image();
    bitmap.src = `/api/images/${picture.id}/picture`;
    const [labels] = await Promise.all([api.get(`/api/images/${picture.id}/objects`), bitmap.decode()]);
    if (number !== state.opening) return;
    Object.assign(state, { image: picture, bitmap, objects: labels.objects.map(withMask) });
    state.draft = new Draft(picture, changedDraft);
    $("done").checked = picture.done;
    setUndo(labels);
    view.show(bitmap, picture.width, picture.height);
    renderAll();
    renderStrip();
    wait("Preparing for clicks …");
    await api.post(`/api/images/${picture.id}/embedding`);
    if (number === state.opening) say(`${picture.width} × ${picture.height} pixels, ready`);
  } catch (error) {
    if (number === state.opening) {
      say(`Cannot be opened: ${error.message}`);
      toast(error.message || "the picture cannot be shown", true);
    }
  } finally {
    if (number === state.opening) wait(null);
  }
}

function step(by, wanted = () => true) {
  const at = state.pictures.findIndex((picture) => picture.id === state.image?.id);
  for (let next = at + by; next >= 0 && next < state.pictures.length; next += by) {
    if (wanted(state.pictures[next])) return openPicture(state.pictures[next]);
  }
  return say(by > 0 ? "That was the last one." : "That was the first one.");
}

const withMask = (object) => ({ ...object, mask: rle.decode(object.segmentation) });

// ---- drafts, and what is kept of them

function changedDraft() {
  const { draft } = state;
  const shown = draft && !draft.empty;
  $("draft").hidden = !shown;
  if (shown) {
    const words = draft.busy ? "…" : draft.mask ? `${rle.area(draft.mask)} pixels` : "nothing found";
    const sure = draft.iou !== null && draft.mask && !draft.painted ? `, the model gives it ${Math.round(100 * Math.min(1, draft.iou))} %` : "";
    const name = classOf(state.active)?.name;
    $("draft-text").textContent = `${words}${sure}${name ? ` · ${name}` : ""}`;
    if (!draft.busy && draft.took) say(`answered in ${draft.took.toFixed(0)} ms (${draft.server.toFixed(0)} ms in the service)`);
  }
  $("keep").disabled = !draft?.mask;
  view.draw();
}

async function keep() {
  const { draft, image } = state;
  if (!draft?.mask) return;
  const object = draft.toObject(state.active);
  draft.clear();
  changedDraft();
  await create([object], image);
}

async function create(objects, image = state.image) {
  const made = await attempt(() => api.post(`/api/images/${image.id}/objects`, { objects }));
  if (!made || state.image?.id !== image.id) return false;
  state.objects.push(...made.objects.map(withMask));
  state.selected = made.objects.at(-1).id;
  await afterChange();
  return true;
}

async function afterChange() {
  remark({ objects: state.objects.length });
  setUndo({ can_undo: true, can_redo: false });
  await loadClasses();
  renderAll();
}

function setUndo({ can_undo: canUndo, can_redo: canRedo }) {
  $("undo").disabled = !canUndo;
  $("redo").disabled = !canRedo;
}

async function changeObject(object, change) {
  const changed = await attempt(() => api.patch(`/api/objects/${object.id}`, { ...change, revision: object.revision }));
  if (!changed) return reloadObjects();
  state.objects = state.objects.map((old) => (old.id === object.id ? withMask(changed) : old));
  return afterChange();
}

async function removeObject(object) {
  const gone = await attempt(async () => {
    await api.remove(`/api/objects/${object.id}?revision=${object.revision}`);
    return true;
  });
  if (!gone) return reloadObjects();
  state.objects = state.objects.filter((old) => old.id !== object.id);
  if (state.selected === object.id) state.selected = null;
  return afterChange();
}

async function reloadObjects() {
  const { image } = state;
  if (!image) return;
  const labels = await attempt(() => api.get(`/api/images/${image.id}/objects`));
  if (!labels || state.image?.id !== image.id) return;
  state.objects = labels.objects.map(withMask);
  remark({ objects: state.objects.length });
  setUndo(labels);
  await loadClasses();
  renderAll();
}

async function undo(path) {
  if (path === "undo" && state.draft && !state.draft.empty) {
    if (state.draft.past.length) state.draft.back();
    else state.draft.clear();
    return changedDraft();
  }
  if (!ready()) return;
  const done = await attempt(() => api.post(`/api/images/${state.image.id}/${path}`));
  if (done && !done.step) say(`There is nothing to ${path}.`);
  await reloadObjects();
}

// ---- classes and objects

async function loadClasses() {
  const found = await attempt(() => api.get("/api/classes"));
  if (!found) return;
  state.classes = found.classes;
  if (!classOf(state.active)) state.active = state.classes[0]?.id ?? null;
}

function renderAll() {
  renderClasses();
  renderObjects();
  changedDraft();
  const choosing = state.choice !== null;
  $("found").hidden = !choosing;
  if (choosing) $("found-text").textContent = `${state.choice.regions.length} found: click those to keep`;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  canvas.style.cursor = state.tool === "select" || choosing ? "pointer" : "crosshair";
  view.draw();
}

function renderClasses() {
  $("classes").replaceChildren(...state.classes.map((found, at) => h(
    "li",
    { "aria-current": String(found.id === state.active) },
    h("input", { type: "color", className: "swatch", value: found.colour, "aria-label": `Colour of ${found.name}`,
      onchange: (event) => attempt(async () => { await api.patch(`/api/classes/${found.id}`, { colour: event.target.value }); await loadClasses(); renderAll(); }) }),
    h("button", { className: "row", title: "Make it the class of new masks; double-click to rename", onclick: () => activate(found.id), ondblclick: () => rename(found) }, found.name),
    h("span", { className: "dim" }, String(found.objects)),
    at < 9 && h("kbd", {}, String(at + 1)),
    !found.objects && h("button", { className: "icon", "aria-label": `Remove the class ${found.name}`,
      onclick: () => attempt(async () => { await api.remove(`/api/classes/${found.id}`); await loadClasses(); renderAll(); }) }, "✕"),
  )));
}

function rename(found) {
  const name = prompt("Name of the class", found.name);
  if (name) attempt(async () => { await api.patch(`/api/classes/${found.id}`, { name }); await loadClasses(); renderAll(); });
}

/** Makes a class that of new masks, and of the selected object. */
async function activate(id) {
  state.active = id;
  const object = state.objects.find((found) => found.id === state.selected);
  if (object && state.draft?.empty && object.class !== id) await changeObject(object, { class: id });
  renderAll();
}

function renderObjects() {
  $("count").textContent = state.objects.length ? String(state.objects.length) : "";
  $("no-objects").hidden = state.objects.length > 0 || !ready();
  $("objects").replaceChildren(...state.objects.map((object, at) => {
    const choose = h("select", { "aria-label": `Class of object ${at + 1}`, onchange: (event) => changeObject(object, { class: event.target.value ? Number(event.target.value) : null }) },
      h("option", { value: "" }, "no class"),
      ...state.classes.map((found) => h("option", { value: found.id, selected: found.id === object.class }, found.name)));
    const swatch = h("span", { className: "swatch" });
    swatch.style.background = colour(object.class);
    return h("li", { "aria-current": String(object.id === state.selected), "data-object": object.id },
      swatch,
      h("button", { className: "row", onclick: () => { state.selected = object.id; renderAll(); } }, `${at + 1} · ${object.area} px`),
      choose,
      h("button", { className: "icon", "aria-label": `Delete object ${at + 1}`, onclick: () => removeObject(object) }, "✕"));
  }));
}

// ---- everything, suggestions

async function findEverything() {
  if (!ready() || state.search) return;
  const { image } = state;
  const search = new AbortController();
  state.search = search;
  wait("Looking for everything …", () => search.abort());
  $("waiting-bar").hidden = false;
  try {
    await api.events(`/api/images/${image.id}/everything`, {}, (name, data) => {
      if (name === "progress") {
        $("waiting-bar").value = data.done / data.total;
        $("waiting-text").textContent = `Looking for everything: ${data.masks} so far`;
      } else if (name === "done" && state.image?.id === image.id) {
        choose(data.masks, (region) => { region.colour = null; });
      } else if (name === "failed") toast(data.message, true);
    }, search.signal);
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, true);
  } finally {
    state.search = null;
    wait(null);
  }
}

const PALETTE = ["#4f8ef7", "#f2a03d", "#43b581", "#e0567a", "#9b6ef3", "#2fb8c6", "#c9b530", "#d46a3a"];

function choose(regions) {
  let at = 0;
  state.draft?.clear();
  state.choice = new Choice(regions, (region) => (region.name ? colour(region.class, region.name) : PALETTE[(at += 1) % PALETTE.length]));
  if (!regions.length) {
    state.choice = null;
    toast("Nothing was found.");
  }
  renderAll();
}

async function suggest() {
  if (!ready()) return;
  const { image } = state;
  wait("The fine-tuned model looks at the picture …");
  const found = await attempt(() => api.post(`/api/images/${image.id}/suggest`));
  wait(null);
  if (found && state.image?.id === image.id) choose(found.regions);
}

/** The class that a region found is kept with; made if the model knows one that is gone. */
async function classFor(region) {
  if (!region.name) return state.active;
  const known = state.classes.find((found) => found.name === region.name);
  if (known) return known.id;
  const made = await api.post("/api/classes", { name: region.name });
  await loadClasses();
  return made.id;
}

async function take(regions) {
  const { choice } = state;
  await attempt(async () => {
    const objects = [];
    for (const region of regions) objects.push(Choice.toObject(region, await classFor(region)));
    for (let at = 0; at < objects.length; at += 1000) {
      if (!(await create(objects.slice(at, at + 1000)))) return;
    }
    for (const region of regions) choice.take(region);
    if (!choice.regions.length && state.choice === choice) state.choice = null;
  });
  renderAll();
}

// ---- pointer

const place = (event) => {
  const rect = canvas.getBoundingClientRect();
  return { x: event.clientX - rect.left, y: event.clientY - rect.top };
};

canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const { x, y } = place(event);
  view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), x, y);
}, { passive: false });

let held = false;

canvas.addEventListener("pointerdown", (event) => {
  if (!ready()) return;
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  state.showCross = false;
  const on = place(event);
  const at = view.inPicture(on.x, on.y);
  if (event.button === 1 || held) {
    state.stroke = { pan: on };
    return;
  }
  if (state.choice) {
    const region = state.choice.at(at.x, at.y);
    if (region) take([region]);
    return;
  }
  const negative = event.button === 2 || event.shiftKey || event.altKey;
  if (state.tool === "point" && view.isInside(at)) attempt(() => state.draft.point(at.x, at.y, !negative));
  else if (state.tool === "box") state.stroke = { from: view.clamp(at), box: null };
  else if (state.tool === "brush" || state.tool === "eraser") beginPainting(at, (state.tool === "brush") !== negative);
  else if (state.tool === "select") {
    const under = state.objects.filter((object) => rle.covers(object.mask, at.x, at.y));
    state.selected = under.sort((a, b) => a.area - b.area)[0]?.id ?? null;
    renderAll();
  }
});

canvas.addEventListener("pointermove", (event) => {
  if (!ready()) return;
  const on = place(event);
  const at = view.inPicture(on.x, on.y);
  state.cross = at;
  const { stroke, choice } = state;
  if (stroke?.pan) {
    view.pan(on.x - stroke.pan.x, on.y - stroke.pan.y);
    stroke.pan = on;
  } else if (stroke?.from) {
    const to = view.clamp(at);
    const { from } = stroke;
    stroke.box = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
  } else if (stroke?.last) {
    stroke.paint(stroke.last, at);
    stroke.last = at;
  } else if (choice) {
    choice.hovered = choice.at(at.x, at.y);
    if (choice.hovered?.name) say(choice.hovered.name);
  }
  view.draw();
});

function endStroke() {
  const { stroke } = state;
  state.stroke = null;
  if (stroke?.box) {
    const [x0, y0, x1, y1] = stroke.box;
    if (x1 - x0 >= 2 && y1 - y0 >= 2) attempt(() => state.draft.setBox(stroke.box));
  } else stroke?.done?.();
  view.draw();
}

canvas.addEventListener("pointerup", endStroke);
canvas.addEventListener("pointercancel", endStroke);
canvas.addEventListener("pointerleave", () => { if (!state.stroke) { state.cross = null; view.draw(); } });

/** Paints on the draft; without one on the selected object; without that a new mask begins. */
function beginPainting(at, value) {
  const object = state.draft.empty ? state.objects.find((found) => found.id === state.selected) : null;
  if (object) {
    let mask = rle.copy(object.mask);
    const stroke = {
      last: at,
      paint: (from, to) => {
        mask = rle.paint(mask, from, to, radius(), value ? 1 : 0);
        Object.assign(object, { mask, tint: null });
        view.draw();
      },
      done: () => (rle.area(mask) ? changeObject(object, { segmentation: rle.encode(mask), predicted_iou: null }) : removeObject(object)),
    };
    stroke.paint(at, at);
    state.stroke = stroke;
    return;
  }
  const { draft } = state;
  draft.remember();
  draft.mask = draft.mask && rle.copy(draft.mask);
  const paintDraft = (from, to) => draft.paint(from, to, radius(), value ? 1 : 0);
  paintDraft(at, at);
  state.stroke = { last: at, paint: paintDraft, done: () => { draft.setMask(draft.mask); changedDraft(); } };
}

// ---- keys

function setTool(tool) {
  state.tool = tool;
  renderAll();
}

const selectedObject = () => state.objects.find((object) => object.id === state.selected);

function moveCross(dx, dy, far) {
  const by = (far ? 24 : 4) / view.scale;
  const at = state.cross ?? { x: view.size[0] / 2, y: view.size[1] / 2 };
  state.cross = view.clamp({ x: at.x + dx * by, y: at.y + dy * by });
  state.showCross = true;
  if (state.choice) state.choice.hovered = state.choice.at(state.cross.x, state.cross.y);
  view.draw();
}

function drop() {
  if (state.search) state.search.abort();
  else if (state.choice) state.choice = null;
  else if (state.draft && !state.draft.empty) state.draft.clear();
  else state.selected = null;
  renderAll();
}

function confirmKey() {
  if (state.choice) return state.choice.hovered ? take([state.choice.hovered]) : undefined;
  return keep();
}

const KEYS = {
  v: () => setTool("select"),
  c: () => setTool("point"),
  x: () => setTool("box"),
  b: () => setTool("brush"),
  e: () => setTool("eraser"),
  a: findEverything,
  s: () => { if (!$("suggest").hidden) suggest(); },
  n: (event) => step(1, event.shiftKey ? (picture) => !picture.done && !picture.objects : undefined),
  p: () => step(-1),
  d: () => $("done").click(),
  0: () => view.fit(),
  "+": () => view.zoom(1.25),
  "=": () => view.zoom(1.25),
  "-": () => view.zoom(0.8),
  "[": () => resize(-4),
  "]": () => resize(4),
  "?": help,
  enter: confirmKey,
  escape: drop,
  delete: () => { const object = selectedObject(); if (object) removeObject(object); },
};

const ON_CANVAS = {
  arrowleft: (event) => moveCross(-1, 0, event.shiftKey),
  arrowright: (event) => moveCross(1, 0, event.shiftKey),
  arrowup: (event) => moveCross(0, -1, event.shiftKey),
  arrowdown: (event) => moveCross(0, 1, event.shiftKey),
  ".": () => crossPoint(true),
  ",": () => crossPoint(false),
};

function crossPoint(on) {
  if (!ready() || !state.cross) return;
  if (state.choice) confirmKey();
  else attempt(() => state.draft.point(state.cross.x, state.cross.y, on));
}

function resize(by) {
  $("size").value = Number($("size").value) + by;
  view.draw();
}

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (document.querySelector("dialog[open]") || target.matches?.("input:not([type=range], [type=checkbox]), select, textarea")) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") undo(event.shiftKey ? "redo" : "undo");
    else if (key === "y") undo("redo");
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey) return;
  if (key === " " && target === canvas) {
    held = true;
    event.preventDefault();
    return;
  }
  if (key === "enter" && target.matches?.("button, a, label")) return;
  if (target === $("strip") && (key === "arrowleft" || key === "arrowright")) {
    event.preventDefault();
    step(key === "arrowright" ? 1 : -1);
    return;
  }
  if (/^[1-9]$/.test(key) && state.classes[Number(key) - 1]) {
    activate(state.classes[Number(key) - 1].id);
    return;
  }
  const action = (target === canvas && ON_CANVAS[key]) || KEYS[key];
  if (action) {
    event.preventDefault();
    action(event);
  }
});
document.addEventListener("keyup", (event) => { if (event.key === " ") held = false; });

// ---- dialogs

function help() {
  const rows = [
    ["Click / right-click", "a point on the object / beside it (Shift works too)"],
    ["Enter / Esc", "keep the mask / drop it"],
    ["C X B E V", "click, box, brush, eraser, select"],
    ["[ ]", "smaller and larger brush"],
    ["1 … 9", "class of new masks, and of the selected object"],
    ["A / S", "find everything / ask the fine-tuned model"],
    ["Ctrl+Z / Ctrl+Y", "undo and redo; while a mask is on its way, its last click"],
    ["N / P / Shift+N", "next picture, previous, next without labels"],
    ["D", "the picture is done"],
    ["Delete", "remove the selected object"],
    ["Wheel, + − 0", "larger, smaller, whole picture"],
    ["Space or middle button", "held down: move the picture"],
    ["Arrows . ,", "on the picture: move the cross, point on the object, point beside it"],
  ];
  open($("help"), "Keys", h("table", {}, ...rows.map(([keys, what]) => h("tr", {}, h("td", {}, h("kbd", {}, keys)), h("td", {}, what)))));
}

function exportDialog() {
  const forms = [
    ["coco", "COCO", "one JSON file, masks as run lengths"],
    ["yolo", "YOLO", "polygons, a text file a picture"],
    ["voc", "Pascal VOC", "boxes, an XML file a picture"],
    ["png", "Class masks", "the class of every pixel, as PNG"],
    ["instances", "Object masks", "the objects of a picture counted, as PNG"],
    ["geojson", "GeoJSON", "outlines in pixels, a file a picture"],
  ];
  const pictures = h("input", { type: "checkbox" });
  const links = forms.map(([form, name, what]) => {
    const link = h("a", { href: `/api/export?format=${form}`, "data-form": form, download: "" }, name);
    return h("tr", {}, h("td", {}, link), h("td", {}, what));
  });
  pictures.addEventListener("change", () => {
    for (const row of links) {
      const link = row.querySelector("a");
      link.href = `/api/export?format=${link.dataset.form}${pictures.checked ? "&pictures=true" : ""}`;
    }
  });
  open($("export"), "Export", h("p", {}, "Pictures that have objects or are called done."), h("label", { className: "check" }, pictures, "with the pictures"), h("table", {}, ...links));
}

function login() {
  return new Promise((done) => {
    const dialog = $("login");
    const input = h("input", { type: "password", "aria-label": "Token", autocomplete: "current-password" });
    const wrong = h("p", { className: "bad", role: "alert" });
    const form = h("form", { onsubmit: async (event) => {
      event.preventDefault();
      if (await api.enter(input.value)) {
        dialog.close();
        done();
      } else wrong.textContent = "That is not the token.";
    } }, input, " ", h("button", { className: "primary" }, "Enter"));
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.replaceChildren(h("h2", {}, "A token is needed"), h("p", {}, "kirie serve printed it when it started."), form, wrong);
    if (!dialog.open) dialog.showModal();
    input.focus();
  });
}

async function uploadAll(files) {
  const pictures = [...files];
  let done = 0;
  for (const file of pictures) {
    wait(`Adding ${file.name} …`);
    const added = await attempt(() => api.upload(file));
    if (added) done += 1;
  }
  wait(null);
  if (!done) return;
  $("which").value = "all";
  await attempt(() => loadPictures());
  toast(`${done} of ${pictures.length} pictures added`);
  if (!state.image && state.pictures.length) openPicture(state.pictures.at(-1));
}

// ---- the rest

const train = new Train($("train"), {
  current: () => ({ image: state.image, bitmap: state.bitmap, objects: state.objects }),
  colour,
  adopted: (job) => {
    $("suggest").hidden = job === null;
    if (job !== null) toast("The fine-tuned model now suggests labels: Suggest, or S.");
  },
});

for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
$("keep").addEventListener("click", keep);
$("drop").addEventListener("click", drop);
$("keep-all").addEventListener("click", () => take([...state.choice.regions]));
$("leave").addEventListener("click", drop);
$("everything").addEventListener("click", findEverything);
$("suggest").addEventListener("click", suggest);
$("undo").addEventListener("click", () => undo("undo"));
$("redo").addEventListener("click", () => undo("redo"));
$("fit").addEventListener("click", () => view.fit());
$("next").addEventListener("click", () => step(1));
$("previous").addEventListener("click", () => step(-1));
$("open-help").addEventListener("click", help);
$("open-export").addEventListener("click", exportDialog);
$("open-train").addEventListener("click", () => attempt(() => train.show()));
$("which").addEventListener("change", () => attempt(() => loadPictures()));
$("size").addEventListener("input", () => view.draw());
$("files").addEventListener("change", (event) => { uploadAll(event.target.files).finally(() => { event.target.value = ""; }); });
$("done").addEventListener("change", (event) => attempt(async () => {
  if (!state.image) return;
  const picture = await api.patch(`/api/images/${state.image.id}`, { done: event.target.checked });
  state.image.done = picture.done;
  remark({ done: picture.done });
}));
$("add-class").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("class-name").value.trim();
  if (!name) return;
  attempt(async () => {
    const made = await api.post("/api/classes", { name });
    $("class-name").value = "";
    await loadClasses();
    await activate(made.id);
  });
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
const stage = $("stage");
stage.addEventListener("dragover", (event) => { event.preventDefault(); stage.classList.add("dropping"); });
stage.addEventListener("dragleave", () => stage.classList.remove("dropping"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("dropping");
  uploadAll(event.dataTransfer.files);
});
api.onOffline((away) => {
  $("offline").hidden = !away;
  if (!away) reloadObjects();
});
api.onLogin(login);

async function begin() {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  setUndo({});
  wait("Starting …");
  const models = await attempt(() => api.get("/api/models"));
  if (models) {
    $("model").textContent = models.loaded.name;
    $("suggest").hidden = models.adopted === null;
  }
  await loadClasses();
  await attempt(() => loadPictures());
  wait(null);
  renderAll();
  const wanted = location.hash.slice(1);
  let picture = state.pictures.find((known) => known.id === wanted);
  // A picture beyond the first hundred.
  if (!picture && wanted) picture = await api.get(`/api/images/${encodeURIComponent(wanted)}`).catch(() => null);
  picture ??= state.pictures[0];
  if (picture) openPicture(picture);
}

begin();
