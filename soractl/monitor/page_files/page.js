"use strict";
// The page: panels, one pointer for all of them, zoom, live looks.

const $ = (id) => document.getElementById(id);
const RANGES = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 d", 604800]];
const LEAST_COLUMNS = 6;
const RUN_EVERY_MS = 60000;
const MARK_COLOURS = { attempt: "good", save: "soft", interruption: "bad", quarantine: "bad", clock: "bad", end: "soft" };

class Panel { // a title, a plot with its axis, and the layers that all panels have
  constructor(title, hint) {
    this.figure = element("figure", "panel");
    this.head = element("figcaption");
    this.head.append(element("h2", "", title), element("span", "hint", hint));
    this.plot = element("div", "plot");
    this.labels = this.plot.appendChild(element("div", "labels"));
    this.chart = this.plot.appendChild(element("div", "chart"));
    this.canvas = this.plot.appendChild(element("canvas", "map"));
    this.marks = this.plot.appendChild(element("canvas", "marks"));
    this.axis = this.plot.appendChild(element("div", "axis"));
    this.selection = this.plot.appendChild(element("div", "selection"));
    this.cross = this.plot.appendChild(element("div", "cross"));
    this.empty = this.plot.appendChild(element("p", "empty", "nothing in this time"));
    this.empty.hidden = true;
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "group");
    this.plot.setAttribute("aria-label", `${title}: arrows move, plus and minus zoom, Escape shows all`);
    this.canvas.setAttribute("role", "img");
    this.chart.setAttribute("role", "img");
    this.figure.append(this.head, this.plot);
  }

  resize(width, height) {
    if (this.width === width && this.height === height) return;
    Object.assign(this, { width, height });
    const dpr = devicePixelRatio || 1, { marks } = this;
    this.plot.style.height = `${MARKS_TOP + height + AXIS}px`;
    for (const layer of [this.cross, this.selection]) layer.style.height = `${MARKS_TOP + height}px`;
    marks.width = Math.round(width * dpr);
    marks.height = Math.round((MARKS_TOP + height) * dpr);
    marks.style.width = `${width}px`;
    marks.style.height = `${MARKS_TOP + height}px`;
    this.axis.style.top = `${MARKS_TOP + height}px`;
  }

  hatch(context, loaded, view) { // below lines: nobody answered; at the foot: not every node did
    const lacking = loaded.lacking(), by = this.width / (view.to - view.from);
    const pattern = context.createPattern(hatching(), "repeat");
    for (let c = view.from; c < view.to; c++) {
      if (!lacking[c]) continue;
      const from = c;
      while (c + 1 < view.to && lacking[c + 1] === lacking[from]) c++;
      const x = (from - view.from) * by, width = Math.max(2, (c + 1 - from) * by);
      const high = lacking[from] === 2 ? this.height : 6;
      context.fillStyle = pattern;
      context.fillRect(x, MARKS_TOP + this.height - high, width, high);
    }
  }

  annotate(loaded, view) { // moments below, marks above the plot
    const begin = loaded.timeAt(view.from), end = loaded.timeAt(view.to), span = end - begin;
    const x = (unixS) => (unixS - begin) / span * this.width;
    const ticks = ticksOf(begin, end, this.width).map((unixS) => {
      const tick = element("span", "", clockText(unixS, span));
      tick.style.left = `${LEFT + x(unixS)}px`;
      return tick;
    });
    this.axis.replaceChildren(...ticks);
    const context = this.marks.getContext("2d"), dpr = devicePixelRatio || 1;
    const style = getComputedStyle(document.body);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.clearRect(0, 0, this.width, MARKS_TOP + this.height);
    if (this.hatched) this.hatch(context, loaded, view);
    for (const mark of loaded.marks) {
      if (mark.unix_s < begin || mark.unix_s > end) continue;
      const at = Math.round(x(mark.unix_s)) + 0.5, isSave = mark.kind === "save";
      context.strokeStyle = style.getPropertyValue(`--${MARK_COLOURS[mark.kind]}`);
      context.lineWidth = isSave ? 1 : 1.5;
      context.setLineDash(isSave ? [] : [4, 3]);
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, isSave ? MARKS_TOP - 3 : MARKS_TOP + this.height);
      context.stroke();
    }
  }
}

