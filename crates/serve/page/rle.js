// COCO run lengths: down the columns, background first. A mask in the page is the part of the frame around its pixels.

/** The numbers in COCO's compressed string. */
export function counts(text) {
  const found = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let shift = 1;
    let group;
    do {
      group = text.charCodeAt(at) - 48;
      at += 1;
      value += (group & 31) * shift;
      shift *= 32;
    } while (group & 32);
    if (group & 16) value -= shift;
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

/** From a segmentation to `{width, height, x, y, w, h, data}`: `data` are the pixels of the part `x, y, w, h`, row by row. */
export function decode({ size: [height, width], counts: coded }) {
  const runs = typeof coded === "string" ? counts(coded) : coded;
  let [x0, y0, x1, y1] = [width, height, 0, 0];
  const spans = [];
  let at = 0;
  runs.forEach((length, index) => {
    if (index % 2 === 1) {
      let start = at;
      const end = at + length;
      while (start < end) {
        const column = Math.floor(start / height);
        const stop = Math.min(end, (column + 1) * height);
        const [from, to] = [start - column * height, stop - column * height];
        spans.push(column, from, to);
        if (column < x0) x0 = column;
        if (column + 1 > x1) x1 = column + 1;
        if (from < y0) y0 = from;
        if (to > y1) y1 = to;
        start = stop;
      }
    }
    at += length;
  });
  if (x1 <= x0) return { width, height, x: 0, y: 0, w: 0, h: 0, data: new Uint8Array(0) };
  const [w, h] = [x1 - x0, y1 - y0];
  const data = new Uint8Array(w * h);
  for (let i = 0; i < spans.length; i += 3) {
    const column = spans[i] - x0;
    for (let y = spans[i + 1] - y0; y < spans[i + 2] - y0; y += 1) data[y * w + column] = 1;
  }
  return { width, height, x: x0, y: y0, w, h, data };
}

/** Back, with the run lengths as numbers. */
export function encode(mask) {
  const { width, height, x, y, w, h, data } = mask;
  const runs = [];
  let length = 0;
  let on = 0;
  const add = (value, times) => {
    if (times <= 0) return;
    if (value === on) length += times;
    else {
      runs.push(length);
      length = times;
      on = value;
    }
  };
  add(0, x * height);
  for (let column = 0; column < w; column += 1) {
    add(0, y);
    for (let row = 0; row < h; row += 1) add(data[row * w + column], 1);
    add(0, height - y - h);
  }
  add(0, (width - x - w) * height);
  runs.push(length);
  return { size: [height, width], counts: runs };
}

/** Whether the mask covers a pixel. */
export function covers(mask, px, py) {
  const [x, y] = [Math.floor(px) - mask.x, Math.floor(py) - mask.y];
  return x >= 0 && y >= 0 && x < mask.w && y < mask.h && mask.data[y * mask.w + x] === 1;
}

export function area(mask) {
  let sum = 0;
  for (const value of mask.data) sum += value;
  return sum;
}

/** The same mask in a part that holds `x0..x1, y0..y1` as well, to be painted on. */
export function widened(mask, x0, y0, x1, y1) {
  const left = Math.max(0, mask.w ? Math.min(mask.x, x0) : x0);
  const top = Math.max(0, mask.w ? Math.min(mask.y, y0) : y0);
  const right = Math.min(mask.width, mask.w ? Math.max(mask.x + mask.w, x1) : x1);
  const bottom = Math.min(mask.height, mask.w ? Math.max(mask.y + mask.h, y1) : y1);
  if (mask.w && left === mask.x && top === mask.y && right === mask.x + mask.w && bottom === mask.y + mask.h) return mask;
  const [w, h] = [Math.max(0, right - left), Math.max(0, bottom - top)];
  const data = new Uint8Array(w * h);
  for (let row = 0; row < mask.h; row += 1) {
    const from = row * mask.w;
    data.set(mask.data.subarray(from, from + mask.w), (row + mask.y - top) * w + mask.x - left);
  }
  return { ...mask, x: left, y: top, w, h, data };
}

/** Paints a line of a round brush into (1) or out of (0) a mask; the mask that results. */
export function paint(mask, from, to, radius, value) {
  const reach = Math.ceil(radius) + 1;
  const [x0, y0] = [Math.floor(Math.min(from.x, to.x)) - reach, Math.floor(Math.min(from.y, to.y)) - reach];
  const [x1, y1] = [Math.ceil(Math.max(from.x, to.x)) + reach, Math.ceil(Math.max(from.y, to.y)) + reach];
  const out = value
    ? widened(mask, Math.max(0, x0), Math.max(0, y0), Math.min(mask.width, x1), Math.min(mask.height, y1))
    : mask;
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const long = dx * dx + dy * dy;
  const [left, top] = [Math.max(out.x, x0), Math.max(out.y, y0)];
  const [right, bottom] = [Math.min(out.x + out.w, x1), Math.min(out.y + out.h, y1)];
  for (let py = top; py < bottom; py += 1) {
    for (let px = left; px < right; px += 1) {
      const [cx, cy] = [px + 0.5, py + 0.5];
      const t = long ? Math.min(1, Math.max(0, ((cx - from.x) * dx + (cy - from.y) * dy) / long)) : 0;
      const [ox, oy] = [cx - from.x - t * dx, cy - from.y - t * dy];
      if (ox * ox + oy * oy <= radius * radius) out.data[(py - out.y) * out.w + px - out.x] = value;
    }
  }
  return out;
}

export const blank = (width, height) => ({ width, height, x: 0, y: 0, w: 0, h: 0, data: new Uint8Array(0) });
export const copy = (mask) => ({ ...mask, data: mask.data.slice() });
