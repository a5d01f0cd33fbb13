// Keys, export, and the token that may be asked for.

import * as api from "./api.js";
import { $, h, open } from "./dom.js";

export function help() {
  const rows = [
    ["Click / right-click", "a point on the object / beside it (Shift works too)"],
    ["Enter / Esc", "keep the mask / drop it"],
    ["C X B E V", "click, box, brush, eraser, select"],
    ["[ ]", "smaller and larger brush"],
    ["1 … 9", "class of new masks, and of an object that you selected"],
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

export function exportDialog() {
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

export function login() {
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