function hatching() { // the same as below the maps
  const style = getComputedStyle(document.body), tile = element("canvas");
  tile.width = tile.height = 6;
  const context = tile.getContext("2d");
  context.strokeStyle = style.getPropertyValue("--hatch");
  context.lineWidth = 1.2;
  for (const shift of [-6, 0, 6]) {
    context.beginPath();
    context.moveTo(shift, 6);
    context.lineTo(shift + 6, 0);
    context.stroke();
  }
  return tile;
}

const state = { loaded: null, view: null, live: false, follow: true, range: null, now: null, node: null, nodeData: {} };
const panels = [];
const took = { hover: [], look: [], draw: [] }; // the newest times in ms, for benchmarks and tests

function note(name, began) {
  if (took[name].push(performance.now() - began) > 200) took[name].shift();
}

function addPanel(title, hint, make) {
  const panel = new Panel(title, hint), content = make(panel);
  panel.hatched = content instanceof Chart && !content.isOfRun;
  $("panels").append(panel.figure);
  panels.push({ panel, content });
  return content;
}

const times = (loaded) => Float64Array.from({ length: loaded.columns }, (_, c) => loaded.timeAt(c + 0.5));
function lineOf(name, colour, values, more) { return { name, colour, values, ...more }; }

function buildPanels() {
  addPanel("InfiniBand", "all nodes; out is drawn downwards", (panel) => new Chart(panel, "InfiniBand", {
    isTall: true,
    format: rate,
    series: (loaded) => ({
      x: times(loaded),
      lines: [
        lineOf("in", "first", loaded.lines.ib_in),
        lineOf("out", "second", loaded.lines.ib_out.map((value) => (value === null ? null : -value))),
      ],
    }),
  }));
  const network = addPanel("Network", "in and out of a node", (panel) =>
    new HeatMap(panel, "ib", "Network", { modes: ["value"], formats: [rate], hint: "a row a node" }));
  network.source = () => network.chosen;
  const choice = element("select");
  choice.setAttribute("aria-label", "Network");
  choice.append(new Option("InfiniBand", "ib"), new Option("Ethernet", "eth"));
  choice.addEventListener("change", () => { network.chosen = choice.value; network.draw(); });
  network.choose = (name) => { network.chosen = choice.value = name; };
  network.panel.head.append(choice);
  const open = "a row a node, which opens into its GPUs";
  addPanel("Power", "lowest GPU of a node", (panel) =>
    new HeatMap(panel, "power", "Power", { modes: ["value", "median"], formats: [watts], hint: open }));
  addPanel("Utilisation", "lowest GPU of a node", (panel) =>
    new HeatMap(panel, "util", "Utilisation", { modes: ["value", "median"], formats: [percent], hint: open }));
  addPanel("Temperature", "hottest GPU of a node", (panel) =>
    new HeatMap(panel, "temp", "Temperature", { modes: ["value", "median"], formats: [celsius], hint: open }));
  const clock = addPanel("Clock offset", "of each node; beyond ±1 ms logarithmic", (panel) =>
    new Chart(panel, "Clock offset", { isTall: true, format: milliseconds, scale: { distr: 4, asinh: 1, range: clockRange }, series: clockLines }));
  clock.splits = (_, __, low, high) =>
    [-1e4, -1e3, -100, -10, -1, 0, 1, 10, 100, 1e3, 1e4].filter((one) => one >= low && one <= high);
  addPanel("Loss", "of the run's logged steps", (panel) => new Chart(panel, "Loss", {
    isOfRun: true,
    format: (value) => Number(value.toPrecision(4)).toString(),
    series: (loaded) => runLines(loaded, [["loss", "loss", "first"]]),
  }));
  addPanel("Step time", "ranks: without waiting", (panel) =>
    new Chart(panel, "Step time", {
      isOfRun: true,
      format: (value) => `${Number(value.toPrecision(3))} s`,
      series: (loaded) => runLines(loaded, [["step", "s_per_step", "first"], ["slowest rank", "slowest_s", "second"], ["mean of ranks", "mean_s", "third"]]),
    }));
  addPanel("Power of all GPUs", "that are known", (panel) => new Chart(panel, "Power of all GPUs", {
    format: (value) => `${Number((value / 1000).toPrecision(4))} kW`,
    series: (loaded) => ({ x: times(loaded), lines: [lineOf("power", "first", loaded.lines.power_w)] }),
  }));
  return network;
}

