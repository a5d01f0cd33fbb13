// What is drawn over the picture: objects, a mask on its way, masks to choose from, and where the pointer is.

import { DRAFT } from "./tools.js";
import { tinted } from "./view.js";

/** Draws it all. `of` says what there is: the page's state, the colour of a class, the brush's radius. */
export function paint(context, scale, { state, colour, radius }) {
  const line = 1.5 / scale;
  if (state.choice) paintChoice(context, state.choice);
  else paintObjects(context, scale, line, state, colour);
  const { draft } = state;
  if (draft?.mask) {
    draft.tint ??= tinted(draft.mask, DRAFT, 0.5, "#ffffff");
    if (draft.tint) context.drawImage(draft.tint, draft.mask.x, draft.mask.y);
  }
  const box = state.stroke?.box ?? draft?.box;
  if (box) {
    for (const [shade, width] of [["#ffffff", 3 * line], [DRAFT, line]]) {
      context.strokeStyle = shade;
      context.lineWidth = width;
      context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    }
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
  paintPointer(context, scale, line, state, radius);
}

function paintChoice(context, { regions, hovered }) {
  for (const region of regions) {
    region.tint ??= tinted(region.mask, region.colour, 0.22);
    context.globalAlpha = !hovered || region === hovered ? 1 : 0.35;
    if (region.tint) context.drawImage(region.tint, region.mask.x, region.mask.y);
  }
  context.globalAlpha = 1;
  if (hovered) {
    hovered.bright ??= tinted(hovered.mask, hovered.colour, 0.6, "#ffffff");
    if (hovered.bright) context.drawImage(hovered.bright, hovered.mask.x, hovered.mask.y);
  }
}

function paintObjects(context, scale, line, state, colour) {
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

function paintPointer(context, scale, line, state, radius) {
  const { cross } = state;
  if (cross && (state.tool === "brush" || state.tool === "eraser")) {
    context.beginPath();
    context.arc(cross.x, cross.y, radius, 0, 2 * Math.PI);
    context.lineWidth = line;
    context.strokeStyle = "#ffffff";
    context.stroke();
    context.setLineDash([3 / scale, 3 / scale]);
    context.strokeStyle = "#000000";
    context.stroke();
    context.setLineDash([]);
  } else if (cross && state.showCross) {
    for (const [shade, width] of [["#ffffff", 3 * line], ["#000000", line]]) {
      context.strokeStyle = shade;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(cross.x - 12 / scale, cross.y);
      context.lineTo(cross.x + 12 / scale, cross.y);
      context.moveTo(cross.x, cross.y - 12 / scale);
      context.lineTo(cross.x, cross.y + 12 / scale);
      context.stroke();
    }
  }
}
