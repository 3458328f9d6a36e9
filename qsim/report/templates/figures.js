"use strict";
// Elements, colours, and the figures: maps, points with intervals, bars, number lines.
// Text becomes text nodes only; there is no markup made of strings.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// --- colours: cividis, which people with any kind of colour vision read alike -----------------

const CIVIDIS = [
  [253, 234, 69], [234, 212, 91], [202, 186, 106], [172, 161, 117], [147, 138, 120],
  [124, 123, 120], [102, 105, 112], [77, 86, 109], [44, 67, 110], [0, 46, 108],
]; // from near to float32 to far from it

function colourAt(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mixed = CIVIDIS[low].map((part, n) => Math.round(part + (CIVIDIS[low + 1][n] - part) * (at - low)));
  const bright = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2] > 125;
  return { back: `rgb(${mixed.join(",")})`, front: bright ? "#000" : "#fff" };
}

/** A logarithmic scale of colours over distances; zero and what is below the least have the first. */
function colourScale(distances) {
  const positive = distances.filter((far) => far !== null && far > 0);
  const low = positive.length ? Math.min(...positive) : 1;
  const high = Math.max(low * 10, ...positive);
  const share = (far) => (far <= low ? 0 : Math.log(far / low) / Math.log(high / low));
  return { low, high, of: (far) => (far === null || far === undefined ? null : colourAt(share(far))) };
}

function legend(scale, title) {
  const steps = Array.from({ length: 24 }, (_, n) => {
    const step = h("span", { class: "step" });
    step.style.background = colourAt(n / 23).back;
    return step;
  });
  return h("p", { class: "legend" }, h("span", {}, `${title}: ${short(scale.low)}`),
    h("span", { class: "ramp", "aria-hidden": "true" }, ...steps), h("span", {}, short(scale.high)));
}

function short(value) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-4 && size < 1e5)) return String(Number(value.toPrecision(4)));
  return value.toExponential(1).replace("e+", "e");
}

// --- what is told of a mark that is pointed at or focused -------------------------------------

const tip = {
  show(event, text) {
    const box = document.getElementById("tip");
    box.textContent = text;
    box.hidden = false;
    const mark = event.currentTarget.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = box;
    const left = Math.min(Math.max(8, mark.left + mark.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
    const above = mark.top - height - 8;
    box.style.left = `${left + window.scrollX}px`;
    box.style.top = `${(above < 4 ? mark.bottom + 8 : above) + window.scrollY}px`;
  },
  hide() { document.getElementById("tip").hidden = true; },
};
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });

/** Attributes of a mark that can be pointed at, focused and chosen. */
function told(text, choose) {
  return {
    "aria-label": text.replaceAll("\n", ", "), tabindex: -1, "data-mark": true,
    onpointerenter: (event) => tip.show(event, text), onpointerleave: tip.hide,
    onfocus: (event) => tip.show(event, text), onblur: tip.hide, onclick: choose,
    onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } },
  };
}

/** One stop of the Tab key for all marks inside: arrows go from one to the next. */
function rove(box, columns) {
  const marks = [...box.querySelectorAll("[data-mark]")];
  if (!marks.length) return box;
  marks[0].setAttribute("tabindex", 0);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity }[event.key];
    const at = marks.indexOf(document.activeElement);
    if (step === undefined || at < 0) return;
    event.preventDefault();
    const next = marks[Math.min(Math.max(at + step, 0), marks.length - 1)];
    marks[at].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  return box;
}

// --- maps ---------------------------------------------------------------------------------------

/** A table of coloured cells; `cell(row, column)` gives {text, far, tip, choose}, or nothing. */
function colourMap({ caption, rows, columns, corner, cell, scale, rowName = String, columnName = String }) {
  const head = h("tr", {}, h("th", { scope: "col", class: "corner" }, corner),
    ...columns.map((column) => h("th", { scope: "col" }, columnName(column))));
  const body = rows.map((row) => h("tr", {}, h("th", { scope: "row" }, rowName(row)),
    ...columns.map((column) => mapCell(cell(row, column), scale))));
  const table = h("table", { class: "map" }, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, ...body));
  return rove(h("div", { class: "scroll" }, table), columns.length);
}

function mapCell(found, scale) {
  return found ? coloured(h("td", told(found.tip, found.choose), found.text), scale.of(found.far)) : h("td", { class: "empty" });
}

/** A node in a colour; hatched where there is none, as it is no number. */
function coloured(node, colour) {
  if (colour) [node.style.background, node.style.color] = [colour.back, colour.front];
  else node.classList.add("gone");
  return node;
}

// --- axes ---------------------------------------------------------------------------------------

/** A scale and its ticks: logarithmic for positive values that lie far apart, or away from the best
    one where most are near to it, else linear. */
