"use strict";
// The page: what is chosen, what follows from it, and news from the server of a study that runs.

const byId = (id) => document.getElementById(id);
const MAPS = 8, FOREST = 20, MARKS = 3000;
const state = { hidden: {}, picked: null, versus: {}, table: { sort: "", descending: false, page: 0 } };
let data = JSON.parse(byId("data").textContent);

// --- what is shown ----------------------------------------------------------------------------

const place = (measure) => Object.keys(data.measures).indexOf(measure);
const isHidden = (axis, value) => state.hidden[axis]?.has(String(value)) ?? false;

function isShown(each, axes) {
  const bits = each.facts.bits, [low, high] = ["bits-low", "bits-high"].map((id) => byId(id).value);
  if (isHidden("state", each.state)) return false;
  if (axes.some((axis) => axis in each.point && isHidden(axis, each.point[axis]))) return false;
  return !((low !== "" && (bits ?? -1) < Number(low)) || (high !== "" && (bits ?? Infinity) > Number(high)));
}

/** The configurations that are shown, and the rows of the table. */
function chosen() {
  const axes = Object.keys(data.axes), own = axes.filter((axis) => axis !== "seed");
  const some = data.configurations.map((each, n) => ({ ...each, n })).filter((each) => isShown(each, own));
  const rows = data.rows.filter((row) => isShown(row, axes) && (state.picked === null || data.configurations[row.of].label === state.picked));
  return { some, rows };
}

function details(each) {
  const lines = Object.entries(data.measures).map(([name, about], n) => {
    const ends = each.intervals[n];
    return `${about.heading}: ${each.texts[n] || "none"}${ends ? ` (${short(ends[0])} to ${short(ends[1])})` : ""}`;
  });
  const bits = each.facts.bits ? `${each.facts.bits} bits` : null;
  const seeds = each.seeds > 1 ? `mean of ${each.seeds} seeds` : null;
  return [each.label, bits, ...lines, seeds, each.state === "done" ? null : each.state].filter(Boolean).join("\n");
}

function pick(each) {
  state.picked = each.label;
  state.table.page = 0;
  tip.hide();
  drawTable();
  byId("results").scrollIntoView();
  byId("results").focus({ preventScroll: true });
}

const marked = (each, text) => ({ text, far: each.values[place(data.distance)], tip: details(each), choose: () => pick(each) });

// --- sections -----------------------------------------------------------------------------------

const isPlain = ({ point, facts }) => facts.exponent_bits !== null && point.format === `e${facts.exponent_bits}m${facts.mantissa_bits}`;

/** Configurations by the coordinates that differ among them, but the format and those left out. */
function sides(some, without = ["format"]) {
  const axes = Object.keys(data.axes).filter((axis) => axis !== "seed" && !without.includes(axis));
  const differ = axes.filter((axis) => new Set(some.map((each) => each.point[axis])).size > 1);
  return Map.groupBy(some, (each) => differ.map((axis) => each.point[axis]).filter((value) => value !== undefined).join(", "));
}

function drawMaps(some) {
  const measure = byId("measure").value, n = place(measure), parts = [];
  const scale = colourScale(data.configurations.map((each) => each.values[place(data.distance)]));
  const every = [...sides(some)];
  for (const [name, group] of every.slice(0, MAPS)) {
    const plain = group.filter(isPlain), others = group.filter((each) => !isPlain(each));
    const at = new Map(plain.map((each) => [`${each.facts.exponent_bits} ${each.facts.mantissa_bits}`, each]));
    const whole = (fact) => [...new Set(plain.map((each) => each.facts[fact]))].sort((a, b) => a - b);
    const side = h("div", {}, name ? h("h3", {}, name) : null);
    if (plain.length) side.append(colourMap({
      caption: data.measures[measure].title, corner: "exponent\u00a0↓ mantissa\u00a0→", scale,
      rows: whole("exponent_bits"), columns: whole("mantissa_bits"), rowName: (e) => `e${e}`, columnName: (m) => `m${m}`,
      cell: (e, m) => { const each = at.get(`${e} ${m}`); return each && marked(each, each.texts[n] || each.state); } }));
    if (others.length) side.append(strip(others, n, scale));
    parts.push(side);
  }
  if (every.length > MAPS) parts.push(h("p", { class: "note" }, `${every.length - MAPS} more maps: filter to see them.`));
  byId("map").replaceChildren(h("div", { class: "sides" }, ...parts), legend(scale, data.measures[data.distance].title));
  byId("map-s").parentElement.classList.toggle("apart", every.length > 1);
  byId("map-note").textContent = `The number is ${data.measures[measure].title}; the colour is the distance from float32. Enter or a click shows the results of a cell.`;
}