function clockRange(_, low, high) {
  const size = Math.max(Math.abs(low ?? 0), Math.abs(high ?? 0), 0.5) * 1.3;
  return [low < -0.3 ? -size : -Math.min(size, 1.3), high > 0.3 ? size : Math.min(size, 1.3)];
}

function clockLines(loaded) {
  const lines = loaded.nodes.map((name, place) => {
    const values = Array.from(loaded.clocks.subarray(place * loaded.columns, (place + 1) * loaded.columns),
      (value) => (Number.isNaN(value) ? null : value));
    let most = 0;
    let last = null;
    for (let c = 0; c < values.length; c++) { // measured once a minute: it holds until the next time
      if (values[c] !== null) { most = Math.max(most, Math.abs(values[c])); last = c; }
      else if (last !== null && (c - last) * loaded.step <= 120) values[c] = values[last];
    }
    return { name, values, most };
  });
  const worst = [...lines].sort((a, b) => b.most - a.most).filter((line) => line.most > 1).slice(0, 3);
  const colours = ["bad", "second", "third"];
  return {
    x: times(loaded),
    lines: [...lines.filter((line) => !worst.includes(line)).map((line) => lineOf(line.name, "faint", line.values, { key: false, width: 1 })),
      ...worst.map((line, i) => lineOf(line.name, colours[i], line.values))],
  };
}

function runLines(loaded, wanted) {
  const run = loaded.run;
  if (!run) return { x: [], lines: [] };
  return {
    x: run.unix_s,
    lines: wanted.filter(([, key]) => run[key].some((value) => value !== null)).map(([name, key, colour]) => lineOf(name, colour, run[key])),
    note: (index) => [`step ${run.step[index]}`],
  };
}

function drawAll() {
  for (const { panel, content } of panels) {
    content.show(state.loaded, state.view);
    panel.annotate(state.loaded, state.view);
  }
  facts();
}

function viewAll() { return { from: 0, to: state.loaded.columns }; }

function load(raw) {
  state.loaded = new Loaded(raw);
  state.loadedAt = performance.now();
  state.view = viewAll();
  if (raw.now) state.now = raw.now;
  if (raw.node_data) state.nodeData = raw.node_data;
  const { maps } = state.loaded;
  if (!network.chosen) network.choose(hasCells(maps.ib) || !hasCells(maps.eth) ? "ib" : "eth");
  drawAll();
  slowest();
  tables();
}

const hasCells = (map) => map.cells.some((q) => q !== UNKNOWN);

// The head, the table and the list of slow ranks.

function facts() {
  const { loaded, now } = state, run = loaded.run;
  const gpus = loaded.maps.power.rows.length;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  $("title").textContent = `${count(loaded.nodes.length, "node")}, ${count(gpus, "GPU")}`;
  const rows = [];
  if (run) {
    const last = run.step.length - 1;
    rows.push(["run", run.name]);
    if (last >= 0) rows.push(["step", String(run.step[last])], ["loss", dash(run.loss[last], (value) => value.toPrecision(4))], ["step time", dash(run.s_per_step[last], (value) => `${Number(value.toPrecision(3))} s`)]);
  }
  if (now) {
    const power = sum(now.nodes.flatMap((node) => node.gpus.map((gpu) => gpu.power_w)));
    const silent = now.nodes.filter((node) => node.error).length;
    if (power !== null) rows.push(["GPU power", `${(power / 1000).toFixed(1)} kW`]);
    if (silent) rows.push(["silent", count(silent, "node")]);
    rows.push(["last look", clockText(now.unix_s, 0)]);
  }
  alarms();
  const key = rows.flat().join("|");
  if (key === state.factsShown) return;
  state.factsShown = key;
  $("facts").replaceChildren(...rows.map(([name, value]) => {
    const pair = element("div", name === "silent" ? "alarm" : "");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  }));
}

function alarms() { // what is wrong at this moment, in words
  const odd = new Set((state.now?.nodes ?? []).filter((node) => node.odd?.length).map((node) => node.node));
  const isOther = [...odd].sort().join() !== [...oddNodes].sort().join();
  oddNodes = odd;
  if (isOther && state.loaded) for (const { content } of panels) if (content instanceof HeatMap && content.rows) content.draw();
  const { now } = state, lines = [];
  for (const node of now?.nodes ?? []) {
    if (node.error) lines.push(`${node.node} ${node.error}`);
    if (node.odd_answer) lines.push(`${node.node} nvidia-smi: ${node.odd_answer}`);
    if (node.clock_verdict === "BAD") lines.push(`${node.node} clock: ${node.clock_reasons.join("; ")}`);
    for (const odd of node.odd ?? []) lines.push(`${node.node} ${odd}`);
  }
  const text = lines.slice(0, 6).join("\n") + (lines.length > 6 ? `\nand ${lines.length - 6} more` : "");
  if ($("odd").textContent !== text) $("odd").textContent = text;
}

