// The lists beside the picture: classes, and the objects that were kept.

import { $, h } from "./dom.js";

/** Fills a list anew; who was at work in it with the keyboard stays where they were. */
function refill(list, items) {
  const at = document.activeElement;
  const row = list.contains(at) ? at.closest("li") : null;
  const place = row && [row.dataset.key, [...row.querySelectorAll("button, input, select")].indexOf(at), [...list.children].indexOf(row)];
  list.replaceChildren(...items);
  if (!place) return;
  const same = items.find((item) => item.dataset.key === place[0]) ?? items[Math.min(place[2], items.length - 1)];
  same?.querySelectorAll("button, input, select")[place[1]]?.focus();
}

/** `act`: `activate`, `recolour`, `rename` and `remove`, each with a class. */
export function renderClasses({ classes, active }, act) {
  refill($("classes"), classes.map((found, at) => h(
    "li",
    { "aria-current": String(found.id === active), "data-key": found.id },
    h("input", { type: "color", className: "swatch", value: found.colour, "aria-label": `Colour of ${found.name}`, onchange: (event) => act.recolour(found, event.target.value) }),
    h("button", { className: "row", title: "Make it the class of new masks", onclick: () => act.activate(found), ondblclick: () => act.rename(found) }, found.name),
    h("button", { className: "icon", "aria-label": `Rename the class ${found.name}`, title: "Rename", onclick: () => act.rename(found) }, "✎"),
    found.objects
      ? h("span", { className: "dim count", title: `${found.objects} objects in all pictures` }, String(found.objects))
      : h("button", { className: "icon", "aria-label": `Remove the class ${found.name}`, title: "Remove", onclick: () => act.remove(found) }, "✕"),
    at < 9 && h("kbd", {}, String(at + 1)),
  )));
}

/** `act`: `select`, `remove` with an object, `classify` with an object and the id of a class, or null. */
export function renderObjects({ objects, classes, selected }, isReady, colour, act) {
  $("count").textContent = objects.length ? String(objects.length) : "";
  $("no-objects").hidden = objects.length > 0 || !isReady;
  refill($("objects"), objects.map((object, at) => {
    const choose = h("select", { "aria-label": `Class of object ${at + 1}`, onchange: (event) => act.classify(object, event.target.value ? Number(event.target.value) : null) },
      h("option", { value: "" }, "no class"),
      ...classes.map((found) => h("option", { value: found.id, selected: found.id === object.class }, found.name)));
    const swatch = h("span", { className: "swatch" });
    swatch.style.background = colour(object.class);
    return h("li", { "aria-current": String(object.id === selected), "data-object": object.id, "data-key": object.id },
      swatch,
      h("button", { className: "row", onclick: () => act.select(object) }, `${at + 1} · ${object.area} px`),
      choose,
      h("button", { className: "icon", "aria-label": `Delete object ${at + 1}`, title: "Delete", onclick: () => act.remove(object) }, "✕"));
  }));
}
