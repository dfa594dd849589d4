"use strict";
// Tables: all nodes as they are now, and one node with all its numbers.

function element(name, className, text) {
  const found = document.createElement(name);
  if (className) found.className = className;
  if (text !== undefined) found.textContent = text;
  return found;
}

const dash = (value, format) => (value === null || value === undefined ? "–" : format(value));
const watts = (value) => `${Math.round(value)} W`;
const percent = (value) => `${Math.round(value)} %`;
const celsius = (value) => `${Math.round(value)} °C`;
function rate(value) {
  const units = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
  let size = Math.abs(value), power = 0;
  while (size >= 999.5 && power < units.length - 1) { size /= 1000; power++; }
  return `${size.toFixed(power && size < 99.95 ? 1 : 0)} ${units[power]}`;
}
function milliseconds(value) {
  const size = Math.abs(value), digits = size >= 100 || Number.isInteger(size) ? 0 : size >= 1 ? 1 : 3;
  return size === 0 ? "0 ms" : `${value < 0 ? "−" : "+"}${size.toFixed(digits)} ms`;
}
function gib(mib) { return `${(mib / 1024).toFixed(mib < 102400 ? 1 : 0)} GiB`; }
const sum = (values) => {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((a, b) => a + b) : null;
};
const mean = (values) => {
  const total = sum(values);
  return total === null ? null : total / values.filter((value) => value !== null).length;
};

const COLUMNS = [ // of the table of all nodes
  ["Node", (node) => node.node],
  ["State", (node) => (node.error ? "silent" : node.seen_unix_s === null ? "no look yet" : "answers")],
  ["GPUs", (node) => String(node.gpus.length)],
  ["Power", (node) => dash(sum(node.gpus.map((gpu) => gpu.power_w)), watts)],
  ["Lowest GPU", (node) => dash(least(node.gpus, "power_w"), watts)],
  ["Utilisation", (node) => dash(mean(node.gpus.map((gpu) => gpu.util_pct)), percent)],
  ["Hottest", (node) => dash(most(node.gpus, "temp_c"), celsius)],
  ["InfiniBand in", (node) => dash(sum(node.ports.map((port) => port.in_bytes_per_s)), rate)],
  ["InfiniBand out", (node) => dash(sum(node.ports.map((port) => port.out_bytes_per_s)), rate)],
  ["Ethernet in", (node) => dash(sum(node.links.map((link) => link.in_bytes_per_s)), rate)],
  ["Ethernet out", (node) => dash(sum(node.links.map((link) => link.out_bytes_per_s)), rate)],
  ["CPU", (node) => dash(node.cpu_pct, percent)],
  ["Load", (node) => dash(node.load, (value) => value.toFixed(1))],
  ["Memory free", (node) => dash(node.mem_available_mib, gib)],
  ["Clock offset", (node) => dash(node.clock_offset_s, (value) => milliseconds(value * 1000))],
];
const known = (items, key) => items.map((item) => item[key]).filter((value) => value !== null);
const least = (items, key) => (known(items, key).length ? Math.min(...known(items, key)) : null);
const most = (items, key) => (known(items, key).length ? Math.max(...known(items, key)) : null);

class NodesTable {
  constructor(table, openNode) {
    this.table = table;
    this.openNode = openNode;
    this.cells = new Map();
  }

  show(nodes) {
    if (nodes.map((node) => node.node).join() !== this.shown) this.build(nodes);
    for (const node of nodes) {
      COLUMNS.forEach(([, textOf], i) => {
        const cell = this.cells.get(node.node)[i], text = textOf(node);
        if (cell.textContent !== text) cell.textContent = text;
      });
      this.cells.get(node.node)[1].parentNode.classList.toggle("silent", Boolean(node.error));
    }
  }

  build(nodes) {
    this.shown = nodes.map((node) => node.node).join();
    const head = element("tr"), body = element("tbody");
    for (const [name] of COLUMNS) head.append(scoped("col", name));
    for (const node of nodes) {
      const row = element("tr"), cells = COLUMNS.map(() => element("td"));
      const name = scoped("row", ""), button = element("button", "link");
      button.addEventListener("click", () => this.openNode(node.node));
      name.append(button);
      row.append(name, ...cells.slice(1));
      this.cells.set(node.node, [button, ...cells.slice(1)]);
      body.append(row);
    }
    const caption = element("caption", "", "Every node at the last look; a name opens all its numbers");
    const top = element("thead");
    top.append(head);
    this.table.replaceChildren(caption, top, body);
  }
}

function scoped(scope, text) {
  const found = element("th", "", text);
  found.scope = scope;
  return found;
}

