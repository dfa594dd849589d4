"use strict";
// Heat maps on a canvas: a row a node, which opens into its GPUs.
// What is unknown stays transparent, so that the hatching below it is seen; where only some of a
// pixel's minutes are missing, the top of the pixel is left out.

const LEFT = 92, RIGHT = 16, MARKS_TOP = 8;
const hex = (text) => [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16));
const CIVIDIS = ("00224e002e6a1a386f32436d434e6c535a6d61656f6f70737d7c788c88789b9476aba072bcae6ccdbb63dec958"
  + "f0d846fee838").match(/.{6}/g).map(hex);
const DIVERGING = { // Okabe and Ito's blue and vermilion around the page's own ground
  light: ["003f6b", "0072b2", "8fc3e3", "f1f2f4", "f5b895", "d55e00", "7f2f00"].map(hex),
  dark: ["9fd4f7", "56b4e9", "2b5f80", "23282e", "8a4b1c", "e8772e", "ffc39b"].map(hex),
};

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

function colourOf(anchors, share) { // as the bytes of ImageData, little-endian
  const at = Math.min(Math.max(share, 0), 1) * (anchors.length - 1);
  const i = Math.min(Math.floor(at), anchors.length - 2), part = at - i;
  const [r, g, b] = [0, 1, 2].map((k) =>
    Math.round(anchors[i][k] + part * (anchors[i + 1][k] - anchors[i][k])));
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
}

function rowHeightOf(rows) {
  return innerWidth < 600 ? 11 : Math.max(12, Math.min(22, Math.floor(288 / Math.max(rows, 1))));
}

class HeatMap {
  constructor(panel, name, title, { modes, formats, hint }) {
    Object.assign(this, { panel, name, title, modes, formats, hint });
    this.mode = modes[0];
    this.open = new Set();
    this.only = null; // a node, when the page shows that one alone
    this.canvas = panel.canvas;
    panel.chart.hidden = true;
    this.context = this.canvas.getContext("2d");
    this.key = panel.head.appendChild(element("span", "key"));
    this.gradient = element("canvas", "gradient");
    this.gradient.width = 128;
    this.gradient.height = 1;
    if (modes.length > 1) {
      this.toggle = element("button", "toggle", "against the median");
      this.toggle.addEventListener("click", () => {
        this.mode = modes[(modes.indexOf(this.mode) + 1) % modes.length];
        this.draw();
      });
      panel.head.append(this.toggle);
    }
    panel.labels.addEventListener("click", (event) => {
      const node = event.target.closest("button")?.dataset.node;
      if (node !== undefined) this.flip(node);
    });
  }

  flip(node) {
    if (!this.open.delete(node)) this.open.add(node);
    this.draw();
    this.panel.annotate(this.loaded, this.view); // another height has emptied the marks
    this.panel.labels.querySelector(`[data-node="${CSS.escape(node)}"]`)?.focus();
  }

  get data() { return this.loaded.maps[this.source ? this.source() : this.name]; }

  show(loaded, view) {
    this.loaded = loaded;
    this.view = view;
    this.draw();
  }

  listed() { // the rows that are shown
    const { data } = this, rows = [];
    data.nodes.forEach((node, place) => {
      if (this.only !== null && this.only !== node) return;
      const of = data.rowsOf[place], several = of.length > 1 || data.rows[of[0]]?.[1] !== null;
      const isOpen = several && (this.open.has(node) || this.only === node);
      if (this.only === null || !several) {
        rows.push({ node, place, row: null, isOpen, several, label: node });
      }
      if (isOpen) {
        for (const row of of) {
          rows.push({ node, place, row, label: `GPU ${data.rows[row][1]}`, isGpu: true });
        }
      }
    });
    return rows;
  }

  index(row) { // a byte a column to be coloured, of a listed row
    const { data } = this, { columns } = data;
    if (this.mode !== "median") {
      const from = row.row === null ? data.folded : data.cells;
      const at = (row.row ?? row.place) * columns;
      return from.subarray(at, at + columns);
    }
    const found = new Uint8Array(columns).fill(UNKNOWN);
    const of = row.row === null ? data.rowsOf[row.place] : [row.row];
    const scale = 127 / this.range;
    for (const one of of) {
      for (let c = 0; c < columns; c++) {
        const q = data.cells[one * columns + c];
        if (q === UNKNOWN) continue;
        const away = Math.round(Math.min(Math.max(q - data.medians[c], -this.range), this.range) * scale);
        if (found[c] === UNKNOWN || Math.abs(away) > Math.abs(found[c] - 127)) found[c] = 127 + away;
      }
    }
    return found;
  }

  isWorse(a, b) {
    if (this.mode === "median") return b === UNKNOWN || Math.abs(a - 127) > Math.abs(b - 127);
    return this.data.isWorse(a, b);
  }

