"use strict";
// From the data in the page to the page.

function readPage() {
  const page = JSON.parse(document.getElementById("data").textContent);
  page.runs = [];
  page.infeasible = [];
  page.plans = [];
  const count = new Map();
  for (const source of page.sources) {
    source.short = source.name.split("/").filter((part) => part !== "" && part !== ".").slice(-1)[0] || source.name;
    for (const run of source.runs) {
      run.source = source;
      run.policy = run.summary.policy;
      run.feasible = run.summary.status === "ok";
      count.set(run.label, (count.get(run.label) || 0) + 1);
      if (!run.feasible) {
        page.infeasible.push(run);
        continue;
      }
      run.number = page.runs.length;
      run.end_s = run.summary.simulated_s;
      page.runs.push(run);
    }
    if (source.plan) {
      Object.assign(source.plan, { number: page.plans.length, source: source.name });
      page.plans.push(source.plan);
    }
  }
  for (const run of [...page.runs, ...page.infeasible]) {
    if (count.get(run.label) > 1) run.label = `${run.label} · ${run.source.short}`;
  }
  const labels = new Set(); // two folders may have one name
  for (const run of page.runs) {
    const label = run.label;
    for (let n = 2; labels.has(run.label); ++n) run.label = `${label} (${n})`;
    labels.add(run.label);
  }
  assignColours(page.runs);
  page.span_s = Math.max(0, ...page.runs.map((run) => run.end_s));
  page.slo = page.sources.map((source) => source.scenario && source.scenario.slo).find(Boolean);
  return page;
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const label = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    label();
    redrawCharts();
  });
  dark.addEventListener("change", () => {
    label();
    redrawCharts();
  });
  label();
  // Paper is white.
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    redrawCharts();
    drawAllCharts();
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = before;
    redrawCharts();
  });
}

addEventListener("DOMContentLoaded", () => {
  setUpTheme();
  const page = window.poolsim = readPage();
  addHeadline(page);
  addPlans(page);
  addTunes(page);
  addReproductions(page);
  addService(page);
  addLatency(page);
  addFleet(page);
  addWorkload(page);
  addAssumptions(page);
  document.documentElement.dataset.ready = "true";
});