function slowest() {
  const run = state.loaded.run, figure = $("slowest");
  figure.hidden = !run || !run.slowest.length;
  if (figure.hidden) return;
  const list = figure.querySelector("ol");
  list.replaceChildren(...run.slowest.map((one) => {
    const row = element("li"), bar = row.appendChild(element("span", "share"));
    bar.style.width = `${Math.max(1, one.share * 100)}%`;
    const where = one.node ? ` on ${one.node}` : "";
    row.append(element("b", "", `rank ${one.rank}${where}`), element("span", "", `${Math.round(one.share * 100)} % of ${run.slowest_of} logged steps, ${dash(one.above_s, (value) => `${Number(value.toPrecision(2))} s`)} above the mean`));
    return row;
  }));
}

function tables() {
  $("all").hidden = !state.now;
  if (!state.now) return;
  nodesTable.show(state.now.nodes);
  if (state.node !== null) showNode();
}

function showNode() {
  const name = state.node, now = state.now?.nodes.find((node) => node.node === name);
  nodeView.show(name, now, state.nodeData[name], (unixS) => clockText(unixS, 2 * 86400));
}

function fetched(path) { // null where there is no answer
  return fetch(path).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
}

async function openNode(name) {
  state.node = name;
  for (const { content } of panels) if (content instanceof HeatMap) content.only = name;
  if (name !== null && state.live) {
    const found = await fetched(`/node?name=${encodeURIComponent(name)}`);
    if (found) state.nodeData[name] = found;
  }
  history.replaceState(null, "", name === null ? "#" : `#${encodeURIComponent(name)}`);
  nodeView.show(null);
  if (name !== null) { showNode(); $("node").scrollIntoView(); }
  drawAll();
}

// Time: ranges, zoom, pointer.

function ranges() {
  const buttons = RANGES.map(([name, seconds]) => {
    const button = element("button", "", name);
    button.addEventListener("click", () => chooseRange(seconds));
    button.dataset.seconds = seconds;
    return button;
  });
  $("ranges").replaceChildren(...buttons);
}

function pressed() {
  const all = state.loaded, shown = (state.view.to - state.view.from) * all.step;
  for (const button of $("ranges").children) {
    const is = Math.abs(shown / button.dataset.seconds - 1) < 0.1 && (!state.live || state.follow);
    button.setAttribute("aria-pressed", String(is));
    button.disabled = !state.live && button.dataset.seconds > (all.columns * all.step) * 1.5;
  }
}

async function chooseRange(seconds) {
  if (!state.live) {
    const columns = Math.min(state.loaded.columns, Math.max(LEAST_COLUMNS, Math.round(seconds / state.loaded.step)));
    setView({ from: state.loaded.columns - columns, to: state.loaded.columns });
    return;
  }
  const now = Date.now() / 1000;
  state.follow = true;
  state.range = seconds;
  await fetchWindow(now - seconds, now);
}

async function fetchWindow(begin, end) {
  const asked = state.asked = Symbol("window"); // an answer that is overtaken is dropped
  state.loadedAt = performance.now();
  const raw = await fetched(`/window?begin=${Math.floor(begin)}&end=${Math.ceil(end)}`);
  if (asked !== state.asked) return;
  state.asked = null;
  if (!raw) return;
  load(raw);
  pressed();
}

function setView(view) {
  const { columns } = state.loaded, size = Math.max(LEAST_COLUMNS, Math.min(columns, view.to - view.from));
  const from = Math.max(0, Math.min(columns - size, view.from));
  state.view = { from, to: from + size };
  drawAll();
  pressed();
}

async function zoomTo(from, to) { // columns; finer ones are fetched where there are some
  const { loaded } = state, begin = loaded.timeAt(from), end = loaded.timeAt(to);
  setView({ from, to });
  if (!state.live) return;
  state.follow = false;
  if (loaded.step > state.loaded.everyS) await fetchWindow(begin, Math.max(end, begin + 60));
}

