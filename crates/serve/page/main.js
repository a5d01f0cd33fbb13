// The page: pictures below, the one at work in the middle, its labels beside it.

import * as api from "./api.js";
import { exportDialog, help, login } from "./dialogs.js";
import { $, h, toast } from "./dom.js";
import { listen } from "./keys.js";
import { renderClasses, renderObjects } from "./lists.js";
import { paint } from "./paint.js";
import * as rle from "./rle.js";
import { files, themes } from "./shell.js";
import { Strip } from "./strip.js";
import { Choice, Draft } from "./tools.js";
import { Train } from "./train.js";
import { View } from "./view.js";

const NO_CLASS = "#9aa4b4";

const state = {
  image: null,
  bitmap: null,
  objects: [],
  classes: [],
  active: null,
  selected: null,
  /** Whether somebody chose the selected object; otherwise it is the one that was kept last. */
  chosen: false,
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
const radius = () => Number($("size").value) / 2;
const view = new View(canvas, (context, scale) => paint(context, scale, { state, colour, radius: radius() }));
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

// ---- pictures

const strip = new Strip({ open: openPicture, current: () => state.image, attempt });

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
  strip.render();
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
    strip.render();
    await prepare(number);
  } catch (error) {
    if (number === state.opening) {
      say(`Cannot be opened: ${error.message}`);
      toast(error.message || "the picture cannot be shown", true);
    }
  } finally {
    if (number === state.opening) wait(null);
  }
}

/** Has the picture made ready for clicks, by the domain that it is like if there is one. */
async function prepare(number = state.opening) {
  const { image } = state;
  if (!image || image.problem) return;
  wait("Preparing for clicks …");
  try {
    const { domain } = await api.post(`/api/images/${image.id}/embedding`);
    if (number === state.opening) say(`${image.width} × ${image.height} pixels, ready${domain ? ` · recognised as ${domain}` : ""}`);
  } finally {
    if (number === state.opening) wait(null);
  }
}

function step(by, wanted) {
  const next = strip.beside(by, wanted);
  if (next) return openPicture(next);
  return say(by > 0 ? "That was the last one." : "That was the first one.");
}

const withMask = (object) => ({ ...object, mask: rle.decode(object.segmentation) });

// ---- drafts, and what is kept of them

function changedDraft() {
  const { draft } = state;
  const shown = draft && !draft.empty;
  $("draft").hidden = !shown;
  if (shown) {
    const words = draft.busy ? "…" : draft.mask ? `${draft.area} pixels` : "nothing found";
    const sure = draft.iou !== null && draft.mask && !draft.painted ? `, the model gives it ${Math.round(100 * Math.min(1, draft.iou))} %` : "";
    const name = classOf(state.active)?.name;
    $("draft-text").textContent = `${words}${sure}${name ? ` · ${name}` : ""}`;
    if (!draft.busy && draft.clicked !== null) tellTime(draft);
  }
  $("keep").disabled = !draft?.mask;
  view.draw();
}

/** Says how long the answer took, from the click until the mask is seen. */
function tellTime(draft) {
  const start = draft.clicked;
  draft.clicked = null;
  view.painted(() => {
    performance.clearMeasures("click to mask");
    const { duration } = performance.measure("click to mask", { start, end: performance.now() });
    const by = draft.domain ? ` by ${draft.domain}` : "";
    say(`answered${by} in ${duration.toFixed(0)} ms (${draft.server.toFixed(0)} ms in the service)`);
  });
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
  Object.assign(state, { selected: made.objects.at(-1).id, chosen: false });
  await afterChange();
  return true;
}

async function afterChange() {
  strip.remark({ objects: state.objects.length });
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
  strip.remark({ objects: state.objects.length });
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
  renderClasses(state, onClasses);
  renderObjects(state, ready(), colour, onObjects);
  changedDraft();
  const choosing = state.choice !== null;
  $("found").hidden = !choosing;
  if (choosing) $("found-text").textContent = `${state.choice.regions.length} found: click those to keep`;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === state.tool));
  canvas.style.cursor = state.tool === "select" || choosing ? "pointer" : "crosshair";
  view.draw();
}

async function changeClass(work) {
  await attempt(work);
  await loadClasses();
  renderAll();
}

const onClasses = {
  activate: (found) => activate(found.id),
  recolour: (found, shade) => changeClass(() => api.patch(`/api/classes/${found.id}`, { colour: shade })),
  remove: (found) => changeClass(() => api.remove(`/api/classes/${found.id}`)),
  rename: (found) => {
    const name = prompt("Name of the class", found.name);
    if (name) changeClass(() => api.patch(`/api/classes/${found.id}`, { name }));
  },
};

const onObjects = {
  select: (object) => { Object.assign(state, { selected: object.id, chosen: true }); renderAll(); },
  remove: removeObject,
  classify: (object, id) => changeObject(object, { class: id }),
};

