"use strict";
// From the data in the page to the page.

function readPage() {
  const page = JSON.parse(document.getElementById("data").textContent);
  page.runs = [];
  page.infeasible = [];
  page.plans = [];
  const count = new Map();
  let sweeps = 0;
  for (const source of page.sources) {
    source.short = source.name.split("/").filter((part) => part !== "" && part !== ".").slice(-1)[0] || source.name;
    for (const run of source.runs) {
      run.source = source;
      run.policy = run.summary.policy;
      run.is = page.policies[run.policy];
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
    if (source.sweep) readSweep(source, sweeps++);
    if (source.plan) {
      Object.assign(source.plan, { number: page.plans.length, source: source.name });
      for (const policy of source.plan.policies) policy.is = page.policies[policy.policy];
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
  const ofSweeps = page.sources.filter((source) => source.sweep).flatMap(({ sweep }) => [...new Set(sweep.policy)].map((policy) => ({ policy })));
  nameColours([...page.runs, ...page.plans.flatMap((plan) => plan.policies), ...ofSweeps], page.policies);
  assignColours(page.runs);
  page.span_s = Math.max(0, ...page.runs.map((run) => run.end_s));
  page.targets = groupsBy(page.sources.filter((source) => source.scenario && source.scenario.slo), (source) => targetsOf(source.scenario));
  return page;
}

// The targets of a scenario as one text, the same for the same targets: its own, and those of rules for single models.
function targetsOf(scenario) {
  const rules = (scenario.models || []).filter((rule) => isNumber(rule.ttft_slo_s) || isNumber(rule.tbt_slo_s));
  return JSON.stringify([scenario.slo.ttft_slo_s, scenario.slo.tbt_slo_s, rules.map((rule) => [rule.match, rule.ttft_slo_s, rule.tbt_slo_s])]);
}
const hasRules = (source) => JSON.parse(targetsOf(source.scenario))[2].length > 0;

// The page's head has set the theme that the system asks for; a switch has the last word.
function setUpTheme() {
  const root = document.documentElement.dataset;
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;
  const set = (theme) => {
    root.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
    redrawCharts();
  };
  button.addEventListener("click", () => {
    chosen = true;
    set(root.theme === "dark" ? "light" : "dark");
  });
  dark.addEventListener("change", () => { if (!chosen) set(dark.matches ? "dark" : "light"); });
  set(root.theme);
  // Paper is white.
  let before;
  addEventListener("beforeprint", () => {
    before = root.theme;
    set("light");
    drawAllCharts();
  });
  addEventListener("afterprint", () => set(before));
}

addEventListener("DOMContentLoaded", () => {
  setUpTheme();
  const page = window.poolsim = readPage();
  addHeadline(page);
  addPlans(page);
  addTunes(page);
  addSweeps(page);
  addReproductions(page);
  addService(page);
  addLatency(page);
  addFleet(page);
  addWorkload(page);
  addAssumptions(page);
  document.documentElement.dataset.ready = "true";
});
