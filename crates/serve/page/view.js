// The canvas: a picture that can be moved and enlarged, masks over it, and what is drawn at the moment.

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** A mask as a small picture of its own, tinted, with a firm edge. */
export function tinted(mask, hex, strength = 0.42) {
  const { w, h, data } = mask;
  if (!w || !h) return null;
  const canvas = document.createElement("canvas");
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  const [r, g, b] = rgb(hex);
  const soft = Math.round(255 * strength);
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      const at = y * w + x;
      if (!data[at]) continue;
      const edge = x === 0 || y === 0 || x === w - 1 || y === h - 1 || !data[at - 1] || !data[at + 1] || !data[at - w] || !data[at + w];
      const to = 4 * at;
      image.data[to] = r;
      image.data[to + 1] = g;
      image.data[to + 2] = b;
      image.data[to + 3] = edge ? 255 : soft;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

export class View {
  constructor(canvas, painter) {
    this.canvas = canvas;
    this.painter = painter;
    this.image = null;
    this.size = [1, 1];
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.wanted = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  show(image, width, height) {
    this.image = image;
    this.size = [width, height];
    this.fit();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    if (this.fitted) this.fit();
    this.draw();
  }

  /** The whole picture, as large as it fits. */
  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    const [width, height] = this.size;
    this.scale = Math.min(clientWidth / width, clientHeight / height) * 0.97 || 1;
    this.left = (clientWidth - width * this.scale) / 2;
    this.top = (clientHeight - height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  /** Enlarges by a factor around a point of the canvas. */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(64, Math.max(0.02, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.fitted = false;
    this.draw();
  }

  /** From a place on the canvas to one in the picture, pixels. */
  inPicture(x, y) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  /** Keeps a place within the picture. */
  clamp({ x, y }) {
    return { x: Math.min(this.size[0], Math.max(0, x)), y: Math.min(this.size[1], Math.max(0, y)) };
  }

  isInside({ x, y }) {
    return x >= 0 && y >= 0 && x <= this.size[0] && y <= this.size[1];
  }

  draw() {
    if (this.wanted) return;
    this.wanted = true;
    requestAnimationFrame(() => {
      this.wanted = false;
      this.now();
    });
  }

  now() {
    const ratio = window.devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    const zoom = ratio * this.scale;
    context.setTransform(zoom, 0, 0, zoom, ratio * this.left, ratio * this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    context.drawImage(this.image, 0, 0, ...this.size);
    this.painter(context, this.scale);
  }
}
