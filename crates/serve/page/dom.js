// Elements without markup: whatever a file or a class is called, it only ever becomes text.

export const $ = (id) => document.getElementById(id);

/** Makes an element. `props` are properties, or listeners (`onclick`), or attributes where the name has a dash. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else if (key === "style") Object.assign(element.style, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Says something for some seconds. */
export function toast(text, bad = false) {
  const element = h("div", { className: bad ? "toast bad" : "toast" }, text);
  const toasts = $("toasts");
  toasts.append(element);
  // Above a dialog that is open: what came to the top last is there.
  if (toasts.matches(":popover-open")) toasts.hidePopover();
  toasts.showPopover();
  setTimeout(() => { element.remove(); if (!toasts.children.length) toasts.hidePopover(); }, bad ? 9000 : 4000);
}

/** Opens a dialog with its content made anew. */
export function open(dialog, title, ...content) {
  dialog.replaceChildren(
    h("button", { className: "close", onclick: () => dialog.close(), "aria-label": "Close" }, "✕"),
    h("h2", {}, title),
    ...content,
  );
  dialog.setAttribute("aria-label", title);
  if (!dialog.open) dialog.showModal();
}
