"use strict";
// Tables that sort, search and turn pages.

// columns: {title, group, help, text: true for words, wrap: true for long ones ("wide": for sentences), value(row) -> number or string, cell(row, td) instead of show(value)}.
// `search` (a hint) adds a field that looks through the columns of words, or through words(row). The first column's cells are row headings.
function addTable(parent, { id, caption, columns, rows, sort, descending = true, search, words, pageSize = 20, controls = [] }) {
  const state = { sort, descending, page: 0, query: "" };
  const body = el("tbody");
  const status = el("span", { class: "status", role: "status" });
  const previous = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", onclick: () => turn(1) }, "Next");
  const heads = columns.map((column, i) => el("th", { scope: "col", class: column.text ? "" : "n" },
    column.value ? el("button", { type: "button", title: column.help, onclick: () => sortBy(i) }, column.title) : column.title));
  const field = search ? el("input", { type: "search", placeholder: search, "aria-label": search, oninput: (event) => {
    state.query = event.target.value.trim().toLowerCase();
    state.page = 0;
    show();
  } }) : null;
  const groups = [];
  for (const column of columns) {
    const last = groups[groups.length - 1];
    if (last && last.name === (column.group || "")) ++last.span;
    else groups.push({ name: column.group || "", span: 1 });
  }
  const pager = el("div", { class: "pager" }, status, previous, next);
  const wrap = el("div", { class: "table-wrap", id },
    el("div", { class: "controls" }, ...controls, field),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", { class: "hidden" }, caption),
        el("thead", {},
          groups.length > 1 ? el("tr", { class: "groups" }, groups.map((g) => el("th", { colspan: g.span, scope: "colgroup" }, g.name))) : null,
          el("tr", {}, heads)), body)), pager);
  if (controls.length === 0 && !field) wrap.firstChild.remove();

  let current = rows;
  function chosen() {
    const texts = columns.filter((column) => column.text && column.value);
    const wordsOf = words ? (row) => [words(row)] : (row) => texts.map((column) => String(column.value(row)));
    let list = state.query ? current.filter((row) => wordsOf(row).some((text) => text.toLowerCase().includes(state.query))) : current.slice();
    const by = columns[state.sort];
    if (by) {
      const sign = state.descending ? -1 : 1;
      const missing = (v) => v === null || v === undefined || Number.isNaN(v);
      list = list.map((row) => [by.value(row), row]).sort(([a], [b]) =>
        missing(a) || missing(b) ? missing(a) - missing(b) : sign * (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })))
        .map(([, row]) => row);
    }
    return list;
  }
  function show() {
    const list = chosen();
    const pages = Math.max(1, Math.ceil(list.length / pageSize));
    state.page = Math.min(state.page, pages - 1);
    const from = state.page * pageSize, to = Math.min(list.length, from + pageSize);
    body.replaceChildren(...list.slice(from, to).map((row) => el("tr", {}, columns.map((column, i) => {
      const cell = el(i === 0 ? "th" : "td", { scope: i === 0 ? "row" : null, class: column.wrap ? `words${column.wrap === "wide" ? " wide" : ""}` : column.text ? "" : "n" });
      if (column.cell) column.cell(row, cell);
      else cell.append(column.show ? column.show(column.value(row), row) : String(column.value(row)));
      return cell;
    }))));
    heads.forEach((head, i) => {
      if (i === state.sort) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    status.textContent = list.length === 0 ? "no rows" : pages === 1 ? format.plural(list.length, "row") : `${format.number(from + 1)}–${format.number(to)} of ${format.number(list.length)}`;
    previous.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    pager.hidden = pages === 1 && !search;
    previous.hidden = next.hidden = pages === 1;
  }
  function sortBy(i) {
    state.descending = state.sort === i ? !state.descending : !columns[i].text;
    state.sort = i;
    state.page = 0;
    show();
  }
  function turn(by) {
    state.page += by;
    show();
  }
  show();
  parent.append(wrap);
  return { element: wrap, show, setRows(list) { current = list; state.page = 0; show(); } };
}

// Arrivals by window as bars, in the colour of how many of the window's tokens came in time.
function sparkline(model, windows) {
  const width = 132, height = 24, n = windows.windows;
  const paths = { good: "", fair: "", poor: "", none: "" };
  for (let w = 0; w < n; ++w) {
    const level = windows.arrived[model * n + w], share = windows.on_time[model * n + w];
    if (level === 0) continue;
    const kind = share === 255 ? "none" : share >= 198 ? "good" : share >= 180 ? "fair" : "poor";
    const h = Math.max(1.5, level / 255 * height);
    paths[kind] += `M${(w * width / n).toFixed(1)} ${height}v${-h.toFixed(1)}h${Math.max(1, width / n - 0.5).toFixed(1)}v${h.toFixed(1)}z`;
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `arrivals over time, at most ${format.number(windows.most[model])} in ${format.seconds(windows.window_s)}`);
  for (const [kind, d] of Object.entries(paths)) {
    if (d === "") continue;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("class", kind);
    svg.append(path);
  }
  return svg;
}
