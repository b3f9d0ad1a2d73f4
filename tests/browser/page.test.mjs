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
    const canvas = instance.getDom().querySelector("canvas");
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
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

for (const name of ["compare", "several", "planning", "hostile", "differ", "failing"]) {
  test(`${name}: opens without a request or an error, and every chart draws something`, async (t) => {
    const { page, trouble, ready_ms } = await open(name);
    t.diagnostic(`ready after ${ready_ms} ms`);
    assert.deepEqual(await blankCharts(page), []);
    assert.ok(await page.evaluate(() => charts.length) >= 3);
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

for (const name of ["compare", "planning", "hostile"]) {
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
