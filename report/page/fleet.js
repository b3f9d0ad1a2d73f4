"use strict";
// The fleet over time: what GPUs did, as areas, and as a heat map of GPUs x time painted cell by cell.

// From the data's bytes to what is painted and asked for.
function readFleet(fleet) {
  const states = bytesOf(fleet.states);
  const kinds = fleet.down ? [...kStates, kDown] : kStates;
  const rows = fleet.rows.gpus.length;
  const below = [0]; // GPUs below each row's edge
  for (const gpus of fleet.rows.gpus) below.push(below[below.length - 1] + gpus);
  const busyOf = new Float64Array(fleet.models.length); // of each model, in 1/255 of a GPU's time in a window
  for (let cell = 0; cell < fleet.cell_model.length; ++cell) {
    const model = fleet.cell_model[cell];
    if (model < 0) continue;
    const at = kinds.length * cell;
    busyOf[model] += (states[at] + states[at + 1] + states[at + 2] + states[at + 3]) * fleet.rows.gpus[Math.floor(cell / fleet.windows)];
  }
  return { ...fleet, states, kinds, below, rowCount: rows, gpus: below[rows], busyOf };
}

// Models by name with their place by the busy time of the cells that are most theirs, over all fleets of the page: a model has
// the same colour in each.
const modelRanks = new Map();
function rankModels(fleets) {
  const busy = new Map();
  for (const fleet of fleets) fleet.models.forEach((name, i) => busy.set(name, (busy.get(name) || 0) + fleet.busyOf[i] * fleet.window_s));
  [...busy.keys()].sort((a, b) => busy.get(b) - busy.get(a)).forEach((name, place) => modelRanks.set(name, place));
}
const kHues = 7;
const modelColour = (t, name) => {
  const place = modelRanks.get(name);
  return mixed(rgb(t.palette[place % kHues]), rgb(t.name === "dark" ? "#ffffff" : "#000000"), [0, 0.3, 0.5][Math.floor(place / kHues) % 3]);
};
const kOneModel = 1; // the colour of the one that is picked out

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const mixed = (a, b, share) => a.map((v, i) => Math.round(v + (b[i] - v) * share));

// Three bytes a cell: its commonest state, or its model, the paler the more of the time was idle.
function fleetColours(fleet, by, t) {
  const out = new Uint8ClampedArray(3 * fleet.cell_model.length);
  const idle = rgb(t.state.idle);
  const state = fleet.kinds.map(([key]) => rgb(t.state[key]));
  const other = rgb(t.faint);
  const models = fleet.models.map((name) => fleetModel === null ? modelColour(t, name)
    : name === fleetModel ? rgb(t.palette[kOneModel]) : mixed(idle, other, 0.45));
  for (let cell = 0; cell < fleet.cell_model.length; ++cell) {
    let busy = 0, most = 0;
    const at = state.length * cell;
    for (let s = 0; s < state.length; ++s) {
      const share = fleet.states[at + s];
      busy += share;
      if (share > fleet.states[at + most]) most = s;
    }
    const model = fleet.cell_model[cell];
    let colour = idle;
    if (busy > 0) {
      const full = by === "state" || most === kStates.length ? state[most] : model >= 0 ? models[model] : other;
      colour = mixed(idle, full, Math.min(1, 0.12 + 0.88 * busy / 255));
    }
    out.set(colour, 3 * cell);
  }
  return out;
}

