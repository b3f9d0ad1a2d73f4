// The report in a browser: that it opens alone, draws what the results say, and can be used by hand, by keyboard and on a phone.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";

const work = process.env.WORK;
const { chromium } = createRequire(join(work, "x.js"))("playwright-core");
const results = (...path) => join(work, "results", ...path);
const json = (...path) => JSON.parse(readFileSync(results(...path), "utf8"));
const kPolicies = ["dedicated", "serverless-llm", "serverless-llm-plus", "aegaeon"];

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());

// Opens pages/NAME.html; `trouble` collects what must not be: errors, dialogs, requests beyond the file itself.
async function open(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  const trouble = [];
  const url = `file://${join(work, "pages", `${name}.html`)}`;
  page.on("console", (message) => trouble.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => trouble.push(`error: ${error.stack}`));
  page.on("dialog", (dialog) => { trouble.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => { if (request.url() !== url && !/^(data|blob):/.test(request.url())) trouble.push(`request: ${request.url()}`); });
  const start = Date.now();
  await page.goto(url);
  await page.waitForFunction(() => document.documentElement.dataset.ready === "true");
  return { page, trouble, ready_ms: Date.now() - start };
}
const near = (found, expected, tolerance, what) =>
  assert.ok(Math.abs(found - expected) <= tolerance, `${what}: found ${found}, expected ${expected} within ${tolerance}`);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const optionOf = (page, id) => page.evaluate((chart) => {
  const { series, xAxis, dataZoom } = charts.find((c) => c.id === chart).instance.getOption();
  return { series: series.map(({ id: of, name, data }) => ({ id: of, name, data })), xAxis: xAxis.map(({ min, max, type }) => ({ min, max, type })), dataZoom };
}, id);
const valueOf = (item) => item !== null && typeof item === "object" && !Array.isArray(item) ? item.value : item;

// The charts that look the same without their data.
const blankCharts = (page) => page.evaluate(() => {
  drawAllCharts();
  const pixels = ({ instance }) => {
    instance.getZr().flush();
    const layers = [...instance.getDom().querySelectorAll("canvas")], [canvas] = layers;
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    for (const layer of layers) copy.drawImage(layer, 0, 0);
    return copy.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  return charts.filter((chart) => {
    const drawn = pixels(chart);
    const { series } = chart.instance.getOption();
    chart.instance.setOption({ series: series.map(({ id }) => ({ id, data: [], markLine: { data: [] } })) });
    const without = pixels(chart);
    let different = 0; // in saturated colours: marks, not axes, which may move when the data are gone
    for (let i = 0; i < drawn.length; i += 4) {
      const most = Math.max(drawn[i], drawn[i + 1], drawn[i + 2]), least = Math.min(drawn[i], drawn[i + 1], drawn[i + 2]);
      if (most - least > 60 && (drawn[i] !== without[i] || drawn[i + 1] !== without[i + 1] || drawn[i + 2] !== without[i + 2])) ++different;
    }
    chart.draw();
    return different < 8;
  }).map(({ id }) => id);
});

const kPages = { compare: 3, several: 3, planning: 3, hostile: 3, differ: 3, failing: 3, sweep: 2, "sweep-one": 1, "sweep-latin": 2, "sweep-step": 2, "sweep-hostile": 2, "sweep-beside": 6 };
for (const [name, least] of Object.entries(kPages)) {
  test(`${name}: opens without a request or an error, and every chart draws something`, async (t) => {
    const { page, trouble, ready_ms } = await open(name);
    t.diagnostic(`ready after ${ready_ms} ms`);
    assert.deepEqual(await blankCharts(page), []);
    assert.ok(await page.evaluate(() => charts.length) >= least);
    const headings = await page.$$eval("h1, h2, h3", (list) => list.map((h) => h.textContent));
    for (const heading of headings) assert.doesNotMatch(heading, /undefined|NaN|null|Infinity|\[object/, heading);
    assert.doesNotMatch(await page.evaluate(() => document.body.innerText), /undefined|NaN|\[object/);
    await page.screenshot({ path: join(work, "screenshots", `${name}-desktop.png`), fullPage: true });
    assert.deepEqual(trouble, []);
    await page.context().close();
  });
}

test("what is drawn is what the results say", async () => {
  const { page } = await open("compare");
  await page.evaluate(() => drawAllCharts());
  const rows = json("compare", "compare.json").filter((row) => row.status === "ok");
  assert.deepEqual(rows.map((row) => row.policy), kPolicies);
  const gpus = await optionOf(page, "gpus");
  assert.deepEqual(gpus.series[0].data.map(valueOf), rows.map((row) => row.gpus));
  assert.match(await page.textContent("h1"), /^aegaeon serves the same requests on 16 GPUs instead of 60$/);

  const breakdown = await optionOf(page, "breakdown");
  const attainment = await optionOf(page, "attainment");
  const tokens = await optionOf(page, "tokens");
  const arrived = await page.evaluate(() => poolsim.runs.map((run) => run.windows.arrived_requests));
  const active = await optionOf(page, "active");
  rows.forEach((row, i) => {
    near(sum(breakdown.series.map((series) => series.data[i])), row.e2e_s.mean, 1e-4 * row.e2e_s.mean, `${row.policy}: parts of a request's time`);
    // Over time, by the requests that arrive, it is the whole.
    assert.equal(attainment.series[i].name, row.policy);
    near(sum(attainment.series[i].data.map(([, share], w) => (share === null ? 0 : share) * arrived[i][w])) / sum(arrived[i]), row.attainment.service, 2e-6, `${row.policy}: service attainment over time`);
    const worst = Math.min(...tokens.series[i].data.map(([, share]) => share === null ? 1 : share));
    assert.ok(row.attainment.token === 1 ? worst === 1 : worst < row.attainment.token, `${row.policy}: some window is below the mean`);
    near(sum(active.series[i].data.map(([, models]) => models)) / active.series[i].data.length, row.active_models_mean, 0.15 * row.active_models_mean, `${row.policy}: active models`);
  });
  for (const [id, key] of [["ttft", "ttft_s"], ["tbt", "tbt_s"]]) {
    const { series } = await optionOf(page, id);
    rows.forEach((row, i) => {
      for (const [quantile, share] of [["p50", 0.5], ["p99", 0.99]]) {
        const first = series[i].data.find(([, below]) => below >= share);
        near(first[0] / row[key][quantile], 1, 0.03, `${row.policy}: ${key} ${quantile}`);
      }
      assert.equal(series[i].data.at(-1)[1], 1);
    });
  }
  // The heat map: its cells, by their GPUs and the length of their windows, are the mean utilisation.
  for (const [i, row] of rows.entries()) {
    const shares = await page.evaluate((number) => {
      const run = poolsim.runs[number], fleet = run.fleetRead;
      const sums = [0, 0, 0, 0];
      for (let r = 0; r < fleet.rowCount; ++r) {
        for (let w = 0; w < fleet.windows; ++w) {
          const weight = fleet.rows.gpus[r] * Math.min(fleet.window_s, run.end_s - w * fleet.window_s);
          for (let s = 0; s < 4; ++s) sums[s] += fleet.states[4 * (r * fleet.windows + w) + s] / 255 * weight;
        }
      }
      return { gpus: fleet.gpus, shares: sums.map((s) => s / (fleet.gpus * run.end_s)) };
    }, i);
    assert.equal(shares.gpus, row.gpus);
    ["prefill", "decode", "switch", "kv_copy"].forEach((state, s) => near(shares.shares[s], row.utilisation[state], 0.003, `${row.policy}: ${state}`));
    const { series } = await optionOf(page, `fleet-${i}`);
    const areas = series.find(({ id }) => id === "areas").data;
    const length = sum(areas.map(([begin, end]) => end - begin));
    near(sum(areas.map(([begin, end, , decode]) => decode * (end - begin))) / length, row.utilisation.decode, 1e-4, `${row.policy}: decode over time`);
  }
  const arrivals = await optionOf(page, "arrivals");
  const data = arrivals.series[0].data;
  const end = rows[0].simulated_s * 1000;
  near(sum(data.map(([at, rate], i) => rate * ((i + 1 < data.length ? data[i + 1][0] : end) - at) / 1000)), rows[0].requests.total, 1, "arrivals");
  const popularity = await optionOf(page, "popularity");
  assert.equal(sum(popularity.series[0].data.map(([, requests]) => requests)), rows[0].requests.total);
  const lengths = await optionOf(page, "lengths");
  const mean = sum(lengths.series[0].data.map(([tokens, share]) => tokens * share));
  near(mean / (rows[0].tokens.prompt / rows[0].requests.total), 1, 0.08, "mean length of prompts");
  await page.context().close();
});

test("plan, tune and claims are those of their files", async () => {
  const { page } = await open("planning");
  await page.evaluate(() => drawAllCharts());
  const plan = json("plan", "plan.json").policies.filter((policy) => policy.status === "found");
  const bars = await optionOf(page, "plan-gpus");
  assert.deepEqual(bars.series.find(({ id }) => id === "gpus").data.map(valueOf), plan.map((policy) => policy.gpus));
  assert.deepEqual(bars.series.find(({ id }) => id === "memory").data.map(([gpus]) => gpus), plan.map((policy) => policy.bound.memory_gpus));
  const cells = (table) => page.$$eval(`#${table} tbody tr`, (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  assert.deepEqual((await cells("plan-table")).map(([policy, gpus]) => [policy, Number(gpus)]), plan.map((policy) => [policy.policy, policy.gpus]));
  const savings = readFileSync(results("plan", "savings.csv"), "utf8").trim().split("\n").slice(1);
  assert.equal((await cells("savings")).length, Math.min(20, savings.length));
  assert.equal((await cells("tune-table")).length, Math.min(20, json("tune", "tune.json").points.length));
  assert.deepEqual((await cells("claims-table")).map(([claim]) => claim), json("reproduce", "claims.json").map(({ claim }) => claim));
  const images = await page.$$eval(".image img", async (list) => Promise.all(list.map(async (image) => {
    image.loading = "eager";
    await image.decode();
    return image.naturalWidth;
  })));
  assert.ok(images.every((width) => width > 100));
  await page.context().close();
});

test("models are sorted and searched, with the mouse and with keys", async () => {
  const { page, trouble } = await open("compare");
  const column = (n) => page.$$eval("#models tbody tr", (rows, i) => rows.map((row) => row.cells[i].textContent), n);
  const ordered = (values, sign) => values.every((v, i) => i === 0 || sign * (Number(values[i - 1]) - Number(v)) <= 0);
  const models = readFileSync(results("compare", "aegaeon", "models.csv"), "utf8").trim().split("\n").slice(1).map((line) => line.split(","));
  assert.equal(await page.inputValue("#models-run").then((i) => page.$eval(`#models-run option[value="${i}"]`, (o) => o.textContent)), "aegaeon");
  assert.deepEqual((await column(3)).map(Number), models.map((cells) => Number(cells[3])).sort((a, b) => b - a).slice(0, 20));
  await page.click("#models thead button:text-is('switches')");
  assert.ok(ordered(await column(10), -1), "most switches first");
  assert.equal(await page.getAttribute("#models th[aria-sort]", "aria-sort"), "descending");
  await page.keyboard.press("Enter"); // the heading has the focus
  assert.ok(ordered(await column(10), 1), "fewest switches first");
  await page.click("#models thead button:text-is('model')");
  assert.equal((await column(0))[0], "model_0000");
  await page.click("#models .pager button:text-is('Next')");
  assert.equal((await column(0))[0], "model_0020");
  await page.focus("#models input[type=search]");
  await page.keyboard.type("0007");
  assert.deepEqual(await column(0), ["model_0007"]);
  assert.equal(await page.textContent("#models .status"), "1 row");
  const before_switch = await column(10);
  await page.selectOption("#models-run", { label: "dedicated" });
  assert.deepEqual(await column(10), ["0"]);
  assert.notDeepEqual(before_switch, ["0"]);
  await page.fill("#models input[type=search]", "no such model");
  assert.equal(await page.textContent("#models .status"), "no rows");
  assert.ok(await page.$$eval("#models svg.spark", (list) => list.length) === 0);
  await page.fill("#models input[type=search]", "llama");
  assert.ok(await page.$$eval("#models svg.spark path", (list) => list.length) > 0);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("zooming along time keeps the charts together; the heat map zooms along GPUs too", async () => {
  const { page, trouble } = await open("several");
  await page.evaluate(() => drawAllCharts());
  const ranges = () => page.evaluate(() => charts.filter((c) => c.time).map((c) => {
    const zooms = c.instance.getOption().dataZoom.filter((z) => z.id.startsWith("time-"));
    return zooms.map((z) => `${z.start.toFixed(3)} ${z.end.toFixed(3)}`);
  }).flat());
  const same = async () => {
    const all = await ranges();
    assert.ok(all.length >= 10);
    assert.equal(new Set(all).size, 1, all.join(", "));
    return all[0].split(" ").map(Number);
  };
  assert.deepEqual(await same(), [0, 100]);
  await page.focus("#attainment .plot");
  await page.keyboard.press("+");
  assert.deepEqual(await same(), [25, 75]);
  await page.keyboard.press("ArrowRight");
  const [start, end] = await same();
  near(start, 37.5, 0.01, "start");
  near(end, 87.5, 0.01, "end");
  await page.keyboard.press("0");
  assert.deepEqual(await same(), [0, 100]);

  const plot = page.locator("#fleet-3 .plot");
  await plot.scrollIntoViewIfNeeded();
  const box = await plot.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 200);
  const pixels = () => page.evaluate(() => charts.find((c) => c.id === "fleet-3").instance.getDom().querySelector("canvas").toDataURL());
  const whole = await pixels();
  await page.keyboard.down("Control");
  await page.mouse.wheel(0, -400);
  await page.keyboard.up("Control");
  await page.waitForTimeout(200);
  const zoomed = await same();
  assert.ok(zoomed[1] - zoomed[0] < 95, `ctrl + wheel: ${zoomed}`);
  assert.notEqual(await pixels(), whole);
  await page.keyboard.down("Alt");
  await page.mouse.wheel(0, -400);
  await page.keyboard.up("Alt");
  await page.waitForTimeout(200);
  const rowsOf = (id) => page.evaluate((chart) => {
    const [slider, inside] = charts.find((c) => c.id === chart).instance.getOption().dataZoom.filter((z) => z.id.startsWith("rows-"));
    return [slider.start, slider.end, inside.start, inside.end].map((v) => Number(v.toFixed(3)));
  }, id);
  const rows = await rowsOf("fleet-3");
  assert.ok(rows[1] - rows[0] < 95, `alt + wheel: ${rows}`);
  assert.deepEqual(await same(), zoomed);
  // Fleets of one size stay together along GPUs, another does not follow; keys do the same.
  assert.deepEqual(await rowsOf("fleet-1"), rows);
  assert.deepEqual(await rowsOf("fleet-0"), [0, 100, 0, 100]);
  await page.focus("#fleet-1 .plot");
  await page.keyboard.press("0");
  assert.deepEqual(await rowsOf("fleet-3"), [0, 100, 0, 100]);
  assert.deepEqual(await same(), [0, 100]);
  await page.keyboard.press("Shift+ArrowUp");
  await page.keyboard.press("ArrowDown");
  assert.deepEqual(await rowsOf("fleet-1"), [37.5, 87.5, 37.5, 87.5]);
  assert.deepEqual(await rowsOf("fleet-3"), [37.5, 87.5, 37.5, 87.5]);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Shift+ArrowDown");
  assert.deepEqual(await rowsOf("fleet-3"), [0, 100, 0, 100]);
  assert.deepEqual(await rowsOf("fleet-0"), [0, 100, 0, 100]);
  assert.deepEqual(await same(), [0, 100]);

  // A cell says what it holds.
  await plot.scrollIntoViewIfNeeded();
  const now = await plot.boundingBox();
  await page.mouse.move(now.x + now.width / 2 + 7, now.y + 210);
  await page.waitForSelector("#fleet-3 .tip");
  assert.match(await page.textContent("#fleet-3 .tip"), /instance.*decode.*%/);
  // Fleets beside it say nothing of a place where the mouse is not.
  assert.deepEqual(await page.$$eval(".tip", (list) => list.filter((e) => e.checkVisibility()).map((e) => e.closest("figure").id).filter((id) => id.startsWith("fleet-"))), ["fleet-3"]);
  const by_state = await pixels();
  await page.check("input[name=fleet-by][value=model]");
  await page.waitForTimeout(100);
  assert.notEqual(await pixels(), by_state);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("one model is picked out of the heat map, by name or by a click", async () => {
  const { page, trouble } = await open("compare");
  await page.evaluate(() => drawAllCharts());
  await page.check("input[name=fleet-by][value=model]");
  const names = await page.$$eval("#fleet-model option", (list) => list.map((o) => o.value));
  assert.equal(names.length, 61);
  const legend = await page.$$eval("#fleet-legend span:has(.swatch)", (list) => list.map((span) => span.textContent));
  assert.deepEqual(legend, names.slice(1, 8), "the legend names the models with a hue of their own");
  await page.selectOption("#fleet-model", names[1]);
  assert.deepEqual(await page.$$eval("#fleet-legend span:has(.swatch)", (list) => list.map((span) => span.textContent)), [names[1], "other models"]);
  // The models whose cells have a hue.
  const saturated = () => page.evaluate(() => {
    const { fleetRead } = poolsim.runs[3], colours = fleetColours(fleetRead, fleetBy, theme());
    const found = new Set();
    for (let cell = 0; cell < fleetRead.cell_model.length; ++cell) {
      const [r, , b] = colours.slice(3 * cell, 3 * cell + 3);
      if (r - b > 60) found.add(fleetRead.models[fleetRead.cell_model[cell]]);
      else if (b - r > 60) found.add("blue");
    }
    return [...found];
  });
  assert.deepEqual(await saturated(), [names[1]]);
  await page.selectOption("#fleet-model", "");
  assert.ok((await saturated()).length > 5);
  // A click on a cell, and on another of the same model.
  const plot = page.locator("#fleet-0 .plot");
  await plot.scrollIntoViewIfNeeded();
  const spot = await page.evaluate(() => {
    const { fleetRead } = poolsim.runs[0], { instance } = charts.find((c) => c.id === "fleet-0");
    const cell = fleetRead.cell_model.findIndex((model) => model >= 0), row = Math.floor(cell / fleetRead.windows), w = cell % fleetRead.windows;
    return { name: fleetRead.models[fleetRead.cell_model[cell]],
             at: instance.convertToPixel({ gridIndex: 1 }, [(w + 0.5) * fleetRead.window_s * 1000, (fleetRead.below[row] + fleetRead.below[row + 1]) / 2]) };
  });
  const box = await plot.boundingBox();
  await page.mouse.click(box.x + spot.at[0], box.y + spot.at[1]);
  assert.equal(await page.inputValue("#fleet-model"), spot.name);
  await page.mouse.click(box.x + spot.at[0], box.y + spot.at[1]);
  assert.equal(await page.inputValue("#fleet-model"), "");
  await page.selectOption("#fleet-model", names[1]);
  await page.evaluate(() => document.querySelector("#fleet").scrollIntoView());
  await page.screenshot({ path: join(work, "screenshots", "compare-fleet-one-model.png") });
  await page.check("input[name=fleet-by][value=state]");
  assert.equal(await page.inputValue("#fleet-model"), "");
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("fleets stand side by side where there is room", async () => {
  for (const [width, columns] of [[1280, 2], [1900, 2], [700, 1]]) {
    const { page } = await open("compare", { viewport: { width, height: 900 } });
    const lefts = await page.$$eval(".fleets > figure", (list) => list.map((f) => Math.round(f.getBoundingClientRect().left)));
    assert.equal(new Set(lefts).size, columns, `${width} pixels: ${lefts}`);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= width);
    await page.context().close();
  }
});

test("folders with other requests or targets are not held against each other", async () => {
  const { page, trouble } = await open("differ");
  await page.evaluate(() => drawAllCharts());
  assert.match(await page.textContent("#differ"), /^The workloads and targets of these folders differ\. /);
  assert.match(await page.textContent("#gpus h3"), /for workloads that differ$/);
  // What is said of savings is said of one folder.
  assert.match(await page.textContent("h1"), /^aegaeon serves the same requests on 16 GPUs instead of 60$/);
  assert.equal(await page.textContent(".tile .note"), "against dedicated · compare");
  const folders = await page.$$eval(".folders li", (list) => list.map((item) => item.textContent));
  assert.equal(folders.length, 2);
  assert.match(folders[0], /^results\/compare and results\/unknown .*Targets: 10 s to the first token/);
  assert.match(folders[1], /^results\/differs .*Targets: 5 s to the first token/);
  assert.match(await page.textContent("#ttft .sub"), /dashed: the targets, 10 s \(results\/compare and results\/unknown\) and 5 s \(results\/differs\)/);
  const columns = await page.$$eval("#runs thead button", (list) => list.map((button) => button.textContent));
  assert.ok(!columns.some((title) => title.startsWith("vs ")), columns.join());
  // A policy that the page has not heard of has a colour that is nobody else's.
  const dots = await page.$$eval("#runs tbody th", (cells) => cells.map((cell) => [cell.textContent, getComputedStyle(cell.querySelector(".dot")).backgroundColor]));
  assert.equal(new Set(dots.map(([, colour]) => colour)).size, dots.length, JSON.stringify(dots));
  assert.ok(dots.some(([name]) => name === "somebodys-own"));
  assert.deepEqual(await page.evaluate(() => Object.entries(poolsim.policies).filter(([, is]) => is.oracle).map(([name]) => name)), ["serverless-llm-plus"]);
  assert.deepEqual(trouble, []);
  await page.context().close();
  const several = await open("several");
  assert.equal(await several.page.$("#differ"), null);
  assert.equal(await several.page.$(".folders"), null);
  assert.match(await several.page.textContent("#gpus h3"), /for the same requests$/);
  await several.page.context().close();
});

test("requests that fail are seen", async () => {
  const { page } = await open("failing");
  await page.evaluate(() => drawAllCharts());
  const rows = json("failing", "compare.json");
  const failing = rows.filter((row) => row.requests.failed > 0);
  assert.ok(failing.length > 0);
  const { series } = await optionOf(page, "failures");
  assert.deepEqual(series.map(({ data }) => sum(data.map(([, n]) => n))), failing.map((row) => row.requests.failed));
  const attainment = await optionOf(page, "attainment");
  const arrived = await page.evaluate(() => poolsim.runs.map((run) => run.windows.arrived_requests));
  rows.forEach((row, i) => near(sum(attainment.series[i].data.map(([, share], w) => (share === null ? 0 : share) * arrived[i][w])) / sum(arrived[i]), row.attainment.service, 2e-6, row.policy));
  assert.match(await page.textContent("#lengths h3"), /tokens of answer delivered a request under/);
  await page.context().close();
});

test("the whole market, 30,000 GPUs, is there and can be used", async (t) => {
  const { page, trouble, ready_ms } = await open("market");
  await page.waitForFunction(() => charts.length > 0 && charts[0].instance !== null);
  const fleet = await page.evaluate(() => {
    const start = performance.now();
    charts.find((c) => c.id === "fleet-0").draw();
    charts.find((c) => c.id === "fleet-0").instance.getZr().flush();
    return { ms: Math.round(performance.now() - start), gpus: poolsim.runs[0].fleetRead.gpus, rows: poolsim.runs[0].fleetRead.rowCount };
  });
  const content = await page.evaluate(() => performance.getEntriesByType("paint").map(({ name, startTime }) => `${name} ${Math.round(startTime)} ms`).join(", "));
  t.diagnostic(`content after ${ready_ms} ms (${content}); the fleet is drawn in ${fleet.ms} ms; ${fleet.rows} rows of ${fleet.gpus} GPUs`);
  const summary = json("market", "summary.json");
  assert.ok(summary.gpus >= 30_000, `${summary.gpus} GPUs`);
  assert.equal(fleet.gpus, summary.gpus);
  assert.match(await page.textContent("h1"), new RegExp(`on ${summary.gpus.toLocaleString("en-US")} GPUs$`));
  assert.match(await page.textContent("#models .status"), /of 779$/);
  const model = await page.$eval("#models tbody tr:nth-child(3) th", (cell) => cell.textContent);
  await page.fill("#models input[type=search]", model);
  const found = await page.$$eval("#models tbody th", (cells) => cells.map((cell) => cell.textContent));
  assert.ok(found.length > 0 && found.every((name) => name.includes(model)), found.join());
  await page.locator("#fleet-0 .plot").scrollIntoViewIfNeeded();
  await page.focus("#fleet-0 .plot");
  const pixels = () => page.evaluate(() => charts.find((c) => c.id === "fleet-0").instance.getDom().querySelector("canvas").toDataURL());
  const whole = await pixels();
  await page.keyboard.press("Shift+ArrowUp");
  await page.waitForTimeout(100);
  const rows = await pixels();
  assert.notEqual(rows, whole);
  await page.keyboard.press("+");
  await page.waitForTimeout(100);
  assert.notEqual(await pixels(), rows);
  await page.selectOption("#fleet-model", { index: 2 });
  await page.waitForTimeout(100);
  assert.equal(await page.$$eval("#fleet-legend .swatch", (list) => list.length), 2);
  await page.screenshot({ path: join(work, "screenshots", "market-fleet.png") });
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("several folders stand side by side under names that differ", async () => {
  const { page } = await open("several");
  const labels = await page.$$eval("#runs tbody th", (cells) => cells.map((cell) => cell.textContent));
  assert.deepEqual(labels, ["dedicated", "serverless-llm · compare", "serverless-llm-plus", "aegaeon", "serverless-llm · other"]);
  const colours = await page.$$eval("#runs .dot", (dots) => dots.map((d) => getComputedStyle(d).backgroundColor));
  assert.equal(new Set(colours).size, 5);
  await page.context().close();
});

test("light and dark follow the system, and a switch", async () => {
  const { page, trouble } = await open("compare", { colorScheme: "dark" });
  await page.evaluate(() => drawAllCharts());
  const look = () => page.evaluate(() => ({ ground: getComputedStyle(document.body).backgroundColor,
                                            chart: charts[0].instance.getOption().textStyle.color }));
  const dark = await look();
  await page.screenshot({ path: join(work, "screenshots", "compare-desktop-dark.png"), fullPage: true });
  await page.emulateMedia({ colorScheme: "light" });
  await page.waitForFunction((before) => charts[0].instance.getOption().textStyle.color !== before, dark.chart);
  const light = await look();
  assert.notEqual(dark.ground, light.ground);
  await page.focus("#theme");
  await page.keyboard.press("Enter");
  assert.deepEqual(await look(), dark);
  assert.deepEqual(await blankCharts(page), []);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

for (const name of ["compare", "planning", "hostile", "sweep", "sweep-latin"]) {
  test(`${name}: fits a phone`, async () => {
    const { page, trouble } = await open(name, { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    assert.deepEqual(await blankCharts(page), []);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 360, `the page is ${width} pixels wide`);
    await page.screenshot({ path: join(work, "screenshots", `${name}-phone.png`), fullPage: true });
    assert.deepEqual(trouble, []);
    await page.context().close();
  });
}

test("prints, with all charts", async () => {
  const { page } = await open("compare", { colorScheme: "dark" });
  const pdf = await page.pdf({ format: "A4" });
  assert.ok(pdf.length > 50_000);
  assert.equal(await page.evaluate(() => charts.filter((c) => c.instance === null).length), 0);
  await page.context().close();
});

test("names are text: none becomes an element, in the page or in a tooltip", async () => {
  const { page, trouble } = await open("hostile");
  await page.evaluate(() => drawAllCharts());
  const names = await page.$$eval("#models tbody th", (cells) => cells.map((cell) => cell.textContent));
  assert.ok(names.includes("<script>alert(1)</script>") && names.includes("<img src=x onerror=alert(2)>"), names.join("\n"));
  const plot = page.locator("#popularity .plot");
  await plot.scrollIntoViewIfNeeded();
  const at = await page.evaluate(() => {
    const chart = charts.find((c) => c.id === "popularity").instance;
    return chart.convertToPixel({ seriesIndex: 0 }, chart.getOption().series[0].data[0].slice(0, 2));
  });
  const box = await plot.boundingBox();
  await page.mouse.move(box.x + at[0], box.y + at[1]);
  await page.waitForSelector("#popularity .tip");
  assert.match(await page.textContent("#popularity .tip"), /^<script>alert\(1\)<\/script>/);
  assert.equal(await page.$$eval("main script, main img, main b, main i", (list) => list.length), 0);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("everything that can be used is reached by the tab key, and has a name", async () => {
  const { page } = await open("compare");
  await page.evaluate(() => drawAllCharts());
  const unnamed = await page.$$eval("button, select, input, [tabindex='0']", (list) => list.filter((e) => {
    const label = e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels[0] && e.labels[0].textContent.trim()) || "";
    return label === "";
  }).map((e) => e.outerHTML.slice(0, 80)));
  assert.deepEqual(unnamed, []);
  const reached = new Set();
  for (let i = 0; i < 90; ++i) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.id || (document.activeElement.closest("[id]") || {}).id));
  }
  for (const id of ["theme", "runs", "models", "models-run", "attainment", "ttft", "fleet-model", "fleet-0", "arrivals"]) assert.ok(reached.has(id), `${id} is not reached`);
  await page.context().close();
});

// ------------------------------------------------------------------------------------------------------------- sweeps

// sweep.csv as objects by column: RFC 4180, without the quote that stands before what a spreadsheet would compute.
function sweepRows(name) {
  const text = readFileSync(results(name, "sweep.csv"), "utf8");
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\r\n"]*))(,|\r?\n)/g)) {
    rows.at(-1).push((quoted === undefined ? plain : quoted.replaceAll('""', '"')).replace(/^'(?=[=+\-@])/, ""));
    if (end !== ",") rows.push([]);
  }
  const [heading, ...cells] = rows.slice(0, -1);
  return cells.map((row) => Object.fromEntries(row.map((cell, i) => [heading[i], cell])));
}
const meanOf = (list) => sum(list) / list.length;
const clamped = (v) => Math.max(0, Math.min(1, Number(v)));
const seriesOf = (page, id) => page.evaluate((chart) => {
  const { instance } = charts.find((c) => c.id === chart);
  const plain = (item) => item !== null && typeof item === "object" && !Array.isArray(item) ? { value: item.value, point: item.point } : { value: item };
  return instance.getOption().series.map(({ id: of, name, data }) => ({ id: of, name, data: data.map(plain) }));
}, id);

test("a sweep's lines, whiskers and map are those of sweep.csv", async () => {
  const { page, trouble } = await open("sweep");
  await page.evaluate(() => drawAllCharts());
  const rows = sweepRows("sweep");
  assert.equal(rows.length, 30);
  const levels = (key) => [...new Set(rows.map((row) => Number(row[key])))].sort((a, b) => a - b);
  const gpus = levels("fleet.gpus"), slos = levels("slo.ttft_slo_s");
  const choose = async (along, lines, caches) => {
    await page.selectOption("#sweep-along", { label: along });
    await page.selectOption("#sweep-lines", { label: lines });
    await page.selectOption("select[id^=sweep-only-]", { label: caches });
  };
  const of = (where) => rows.filter((row) => Object.entries(where).every(([key, value]) => Number(row[key]) === value));

  // One cache: a point at each place, and its interval.
  await choose("fleet.gpus", "slo.ttft_slo_s", "64");
  for (const [metric, clamp] of [["attainment.service", clamped], ["ttft_s.p99", Number]]) {
    await page.selectOption("#sweep-metric", metric);
    const series = await seriesOf(page, "response");
    const lines = series.filter(({ id }) => id.startsWith("line-"));
    assert.deepEqual(lines.map(({ name }) => Number(name)), slos);
    lines.forEach(({ data, id }, i) => {
      const mine = gpus.map((n) => of({ "fleet.gpus": n, "slo.ttft_slo_s": slos[i], "fleet.host_cache_gb": 64 })[0]);
      assert.deepEqual(data.map(({ value }) => value), mine.map((row) => [Number(row["fleet.gpus"]), Number(row[metric])]));
      const whiskers = series.find((s) => s.id === id.replace("line", "spread")).data.map(({ value }) => value);
      assert.deepEqual(whiskers, mine.map((row) => [Number(row["fleet.gpus"]), clamp(row[`${metric}.ci_low`]), clamp(row[`${metric}.ci_high`])]).filter(([, low, high]) => high > low));
      assert.ok(whiskers.length > 0);
    });
  }
  assert.match(await page.textContent("#response .sub"), /^TTFT, p99, a line per value of slo\.ttft_slo_s; only fleet\.host_cache_gb 64; whiskers: 95 % interval over 3 replications$/);

  assert.ok(of({ "fleet.host_cache_gb": 64 }).some((row) => Number(row["attainment.service.ci_high"]) > 1), "some interval goes beyond what a share can be");

  // All of them: means, and how far they are apart.
  await page.selectOption("#sweep-metric", "attainment.service");
  await choose("slo.ttft_slo_s", "fleet.gpus", "all (mean)");
  const series = await seriesOf(page, "response");
  gpus.forEach((n, i) => {
    const values = slos.map((slo) => of({ "fleet.gpus": n, "slo.ttft_slo_s": slo }).map((row) => Number(row["attainment.service"])));
    assert.ok(values.every((list) => list.length === 2));
    series.find(({ id }) => id === `line-${i}`).data.forEach(({ value }, k) => {
      assert.equal(value[0], slos[k]);
      near(value[1], meanOf(values[k]), 1e-9, `fleet.gpus ${n}, slo.ttft_slo_s ${slos[k]}`);
    });
  });
  assert.match(await page.textContent("#response .sub"), /; mean over fleet\.host_cache_gb; whiskers: the lowest and the highest of the points averaged$/);

  const cells = (await seriesOf(page, "map")).find(({ id }) => id === "cells").data.map(({ value }) => value);
  assert.equal(cells.length, gpus.length * slos.length);
  for (const [x, y, share] of cells) near(share, meanOf(of({ "slo.ttft_slo_s": slos[x], "fleet.gpus": gpus[y] }).map((row) => Number(row["attainment.service"]))), 1e-9, `cell ${x} ${y}`);

  // Another map, with the keys: what it is not over is averaged.
  await page.focus("#map-against");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.$eval("#map-against", (select) => select.selectedOptions[0].textContent), "fleet.host_cache_gb");
  assert.equal(await page.evaluate(() => document.activeElement.id), "map-against");
  const others = (await seriesOf(page, "map")).find(({ id }) => id === "cells").data.map(({ value }) => value);
  assert.equal(others.length, 6);
  const caches = levels("fleet.host_cache_gb");
  for (const [x, y, share] of others) near(share, meanOf(of({ "slo.ttft_slo_s": slos[x], "fleet.host_cache_gb": caches[y] }).map((row) => Number(row["attainment.service"]))), 1e-9, `cell ${x} ${y}`);
  assert.match(await page.textContent("#map .sub"), /^service attainment by slo\.ttft_slo_s and fleet\.host_cache_gb; mean over fleet\.gpus$/);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("a sweep's headline and its table of effects are means of sweep.csv", async () => {
  const { page } = await open("sweep");
  const rows = sweepRows("sweep");
  const effects = ["fleet.gpus", "slo.ttft_slo_s", "fleet.host_cache_gb"].map((key) => {
    const levels = [...new Set(rows.map((row) => Number(row[key])))].sort((a, b) => a - b);
    const means = levels.map((level) => meanOf(rows.filter((row) => Number(row[key]) === level).map((row) => Number(row["attainment.service"]))));
    return { key, levels, means, least: Math.min(...means), most: Math.max(...means), span: Math.max(...means) - Math.min(...means) };
  }).sort((a, b) => b.span - a.span);
  const percent = (share) => share === 1 ? "100" : Math.min(99.9, 100 * share).toFixed(1);
  const [{ key, means, levels }] = effects;
  assert.ok(means.at(-1) - means[0] > 0.1, "the sweep shows something");
  const title = (await page.textContent("h1")).replaceAll("\u00a0", " ");
  const there = means.findIndex((_, i) => means.slice(i).every((v) => Math.abs(v - means.at(-1)) <= 0.05 * (means.at(-1) - means[0])));
  const beyond = there < means.length - 1 ? ", and hardly beyond" : "";
  assert.equal(title, `Service attainment rises from ${percent(means[0])} to ${percent(means[there])} % as ${key} goes from ${levels[0]} to ${levels[there]}${beyond}`);
  const table = await page.$$eval("#effects tbody tr", (list) => list.map((row) => [...row.cells].map((cell) => cell.textContent.replaceAll("\u00a0", " "))));
  assert.deepEqual(table.map(([name, , least, , most, , difference]) => [name, least, most, difference]),
    effects.map((e) => [e.key, `${percent(e.least)} %`, `${percent(e.most)} %`, `${(100 * e.span).toFixed(1)} percentage points`]));
  const tiles = await page.$$eval(".tile", (list) => Object.fromEntries(list.map((tile) => [tile.querySelector(".label").textContent, tile.querySelector(".value").textContent])));
  const service = rows.map((row) => Number(row["attainment.service"]));
  assert.equal(tiles["points that ran"], "30");
  assert.equal(tiles["most service attainment"], `${percent(Math.max(...service))} %`);
  assert.equal(tiles["least service attainment"], `${percent(Math.min(...service))} %`);
  const facts = await page.$$eval("#assumptions dt", (list) => Object.fromEntries(list.map((dt) => [dt.textContent, dt.nextSibling.textContent])));
  const manifest = json("sweep", "manifest.json");
  assert.equal(facts["To run it again"], manifest.command);
  assert.equal(facts.Varied, manifest.sweep.vary.join(""));
  assert.equal(facts.Seed, String(manifest.seed));
  assert.ok(manifest.files.includes("report.html"));
  await page.context().close();
});

test("a sweep's words hold for small effects, peaks, levels that fail and settings that go together", async () => {
  const { page } = await open("sweep");
  const said = await page.evaluate(() => {
    const words = (means, more) => effectWords(metricOf("attainment.service"), { setting: { name: "fleet.gpus", numeric: true }, labels: ["8", "16", "24"], means,
      low: means.indexOf(Math.min(...means)), high: means.indexOf(Math.max(...means)), span: Math.max(...means) - Math.min(...means), ...more });
    // Policy b runs on 8 GPUs alone, where it is bad; then neither policy runs on 4.
    const table = (rows) => {
      const sweep = { ran: rows.map(([, , v]) => v !== null), same: {}, everywhere: new Map(), metrics: { "attainment.service": { mean: rows.map(([, , v]) => v) } } };
      const [gpus, policy] = ["fleet.gpus", "policy"].map((name, i) => readSetting(name, rows.map((row) => row[i])));
      sweep.settings = [gpus, policy];
      sweep.settings.forEach((setting) => { setting.dimension = [setting]; });
      const { means, labels, unlike, leftOut } = effectOf(sweep, gpus, "attainment.service");
      return { means, labels, unlike, leftOut };
    };
    const together = [{ name: "fleet.gpus" }, { name: "fleet.host_cache_gb" }];
    return {
      small: words([0.996, 0.998, 0.999]), early: words([0.5, 0.955, 0.951]), peak: words([0.5, 0.95, 0.86]), nothing: words([0.9, 0.9, 0.9]),
      zip: words([0.2, 0.5, 0.8], { setting: { name: "fleet.gpus", numeric: true, dimension: together } }),
      unlike: table([[2, "a", 0.75], [4, "a", 0.98], [8, "a", 1], [2, "b", null], [4, "b", null], [8, "b", 0.3]].map((row) => row[0] === 8 && row[1] === "a" ? [8, "a", null] : row)),
      partly: table([[2, "a", 0.75], [4, "a", 0.98], [8, "a", 1], [2, "b", null], [4, "b", null], [8, "b", 0.3]]),
      nowhere: table([[2, "a", 0.75], [4, "a", null], [8, "a", 1], [2, "b", 0.5], [4, "b", null], [8, "b", 0.7]]),
    };
  });
  for (const [key, words] of Object.entries(said)) if (typeof words === "string") said[key] = words.replaceAll("\u00a0", " ");
  assert.equal(said.small, "service attainment rises from 99.6 to 99.9 % as fleet.gpus goes from 8 to 24");
  assert.equal(said.early, "service attainment rises from 50.0 to 95.5 % as fleet.gpus goes from 8 to 16, and hardly beyond");
  assert.equal(said.peak, "service attainment is between 50.0 % at fleet.gpus 8 and 95.0 % at 16");
  assert.equal(said.nothing, "service attainment hardly changes with fleet.gpus: 90.0 %");
  assert.equal(said.zip, "service attainment rises from 20.0 to 80.0 % as fleet.gpus with fleet.host_cache_gb goes from 8 to 24");
  assert.equal(said.unlike.unlike, true);
  assert.deepEqual(said.partly, { means: [0.75, 0.98, 1], labels: ["2", "4", "8"], unlike: false, leftOut: 1 });
  assert.deepEqual(said.nowhere, { means: [0.625, 0.85], labels: ["2", "8"], unlike: false, leftOut: 0 });
  await page.context().close();
});

test("a Latin hypercube is a dot per point, and points that failed are crosses", async () => {
  const { page, trouble } = await open("sweep-latin");
  await page.evaluate(() => drawAllCharts());
  const rows = sweepRows("sweep-latin");
  const ran = rows.filter((row) => row.status === "ok"), failed = rows.filter((row) => row.status !== "ok");
  assert.ok(failed.length > 0 && ran.length > 40);
  assert.match(await page.textContent("h1"), new RegExp(`; ${failed.length} of 80 points failed$`));
  assert.match(await page.textContent("#sweep-failed"), new RegExp(`^${failed.length} of 80 points failed\\.`));
  await page.selectOption("#sweep-along", { label: "fleet.gpus" });
  const check = async (policies) => {
    const response = await seriesOf(page, "response");
    const drawn = response.filter(({ id }) => id.startsWith("dots-")).flatMap(({ name, data }) => data.map(({ value, point }) => [name, point, value[0], value[1]])).sort((a, b) => a[1] - b[1]);
    const wanted = rows.map((row, p) => [row.policy, p, Number(row["fleet.gpus"]), Number(row["attainment.service"])]).filter(([policy, p]) => policies.includes(policy) && rows[p].status === "ok");
    assert.deepEqual(drawn, wanted);
    const map = await seriesOf(page, "map");
    const spots = (id) => map.find((s) => s.id === id).data.map(({ value }) => value);
    assert.deepEqual(spots("dots"), wanted.map(([, p, gpus, service]) => [gpus, Number(rows[p]["slo.ttft_slo_s"]), service]));
    const crosses = rows.filter((row) => policies.includes(row.policy) && row.status !== "ok");
    assert.deepEqual(spots("failed"), crosses.map((row) => [Number(row["fleet.gpus"]), Number(row["slo.ttft_slo_s"])]));
    assert.equal((response.find(({ id }) => id === "failed") || { data: [] }).data.length, crosses.length);
  };
  await check(["muxserve", "aegaeon"]);
  await page.selectOption("select[id^=sweep-only-]", { label: "aegaeon" });
  await check(["aegaeon"]);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("points are sorted and searched, and those that failed say why", async () => {
  const { page, trouble } = await open("sweep-latin");
  const rows = sweepRows("sweep-latin");
  const column = (title) => page.$$eval("#points-table table", ([table], wanted) => {
    const i = [...table.querySelectorAll("thead tr:last-child th")].findIndex((th) => th.textContent === wanted);
    return [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
  }, title);
  assert.match(await page.textContent("#points-table .status"), /of 80$/);
  await page.click("#points-table thead button:text-is('time')");
  const best = rows.filter((row) => row.status === "ok").map((row) => Number(row["attainment.service"])).sort((a, b) => b - a).slice(0, 20);
  assert.deepEqual(await column("time"), best.map((share) => share === 1 ? "100" : Math.min(99.9, 100 * share).toFixed(1)));
  await page.fill("#points-table input[type=search]", "infeasible");
  const failed = rows.map((row, p) => [row, p]).filter(([row]) => row.status !== "ok");
  assert.ok(failed.every(([row]) => row.status === "infeasible"));
  assert.equal(await page.textContent("#points-table .status"), failed.length > 20 ? `1–20 of ${failed.length}` : `${failed.length} rows`);
  assert.deepEqual(await column("outcome"), failed.slice(0, 20).map(([row]) => `infeasible: ${row.reason}`));
  assert.deepEqual((await column("point")).map(Number), failed.slice(0, 20).map(([, p]) => p + 1));
  await page.fill("#points-table input[type=search]", rows[4].fingerprint);
  assert.ok((await column("point")).includes("5"));
  // A metric that the table has not is one of its columns when it is chosen.
  await page.selectOption("#sweep-metric", "goodput_tokens_per_s");
  assert.ok(await page.$eval("#points-table thead", (head) => head.textContent.includes("goodput, tokens/s")));
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("settings in step go along, and a policy has the colour it has elsewhere", async () => {
  const { page } = await open("sweep-step");
  await page.evaluate(() => drawAllCharts());
  const rows = sweepRows("sweep-step");
  assert.match(await page.textContent("#response .sub"), /; fleet\.host_cache_gb goes along/);
  const lines = (await seriesOf(page, "response")).filter(({ id }) => id.startsWith("line-"));
  assert.deepEqual(lines.map(({ name }) => name), ["muxserve", "aegaeon"]);
  for (const { name, data } of lines) {
    assert.deepEqual(data.map(({ value }) => value), rows.filter((row) => row.policy === name).map((row) => [Number(row["fleet.gpus"]), row.status === "ok" ? Number(row["attainment.service"]) : null]));
  }
  const colours = await page.evaluate(() => charts.find((c) => c.id === "response").instance.getOption().series.filter((s) => s.id.startsWith("line-")).map((s) => s.color));
  assert.deepEqual(colours, await page.evaluate(() => ["muxserve", "aegaeon"].map((policy) => theme().palette[kPolicyColour[policy]])));
  await page.context().close();
});

test("varied names and reasons are text on the page of a sweep", async () => {
  const { page, trouble } = await open("sweep-hostile");
  await page.evaluate(() => drawAllCharts());
  const names = ["=cmd()|{b}.csv", "<script>alert(1)<.csv"];
  assert.deepEqual([...new Set(sweepRows("sweep-hostile").map((row) => row["workload.path"]))], names);
  const cells = await page.$$eval("#points-table tbody tr", (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  for (const name of names) assert.ok(cells.some((row) => row.includes(name)), name);
  assert.ok(cells.some((row) => row.some((cell) => /^(infeasible|failed): /.test(cell))));
  const along = await page.$$eval("#sweep-along option", (list) => list.map((o) => o.textContent));
  assert.ok(along.includes("workload.path"));
  await page.selectOption("#sweep-along", { label: "workload.path" });
  const plot = page.locator("#response .plot");
  await plot.scrollIntoViewIfNeeded();
  const at = await page.evaluate(() => {
    const chart = charts.find((c) => c.id === "response").instance, series = chart.getOption().series;
    for (let i = 0; i < series.length; ++i) {
      const item = series[i].id.startsWith("line-") && series[i].data.find((d) => d.value[1] !== null && d.cell.at === 1);
      if (item) return chart.convertToPixel({ seriesIndex: i }, item.value);
    }
    return null;
  });
  const box = await plot.boundingBox();
  await page.mouse.move(box.x + at[0], box.y + at[1]);
  await page.waitForSelector("#response .tip");
  assert.match(await page.textContent("#response .tip"), /^workload\.path <script>alert\(1\)<\.csv/);
  assert.equal(await page.$$eval("main script, main img, main b, main i", (list) => list.length), 0);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("10,000 points are there and can be used", async (t) => {
  const { page, trouble, ready_ms } = await open("sweep-most");
  const drawn_ms = await page.evaluate(() => {
    const start = performance.now();
    drawAllCharts();
    return Math.round(performance.now() - start);
  });
  t.diagnostic(`ready after ${ready_ms} ms; charts are drawn in ${drawn_ms} ms`);
  assert.equal(await page.textContent("#points-table .status"), "1–20 of 10,000");
  const lines = (await seriesOf(page, "response")).filter(({ id }) => id.startsWith("line-"));
  assert.equal(lines.length, 12);
  assert.ok(lines.every(({ data }) => data.length === 100));
  assert.match(await page.textContent("#response .sub"), /12 of 100 values of /);
  assert.equal((await seriesOf(page, "map")).find(({ id }) => id === "cells").data.length, 10_000);
  await page.fill("#points-table input[type=search]", "fleet.gpus=77 ");
  assert.equal(await page.textContent("#points-table .status"), "1–20 of 100");
  await page.selectOption("#sweep-metric", "ttft_s.mean");
  assert.match(await page.textContent("#response h3"), /^TTFT, mean /);
  await page.screenshot({ path: join(work, "screenshots", "sweep-most.png") });
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("sweeps stand beside runs and each other", async () => {
  const { page, trouble } = await open("sweep-beside");
  await page.evaluate(() => drawAllCharts());
  assert.match(await page.textContent("h1"), /^serverless-llm: /); // the run's
  assert.deepEqual(await page.$$eval("main > section", (list) => list.map((s) => s.id)), ["sweep", "points", "sweep1", "points1", "service", "latency", "fleet", "workload", "assumptions"]);
  assert.match(await page.textContent("#sweep h2"), /^Sweep: results\/sweep$/);
  const before = await page.textContent("#response1 h3");
  await page.selectOption("#sweep-metric", "utilisation.busy");
  assert.match(await page.textContent("#response h3"), /^Utilisation, busy /);
  assert.equal(await page.textContent("#response1 h3"), before);
  const ids = await page.$$eval("main [id]", (list) => list.map((e) => e.id));
  assert.equal(new Set(ids).size, ids.length);
  assert.deepEqual(trouble, []);
  await page.context().close();
});

test("the page of a sweep works in the dark, in print and by keyboard", async () => {
  const { page, trouble } = await open("sweep", { colorScheme: "dark" });
  await page.evaluate(() => drawAllCharts());
  assert.deepEqual(await blankCharts(page), []);
  await page.screenshot({ path: join(work, "screenshots", "sweep-desktop-dark.png"), fullPage: true });
  const unnamed = await page.$$eval("button, select, input, [tabindex='0']", (list) => list.filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() && e.tagName !== "SELECT" || e.labels && e.labels[0] && e.labels[0].textContent.trim())).map((e) => e.outerHTML.slice(0, 80)));
  assert.deepEqual(unnamed, []);
  const reached = new Set();
  for (let i = 0; i < 60; ++i) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => document.activeElement.id || (document.activeElement.closest("[id]") || {}).id));
  }
  for (const id of ["sweep-metric", "sweep-along", "sweep-lines", "response", "map", "map-against", "effects", "points-table"]) assert.ok(reached.has(id), `${id} is not reached`);
  // What is chosen with the keys keeps the focus, though the choices beside it change.
  await page.focus("#sweep-along");
  const title = await page.textContent("#response h3");
  await page.keyboard.press("ArrowDown");
  assert.notEqual(await page.textContent("#response h3"), title);
  assert.equal(await page.evaluate(() => document.activeElement.id), "sweep-along");
  const pdf = await page.pdf({ format: "A4" });
  assert.ok(pdf.length > 50_000);
  assert.deepEqual(trouble, []);
  await page.context().close();
});
