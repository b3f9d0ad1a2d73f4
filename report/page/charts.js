"use strict";
// Charts: made when they come into view, drawn anew when the theme changes, zoomed together along time.

const charts = []; // all of the page, in order
const kTimeZoom = ["time-inside", "time-slider"];
const timeZoom = { start: 0, end: 100 };

// Okabe and Ito's colours, in shades that stand out on either ground.
const kPalette = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#444444"],
  dark: ["#56b4e9", "#ff8a4c", "#2fc89b", "#e6a0c8", "#f0b429", "#9fd6ff", "#d9c36a", "#d0d0d0"],
};
// These have the same colour on every page; policies that bring their own GPUs, which the others are held against, are grey.
const kPolicyColour = { aegaeon: 0, "serverless-llm-plus": 1, muxserve: 2, "serverless-llm": 4 };
const kStateColour = {
  light: { prefill: "#e69f00", decode: "#0072b2", switch: "#d55e00", kv_copy: "#cc79a7", down: "#4d4d4d", idle: "#eceff3" },
  dark: { prefill: "#f0b429", decode: "#3b9ad9", switch: "#ff7a3c", kv_copy: "#e6a0c8", down: "#8a8f98", idle: "#212830" },
};
const kStates = [["prefill", "prefill"], ["decode", "decode"], ["switch", "switch"], ["kv_copy", "KV copy"]];
const kDown = ["down", "down"]; // one more, of runs with failures

function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const name = of("--theme") === "dark" ? "dark" : "light";
  return { name, text: of("--text"), faint: of("--faint"), line: of("--line"), ground: of("--ground"), card: of("--card"),
           palette: kPalette[name], state: kStateColour[name], font: of("--font") };
}

const kColourOrder = [3, 5, 6, 7, 0, 2, 1, 4]; // those that no policy above has come first

// Gives every policy of the page the index of a colour (-1: grey): others than those above in the order in which they come.
const policyColours = new Map();
function nameColours(list, policies) {
  let next = 0;
  for (const { policy } of list) {
    if (policyColours.has(policy)) continue;
    const known = policies[policy].owns_fleet ? -1 : kPolicyColour[policy];
    policyColours.set(policy, known !== undefined ? known : kColourOrder[next++ % kColourOrder.length]);
  }
}

// Gives every run the index of a colour, that of its policy, or where another has it already one that is free, as long as there
// are enough.
function assignColours(runs) {
  const used = new Set();
  for (const run of runs) {
    const colour = policyColours.get(run.policy);
    if (used.has(colour)) continue;
    run.colour = colour;
    used.add(colour);
  }
  let next = 0;
  for (const run of runs) {
    if (run.colour !== undefined) continue;
    const free = kColourOrder.find((colour) => !used.has(colour));
    run.colour = free !== undefined ? free : kColourOrder[next++ % kColourOrder.length];
    used.add(run.colour);
  }
}
const colourOf = (run, t) => run.colour < 0 ? (t.name === "dark" ? "#98a2b0" : "#6b7482") : t.palette[run.colour];

// A tooltip as an element: its rows are [colour or null, name, value].
function tip(title, rows) {
  return el("div", { class: "tip" }, el("strong", {}, title),
    el("table", {}, rows.map(([colour, name, value]) => el("tr", {},
      el("td", {}, colour ? el("span", { class: "swatch", style: `background:${colour}` }) : ""),
      el("td", {}, name), el("td", { class: "n" }, value)))));
}

// What charts have in common, under what a chart says itself.
function base(t, option) {
  return {
    animation: false,
    useUTC: true,
    textStyle: { fontFamily: t.font, color: t.text, fontSize: 12 },
    ...option,
    tooltip: { confine: true, backgroundColor: t.card, borderColor: t.line, padding: [8, 10], textStyle: { color: t.text, fontSize: 12 },
               extraCssText: "box-shadow:0 4px 16px rgb(0 0 0/.14);border-radius:8px", ...option.tooltip },
    legend: option.legend === null ? undefined
      : { type: "scroll", left: 0, top: 0, itemWidth: 12, itemHeight: 12, itemGap: 16, icon: "roundRect", padding: [2, 0],
          textStyle: { color: t.text, fontSize: 12 }, pageTextStyle: { color: t.faint }, pageIconColor: t.text, pageIconInactiveColor: t.line,
          inactiveColor: t.line, ...option.legend },
  };
}
function axis(t, option) {
  const { name, nameGap, ...rest } = option;
  return {
    name, nameLocation: "middle", nameGap: nameGap || 30, nameTextStyle: { color: t.faint, fontSize: 12 },
    axisLine: { lineStyle: { color: t.line } }, axisTick: { lineStyle: { color: t.line } }, minorTick: { show: false },
    splitLine: { lineStyle: { color: t.line, opacity: 0.6 } }, ...rest,
    axisLabel: { color: t.faint, fontSize: 11, hideOverlap: true, ...rest.axisLabel },
  };
}
function timeAxis(t, span_s, option) {
  return axis(t, { type: "time", min: 0, max: span_s * 1000, splitLine: { show: false }, name: "time since the start", ...option,
                   axisLabel: { formatter: (ms) => format.clock(ms / 1000, span_s), ...(option || {}).axisLabel } });
}
const percentAxis = (t, name, option) =>
  axis(t, { type: "value", name, nameGap: 40, max: 1, axisLabel: { formatter: (v) => `${Number((100 * v).toFixed(2))} %` }, ...option });
// Seconds by powers of ten.
const logSecondsAxis = (t, name, option) =>
  axis(t, { type: "log", name, axisLabel: { formatter: (v) => format.seconds(Number(v.toPrecision(3))) }, ...option });