/** Formats that are on no map of exponents and mantissas, one beside the other. */
function strip(others, n, scale) {
  const cells = others.map((each) => {
    const text = [h("span", { class: "name" }, each.point.format ?? each.label), each.texts[n] || each.state];
    return coloured(h("div", { role: "img", ...told(details(each), () => pick(each)) }, ...text), scale.of(each.values[place(data.distance)]));
  });
  return rove(h("div", { class: "strip", role: "group", "aria-label": "other formats" }, ...cells), 1);
}

function front(some, n, more) {
  const kept = new Set(), sign = more ? -1 : 1;
  let best = Infinity;
  const whole = some.filter((each) => (each.point.path ?? ".*") === ".*"); // one layer alone costs the bits of all others
  const known = whole.filter((each) => each.state === "done" && each.facts.bits && each.values[n] !== null);
  for (const each of known.sort((a, b) => a.facts.bits - b.facts.bits || sign * (a.values[n] - b.values[n]))) {
    if (sign * each.values[n] < best) { kept.add(each.n); best = sign * each.values[n]; }
  }
  return kept;
}

/** Ends of the bars of a measure: of the difference from float32 where it is known, which leaves
    out how hard the examples are for both. */
function reachOf(measure, n) {
  const held = (data.comparisons[measure] ?? []).find((each) => each.baseline === -1), base = data.reference[measure];
  if (!held || base === undefined) return { of: (each) => each.intervals[n], note: "Bars are 95 % intervals." };
  const ends = (triple) => triple && [base + triple[1], base + triple[2]];
  return { of: (each) => ends(held.differences[each.n]), note: "Bars are 95 % intervals of the difference from float32 on the same examples." };
}

function drawBits(some) {
  const measure = byId("measure").value, n = place(measure), about = data.measures[measure];
  const known = some.filter((each) => each.facts.bits && each.values[n] !== null);
  byId("bits-s").hidden = !known.length;
  if (!known.length) return;
  const kept = front(some, n, about.more);
  const ranked = known.length <= MARKS ? known
    : [...known].sort((a, b) => kept.has(b.n) - kept.has(a.n)).slice(0, MARKS);
  const reach = reachOf(measure, n);
  const groups = sides(known), names = groups.size <= SHAPES.length ? [...groups.keys()] : [""];
  const seriesOf = new Map([...groups].flatMap(([, group], place) => group.map((each) => [each.n, names.length > 1 ? place : 0])));
  const items = ranked.map((each) => ({
    x: each.facts.bits, y: each.values[n], low: reach.of(each)?.[0] ?? null, high: reach.of(each)?.[1] ?? null,
    series: seriesOf.get(each.n), label: names.length > 1 ? each.point.format ?? each.label : each.label, front: kept.has(each.n), tip: details(each), choose: () => pick(each) }));
  byId("bits").replaceChildren(points({ items, xTitle: "bits per value, scales of blocks included", yTitle: about.title, names, more: about.more, width: byId("bits").clientWidth }));
  byId("bits-note").textContent = "Filled marks on the line are the Pareto front: nothing of as few bits is better. "
    + (items.some((item) => item.low !== null) ? reach.note : "There are no intervals, as sums over examples were not kept.")
    + (ranked.length < known.length ? ` ${known.length - ranked.length} of ${known.length} marks are left out; filter to see them.` : "");
}

function drawLayers(some) {
  const several = (data.axes.path ?? []).length > 1, far = place(data.distance);
  byId("layers-s").hidden = !several;
  if (!several) return;
  const n = place(byId("measure").value), scale = colourScale(some.map((each) => each.values[far]));
  const withPath = some.filter((each) => each.point.path !== undefined), parts = [];
  for (const [name, group] of [...sides(withPath, ["format", "path"])].slice(0, MAPS)) {
    const formats = [...new Set(group.map((each) => each.point.format ?? each.point.policy))];
    const worst = (path) => Math.max(...group.filter((each) => each.point.path === path).map((each) => each.values[far] ?? Infinity));
    const paths = [...new Set(group.map((each) => each.point.path))].sort((a, b) => worst(b) - worst(a));
    const at = new Map(group.map((each) => [JSON.stringify([each.point.path, each.point.format ?? each.point.policy]), each]));
    if (name) parts.push(h("h3", {}, name));
    parts.push(colourMap({ caption: data.measures[byId("measure").value].title, corner: "only this layer is rounded", rows: paths, columns: formats, scale,
      rowName: (path) => path.replaceAll("\\", ""),
      cell: (path, format) => { const each = at.get(JSON.stringify([path, format])); return each && marked(each, each.texts[n] || each.state); } }));
  }
  byId("layers").replaceChildren(...parts);
  byId("layers-note").textContent = "Layers that move the answers most come first; the colour is the distance from float32.";
}

