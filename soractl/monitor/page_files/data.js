"use strict";
// What was loaded: cells and points in few bits, with the moments they belong to.

const UNKNOWN = 255, UNKNOWN_POINT = 65535, TOP = 254;

let oddNodes = new Set(); // names of nodes that are odd now

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

class HeatData { // a byte a cell: [rows, columns]
  constructor(raw, columns, nodes, worst) {
    Object.assign(this, { unit: raw.unit, lo: raw.lo, hi: raw.hi, sqrt: raw.sqrt, columns, worst });
    this.rows = raw.rows; // [node, GPU or null]
    this.cells = bytesOf(raw.cells);
    const place = new Map(nodes.map((name, i) => [name, i]));
    this.rowsOf = nodes.map(() => []); // of each node
    this.rowAt = new Map();
    raw.rows.forEach(([node, gpu], row) => {
      this.rowsOf[place.get(node)].push(row);
      this.rowAt.set(`${node} ${gpu}`, row);
    });
    this.nodes = nodes;
    this.folded = new Uint8Array(nodes.length * columns);
    this.medians = new Uint8Array(columns);
    this.counts = new Uint16Array(raw.rows.length); // looks in the newest column
    this.fold(0, columns);
  }

  value(q) {
    if (q === UNKNOWN) return null;
    const share = q / TOP;
    return this.lo + (this.sqrt ? share * share : share) * (this.hi - this.lo);
  }

  cellOf(value) {
    if (value === null || value === undefined) return UNKNOWN;
    const share = Math.min(Math.max((value - this.lo) / (this.hi - this.lo), 0), 1);
    return Math.round((this.sqrt ? Math.sqrt(share) : share) * TOP);
  }

  isWorse(a, b) { // b may be unknown
    return a !== UNKNOWN && (b === UNKNOWN || (this.worst === "least" ? a < b : a > b));
  }

  fold(from, to) { // each node's worst row, and the median of all rows
    const { columns, cells, rows } = this, histogram = new Uint16Array(256);
    for (let node = 0; node < this.nodes.length; node++) {
      const of = this.rowsOf[node];
      for (let c = from; c < to; c++) {
        let found = UNKNOWN;
        for (let i = 0; i < of.length; i++) {
          const q = cells[of[i] * columns + c];
          if (this.isWorse(q, found)) found = q;
        }
        this.folded[node * columns + c] = found;
      }
    }
    for (let c = from; c < to; c++) {
      histogram.fill(0);
      let known = 0;
      for (let row = 0; row < rows.length; row++) {
        const q = cells[row * columns + c];
        if (q !== UNKNOWN) { histogram[q]++; known++; }
      }
      let q = UNKNOWN;
      if (known) for (let seen = q = 0; (seen += histogram[q]) * 2 < known; q++);
      this.medians[c] = q;
    }
  }

  percentiles(low, high) { // of all cells, in bytes
    const histogram = new Uint32Array(256);
    for (let i = 0; i < this.cells.length; i++) histogram[this.cells[i]]++;
    const known = this.cells.length - histogram[UNKNOWN];
    const at = (share) => {
      let seen = 0, q = 0;
      while (q < TOP && (seen += histogram[q]) < share * known) q++;
      return q;
    };
    return known ? [at(low), at(high)] : [0, TOP];
  }

  widen(value) { // so that a value beyond the range can be a cell
    if (value >= this.lo && value <= this.hi) return false;
    const cells = new HeatRange(this);
    const lo = Math.min(this.lo, value), hi = Math.max(this.hi, value * 1.2);
    this.lo = lo;
    this.hi = hi > lo ? hi : lo + 1;
    cells.rewrite(this);
    return true;
  }

  shift(by) { // the newest columns become unknown
    const { columns } = this;
    for (const array of [this.cells, this.folded, this.medians]) {
      for (let at = 0; at < array.length; at += columns) {
        array.copyWithin(at, at + by, at + columns);
        array.fill(UNKNOWN, at + columns - by, at + columns);
      }
    }
    this.counts.fill(0);
  }

  add(row, column, value) { // one more look in the newest column
    if (value === null || value === undefined || row === undefined) return false;
    const widened = this.widen(value), at = row * this.columns + column;
    const before = this.value(this.cells[at]), n = this.counts[row]++;
    let now = value;
    if (before !== null && n > 0) {
      now = this.worst === "most" ? Math.max(before, value) : (before * n + value) / (n + 1);
    }
    this.cells[at] = this.cellOf(now);
    return widened;
  }
}