// Zoom along time, the same in every chart that has it: a slider, ctrl + wheel, or keys.
function timeZooms(t, axes, bottom) {
  const common = { xAxisIndex: axes, start: timeZoom.start, end: timeZoom.end, filterMode: "none" };
  return [
    { id: kTimeZoom[0], type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseMove: "ctrl", moveOnMouseWheel: false,
      preventDefaultMouseMove: false, ...common },
    { id: kTimeZoom[1], type: "slider", height: 16, bottom: bottom || 4, brushSelect: false, showDetail: false, showDataShadow: false,
      borderColor: "transparent", backgroundColor: t.state.idle, fillerColor: t.name === "dark" ? "#ffffff22" : "#00000016",
      handleStyle: { color: t.card, borderColor: t.faint }, moveHandleSize: 0, ...common },
  ];
}

// Adds a chart below `parent`: `title` says what is found, `sub` what is shown; option(theme) is ECharts', made anew for every
// theme. `anew`: every option stands for itself, as series come and go. `time`: it is zoomed with the others of its kind; `rows`: along GPUs too. The element comes back, the chart when it is seen.
function addChart(parent, { id, title, sub, height = 300, option, anew = false, time = false, rows = false, wide = false, ready }) {
  const plot = el("div", { class: "plot", style: `height:${height}px`, tabindex: "0", role: "img", "aria-label": `${title}. ${sub || ""}`,
                           "aria-keyshortcuts": time ? `+ - ArrowLeft ArrowRight 0${rows ? " Shift+ArrowUp Shift+ArrowDown ArrowUp ArrowDown" : ""}` : null });
  const figure = el("figure", { class: wide ? "chart wide" : "chart", id },
    el("figcaption", {}, el("h3", {}, title), sub ? el("p", { class: "sub" }, sub) : null), plot);
  parent.append(figure);
  const chart = { id, plot, time, instance: null, draw: null };
  chart.draw = () => {
    const t = theme();
    const first = chart.instance === null;
    if (first) chart.instance = echarts.init(plot, null, { renderer: "canvas" });
    chart.instance.setOption(base(t, option(t, plot.clientWidth)), { notMerge: anew });
    if (!first) return;
    if (time) {
      chart.instance.group = "time";
      echarts.connect("time");
      chart.instance.on("datazoom", () => {
        const zoom = (chart.instance.getOption().dataZoom || []).find((z) => z.id === kTimeZoom[0]);
        if (zoom) Object.assign(timeZoom, { start: zoom.start, end: zoom.end });
        const rows = chart.rowZoom && (chart.instance.getOption().dataZoom || []).find((z) => z.id === chart.rowZoom.ids[0]);
        if (rows) chart.rowZoom.set({ start: rows.start, end: rows.end });
      });
      plot.addEventListener("keydown", (event) => zoomByKey(chart, event));
    }
    if (ready) ready(chart);
    new ResizeObserver(() => chart.instance.resize()).observe(plot);
  };
  charts.push(chart);
  seen.observe(plot);
  plot.chart = chart;
  return figure;
}

// Other words for a chart that shows something else from now on.
function nameChart(figure, title, sub) {
  figure.querySelector("h3").textContent = title;
  figure.querySelector(".sub").textContent = sub;
  figure.querySelector(".plot").setAttribute("aria-label", `${title}. ${sub}`);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    if (entry.target.chart.instance === null) entry.target.chart.draw();
  }
}, { rootMargin: "300px" });

// A stretch of 0 to 100 after a key: in, out, back and forth by what fits, or null for any other key.
function zoomedBy({ start, end }, step) {
  const width = end - start, middle = (start + end) / 2;
  if (step === "in") [start, end] = [middle - width / 4, middle + width / 4];
  else if (step === "out") [start, end] = [middle - width, middle + width];
  else if (step === "back") [start, end] = [start - width / 4, end - width / 4];
  else if (step === "forth") [start, end] = [start + width / 4, end + width / 4];
  else [start, end] = [0, 100];
  if (end - start >= 100) [start, end] = [0, 100];
  if (start < 0) [start, end] = [0, end - start];
  if (end > 100) [start, end] = [start - (end - 100), 100];
  return { start, end };
}

function zoomByKey(chart, event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const zoom = (ids, to) => chart.instance.dispatchAction({ type: "dataZoom", batch: ids.map((id) => ({ dataZoomId: id, ...to })) });
  const time = { "+": "in", "=": "in", "-": "out", ArrowLeft: "back", ArrowRight: "forth", 0: "all" }[event.key];
  const upDown = { ArrowUp: event.shiftKey ? "in" : "back", ArrowDown: event.shiftKey ? "out" : "forth", 0: "all" };
  let rows = chart.rowZoom && upDown[event.key];
  // Without shift the page scrolls as long as all GPUs are seen.
  if (rows && !event.shiftKey && event.key !== "0" && chart.rowZoom.get().end - chart.rowZoom.get().start >= 100) rows = undefined;
  if (!time && !rows) return;
  event.preventDefault();
  if (time) zoom(kTimeZoom, zoomedBy(timeZoom, time));
  if (rows) zoom(chart.rowZoom.ids, zoomedBy(chart.rowZoom.get(), rows));
}

// For print, and for whoever wants all of them at once.
function drawAllCharts() {
  for (const chart of charts) {
    if (chart.instance === null) chart.draw();
    chart.instance.getZr().flush();
  }
}
function redrawCharts() {
  for (const chart of charts) {
    if (chart.instance !== null) chart.draw();
  }
}