// --- comparisons ----------------------------------------------------------------------------------

function wordOf([, low, high], more) {
  if (!(low > 0 || high < 0)) return "not told apart";
  return (low > 0) === more ? "better" : "worse";
}

const SIGNS = { better: "▲", worse: "▼", "not told apart": "≈" };
const nameOf = (n) => (n < 0 ? "float32" : data.configurations[n].label);

function drawVersus(some) {
  const measures = Object.keys(data.comparisons);
  byId("versus-s").hidden = !measures.length;
  if (!measures.length) return;
  const measure = options("versus-measure", measures, (name) => data.measures[name].title, state.versus.measure ?? data.headline);
  const held = data.comparisons[measure];
  const places = held.map((each) => each.baseline);
  const base = options("versus-b", places, nameOf, labelled(state.versus.b, places));
  const differences = held.find((each) => each.baseline === base).differences;
  const known = some.filter((each) => differences[each.n]);
  const ranked = known.filter((each) => each.n !== base).sort((a, b) => Math.abs(differences[a.n][0]) - Math.abs(differences[b.n][0]));
  const best = options("versus-a", ranked.map((each) => each.n), nameOf, labelled(state.versus.a, ranked.map((each) => each.n)));
  const about = data.measures[measure];
  const near = ranked.slice(0, FOREST), at = differenceScale(near.map((each) => differences[each.n]));
  sayVerdict(differences[best], best, base, about);
  const rows = near.map((each) => {
    const word = wordOf(differences[each.n], about.more), [difference, low, high] = differences[each.n];
    return h("tr", { class: best === each.n ? "chosen" : null }, h("th", { scope: "row" }, each.label),
      h("td", { class: word.replaceAll(" ", "-") }, `${SIGNS[word]} ${word}`), h("td", {}, interval(differences[each.n], at, word)),
      h("td", { class: "number" }, signed(difference)), h("td", { class: "number" }, `${signed(low)} to ${signed(high)}`), h("td", { class: "number" }, each.facts.bits ?? ""));
  });
  const head = [["configuration"], ["verdict"], [`difference from ${nameOf(base)}`, 2], ["95 % interval", 1, true], ["bits", 1, true]];
  const table = h("table", { class: "rows forest" }, h("caption", {}, `${about.title}: nearest to ${nameOf(base)} first; the scale of the bars is logarithmic away from zero`),
    h("thead", {}, h("tr", {}, ...head.map(([text, colspan, number]) => h("th", { scope: "col", colspan, class: number && "number" }, text)))), h("tbody", {}, ...rows));
  byId("versus").replaceChildren(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Comparisons" }, table),
    ...(ranked.length > FOREST ? [h("p", { class: "note" }, `${ranked.length - FOREST} more, farther away, are left out.`)] : []));
}

const signed = (value) => (value > 0 ? "+" : "") + short(value).replace("-", "−");

function sayVerdict(triple, a, b, about) {
  if (!triple) { byId("verdict").textContent = "Nothing to compare: no configuration is shown."; return; }
  const word = wordOf(triple, about.more);
  byId("verdict").className = `verdict ${word.replaceAll(" ", "-")}`;
  const what = word === "not told apart" ? `${nameOf(a)} and ${nameOf(b)} are not told apart` : `${nameOf(a)} is ${word} than ${nameOf(b)}`;
  byId("verdict").textContent = `${SIGNS[word]} ${what}: ${about.heading} differs by ${signed(triple[0])}, 95 % interval ${signed(triple[1])} to ${signed(triple[2])}.`;
}

/** The place of a configuration that had a label, which may have moved since; the first without. */
const labelled = (label, places) => places.find((n) => nameOf(n) === label);

/** Options of a select, of which one stays chosen. */
function options(id, values, text, wanted) {
  const known = values.includes(wanted) ? wanted : values[0];
  byId(id).replaceChildren(...values.map((value) => h("option", { value, selected: value === known }, text(value))));
  return known;
}

// --- filters and the table --------------------------------------------------------------------------

function drawFilters() {
  const axes = { ...data.axes, state: [...new Set(data.rows.map((row) => row.state))] };
  const parts = Object.entries(axes).filter(([, values]) => values.length > 1).map(([axis, values]) => {
    const boxes = values.map((value) => h("label", {}, h("input", { type: "checkbox", "data-axis": axis, "data-value": String(value),
      checked: !isHidden(axis, value), onchange: (event) => hide(axis, [value], !event.currentTarget.checked) }), String(value)));
    const all = (name, off) => h("button", { type: "button", onclick: () => { hide(axis, values, off); sync(); } }, name);
    return h("details", { class: "filter", "data-axis": axis }, h("summary", {}, axis), h("div", { class: "choices" }, h("p", {}, all("All", false), all("None", true)),
      axis === "seed" ? h("p", { class: "note" }, "Only the table: figures show means over seeds.") : null, ...boxes));
  });
  byId("filters").replaceChildren(...parts);
}