// The part of the map between the windows [w0, w1) and the GPUs [g0, g1), as a canvas of width x height device pixels.
function paintFleet(fleet, colours, ground, { w0, w1, g0, g1, width, height, idle }) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const rowAt = (gpu) => { // the row that holds it
    let low = 0, high = fleet.rowCount;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (fleet.below[middle] <= gpu) low = middle;
      else high = middle;
    }
    return low;
  };
  const windowOf = new Int32Array(canvas.width);
  for (let x = 0; x < canvas.width; ++x) windowOf[x] = Math.floor(w0 + (x + 0.5) / canvas.width * (w1 - w0));
  const gap = canvas.height / Math.max(1, g1 - g0) * fleet.gpus / fleet.rowCount >= 9 ? 1 : 0; // rows stand apart where there is room
  let lastRow = -1;
  for (let y = 0; y < canvas.height; ++y) {
    const from = rowAt(g0 + y / canvas.height * (g1 - g0));
    const to = Math.max(from, rowAt(g0 + (y + 1) / canvas.height * (g1 - g0) - 1e-9));
    const isGap = gap > 0 && from !== lastRow && lastRow >= 0;
    lastRow = to;
    for (let x = 0; x < canvas.width; ++x) {
      const at = 4 * (y * canvas.width + x), w = windowOf[x];
      image.data[at + 3] = 255;
      let r = ground[0], g = ground[1], b = ground[2];
      if (!isGap && w >= fleet.windows) { // idle windows at the end are not in the data
        [r, g, b] = idle;
      } else if (!isGap) {
        r = g = b = 0;
        for (let row = from; row <= to; ++row) {
          const cell = 3 * (row * fleet.windows + w);
          r += colours[cell];
          g += colours[cell + 1];
          b += colours[cell + 2];
        }
        const n = to - from + 1;
        r /= n; g /= n; b /= n;
      }
      image.data[at] = r; image.data[at + 1] = g; image.data[at + 2] = b;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function fleetTip(fleet, row, w) {
  const cell = row * fleet.windows + w;
  const shares = fleet.kinds.map((_, s) => w < fleet.windows ? fleet.states[fleet.kinds.length * cell + s] / 255 : 0);
  const t = theme();
  const first = fleet.rows.first_instance[row], count = fleet.rows.instances[row];
  const where = `${fleet.rows.pool[row] ? `${fleet.rows.pool[row]}: ` : ""}${count === 1 ? `instance ${first}` : `instances ${first} to ${first + count - 1}`}`;
  const span = fleet.windows * fleet.window_s;
  const model = w < fleet.windows ? fleet.cell_model[cell] : -1;
  const rows = fleet.kinds.map(([key, name], s) => [t.state[key], name, `${format.percent(shares[s])} %`]);
  rows.push([t.state.idle, "idle", `${format.percent(Math.max(0, Math.round(100 * (1 - sum(shares))) / 100))} %`]);
  if (model >= 0) rows.push([null, "most for", fleet.models[model]]);
  return tip(`${where}, ${format.clock(w * fleet.window_s, span)} to ${format.clock((w + 1) * fleet.window_s, span)}`, rows);
}

let fleetBy = "state"; // or "model"
let fleetModel = null; // the name of the one in colour, where it is one
const rowZooms = new Map(); // by number of GPUs: what fleets of that size show
const rowZoomOf = (gpus) => rowZooms.get(gpus) || { start: 0, end: 100 };

// Areas above, heat map below, for one run. Either may be missing.
function addFleetChart(parent, run, page) {
  const span_s = page.span_s;
  const fleet = run.fleet ? run.fleetRead : null;
  const windows = run.windows;
  const kinds = windows && windows.down_fraction ? [...kStates, kDown] : kStates;
  const top = windows ? 84 : 0;
  const mapHeight = fleet ? Math.max(140, Math.min(360, fleet.rowCount * 18)) : 0;
  const mapTop = 8 + top + (top ? 16 : 0);
  let colours = null, coloursFor = "";
  let mouse = null; // where it is in this chart
  const u = run.summary.utilisation;
  const share = (part) => `${format.percent(u[part])}\u00a0%`; // no line ends before the sign
  const title = `${run.label}: ${share("busy")} busy, ${share("decode")} decoding, ${share("switch")} switching`;
  addChart(parent, {
    id: `fleet-${run.number}`, title, time: true, rows: fleet !== null, wide: true,
    sub: [windows ? "above: share of GPU time" : null, fleet ? `below: ${format.plural(fleet.gpus, "GPU")} over time${fleet.rowCount < run.summary.instances ? ", neighbours together" : ""}` : null].filter(Boolean).join("; "),
    height: mapTop + mapHeight + (fleet ? 64 : 56),
    option: (t) => {
      const grid = [], xAxis = [], yAxis = [], series = [];
      if (windows) {
        grid.push({ left: 76, right: 20, top: 8, height: top, outerBoundsMode: "none", tooltip: { trigger: "axis" } });
        xAxis.push(timeAxis(t, span_s, { gridIndex: 0, name: fleet ? "" : "time since the start", axisLabel: { show: !fleet }, axisTick: { show: !fleet } }));
        yAxis.push(percentAxis(t, "", { gridIndex: 0, splitNumber: 2, max: 1, interval: 0.5 }));
        // A window as stacked rectangles: [start, end, height of each state].
        series.push({
          id: "areas", name: "share of GPU time", type: "custom", xAxisIndex: 0, yAxisIndex: 0, clip: true, encode: { x: [0, 1] },
          dimensions: ["start", "end", ...kinds.map(([key]) => key)],
          data: windows.start_s.map((s, i) => [s * 1000, (s + windows.length_s[i]) * 1000, ...kinds.map(([key]) => windows[`${key}_fraction`][i])]),
          renderItem: (params, api) => {
            let height = 0;
            const [x, end] = [0, 1].map((edge) => Math.round(api.coord([api.value(edge), 0])[0])); // whole pixels leave no seams
            return { type: "group", children: kinds.map(([key], s) => {
              const bottom = api.coord([0, height])[1], upper = api.coord([0, height += api.value(2 + s)])[1];
              return { type: "rect", shape: { x, y: upper, width: Math.max(1, end - x), height: bottom - upper }, style: { fill: t.state[key] } };
            }) };
          },
        });
      }
      const zooms = timeZooms(t, windows && fleet ? [0, 1] : [0]);
      if (fleet) {
        const i = grid.length;
        grid.push({ left: 76, right: 34, top: mapTop, outerBoundsMode: "none", height: mapHeight, tooltip: { trigger: "item" } });
        if (windows) grid[0].right = 34;
        xAxis.push(timeAxis(t, span_s, { gridIndex: i, splitLine: { show: false }, nameGap: 24 }));
        yAxis.push(axis(t, { gridIndex: i, type: "value", inverse: true, min: 0, max: fleet.gpus, name: "GPUs", nameGap: 56, splitLine: { show: false },
                             minInterval: 1, axisLabel: { showMaxLabel: false, formatter: (v) => format.number(Math.round(v)) } }));
        const key = `${fleetBy} ${t.name} ${fleetModel}`;
        if (coloursFor !== key) [colours, coloursFor] = [fleetColours(fleet, fleetBy, t), key];
        const ground = rgb(t.card);
        series.push({
          id: "map", name: "fleet", type: "custom", xAxisIndex: i, yAxisIndex: i, clip: true, encode: { x: [0, 1], y: [2, 3] },
          data: [[0, span_s * 1000, 0, fleet.gpus]],
          renderItem: (params, api) => {
            const area = params.coordSys;
            const [left, upper] = api.coord([0, 0]);
            const [right, lower] = api.coord([run.end_s * 1000, fleet.gpus]);
            const x0 = Math.max(area.x, left), x1 = Math.min(area.x + area.width, right);
            const y0 = Math.max(area.y, upper), y1 = Math.min(area.y + area.height, lower);
            if (x1 <= x0 || y1 <= y0) return { type: "group" };
            const ratio = window.devicePixelRatio || 1;
            const window_at = (x) => (x - left) / (right - left) * run.end_s / fleet.window_s;
            const gpu_at = (y) => (y - upper) / (lower - upper) * fleet.gpus;
            const image = paintFleet(fleet, colours, ground, { w0: window_at(x0), w1: window_at(x1), g0: gpu_at(y0), g1: gpu_at(y1),
                                                               width: (x1 - x0) * ratio, height: (y1 - y0) * ratio, idle: rgb(t.state.idle) });
            const children = [{ type: "image", style: { image, x: x0, y: y0, width: x1 - x0, height: y1 - y0 } }];
            for (let row = 1; row < fleet.rowCount; ++row) { // pools apart
              if (fleet.rows.pool[row] === fleet.rows.pool[row - 1]) continue;
              const y = api.coord([0, fleet.below[row]])[1];
              if (y > y0 && y < y1) children.push({ type: "line", shape: { x1: x0, x2: x1, y1: y, y2: y }, style: { stroke: t.text, lineWidth: 1.5 }, silent: true });
            }
            return { type: "group", children };
          },
          tooltip: { trigger: "item", formatter: () => mouse === null ? "" : fleetTip(fleet, ...cellAt(mouse)) }, // charts that are connected show their tips together
        });
        const rows = { yAxisIndex: i, filterMode: "none", ...rowZoomOf(fleet.gpus) };
        // Connected charts zoom by id: fleets of one size together.
        const [slider, inside] = mine.rowZoom.ids;
        zooms.push({ id: slider, type: "slider", orient: "vertical", width: 12, right: 6, top: mapTop, height: mapHeight, brushSelect: false,
                     showDetail: false, showDataShadow: false, borderColor: "transparent", backgroundColor: t.state.idle, fillerColor: zooms[1].fillerColor,
                     handleStyle: zooms[1].handleStyle, moveHandleSize: 0, ...rows },
                   { id: inside, type: "inside", zoomOnMouseWheel: "alt", moveOnMouseMove: "ctrl", moveOnMouseWheel: false, preventDefaultMouseMove: false, ...rows });
      }
      return { grid, xAxis, yAxis, series, dataZoom: zooms, legend: null,
               tooltip: { trigger: "item", axisPointer: { type: "line", lineStyle: { color: t.faint } },
                          formatter: (params) => {
                            const area = (Array.isArray(params) ? params : [params]).find((p) => p.seriesId === "areas");
                            if (area === undefined) return "";
                            return tip(`${format.clock(area.value[0] / 1000, span_s)} to ${format.clock(area.value[1] / 1000, span_s)}`,
                                       kinds.map(([key, name], s) => [t.state[key], name, `${format.percent(area.value[2 + s])} %`]));
                          } } };
    },
    ready: (chart) => {
      // Before the chart itself hears of it and asks for the tip.
      chart.plot.addEventListener("mousemove", (event) => {
        const { left, top: upper } = chart.plot.getBoundingClientRect();
        mouse = [event.clientX - left, event.clientY - upper];
      }, true);
      chart.plot.addEventListener("mouseleave", () => { mouse = null; });
      chart.instance.on("click", (event) => {
        if (event.seriesId !== "map") return;
        const [row, w] = cellAt([event.event.offsetX, event.event.offsetY]);
        const model = w < fleet.windows ? fleet.cell_model[row * fleet.windows + w] : -1;
        if (model >= 0) page.showModel(fleet.models[model] === fleetModel ? "" : fleet.models[model]);
      });
    },
  });
  const mine = charts[charts.length - 1];
  if (fleet) mine.rowZoom = { ids: [`rows-slider-${fleet.gpus}`, `rows-inside-${fleet.gpus}`], get: () => rowZoomOf(fleet.gpus), set: (zoom) => rowZooms.set(fleet.gpus, zoom) };
  // The row and the window of the heat map at a point of the chart.
  function cellAt(point) {
    const at = mine.instance.convertFromPixel({ gridIndex: windows ? 1 : 0 }, point);
    const w = Math.max(0, Math.floor(at[0] / 1000 / fleet.window_s));
    const row = fleet.below.findIndex((gpus) => gpus > at[1]) - 1;
    return [row < 0 ? fleet.rowCount - 1 : row, w];
  }
}