function axisOf(values, from, to, more) {
  const known = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  let [low, high] = [known[0], known.at(-1)];
  const middle = known[Math.floor(known.length / 2)], best = more ? high : low;
  const log = low > 0 && high / low > 10, skewed = !log && Math.abs((more ? low : high) - best) > 4 * Math.abs(middle - best) && middle !== best;
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const near = Math.abs(middle - best) / 8;
  const f = log ? Math.log10 : skewed ? (value) => Math.asinh((value - best) / near) : (value) => value;
  const pad = 0.06 * (f(high) - f(low)), [start, end] = [f(low) - pad, f(high) + pad];
  const at = (value) => {
    const share = log && value <= 0 ? 0 : (f(value) - start) / (end - start);
    return from + Math.min(Math.max(share, 0), 1) * (to - from);
  };
  const ticks = log ? logTicks(start, end) : skewed ? ticksAway(best, near, high - low, more, at) : linearTicks(start, end);
  return { at, skewed, ticks };
}

function ticksAway(best, near, reach, more, at) {
  const ticks = [best];
  for (let power = Math.floor(Math.log10(near)); 10 ** power <= reach; power++) {
    for (const factor of [1, 2, 5]) {
      const tick = best + (more ? -1 : 1) * factor * 10 ** power;
      if (factor * 10 ** power <= reach && ticks.every((other) => Math.abs(at(other) - at(tick)) > 28)) ticks.push(tick);
    }
  }
  return ticks;
}

function linearTicks(start, end) {
  const raw = (end - start) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const first = Math.ceil(start / step);
  return Array.from({ length: Math.floor(end / step) - first + 1 }, (_, n) => (first + n) * step);
}

function logTicks(start, end) {
  const factors = end - start > 3 ? [1] : end - start > 1 ? [1, 2, 5] : [1, 2, 3, 4, 5, 7];
  const every = Math.ceil((end - start) / 8), ticks = [];
  for (let e = Math.floor(start); e <= end; e++) {
    for (const factor of factors) {
      const tick = factor * 10 ** e;
      if (e % every === 0 && Math.log10(tick) >= start && Math.log10(tick) <= end) ticks.push(tick);
    }
  }
  return ticks;
}

const CHARACTER = 6.6; // width of a letter of labels

// --- points with intervals, and the front --------------------------------------------------------

const SHAPES = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z", "M-4 -4h8v8h-8z", "M0 -5.5L5 4H-5z",
  "M0 -6L5 0L0 6L-5 0z", "M0 5.5L5 -4H-5z", "M-5 -1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
];