/** Boxes as the state has it. */
function sync() {
  for (const box of document.querySelectorAll("#filters input")) box.checked = !isHidden(box.dataset.axis, box.dataset.value);
}

function hide(axis, values, off) {
  const hidden = (state.hidden[axis] ??= new Set());
  for (const value of values) hidden[off ? "add" : "delete"](String(value));
  draw();
}

function drawTable() {
  const columns = columnsOf(data), rows = found(chosen().rows, columns, byId("find").value);
  byId("table").replaceChildren(resultTable(rows, columns, state.table, drawTable));
  byId("picked").replaceChildren(...(state.picked === null ? [] : [`Only ${state.picked} `,
    h("button", { type: "button", onclick: () => { state.picked = null; drawTable(); byId("find").focus(); } }, "Show all configurations")]));
}

function draw() {
  const { some } = chosen();
  byId("shown").textContent = `${some.length} of ${data.configurations.length} configurations, ${data.rows.length} evaluations in all.`;
  byId("map-s").hidden = !some.length || some.every((each) => each.point.path !== undefined) && (data.axes.path ?? []).length > 1;
  drawMaps(some);
  drawBits(some);
  drawLayers(some);
  drawVersus(some);
  const lines = data.lines.filter((line) => !isHidden("format", line.format) && some.some((each) => each.point.format === line.format));
  byId("lines-s").hidden = !lines.length;
  byId("lines").replaceChildren(...(lines.length ? [numberLines(lines)] : []));
  drawTable();
}

function drawProgress() {
  const { total, diverged, failed, seconds_left: left } = data.progress, done = data.progress.found;
  const words = [`${done} of ${total} evaluations`];
  for (const [count, word] of [[diverged, "diverged"], [failed, "failed"]]) if (count) words.push(`${count} ${word}`);
  if (done && done < total && left !== null) words.push(`about ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} left`);
  byId("progress").textContent = words.join(", ");
  byId("bar").hidden = done >= total;
  byId("bar").value = total ? done / total : 0;
}

// --- the beginning, and news ------------------------------------------------------------------------

function listen() {
  for (const id of ["measure", "bits-low", "bits-high"]) byId(id).addEventListener("change", draw);
  for (const [id, key] of [["versus-measure", "measure"], ["versus-a", "a"], ["versus-b", "b"]]) byId(id).addEventListener("change", (event) => {
    state.versus[key] = key === "measure" ? event.currentTarget.value : nameOf(Number(event.currentTarget.value));
    drawVersus(chosen().some);
  });
  byId("find").addEventListener("input", () => { state.table.page = 0; drawTable(); });
  byId("reset").addEventListener("click", () => {
    state.hidden = {};
    state.picked = null;
    for (const id of ["bits-low", "bits-high", "find"]) byId(id).value = "";
    sync();
    draw();
  });
  byId("csv").addEventListener("click", () => download("results.csv", "text/csv", csvOf(chosen().rows, data)));
  byId("json").addEventListener("click", () => download("results.json", "application/json", jsonOf(chosen().rows, data)));
  document.addEventListener("click", (event) => {
    for (const open of document.querySelectorAll(".filter[open]")) if (!open.contains(event.target)) open.open = false;
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } });
}

function show() {
  const measures = Object.keys(data.measures);
  options("measure", measures, (name) => data.measures[name].title, byId("measure").value || data.headline);
  const open = [...document.querySelectorAll(".filter[open]")].map((each) => each.dataset.axis);
  drawFilters();
  for (const axis of open) document.querySelector(`.filter[data-axis="${axis}"]`)?.setAttribute("open", "");
  drawProgress();
  draw();
}

const isDone = () => data.progress.total > 0 && data.progress.found >= data.progress.total;

async function follow(since) {
  let next = since;
  try {
    const answer = await fetch(`data.json?since=${since}`);
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const news = await answer.json();
    next = news.version;
    if (news.data) { data = news.data; show(); }
    else drawProgress();
  } catch {
    byId("progress").textContent = "No answer from the server: what is shown may be old.";
  }
  setTimeout(() => follow(next), isDone() ? 10000 : 1000);
}

byId("app").hidden = false;
listen();
show();
if (byId("data").dataset.live) follow("");
