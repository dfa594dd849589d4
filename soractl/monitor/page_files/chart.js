"use strict";
// Lines over time by uPlot, with the same edges and ticks as the heat maps.

const AXIS = 22;

function ticksOf(begin, end, width) { // round moments of the reader's clock
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
  const most = Math.max(2, Math.floor(width / 84));
  const step = steps.find((one) => (end - begin) / one <= most) ?? 2592000;
  const shift = new Date(begin * 1000).getTimezoneOffset() * 60, found = [];
  for (let t = Math.ceil((begin - shift) / step) * step + shift; t < end; t += step) found.push(t);
  return found;
}

function clockText(unixS, span) {
  const date = new Date(unixS * 1000), two = (n) => String(n).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (span <= 900) return `${time}:${two(date.getSeconds())}`;
  const isMidnight = !date.getHours() && !date.getMinutes();
  const day = `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return span > 86400 * 1.5 ? (isMidnight || span > 86400 * 8 ? day : `${day} ${time}`) : time;
}

class Chart {
  constructor(panel, title, { series, format, scale, isOfRun, isTall }) {
    Object.assign(this, { panel, title, series, format, scale, isOfRun, isTall });
    panel.canvas.hidden = true;
    this.key = panel.head.appendChild(element("span", "key lines"));
  }

  colour(name) { return getComputedStyle(document.body).getPropertyValue(`--${name}`).trim(); }

  show(loaded, view) {
    this.loaded = loaded;
    this.view = view;
    const width = Math.max(60, this.panel.plot.clientWidth - LEFT - RIGHT), rows = loaded.nodes.length;
    const beside = this.isTall && innerWidth > 900; // as high as the map that stands there
    this.height = beside ? Math.max(132, rows * rowHeightOf(rows)) : 150;
    const found = this.series(loaded);
    this.found = found;
    this.panel.resize(width, this.height);
    const key = `${width} ${this.height} ${isDark()} ${found.lines.map((line) => line.colour + line.name).join()}`;
    if (key !== this.made) {
      this.made = key;
      this.plot?.destroy();
      this.plot = new uPlot(this.options(width, found), [[], ...found.lines.map(() => [])], this.panel.chart);
    }
    this.plot.batch(() => {
      this.plot.setData([found.x, ...found.lines.map((line) => line.values)], false);
      this.plot.setScale("x", { min: loaded.timeAt(view.from), max: loaded.timeAt(view.to) });
    });
    this.keys(null);
    const text = found.lines.length ? `${this.title}: ${found.lines.slice(0, 8).map((line) => line.name).join(", ")}` : this.title;
    this.panel.chart.setAttribute("aria-label", text);
    this.panel.empty.hidden = found.x.length > 0 && found.lines.some((line) => line.values.some((v) => v !== null));
  }

  options(width, found) {
    const faint = this.colour("line"), soft = this.colour("soft");
    const font = "11px system-ui, sans-serif";
    return {
      width: LEFT + width + RIGHT, height: this.height,
      padding: [5, RIGHT, 5, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, auto: false }, y: this.scale ?? {} },
      series: [{}, ...found.lines.map((line) => ({
        stroke: this.colour(line.colour), width: line.width ?? 1.5, spanGaps: false,
        points: { show: false }, fill: line.fill ? this.colour(line.fill) : undefined,
      }))],
      axes: [
        { show: false, size: AXIS },
        {
          size: LEFT, font, stroke: soft, gap: 6, grid: { stroke: faint, width: 1 }, ticks: { show: false },
          values: (_, values) => values.map((value) => this.format(value)),
          ...(this.splits ? { splits: this.splits } : { space: 34 }),
        },
      ],
    };
  }

  at(unixS) { // index of the newest point up to a moment
    const { x } = this.found;
    let low = 0, high = x.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] <= unixS) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  keys(unixS) { // names of the lines, with their values at a moment
    const index = unixS === null ? null : this.at(unixS);
    const shown = this.found.lines.filter((line) => line.key !== false).slice(0, 6);
    const text = shown.map((line) => {
      const value = index === null || index < 0 ? undefined : line.values[index];
      return value === undefined || value === null ? line.name : `${line.name} ${this.format(value)}`;
    });
    if (!this.spans || this.spans.length !== shown.length) {
      this.spans = shown.map(() => [element("i"), element("span")]);
      this.key.replaceChildren(...this.spans.flat());
    }
    this.spans.forEach(([dot, span], i) => {
      if (dot.dataset.colour !== shown[i].colour) {
        dot.dataset.colour = shown[i].colour;
        dot.style.background = `var(--${shown[i].colour})`;
      }
      if (span.textContent !== text[i]) span.textContent = text[i];
    });
  }

  tip(unixS) {
    const index = this.at(unixS);
    if (index < 0) return null;
    const found = this.found.lines
      .filter((line) => line.values[index] !== null && line.values[index] !== undefined)
      .map((line) => [line, line.values[index]]);
    if (!found.length) return ["nothing is known"];
    found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const lines = found.slice(0, 5).map(([line, value]) => `${line.name} ${this.format(value)}`);
    if (found.length > 5) lines.push(`and ${found.length - 5} more, closer to 0`);
    return [...lines, ...(this.found.note ? this.found.note(index) : [])];
  }
}