function tableOf(caption, headers, rows) {
  const table = element("table"), head = element("tr"), top = element("thead"), body = element("tbody");
  head.append(...headers.map((header) => scoped("col", header)));
  top.append(head);
  for (const [first, ...cells] of rows) {
    const row = element("tr");
    row.append(scoped("row", first), ...cells.map((cell) => element("td", "", cell)));
    body.append(row);
  }
  table.append(element("caption", "", caption), top, body);
  const scroll = element("div", "scroll");
  scroll.append(table);
  return scroll;
}

const REASONS = [[1, "idle"], [2, "application clocks"], [4, "power cap"], [8, "hardware slowdown"],
  [16, "sync boost"], [32, "software thermal"], [64, "hardware thermal"], [128, "power brake"], [256, "display"]];
function reasonsOf(bits) {
  if (bits === null) return "–";
  return REASONS.filter(([bit]) => bits & bit).map(([, name]) => name).join(", ") || "none";
}

class NodeView { // one node with all its numbers
  constructor(section, close) {
    this.section = section;
    this.close = close;
  }

  show(name, now, stored, timeText) {
    this.section.hidden = name === null;
    if (name === null) return;
    const back = element("button", "", "← all nodes"), title = element("h2", "", name);
    back.addEventListener("click", this.close);
    const bar = element("div", "bar");
    bar.append(back, title);
    const parts = [bar], side = element("div", "tables");
    const facts = stored?.facts ?? {}, counters = stored?.counters ?? [];
    if (now) {
      if (now.error) parts.push(element("p", "alarm", now.error));
      if (now.odd_answer) parts.push(element("p", "alarm", `nvidia-smi: ${now.odd_answer}`));
      parts.push(this.words(now));
      if (now.gpus.length) side.append(this.gpus(now.gpus, facts, counters));
      if (now.ports.length) side.append(this.links("InfiniBand ports", "port", now.ports, facts));
      if (now.links.length) side.append(this.links("Ethernet interfaces", "interface", now.links, facts));
    }
    const rows = counters.map((one) => [one.name, String(one.value), timeText(one.unix_s)]);
    if (rows.length) side.append(tableOf("Counters since the node started", ["Counter", "Value", "Since"], rows));
    this.section.replaceChildren(...parts, side);
  }

  words(now) {
    const list = element("dl", "words");
    const rows = [
      ["load", dash(now.load, (value) => value.toFixed(2))], ["CPU", dash(now.cpu_pct, percent)],
      ["memory available", dash(now.mem_available_mib, gib)],
      ["clock", dash(now.clock_offset_s, (value) =>
        `${milliseconds(value * 1000)} within ${milliseconds(now.clock_bound_s * 1000).slice(1)}`)],
      ["kept by", now.clock_daemon ?? "–"], ["verdict", now.clock_verdict ?? "–"],
    ];
    for (const [name, value] of rows) {
      const pair = element("div");
      pair.append(element("dt", "", name), element("dd", "", value));
      list.append(pair);
    }
    return list;
  }

  gpus(gpus, facts, counters) {
    const count = (gpu, name) => counters.find((one) => one.name === `GPU ${gpu} ${name}`)?.value ?? "–";
    const rows = gpus.map((gpu) => {
      const of = facts[`GPU ${gpu.gpu}`] ?? {};
      return [`GPU ${gpu.gpu}`, of.name ?? "–", `${dash(gpu.power_w, watts)} of ${of.power_limit_w ? watts(of.power_limit_w) : "–"}`,
        dash(gpu.util_pct, percent), dash(gpu.temp_c, celsius), dash(gpu.clock_mhz, (value) => `${Math.round(value)} MHz`),
        `${dash(gpu.mem_mib, gib)} of ${of.mem_mib ? gib(of.mem_mib) : "–"}`, reasonsOf(gpu.reasons),
        `${count(gpu.gpu, "ecc_corrected")} / ${count(gpu.gpu, "ecc_uncorrected")}`];
    });
    const headers = ["GPU", "Type", "Power", "Utilisation", "Temperature", "Clock", "Memory", "Held back by", "ECC corrected / not"];
    return tableOf("GPUs", headers, rows);
  }

  links(title, key, items, facts) {
    const states = { 1: "down", 2: "initialising", 3: "armed", 4: "active" };
    const rows = items.map((item) => {
      const of = facts[item[key]] ?? {};
      const speed = of.rate_gbps ? `${of.rate_gbps} Gb/s` : of.speed_mbps > 0 ? `${of.speed_mbps / 1000} Gb/s` : "–";
      return [item[key], states[of.state] ?? of.state ?? "–", speed, dash(item.in_bytes_per_s, rate), dash(item.out_bytes_per_s, rate)];
    });
    return tableOf(title, [key[0].toUpperCase() + key.slice(1), "State", "Speed", "In", "Out"], rows);
  }
}