function showEverything() {
  if (state.live) chooseRange(state.range ?? 86400);
  else setView(viewAll());
}

function pointerAt(clientX, panel) { // a column of the view
  const box = panel.plot.getBoundingClientRect(), { view } = state;
  const share = (clientX - box.left - LEFT) / panel.width;
  if (share < 0 || share >= 1) return null;
  return view.from + Math.floor(share * (view.to - view.from));
}

function columnsOfPixel(column, panel) {
  const { view } = state, count = view.to - view.from, by = Math.max(1, Math.ceil(count / panel.width));
  return [column, Math.min(column + by, view.to)];
}

function point(column, at, y, clientX, clientY) { // moves the crosshair of all panels
  state.column = column;
  const { view, loaded } = state;
  const unixS = column === null ? null : loaded.timeAt(column + 0.5);
  for (const { panel, content } of panels) {
    const { cross } = panel;
    if (column === null) { cross.style.opacity = 0; }
    else {
      cross.style.opacity = 1;
      cross.style.transform = `translateX(${LEFT + (column + 0.5 - view.from) / (view.to - view.from) * panel.width}px)`;
    }
    if (content instanceof Chart) content.keys(unixS);
  }
  tip(column, at, y, clientX, clientY, unixS);
}

function tip(column, at, y, clientX, clientY, unixS) {
  const box = $("tip");
  box.hidden = column === null || !at;
  if (box.hidden) return;
  const { panel, content } = at, span = columnsOfPixel(column, panel);
  const lines = content instanceof HeatMap ? content.tip(column, y, span) : content.tip(unixS);
  const width = panel.width / (state.view.to - state.view.from), near = state.loaded.step * Math.max(1, 4 / width);
  const marks = state.loaded.marks.filter((mark) => Math.abs(mark.unix_s - unixS) <= near).slice(0, 4);
  const texts = [clockText(unixS, state.loaded.step < 60 ? 0 : 3600), ...(lines ?? []), ...marks.map((mark) => `● ${mark.text}`)];
  box.textContent = texts.join("\n");
  const wide = Math.min(320, innerWidth - 16);
  const x = clientX + 14 + wide > innerWidth ? clientX - 14 : clientX + 14;
  box.style.transform = `translate(${Math.max(4, x)}px, ${clientY + 14}px)${x < clientX ? " translateX(-100%)" : ""}`;
}

function listen() {
  for (const entry of panels) {
    const { panel, content } = entry, { plot, selection } = panel;
    let from = null;
    plot.addEventListener("pointermove", (event) => {
      const began = performance.now(), column = pointerAt(event.clientX, panel);
      const y = event.clientY - plot.getBoundingClientRect().top - MARKS_TOP;
      point(column, entry, y, event.clientX, event.clientY);
      if (from !== null && column !== null) {
        const { view } = state, x = (c) => LEFT + (c - view.from) / (view.to - view.from) * panel.width;
        const [a, b] = [x(Math.min(from, column)), x(Math.max(from, column) + 1)];
        selection.style.transform = `translateX(${a}px)`;
        selection.style.width = `${b - a}px`;
      }
      note("hover", began);
    });
    plot.addEventListener("pointerleave", () => point(null));
    plot.addEventListener("pointerdown", (event) => {
      if (event.button || event.pointerType === "touch" || event.target.closest("button")) return;
      from = pointerAt(event.clientX, panel);
      if (from !== null) plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointerup", (event) => {
      const to = pointerAt(event.clientX, panel) ?? (from !== null ? state.column : null);
      selection.style.width = "0";
      if (from !== null && to !== null && Math.abs(to - from) >= 3) zoomTo(Math.min(from, to), Math.max(from, to) + 1);
      from = null;
    });
    plot.addEventListener("dblclick", showEverything);
    plot.addEventListener("keydown", (event) => keyboard(event, entry));
    plot.addEventListener("blur", () => point(null));
  }
}

