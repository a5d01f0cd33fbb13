// From a key to what it does.

import { $ } from "./dom.js";

/** Whether somebody writes, or a dialog has the keys. */
const isElsewhere = (target) =>
  Boolean(document.querySelector("dialog[open]")) || target.matches?.("input:not([type=range], [type=checkbox]), select, textarea");

/** `does`: `keys` and `onCanvas` by name, `undo` with a word, `step` through the pictures, `hold` the picture to move it, and
 *  `takeClass` by its place. */
export function listen(canvas, does) {
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    if (isElsewhere(target)) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") does.undo(event.shiftKey ? "redo" : "undo");
      else if (key === "y") does.undo("redo");
      else return;
      event.preventDefault();
      return;
    }
    if (event.altKey) return;
    if (key === " " && target === canvas) {
      does.hold(true);
      event.preventDefault();
      return;
    }
    if (key === "enter" && target.matches?.("button, a, label")) return;
    if (target === $("strip") && (key === "arrowleft" || key === "arrowright")) {
      event.preventDefault();
      does.step(key === "arrowright" ? 1 : -1);
      return;
    }
    if (/^[1-9]$/.test(key) && does.takeClass(Number(key) - 1)) return;
    const action = (target === canvas && does.onCanvas[key]) || does.keys[key];
    if (action) {
      event.preventDefault();
      action(event);
    }
  });
  document.addEventListener("keyup", (event) => { if (event.key === " ") does.hold(false); });
}
