"use strict";
// The table of results: sorted by its headings, a page at a time; and downloads.

const PAGE = 25;

/** Columns {name, number, of: row => value, text: row => text} of the data. */
function columnsOf(data) {
  const axes = Object.keys(data.axes).map((axis) => ({ name: axis, of: (row) => row.point[axis] ?? "" }));
  const measures = Object.entries(data.measures).map(([name, about], n) => ({
    name, heading: about.heading, number: true, of: (row) => row.values[n], text: (row) => row.texts[n] }));
  const fact = (name) => ({ name, number: true, of: (row) => row.facts[name] ?? null });
  return [...axes, fact("bits"), ...measures,
    { name: "state", of: (row) => row.state, text: (row) => row.error ? `failed: ${row.error}` : row.state },
    { name: "seconds", heading: "ms", number: true, of: (row) => row.seconds, text: (row) => row.seconds === null ? "" : (1e3 * row.seconds).toFixed(0) }];
}

const textOf = (column, row) => column.text ? column.text(row) : String(column.of(row) ?? "");

function compareBy(column, descending) {
  return (a, b) => {
    const [left, right] = [column.of(a), column.of(b)];
    if (left === null || right === null) return (left === null) - (right === null); // nothing comes last
    const order = typeof left === "number" && typeof right === "number" ? left - right
      : String(left).localeCompare(String(right), undefined, { numeric: true });
    return descending ? -order : order;
  };
}

function found(rows, columns, text) {
  const words = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return rows;
  return rows.filter((row) => {
    const whole = columns.map((column) => textOf(column, row)).join(" ").toLowerCase();
    return words.every((word) => whole.includes(word));
  });
}

/** The table; `view` has {sort, descending, page}, `changed` is called when it has changed. */
function resultTable(rows, columns, view, changed) {
  const column = columns.find((each) => each.name === view.sort);
  const sorted = column ? [...rows].sort(compareBy(column, view.descending)) : rows;
  const pages = Math.max(1, Math.ceil(sorted.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const shown = sorted.slice(view.page * PAGE, (view.page + 1) * PAGE);
  const head = columns.map((each) => heading(each, view, changed));
  const body = shown.map((row) => h("tr", { class: row.state }, ...columns.map((each) =>
    h("td", { class: each.number ? "number" : null }, textOf(each, row)))));
  return h("div", {}, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of results" },
    h("table", { class: "rows" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body))), pager(view, pages, sorted.length, changed));
}

function heading(column, view, changed) {
  const sorted = view.sort === column.name;
  const order = sorted ? (view.descending ? "descending" : "ascending") : "none";
  const sort = () => {
    Object.assign(view, { sort: column.name, descending: sorted && !view.descending, page: 0 });
    changed();
    document.querySelector(`#table [data-sort="${column.name}"]`)?.focus();
  };
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, { ascending: "▲", descending: "▼", none: "" }[order]);
  return h("th", { scope: "col", "aria-sort": order, class: column.number ? "number" : null },
    h("button", { type: "button", "data-sort": column.name, onclick: sort }, column.heading ?? column.name, arrow));
}

function pager(view, pages, total, changed) {
  const turn = (name, page) => h("button", { type: "button", "data-turn": name, disabled: page < 0 || page >= pages, onclick: () => {
    view.page = page;
    changed();
    const again = document.querySelector(`#table [data-turn="${name}"]`);
    (again.disabled ? document.querySelector("#table [data-turn]:not([disabled])") : again)?.focus();
  } }, name);
  const [first, last] = [Math.min(view.page * PAGE + 1, total), Math.min((view.page + 1) * PAGE, total)];
  return h("p", { class: "controls pager" }, turn("Previous", view.page - 1), turn("Next", view.page + 1),
    h("span", { role: "status" }, `${first} to ${last} of ${total}`));
}

// --- downloads ----------------------------------------------------------------------------------

/** A cell of a CSV file: what a spreadsheet would take for a formula gets an apostrophe. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csvOf(rows, data) {
  const axes = Object.keys(data.axes), measures = Object.keys(data.measures);
  const facts = ["bits", "exponent_bits", "mantissa_bits"];
  const lines = rows.map((row) => [...axes.map((axis) => row.point[axis]), ...facts.map((fact) => row.facts[fact]),
    ...row.values, row.state, row.seconds, row.error]);
  return [[...axes, ...facts, ...measures, "state", "seconds", "error"], ...lines]
    .map((line) => line.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function jsonOf(rows, data) {
  const named = rows.map((row) => ({ point: row.point, facts: row.facts, state: row.state, seconds: row.seconds,
    error: row.error, measures: Object.fromEntries(Object.keys(data.measures).map((name, n) => [name, row.values[n]])) }));
  return JSON.stringify({ name: data.name, reference: data.reference, results: named }, null, 1);
}

function download(name, kind, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