class HeatRange { // cells of an old range, to be written in a new one
  constructor(data) { this.values = Array.from({ length: 255 }, (_, q) => data.value(q)); }
  rewrite(data) {
    const to = this.values.map((value) => data.cellOf(value));
    for (const array of [data.cells, data.folded, data.medians]) {
      for (let i = 0; i < array.length; i++) if (array[i] !== UNKNOWN) array[i] = to[array[i]];
    }
  }
}

function pointsOf(raw) { // a line as numbers, null where unknown
  const whole = new Uint16Array(bytesOf(raw.points).buffer);
  return Array.from(whole, (q) =>
    q === UNKNOWN_POINT ? null : raw.lo + (q / 65534) * (raw.hi - raw.lo));
}

const WORST = { power: "least", util: "least", temp: "most", ib: "least", eth: "most" };

class Loaded { // a window of time
  constructor(raw) {
    Object.assign(this, {
      begin: raw.begin, step: raw.step_s, columns: raw.columns, nodes: raw.nodes,
      everyS: raw.every_s, ofLooks: raw.of_looks, run: raw.run, marks: raw.marks,
      missingOf: raw.missing_of,
    });
    this.maps = {};
    for (const [name, map] of Object.entries(raw.maps)) {
      this.maps[name] = new HeatData(map, raw.columns, raw.nodes, WORST[name]);
    }
    this.lines = {};
    for (const [name, line] of Object.entries(raw.lines)) this.lines[name] = pointsOf(line);
    this.missing = bytesOf(raw.missing);
    this.clocks = new Float32Array(bytesOf(raw.clocks).buffer);
  }

  get end() { return this.begin + this.columns * this.step; }
  columnAt(unixS) { return Math.floor((unixS - this.begin) / this.step); }
  timeAt(column) { return this.begin + column * this.step; }

  add(now) { // a look at all nodes; true where it began a new column
    const beyond = this.columnAt(now.unix_s) - (this.columns - 1);
    if (beyond < 0) return false;
    if (beyond > 0) this.shift(Math.min(beyond, this.columns));
    const last = this.columns - 1, sums = { ib_in: null, ib_out: null, power_w: null };
    const add = (name, value) => { if (value !== null) sums[name] = (sums[name] ?? 0) + value; };
    now.nodes.forEach((node) => {
      const place = this.nodes.indexOf(node.node);
      if (place < 0 || node.error || node.seen_unix_s !== now.unix_s) return;
      this.missing[place * this.columns + last] = 0;
      for (const gpu of node.gpus) {
        const key = `${node.node} ${gpu.gpu}`;
        for (const [name, field] of [["power", "power_w"], ["util", "util_pct"], ["temp", "temp_c"]]) {
          this.maps[name].add(this.maps[name].rowAt.get(key), last, gpu[field]);
        }
        add("power_w", gpu.power_w);
      }
      for (const [name, items] of [["ib", node.ports], ["eth", node.links]]) {
        const rates = items.flatMap((item) => [item.in_bytes_per_s, item.out_bytes_per_s]);
        const known = rates.filter((rate) => rate !== null);
        const total = known.length ? known.reduce((a, b) => a + b) : null;
        this.maps[name].add(this.maps[name].rowAt.get(`${node.node} null`), last, total);
      }
      for (const port of node.ports) {
        add("ib_in", port.in_bytes_per_s);
        add("ib_out", port.out_bytes_per_s);
      }
      if (node.clock_offset_s !== null) {
        this.clocks[place * this.columns + last] = node.clock_offset_s * 1000;
      }
    });
    for (const map of Object.values(this.maps)) map.fold(last, this.columns);
    for (const [name, value] of Object.entries(sums)) this.lines[name][last] = value;
    return beyond > 0;
  }

  lacking() { // of each column: 0 all nodes are known, 1 some are not, 2 none is
    const found = new Uint8Array(this.columns), nodes = this.nodes.length;
    for (let c = 0; c < this.columns; c++) {
      let some = 0, none = 0;
      for (let node = 0; node < nodes; node++) {
        const missing = this.missing[node * this.columns + c];
        if (missing) some++;
        if (missing >= this.missingOf) none++;
      }
      found[c] = none === nodes ? 2 : some ? 1 : 0;
    }
    return found;
  }

  shift(by) {
    const { columns } = this;
    for (const map of Object.values(this.maps)) map.shift(by);
    for (let at = 0; at < this.missing.length; at += columns) {
      this.missing.copyWithin(at, at + by, at + columns);
      this.missing.fill(this.missingOf, at + columns - by, at + columns);
      this.clocks.copyWithin(at, at + by, at + columns);
      this.clocks.fill(NaN, at + columns - by, at + columns);
    }
    for (const line of Object.values(this.lines)) {
      line.splice(0, by);
      for (let i = 0; i < by; i++) line.push(null);
    }
    this.begin += by * this.step;
  }
}