/** Makes a class that of new masks, and of the object that somebody selected: the one that was kept last has its class. */
async function activate(id) {
  state.active = id;
  const object = state.objects.find((found) => found.id === state.selected);
  if (object && state.chosen && state.draft?.empty && object.class !== id) await changeObject(object, { class: id });
  renderAll();
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
  if (state.tool === "point" && view.isInside(at)) attempt(() => state.draft.point(at.x, at.y, !negative, event.timeStamp));
  else if (state.tool === "box") state.stroke = { from: view.clamp(at), box: null };
  else if (state.tool === "brush" || state.tool === "eraser") beginPainting(at, (state.tool === "brush") !== negative);
  else if (state.tool === "select") {
    const under = state.objects.filter((object) => rle.covers(object.mask, at.x, at.y));
    Object.assign(state, { selected: under.sort((a, b) => a.area - b.area)[0]?.id ?? null, chosen: true });
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

function endStroke(event) {
  const { stroke } = state;
  state.stroke = null;
  if (stroke?.box) {
    const [x0, y0, x1, y1] = stroke.box;
    if (x1 - x0 >= 2 && y1 - y0 >= 2) attempt(() => state.draft.setBox(stroke.box, event.timeStamp));
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

function removeSelected() {
  const object = state.objects.find((found) => found.id === state.selected);
  if (object) removeObject(object);
}

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
  delete: removeSelected,
  backspace: removeSelected,
};

const ON_CANVAS = {
  arrowleft: (event) => moveCross(-1, 0, event.shiftKey),
  arrowright: (event) => moveCross(1, 0, event.shiftKey),
  arrowup: (event) => moveCross(0, -1, event.shiftKey),
  arrowdown: (event) => moveCross(0, 1, event.shiftKey),
  ".": (event) => crossPoint(true, event.timeStamp),
  ",": (event) => crossPoint(false, event.timeStamp),
};

function crossPoint(on, clicked) {
  if (!ready() || !state.cross) return;
  if (state.choice) confirmKey();
  else attempt(() => state.draft.point(state.cross.x, state.cross.y, on, clicked));
}

function resize(by) {
  $("size").value = Number($("size").value) + by;
  view.draw();
}

listen(canvas, {
  keys: KEYS,
  onCanvas: ON_CANVAS,
  undo,
  step,
  hold: (is) => { held = is; },
  takeClass: (at) => {
    if (state.classes[at]) activate(state.classes[at].id);
    return Boolean(state.classes[at]);
  },
});

// ---- uploads

async function uploadAll(chosen) {
  const pictures = [...chosen];
  let done = 0;
  for (const file of pictures) {
    wait(`Adding ${file.name} …`);
    const added = await attempt(() => api.upload(file));
    if (added) done += 1;
  }
  wait(null);
  if (!done) return;
  $("which").value = "all";
  await attempt(() => strip.load());
  toast(`${done} of ${pictures.length} pictures added`);
  if (!state.image && strip.pictures.length) openPicture(strip.pictures.at(-1));
}

// ---- the rest

const train = new Train($("train"), {
  current: () => ({ image: state.image, bitmap: state.bitmap, objects: state.objects, classes: state.classes }),
  colour,
  // What was asked of the model before is of no use to what answers now.
  domains: () => attempt(async () => { state.draft?.clear(); changedDraft(); await showModels(); await prepare(); }),
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
$("size").addEventListener("input", () => view.draw());
$("done").addEventListener("change", (event) => attempt(async () => {
  if (!state.image) return;
  const picture = await api.patch(`/api/images/${state.image.id}`, { done: event.target.checked });
  state.image.done = picture.done;
  strip.remark({ done: picture.done });
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
themes();
files(uploadAll);
api.onOffline((away) => {
  $("offline").hidden = !away;
  if (!away) reloadObjects();
});
api.onLogin(login);

/** What answers: the model, and the domains that were taught. */
async function showModels() {
  const models = await attempt(() => api.get("/api/models"));
  if (!models) return;
  const { domains, domains_problem: problem } = models;
  $("model").textContent = models.loaded.name + (domains.length ? ` + ${domains.join(", ")}` : "");
  $("model").title = domains.length ? `Pictures like those of ${domains.join(", ")} are answered by what was learned of them` : "";
  $("suggest").hidden = models.adopted === null;
  if (problem) toast(`Left out: ${problem}`, true);
}

async function begin() {
  setUndo({});
  wait("Starting …");
  await showModels();
  await loadClasses();
  await attempt(() => strip.load());
  wait(null);
  renderAll();
  const wanted = location.hash.slice(1);
  let picture = strip.pictures.find((known) => known.id === wanted);
  // A picture beyond the first hundred.
  if (!picture && wanted) picture = await api.get(`/api/images/${encodeURIComponent(wanted)}`).catch(() => null);
  picture ??= strip.pictures[0];
  if (picture) openPicture(picture);
}

begin();
