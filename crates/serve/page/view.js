// The canvas: a picture that can be moved and enlarged, masks over it, and what is drawn at the moment.

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** A mask as a small picture of its own, tinted, with a firm edge of the same colour or another. */
export function tinted(mask, hex, strength = 0.42, edge = hex) {
  const { w, h, data } = mask;
  if (!w || !h) return null;
  const canvas = document.createElement("canvas");
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  const whole = new Uint32Array(image.data.buffer);
  const inside = pixel(rgb(hex), Math.round(255 * strength));
  const firm = pixel(rgb(edge), 255);
  // An edge that is as wide in a large picture, which is shown smaller.
  const wide = Math.max(1, Math.round(Math.max(mask.width, mask.height) / 800));
  const row = wide * w;
  for (let y = 0; y < h; y += 1) {
    const isOuter = y < wide || y >= h - wide;
    for (let x = 0, at = y * w; x < w; x += 1, at += 1) {
      if (!data[at]) continue;
      const isEdge = isOuter || x < wide || x >= w - wide || !data[at - wide] || !data[at + wide] || !data[at - row] || !data[at + row];
      whole[at] = isEdge ? firm : inside;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** A pixel as canvases hold it; all machines that browsers run on put the lowest byte first. */
const pixel = ([r, g, b], alpha) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

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
    this.waiting = [];
    /** The picture as it is shown: redrawn when the view changes, not when a mask does. */
    this.back = document.createElement("canvas");
    this.backIs = null;
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

  /** Draws, and calls `done` when what was drawn is on its way to the screen. */
  painted(done) {
    this.waiting.push(done);
    this.draw();
  }

  now() {
    const ratio = window.devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    const zoom = ratio * this.scale;
    const at = [zoom, 0, 0, zoom, ratio * this.left, ratio * this.top];
    this.drawBack(at);
    context.drawImage(this.back, 0, 0);
    context.setTransform(...at);
    context.imageSmoothingEnabled = this.scale < 3;
    this.painter(context, this.scale);
    const waiting = this.waiting.splice(0);
    if (!waiting.length) return;
    // A message comes after the frame.
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); for (const done of waiting) done(); };
    port2.postMessage(null);
  }

  drawBack(at) {
    const { back, canvas, image } = this;
    const is = [canvas.width, canvas.height, ...at].join();
    if (this.backIs === is && this.backOf === image) return;
    Object.assign(this, { backIs: is, backOf: image });
    Object.assign(back, { width: canvas.width, height: canvas.height });
    const context = back.getContext("2d");
    context.setTransform(...at);
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, ...this.size);
  }
}