  table() { // a colour for each byte; the scale stays as it is while looks come in
    const { data } = this, key = [this.mode, data.lo, data.hi, isDark()].join();
    if (this.scaled === data && this.scaledBy === key) return this.colours;
    this.scaled = data;
    this.scaledBy = key;
    const colours = new Uint32Array(256);
    if (this.mode === "median") {
      const least = 30 / (data.hi - data.lo) * TOP; // W or %, below which nothing is odd
      this.range = Math.max(least, 8);
      for (const row of data.rows.keys()) {
        const cells = data.cells.subarray(row * data.columns, (row + 1) * data.columns);
        for (let c = 0; c < cells.length; c += 4) {
          if (cells[c] !== UNKNOWN) this.range = Math.max(this.range, Math.abs(cells[c] - data.medians[c]));
        }
      }
      const anchors = DIVERGING[isDark() ? "dark" : "light"];
      for (let q = 0; q < UNKNOWN; q++) colours[q] = colourOf(anchors, q / TOP);
      const size = this.range / TOP * (data.hi - data.lo);
      this.limits = [-size, size];
    } else {
      let [low, high] = data.percentiles(0.01, 0.99); // the worse end as far as it goes: it is looked for
      if (data.worst === "most") [, high] = data.percentiles(0, 1);
      if (high - low < 12) [low, high] = [Math.max(0, low - 6), Math.min(TOP, high + 6)];
      for (let q = 0; q < UNKNOWN; q++) {
        const share = (q - low) / Math.max(high - low, 1);
        colours[q] = colourOf(CIVIDIS, data.worst === "least" ? 1 - share : share); // bright: look here
      }
      this.limits = [data.value(low), data.value(high)];
    }
    this.colours = colours;
    return colours;
  }

  showNewest() { // false where all must be drawn: another scale, or a view that ends before
    const colours = this.colours, data = this.scaled;
    const ends = this.view?.to === this.loaded?.columns;
    if (!ends || !this.rows || data !== this.data || this.table() !== colours) return false;
    this.paintNewest();
    return true;
  }

  draw() {
    if (!this.loaded) return;
    this.table();
    this.rows = this.listed();
    this.layOut();
    this.paint();
    this.legend();
    this.describe();
    this.panel.empty.hidden = this.data.cells.some((q) => q !== UNKNOWN);
  }

  layOut() { // sizes and labels
    const { canvas, panel, rows } = this;
    this.rowHeight = rowHeightOf(rows.length);
    const width = Math.max(60, panel.plot.clientWidth - LEFT - RIGHT);
    const height = Math.max(rows.length, 1) * this.rowHeight;
    this.width = width;
    this.height = height;
    const dpr = devicePixelRatio || 1, w = Math.round(width * dpr), h = Math.round(height * dpr);
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    panel.resize(width, height);
    const wanted = rows.map((row) => `${row.label} ${row.isOpen} ${oddNodes.has(row.node)}`).join("\n") + this.rowHeight;
    if (wanted === this.labelled) return;
    this.labelled = wanted;
    panel.labels.replaceChildren(...rows.map((row, i) => this.label(row, i)));
  }

  label(row, i) {
    const several = row.several;
    const found = element(several ? "button" : "span", row.isGpu ? "label gpu" : "label");
    found.style.top = `${i * this.rowHeight}px`;
    found.style.height = `${this.rowHeight}px`;
    found.style.fontSize = `${Math.min(12, this.rowHeight - 1)}px`;
    found.classList.toggle("odd", oddNodes.has(row.node) && !row.isGpu);
    found.textContent = several ? `${row.isOpen ? "▾" : "▸"} ${row.label}` : row.label;
    if (several) {
      found.dataset.node = row.node;
      found.setAttribute("aria-expanded", String(row.isOpen));
      found.title = `${row.node}: its GPUs`;
    }
    return found;
  }

  cell(row, index, p, pixels) { // the byte of a pixel: the worst of its columns, and if some lack
    const { view, loaded } = this, count = view.to - view.from, gaps = row.place * loaded.columns;
    const from = view.from + Math.floor(p * count / pixels);
    const to = Math.max(view.from + Math.floor((p + 1) * count / pixels), from + 1);
    this.lacks = false;
    let found = UNKNOWN;
    for (let c = from; c < to; c++) {
      if (index[c] === UNKNOWN || loaded.missing[gaps + c] > 0) this.lacks = true;
      if (index[c] !== UNKNOWN && this.isWorse(index[c], found)) found = index[c];
    }
    return found;
  }