/** Points {x, y, low, high, series, label, front, tip, choose} on an axis of whole numbers. */
function points({ items, xTitle, yTitle, names, more, width }) {
  const [w, ht] = [Math.max(300, width), Math.min(440, Math.max(300, width * 0.62))];
  const [left, right, top, bottom] = [84, w - 14, 14, ht - 46];
  const xs = [...new Set(items.map((item) => item.x))].sort((a, b) => a - b);
  const unit = (right - left) / (xs.at(-1) - xs[0] + 1);
  const x = (value) => left + (value - xs[0] + 0.5) * unit;
  const y = axisOf(items.map((item) => item.y), bottom, top, more);
  spread(items, x, xs, more);
  const svg = s("svg", { viewBox: `0 0 ${w} ${ht}`, class: "plot", role: "group", "aria-label": `${yTitle} against ${xTitle}; arrow keys go from mark to mark` });
  const every = Math.ceil(26 / unit);
  for (const tick of y.ticks) svg.append(s("path", { class: "grid", d: `M${left} ${y.at(tick)}H${right}` }),
    s("text", { x: left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, short(tick)));
  for (const tick of xs.filter((value) => Number.isInteger(value) && (value - Math.ceil(xs[0])) % every === 0)) svg.append(
    s("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, tick));
  svg.append(s("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    s("text", { class: "title", x: (left + right) / 2, y: ht - 8, "text-anchor": "middle" }, xTitle),
    s("text", { class: "title", transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yTitle));
  svg.append(frontLine(items, y, right));
  for (const item of items) svg.append(point(item, y));
  svg.append(...labels(items, y, right, top, bottom));
  return h("div", {}, names.length > 1 ? keys(names) : null, rove(svg, 1),
    y.skewed ? h("p", { class: "note" }, "The vertical axis is logarithmic away from the best value.") : null);
}

/** Of marks of the same bits the best is at its place, and the others lie to the right of it, so that
    their intervals do not cover each other. */
function spread(items, x, xs, more) {
  const columns = Map.groupBy(items, (item) => item.x);
  for (const [value, some] of columns) {
    some.sort((a, b) => (more ? b.y - a.y : a.y - b.y));
    const next = xs[xs.indexOf(value) + 1] ?? value + 1;
    const step = Math.min(6, (0.75 * (x(next) - x(value))) / some.length);
    some.forEach((item, n) => { item.at = x(value) + n * step; });
  }
  items.sort((a, b) => a.x - b.x || a.y - b.y);
}

function point(item, y) {
  const bar = item.low === null ? null : s("path", { class: "whisker", d: `M${item.at} ${y.at(item.low)}V${y.at(item.high)}` });
  const mark = s("path", { class: item.front ? "mark front" : "mark", d: SHAPES[item.series % SHAPES.length], transform: `translate(${item.at} ${y.at(item.y)})` });
  return s("g", { role: "img", class: `series-${item.series % SHAPES.length}`, ...told(item.tip, item.choose) }, bar, mark);
}

function frontLine(items, y, right) {
  const kept = items.filter((item) => item.front);
  const path = kept.map((item, n) => `${n ? "H" : "M"}${n ? item.at : `${item.at} ${y.at(item.y)}`}${n ? `V${y.at(item.y)}` : ""}`);
  return s("path", { class: "front-line", d: kept.length ? `${path.join("")}H${right}` : "" });
}

/** Names beside the marks of the front, where there is room for them. */
function labels(items, y, right, top, bottom) {
  const taken = [], placed = [];
  for (const item of items.filter((each) => each.front)) {
    const width = CHARACTER * item.label.length;
    const start = Math.min(item.at + 8, right - width), height = Math.max(y.at(item.y) - 8, top + 10);
    const free = [height, height - 14, height + 26].find((at) => at < bottom - 3 && at > top && !taken.some((box) => start < box.end && start + width > box.start && Math.abs(at - box.at) < 13));
    if (free === undefined || width > 200) continue;
    taken.push({ start, end: start + width, at: free });
    placed.push(s("text", { class: "label", x: start, y: free, "aria-hidden": "true" }, item.label));
  }
  return placed;
}

function keys(names) {
  return h("p", { class: "keys" }, ...names.map((name, n) => h("span", {},
    s("svg", { viewBox: "-7 -7 14 14", class: `key series-${n % SHAPES.length}`, "aria-hidden": "true" },
      s("path", { class: "mark front", d: SHAPES[n % SHAPES.length] })), name)));
}

// --- intervals of differences, and number lines ---------------------------------------------------

/** A scale for differences with zero in the middle: linear near it, then logarithmic. */
function differenceScale(triples) {
  const ends = triples.flatMap(([, low, high]) => [low, high]).map(Math.abs).filter(Boolean).sort((a, b) => a - b);
  const near = ends[Math.floor(0.1 * ends.length)] ?? 1, reach = Math.asinh((ends.at(-1) ?? 1) / near);
  return (value) => 160 + (152 * Math.asinh(value / near)) / reach;
}

function interval([difference, low, high], at, word) {
  return s("svg", { viewBox: "0 0 320 16", class: `interval ${word.replaceAll(" ", "-")}`, "aria-hidden": "true" },
    s("path", { class: "zero", d: "M160 0V16" }), s("path", { class: "whisker", d: `M${at(low)} 8H${at(high)}M${at(low)} 4V12M${at(high)} 4V12` }),
    s("path", { class: "mark", d: SHAPES[0], transform: `translate(${at(difference)} 8)` }));
}

function numberLines(lines) {
  const every = lines.flatMap((line) => line.log2);
  const low = Math.floor(Math.min(...every)), high = Math.ceil(Math.max(...every));
  const [left, width, step] = [130, 900, 20];
  const at = (value) => left + ((value - low) / (high - low || 1)) * (width - left - 12);
  const tick = [1, 2, 4, 8, 16, 32, 64, 128, 256].find((size) => (high - low) / size <= 12) ?? 512;
  const svg = s("svg", { viewBox: `0 0 ${width} ${lines.length * step + 42}`, class: "plot lines", role: "img",
    "aria-label": `The positive values of ${lines.length} formats by their logarithm` });
  for (let e = Math.ceil(low / tick) * tick; e <= high; e += tick) svg.append(
    s("path", { class: "grid", d: `M${at(e)} 4V${lines.length * step + 4}` }),
    s("text", { x: at(e), y: lines.length * step + 20, "text-anchor": "middle" }, "2", s("tspan", { dy: -5, class: "small" }, e)));
  lines.forEach((line, n) => svg.append(
    s("text", { x: left - 12, y: n * step + 17, "text-anchor": "end" }, line.format.length > 16 ? `${line.format.slice(0, 15)}…` : line.format, s("title", {}, line.format)),
    s("path", { class: "ticks", d: line.log2.map((value) => `M${at(value).toFixed(1)} ${n * step + 5}v15`).join("") })));
  return svg;
}