function keyboard(event, entry) {
  const { panel, content } = entry, { view } = state, count = view.to - view.from;
  if (event.target !== panel.plot) return;
  const step = Math.max(1, Math.round(count / panel.width * 2)) * (event.shiftKey ? 20 : 1);
  const now = Math.min(Math.max(state.column ?? view.to - 1, view.from), view.to - 1);
  const moves = { ArrowLeft: now - step, ArrowRight: now + step, Home: view.from, End: view.to - 1 };
  if (event.key === "ArrowUp" || event.key === "ArrowDown") {
    entry.row = Math.max(0, Math.min((content.rows?.length ?? 1) - 1, (entry.row ?? -1) + (event.key === "ArrowUp" ? -1 : 1)));
    moves[event.key] = now;
  }
  if (event.key in moves) {
    const column = Math.min(Math.max(moves[event.key], view.from), view.to - 1), box = panel.plot.getBoundingClientRect();
    const x = LEFT + (column + 0.5 - view.from) / count * panel.width, y = ((entry.row ?? 0) + 0.5) * (content.rowHeight ?? 20);
    point(column, entry, y, box.left + x, box.top + MARKS_TOP + y);
  } else if (event.key === "+" || event.key === "=") zoomTo(Math.round(now - count / 4), Math.round(now + count / 4));
  else if (event.key === "-") setView({ from: view.from - Math.round(count / 2), to: view.to + Math.round(count / 2) });
  else if (event.key === "Escape") showEverything();
  else return;
  event.preventDefault();
}

// Live looks.

function follow() {
  let broken = false;
  const source = new EventSource("/live");
  source.addEventListener("message", (event) => look(JSON.parse(event.data).now));
  source.addEventListener("error", () => { broken = true; document.body.classList.add("broken"); });
  source.addEventListener("open", () => {
    document.body.classList.remove("broken");
    if (broken && state.follow) showEverything(); // what was missed is in the store
    broken = false;
  });
}

function look(now) {
  const began = performance.now();
  state.now = now;
  if (state.follow) {
    const isNew = now.nodes.some((node) => node.gpus.some((gpu) => !state.loaded.maps.power.rowAt.has(`${node.node} ${gpu.gpu}`)));
    if (isNew && !state.asked) return showEverything();
    const shifted = state.loaded.add(now);
    redraw(shifted);
    // looks do not have the run's steps and marks
    if (state.loaded.run && !state.asked && began - state.loadedAt > RUN_EVERY_MS) showEverything();
  }
  facts();
  note("look", began);
  (window.requestIdleCallback ?? setTimeout)(tables);
}

function redraw(shifted) { // one panel a frame, so that no frame is late; lines when a column is done
  state.shifted = shifted || (state.drawing && state.shifted);
  state.waiting = panels.filter(({ content }) => content instanceof HeatMap || state.shifted);
  if (state.drawing) return;
  const next = () => {
    const one = state.waiting.shift();
    state.drawing = Boolean(one);
    if (!one) return;
    const began = performance.now();
    if (state.shifted || !one.content.showNewest()) {
      one.content.show(state.loaded, state.view);
      if (state.shifted) one.panel.annotate(state.loaded, state.view);
    }
    note("draw", began);
    requestAnimationFrame(next);
  };
  state.drawing = true;
  requestAnimationFrame(next);
}

const network = buildPanels();
$("panels").append(Object.assign(element("figure", "panel"), { id: "slowest", hidden: true }));
$("slowest").append(element("figcaption"), element("ol"));
$("slowest").firstChild.append(element("h2", "", "Slowest ranks"), element("span", "hint", "for whom the others waited"));
const nodesTable = new NodesTable($("nodes"), (name) => openNode(name));
const nodeView = new NodeView($("node"), () => openNode(null));
ranges();
{
  const raw = JSON.parse($("data").textContent);
  state.live = raw.live;
  load(raw);
  state.range = RANGES.map(([, seconds]) => seconds).find((seconds) => seconds >= state.loaded.columns * state.loaded.step * 0.95) ?? 604800;
  pressed();
  listen();
  $("foot").textContent = raw.live
    ? `a look every ${raw.every_s} s; a name opens its GPUs; drag to zoom, double-click to see all again`
    : "a page on its own, as it was stored; a name opens its GPUs; drag to zoom, double-click to see all again";
}
addEventListener("resize", () => { cancelAnimationFrame(state.resizing); state.resizing = requestAnimationFrame(drawAll); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
{ // encoded names are compared, since not all that may stand there can be decoded
  const name = state.loaded.nodes.find((one) => `#${encodeURIComponent(one)}` === location.hash);
  if (name !== undefined) openNode(name);
}
document.body.dataset.ready = "yes";
performance.mark("drawn");
if (state.live) follow();