  paint() {
    const { context, canvas, rows, view, colours } = this;
    const pixels = this.pixels = Math.min(canvas.width, view.to - view.from);
    const image = new ImageData(pixels, Math.max(rows.length, 1));
    const out = new Uint32Array(image.data.buffer), partial = [];
    rows.forEach((row, r) => {
      const index = this.index(row);
      let before = UNKNOWN;
      for (let p = 0; p < pixels; p++) {
        const found = this.cell(row, index, p, pixels);
        out[r * pixels + p] = found === UNKNOWN ? 0 : colours[found];
        if (found === UNKNOWN ? before !== UNKNOWN : this.lacks) partial.push([r, p, found === UNKNOWN]);
        before = found;
      }
    });
    const buffer = this.buffer ??= document.createElement("canvas");
    buffer.width = pixels;
    buffer.height = Math.max(rows.length, 1);
    buffer.getContext("2d").putImageData(image, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(buffer, 0, 0, canvas.width, canvas.height);
    for (const [r, p, isWhole] of partial) this.notch(r, p, isWhole);
    this.linesBetweenRows(0);
  }

  paintNewest() { // the last pixel alone, for a look within its time
    const { context, canvas, rows, colours, pixels } = this;
    const p = pixels - 1, x = Math.floor(p * canvas.width / pixels);
    context.clearRect(x, 0, canvas.width - x, canvas.height);
    rows.forEach((row, r) => {
      const found = this.cell(row, this.index(row), p, pixels), c = colours[found];
      if (found === UNKNOWN) return;
      context.fillStyle = `rgb(${c & 255} ${c >> 8 & 255} ${c >> 16 & 255})`;
      context.fillRect(x, this.top(r), canvas.width - x, this.top(r + 1) - this.top(r));
      if (this.lacks) this.notch(r, p);
    });
    this.linesBetweenRows(x);
  }

  top(row) { return Math.round(row * this.canvas.height / Math.max(this.rows.length, 1)); }

  notch(r, p, isWhole) { // a hole wide enough for the hatching to be seen
    const { context, canvas, pixels } = this, dpr = devicePixelRatio || 1;
    const x = Math.round(p * canvas.width / pixels), wide = Math.max(canvas.width / pixels, 3 * dpr);
    const high = this.top(r + 1) - this.top(r);
    context.clearRect(x, this.top(r), wide, isWhole ? high : Math.ceil(high / 2));
  }

  linesBetweenRows(x) {
    const { context, canvas, rows } = this;
    context.fillStyle = getComputedStyle(document.body).getPropertyValue("--panel");
    for (let r = 1; r < rows.length; r++) context.fillRect(x, this.top(r), canvas.width - x, 1);
  }

  legend() {
    const { gradient, key, limits, mode } = this;
    const anchors = mode === "median" ? DIVERGING[isDark() ? "dark" : "light"] : CIVIDIS;
    const image = new ImageData(gradient.width, 1), out = new Uint32Array(image.data.buffer);
    const isTurned = mode !== "median" && this.data.worst === "least";
    for (let i = 0; i < out.length; i++) {
      const share = i / (out.length - 1);
      out[i] = colourOf(anchors, isTurned ? 1 - share : share);
    }
    gradient.getContext("2d").putImageData(image, 0, 0);
    const format = this.formats[0], sign = (value) => (mode === "median" && value > 0 ? "+" : "");
    key.replaceChildren(format(limits[0]), gradient, sign(limits[1]) + format(limits[1]));
    if (this.toggle) {
      this.toggle.setAttribute("aria-pressed", String(mode === "median"));
      this.toggle.setAttribute("aria-label", `${this.title} against the median`);
    }
  }

  describe() {
    const rows = `${this.loaded.nodes.length} rows`;
    this.canvas.setAttribute("aria-label", `${this.title}, ${this.hint}, ${rows}; numbers in the table below`);
  }

  tip(column, y, span) { // lines for the pointer; `span`: the columns of its pixel
    const { data, loaded } = this, row = this.rows[Math.floor(y / this.rowHeight)];
    if (!row) return null;
    const of = row.row === null ? data.rowsOf[row.place] : [row.row];
    let best = UNKNOWN, who = null, at = column;
    for (let c = span[0]; c < span[1]; c++) {
      for (const one of of) {
        const q = data.cells[one * data.columns + c];
        if (q === UNKNOWN) continue;
        const is = this.mode === "median" && best !== UNKNOWN
          ? Math.abs(q - data.medians[c]) > Math.abs(best - data.medians[at]) : data.isWorse(q, best);
        if (is) { best = q; who = one; at = c; }
      }
    }
    const gpu = who === null ? null : data.rows[who][1], format = this.formats[0];
    const lines = [gpu === null ? row.node : `${row.node} GPU ${gpu}`];
    if (best === UNKNOWN) lines.push("no answer: nothing is known");
    else {
      lines.push(format(data.value(best)));
      if (data.rows.length > 2) lines.push(`median of all ${format(data.value(data.medians[at]))}`);
    }
    let lost = 0;
    for (let c = span[0]; c < span[1]; c++) lost += loaded.missing[row.place * data.columns + c];
    const all = (span[1] - span[0]) * loaded.missingOf;
    if (lost && best !== UNKNOWN) lines.push(`${lost} of ${all} ${loaded.ofLooks ? "looks" : "minutes"} missing`);
    return lines;
  }
}
