"use strict";
// What the page says, section by section. `runs` are the simulations of all folders, infeasible ones left out.

function addSection(id, title, lede) {
  const section = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), lede ? el("p", { class: "lede" }, lede) : null);
  document.getElementById("content").append(section);
  document.getElementById("contents").append(el("a", { href: `#${id}` }, title));
  return section;
}

const dot = (run) => el("span", { class: "dot", style: run.colour < 0 ? "background:var(--baseline)" : `background:var(--run-${run.colour})`, "aria-hidden": "true" });
const rate = (run) => run.end_s > 0 && run.summary.cost_usd !== null && run.summary.cost_usd !== undefined ? run.summary.cost_usd / run.end_s * 3600 : NaN;
const power = (run) => run.summary.power_kw && run.summary.power_kw.mean !== null ? run.summary.power_kw.mean : NaN;
const service = (run) => run.summary.attainment.service;

// ---------------------------------------------------------------------------------------------------------- headline

// Of plans that were found, that with the fewest GPUs; one that is told the future is no answer, unless there is no other.
const fewestOf = (plans) => plans.slice().sort((a, b) => a.is.oracle - b.is.oracle || a.gpus - b.gpus)[0];

// Who needs the fewest GPUs, against dedicated ones, in the first plan that has both.
function planFinding(plans) {
  for (const plan of plans) {
    const found = plan.policies.filter((p) => p.status === "found");
    const dedicated = found.find((p) => p.is.owns_fleet);
    const shared = fewestOf(found.filter((p) => !p.is.owns_fleet));
    if (dedicated && shared && !shared.is.oracle) {
      const saved = 1 - shared.gpus / dedicated.gpus;
      return { title: `${shared.policy} needs ${format.plural(shared.gpus, "GPU")} instead of ${format.number(dedicated.gpus)}`,
               saved, best: shared, dedicated, plan };
    }
    const fewest = fewestOf(found);
    if (fewest) return { title: `${fewest.policy} needs ${format.plural(fewest.gpus, "GPU")}`, best: fewest, plan };
  }
  return null;
}

// Whether runs served the same requests, as far as the folders say, and whether under the same targets.
const areSame = (runs) => new Set(runs.map((run) => run.source)).size === 1
  || (runs.every((run) => run.source.manifest.trace_hash) && new Set(runs.map((run) => run.source.manifest.trace_hash)).size === 1);
const haveSameTargets = (runs) => new Set(runs.map((run) => run.source)).size === 1
  || (runs.every((run) => run.source.scenario && run.source.scenario.slo) && new Set(runs.map((run) => targetsOf(run.source.scenario))).size === 1);
const areComparable = (runs) => areSame(runs) && haveSameTargets(runs);

function runFinding(runs) {
  // One that is told the future is no answer, only a bound.
  const shared = runs.filter((run) => !run.is.owns_fleet && !run.is.oracle).sort((a, b) => service(b) - service(a) || a.summary.gpus - b.summary.gpus)[0];
  const dedicated = shared && runs.find((run) => run.is.owns_fleet && areComparable([run, shared]));
  if (dedicated && shared.summary.gpus < dedicated.summary.gpus && service(shared) >= 0.9) {
    return { title: `${shared.label} serves the same requests on ${format.plural(shared.summary.gpus, "GPU")} instead of ${format.number(dedicated.summary.gpus)}`,
             saved: 1 - shared.summary.gpus / dedicated.summary.gpus, run: shared, dedicated };
  }
  const run = shared || runs[0];
  return run ? { title: `${run.label}: ${format.percent(service(run))} % of service time within target on ${format.plural(run.summary.gpus, "GPU")}`, run } : null;
}

function tile(value, unit, label, note) {
  return el("div", { class: "tile" }, el("div", { class: "label" }, label), el("div", { class: "value" }, value, unit ? el("span", { class: "unit" }, ` ${unit}`) : null),
    note ? el("div", { class: "note" }, note) : null);
}

// What a folder's runs were asked for, in words.
function askedOf({ scenario, manifest, sweep }) {
  const sentences = [], facts = manifest.workload;
  if (scenario && scenario.description) sentences.push(`${scenario.description.replace(/\.$/, "")}.`);
  if (facts) sentences.push(`${format.plural(facts.requests, "request")} to ${format.plural(facts.models, "model")} over ${format.seconds(facts.last_arrival_s)}.`);
  if (scenario && scenario.slo) {
    // What a sweep varies has no one value.
    const targets = [["ttft_slo_s", "to the first token"], ["tbt_slo_s", "between tokens"]];
    const isVaried = ([key]) => sweep !== undefined && sweep.varied.some(({ name }) => name === `slo.${key}`);
    const fixed = targets.filter((target) => !isVaried(target)).map(([key, words]) => `${format.seconds(scenario.slo[key])} ${words}`);
    const varied = targets.filter(isVaried).map(([, words]) => words);
    const own = hasRules({ scenario }) ? ", but for models with their own" : "";
    if (fixed.length > 0) sentences.push(`Targets: ${fixed.join(", ")}${own}.`);
    if (varied.length > 0) sentences.push(`Varied: the ${varied.length === 1 ? "target" : "targets"} ${format.list(varied)}.`);
  }
  if (sweep) sentences.push(designOf(sweep));
  return sentences.join(" ");
}
const folderNames = (sources) => format.list(sources.map((source) => source.name));

function addHeadline(page) {
  const { sources, runs, plans } = page;
  const ofRuns = runFinding(runs);
  page.best = ofRuns && ofRuns.run;
  const finding = planFinding(plans) || ofRuns || sweepFinding(sources) || tuneFinding(sources) || claimsFinding(sources) || { title: "Nothing could be simulated" };
  const names = [...new Set(sources.map((s) => (s.scenario && s.scenario.name) || s.short))];
  document.title = `${names.join(", ")} – poolsim`;
  const main = document.getElementById("content");
  const header = el("div", { class: "headline", id: "headline" });
  header.append(el("p", { class: "kicker" }, `${[...new Set(sources.map((s) => s.kind))].join(" + ")} · ${names.join(", ")}`), el("h1", {}, finding.title));
  const asked = groupsBy(sources.filter((source) => askedOf(source) !== ""), askedOf);
  if (asked.length === 1) {
    header.append(el("p", { class: "lede" }, asked[0].length === sources.length ? "" : `${folderNames(asked[0])}: `, askedOf(asked[0][0])));
  } else if (asked.length > 1) {
    header.append(el("ul", { class: "lede folders" }, asked.map((group) => el("li", {}, el("strong", {}, folderNames(group)), ` ${askedOf(group[0])}`))));
  }
  const differ = [areSame(runs) ? null : "workloads", haveSameTargets(runs) ? null : "targets"].filter(Boolean);
  if (runs.length > 1 && differ.length > 0) {
    const known = runs.every((run) => run.source.manifest.trace_hash && run.source.scenario);
    header.append(el("p", { class: "remark", id: "differ" }, el("strong", {}, `The ${differ.join(" and ")} of these folders ${known ? "differ" : "may differ"}. `),
      "Runs of one folder can be held against each other; those of different folders only with that in mind."));
  }

  const tiles = el("div", { class: "tiles" });
  if (finding.saved !== undefined) tiles.append(tile(`−${(100 * finding.saved).toFixed(0)}`, "%", "GPUs", `against ${finding.dedicated.label || finding.dedicated.policy}`));
  if (finding.best) {
    const p = finding.best, old = finding.dedicated;
    tiles.append(tile(format.percent(p.attainment.service.mean), "%", "service attainment", `target ${targetText(finding.plan)}`));
    if (p.usd_per_hour !== null) tiles.append(tile(format.number(Number(p.usd_per_hour.toPrecision(3))), "USD/h", "cost", old && old.usd_per_hour ? `${old.label || old.policy} ${format.number(Number(old.usd_per_hour.toPrecision(3)))}` : null));
    if (p.power_kw !== null) tiles.append(tile(format.number(Number(p.power_kw.toPrecision(3))), "kW", "power", old && old.power_kw ? `${old.label || old.policy} ${format.number(Number(old.power_kw.toPrecision(3)))}` : null));
    const bound = Number(Math.max(p.bound.fluid_gpus, p.bound.memory_gpus).toPrecision(3));
    tiles.append(tile(format.number(bound), bound === 1 ? "GPU" : "GPUs", "lower bound", "what no policy avoids"));
  } else if (finding.run) {
    const run = finding.run, old = finding.dedicated;
    tiles.append(tile(format.percent(service(run)), "%", "service attainment", old ? `${old.label || old.policy} ${format.percent(service(old))} %` : `of ${format.plural(run.summary.requests.total, "request")}`));
    if (Number.isFinite(rate(run))) tiles.append(tile(format.number(Number(rate(run).toPrecision(3))), "USD/h", "cost", old ? `${old.label || old.policy} ${format.number(Number(rate(old).toPrecision(3)))}` : null));
    if (Number.isFinite(power(run))) tiles.append(tile(format.number(Number(power(run).toPrecision(3))), "kW", "power, mean", old ? `${old.label || old.policy} ${format.number(Number(power(old).toPrecision(3)))}` : null));
    tiles.append(tile(format.percent(run.summary.utilisation.busy), "%", "busy", old ? `${old.label || old.policy} ${format.percent(old.summary.utilisation.busy)} %` : null));
  }
  if (finding.sweep) addSweepTiles(tiles, finding.sweep);
  if (tiles.childNodes.length > 0) header.append(tiles);
  main.append(header);

  for (const plan of plans) addPlanBars(header, plan, plans.length);
  if (runs.length > 0) {
    if (runs.length > 1 && plans.length === 0) addRunBars(header, runs);
    if (plans.length > 0) header.append(el("h3", {}, "The runs, as simulated"));
    addRunsTable(header, page);
  }
  for (const run of page.infeasible) {
    header.append(el("p", { class: "remark" }, el("strong", {}, `${run.label}: infeasible. `), run.summary.reason));
  }
}

const targetText = (plan) => {
  const words = [...Object.entries(plan.targets || {}).map(([kind, share]) => `${format.percent(share)} % ${kind}`),
                 ...Object.entries(plan.model_targets || {}).map(([kind, share]) => `${format.percent(share)} % ${kind} of every model`)];
  return format.list(words);
};

// Names stand before their bars, or above them where there is little room.
function nameAxis(t, names, narrow) {
  const above = { inside: true, margin: 0, align: "left", fontSize: 12, lineHeight: 26, formatter: (name) => `${name}\n ` }; // two lines, the bar in the second
  return axis(t, { type: "category", inverse: true, data: names, z: 3, axisTick: { show: false }, axisLine: { show: false }, splitLine: { show: false },
                   axisLabel: { color: t.text, fontSize: 13, hideOverlap: false, interval: 0, showMinLabel: true, showMaxLabel: true, ...(narrow ? above : {}) } });
}
const isNarrow = (width) => width < 520;

function barOption(t, names, width, extra) {
  return {
    grid: { left: 8, right: 116, top: extra.top, bottom: 28, containLabel: true },
    xAxis: axis(t, { type: "value", name: "GPUs", min: 0, nameGap: 26, splitNumber: 4, axisLabel: { formatter: format.short } }),
    yAxis: nameAxis(t, names, isNarrow(width)),
    ...extra.option,
  };
}

function addRunBars(parent, runs) {
  const few = runs.slice().sort((a, b) => a.summary.gpus - b.summary.gpus)[0];
  const most = Math.max(...runs.map((r) => r.summary.gpus));
  const same = areSame(runs) ? "for the same requests" : "for workloads that differ";
  addChart(parent, {
    id: "gpus", wide: true, height: 50 + 38 * runs.length, title: few.summary.gpus === most ? `${format.plural(most, "GPU")} each ${same}` : `From ${format.number(few.summary.gpus)} to ${format.plural(most, "GPU")} ${same}`,
    sub: `GPUs owned; beside the bars, the share of service time within target${haveSameTargets(runs) ? "" : "s, which differ"}`,
    option: (t, width) => barOption(t, runs.map((r) => r.label), width, { top: 4, option: {
      tooltip: { trigger: "item", formatter: (p) => tip(runs[p.dataIndex].label, [[p.color, "GPUs", format.number(p.value)], [null, "service attainment", `${format.percent(service(runs[p.dataIndex]))} %`]]) },
      legend: null,
      series: [{ id: "gpus", name: "GPUs", type: "bar", barMaxWidth: isNarrow(width) ? 10 : 20, data: runs.map((run) => ({ value: run.summary.gpus, itemStyle: { color: colourOf(run, t), borderRadius: [0, 3, 3, 0] } })),
                 label: { show: true, position: "right", color: t.text, fontSize: 12, formatter: (p) => `${format.number(p.value)}  ·  ${format.percent(service(runs[p.dataIndex]))} %` } }],
    } }),
  });
}

const coloursOfPolicies = (policies) => policies.map((policy) => ({ colour: policyColours.get(policy) }));

function addPlanBars(parent, plan, plans) {
  const found = plan.policies.filter((p) => p.status === "found");
  if (found.length === 0) return;
  const colours = coloursOfPolicies(found.map((p) => p.policy));
  const bound = (p) => Math.max(p.bound.fluid_gpus, p.bound.memory_gpus);
  const fewest = fewestOf(found), dedicated = found.find((p) => p.is.owns_fleet);
  const times = (p) => `${format.number(Number((p.gpus / bound(p)).toPrecision(2)))} times`;
  const top = (p) => Math.max(p.gpus, p.ci_high || 0);
  addChart(parent, {
    id: plans > 1 ? `plan-gpus-${plan.number}` : "plan-gpus", wide: true, height: 76 + 38 * found.length,
    title: `${fewest.policy} takes ${times(fewest)} the GPUs of its lower bound${dedicated && dedicated !== fewest ? `, ${dedicated.policy} ${times(dedicated)}` : ""}`,
    sub: `fewest GPUs for ${targetText(plan)} attainment${plan.confidence ? `; whiskers: ${format.percent(plan.confidence)} % interval` : ""}${plans > 1 ? `; ${plan.source}` : ""}`,
    option: (t, width) => barOption(t, found.map((p) => p.policy), width, { top: 30, option: {
      tooltip: { trigger: "item", formatter: (params) => {
        const p = found[params.dataIndex];
        if (p === undefined) return "";
        return tip(p.policy, [[colourOf(colours[params.dataIndex], t), "GPUs", format.number(p.gpus)],
          p.ci_low !== null ? [null, "interval", `${format.number(p.ci_low)} to ${p.ci_high === null ? "?" : format.number(p.ci_high)}`] : null,
          [null, "bound by GPU time", format.number(p.bound.fluid_gpus)], [null, "bound by memory", format.number(p.bound.memory_gpus)],
          [null, "service attainment", `${format.percent(p.attainment.service.mean)} %`]].filter(Boolean));
      } },
      legend: { data: ["GPUs", { name: "bound: GPU time", icon: "triangle" }, { name: "bound: memory", icon: "diamond" }] },
      series: [
        { id: "gpus", name: "GPUs", type: "bar", color: t.faint, barMaxWidth: isNarrow(width) ? 10 : 20, data: found.map((p, i) => ({ value: p.gpus, itemStyle: { color: colourOf(colours[i], t), borderRadius: [0, 3, 3, 0] } })) },
        { id: "labels", name: "labels", type: "scatter", symbolSize: 0, silent: true, data: found.map((p, i) => [top(p), i]),
          label: { show: true, position: "right", distance: 10, color: t.text, formatter: (q) => format.number(found[q.dataIndex].gpus) } },
        { id: "intervals", name: "interval", type: "custom", silent: true, z: 5, encode: { x: [1, 2], y: 0 },
          data: found.map((p, i) => [i, p.ci_low, p.ci_high === null ? p.ci_low : p.ci_high]).filter((d) => d[1] !== null && d[2] > d[1]),
          renderItem: (params, api) => {
            const [x1, y] = api.coord([api.value(1), api.value(0)]), x2 = api.coord([api.value(2), api.value(0)])[0];
            const line = (a, b, c, d) => ({ type: "line", shape: { x1: a, y1: b, x2: c, y2: d }, style: { stroke: t.text, lineWidth: 1.5 } });
            return { type: "group", children: [line(x1, y, x2, y), line(x1, y - 5, x1, y + 5), line(x2, y - 5, x2, y + 5)] };
          } },
        { id: "fluid", name: "bound: GPU time", type: "scatter", symbol: "triangle", symbolSize: 10, z: 6, itemStyle: { color: t.card, borderColor: t.text, borderWidth: 1.5 }, color: t.text, data: found.map((p, i) => [p.bound.fluid_gpus, i]) },
        { id: "memory", name: "bound: memory", type: "scatter", symbol: "diamond", symbolSize: 11, z: 6, itemStyle: { color: t.card, borderColor: t.text, borderWidth: 1.5 }, color: t.text, data: found.map((p, i) => [p.bound.memory_gpus, i]) },
      ],
    } }),
  });
}

function addRunsTable(parent, { runs }) {
  const dedicated = areSame(runs) && runs.find((run) => run.is.owns_fleet);
  const seconds = (v) => format.seconds(v);
  const percent = (v) => format.percent(v);
  addTable(parent, {
    id: "runs", caption: "What each run needs and delivers", rows: runs, sort: null,
    columns: [
      { title: "policy", text: true, value: (r) => r.label, cell: (r, td) => td.append(dot(r), r.label) },
      { title: "GPUs", value: (r) => r.summary.gpus, show: format.number },
      ...(dedicated && runs.length > 1 ? [{ title: `vs ${dedicated.label}`, value: (r) => r.summary.gpus / dedicated.summary.gpus - 1, show: (v) => v === 0 ? "–" : `${v < 0 ? "−" : "+"}${Math.abs(100 * v).toFixed(0)} %` }] : []),
      { title: "time", group: "% within target", help: "service attainment", value: service, show: percent },
      { title: "tokens", group: "% within target", value: (r) => r.summary.attainment.token, show: percent },
      { title: "requests", group: "% within target", value: (r) => r.summary.attainment.request, show: percent },
      { title: "p50", group: "TTFT", value: (r) => r.summary.ttft_s.p50, show: seconds },
      { title: "p99", group: "TTFT", value: (r) => r.summary.ttft_s.p99, show: seconds },
      { title: "p99", group: "TBT", value: (r) => r.summary.tbt_s.p99, show: seconds },
      { title: "busy, %", group: "fleet", value: (r) => r.summary.utilisation.busy, show: percent },
      { title: "switches", group: "fleet", value: (r) => r.summary.switches, show: format.short },
      { title: "USD/h", group: "fleet", value: rate, show: (v) => Number.isFinite(v) ? format.number(Number(v.toPrecision(3))) : "–" },
      { title: "kW", group: "fleet", value: power, show: (v) => Number.isFinite(v) ? format.number(Number(v.toPrecision(3))) : "–" },
      ...(runs.some((r) => r.summary.requests.failed > 0) ? [{ title: "failed", value: (r) => r.summary.requests.failed, show: format.short }] : []),
    ],
  });
}

// ----------------------------------------------------------------------------------------------------------- service

const lineOf = (run, t, more) => ({ id: `run-${run.number}`, name: run.label, type: "line", symbol: "none", color: colourOf(run, t),
                                    lineStyle: { width: 2, type: run.colour < 0 ? [6, 4] : "solid" }, emphasis: { focus: "series" }, ...more });
// value(i) at the start of every window; a run of a single one is a line to its end.
function overTime(run, value) {
  const points = run.windows.start_s.map((s, i) => [s * 1000, value(i)]);
  return points.length === 1 ? [...points, [run.end_s * 1000, points[0][1]]] : points;
}
const legendOf = (runs) => runs.length > 1 ? { data: runs.map((run) => run.label) } : null;

function addService(page) {
  const runs = page.runs.filter((run) => run.windows || run.models);
  if (runs.length === 0) return;
  const section = addSection("service", "Service", "The share of what was promised that came in time: by the minute, and model by model.");
  const timed = page.runs.filter((run) => run.windows);
  const served = timed.filter((run) => run.windows.service_attainment);
  const length = (list) => format.seconds(list[0].windows.length_s[0]);
  if (served.length > 0) {
    addShareOverTime(section, page, served, {
      id: "attainment", sub: `service attainment: of the requests that arrive in ${length(served)}, the share of their service time within target; failed and unfinished ones count as 0`,
      whole: (run) => run.windows.arrived_requests, share: (run, i) => run.windows.service_attainment[i],
      all: "keeps all service time within target", least: (share) => `keeps at least ${share} % of the service time of every busy window within target`,
    });
  }
  if (timed.length > 0) {
    addShareOverTime(section, page, timed, {
      id: "tokens", sub: `token by token: of the tokens delivered in ${length(timed)}, the share that came in time; requests that fail without a token are not in it`,
      whole: (run) => run.windows.output_tokens, share: (run, i) => run.windows.on_time_tokens[i] / run.windows.output_tokens[i],
      all: "delivers every token in time", least: (share) => `delivers at least ${share} % of the tokens of every busy window in time`,
    });
  }
  const failing = timed.filter((run) => sum(run.windows.failed_requests) > 0);
  if (failing.length > 0) {
    const failed = (run) => sum(run.windows.failed_requests);
    const most = failing.slice().sort((a, b) => failed(b) - failed(a))[0];
    addChart(section, {
      id: "failures", time: true, wide: true, height: 240, title: `${format.plural(failed(most), "request")} ${failed(most) === 1 ? "fails" : "fail"} under ${most.label}`,
      sub: `requests that fail or are given up by their clients, by when they do, in ${length(failing)}; the warm-up's included`,
      option: (t) => ({
        grid: { left: 64, right: 20, top: 34, bottom: 66 }, legend: legendOf(failing), xAxis: timeAxis(t, page.span_s), dataZoom: timeZooms(t, [0]),
        yAxis: axis(t, { type: "value", name: "requests", nameGap: 42, min: 0, minInterval: 1, axisLabel: { formatter: format.short } }),
        tooltip: { trigger: "axis", formatter: (params) => tip(format.clock(params[0].value[0] / 1000, page.span_s), params.map((p) => [p.color, p.seriesName, format.number(p.value[1])])) },
        series: failing.map((run) => lineOf(run, t, { data: overTime(run, (i) => run.windows.failed_requests[i]) })),
      }),
    });
  }
  addModels(section, page);
}

// Shares of a whole in every window, a line per run; nothing where a window's whole is 0.
function addShareOverTime(section, page, runs, { id, sub, whole, share, all, least }) {
  const shareOf = (run, i) => whole(run)[i] > 0 ? share(run, i) : null;
  // Windows with next to nothing, as at the end of a run, say little.
  const worst = runs.map((run) => {
    const some = 0.5 * sum(whole(run)) / whole(run).length;
    let low = 1, at = 0;
    run.windows.start_s.forEach((s, i) => { const v = shareOf(run, i); if (whole(run)[i] > some && v < low) [low, at] = [v, s]; });
    return { run, low, at };
  });
  const best = worst.find((w) => w.run === page.best) || worst[0], last = worst.slice().sort((a, b) => a.low - b.low)[0];
  const words = (w) => w.low === 1 ? all : least(format.percent(w.low));
  const title = last !== best ? `${best.run.label} ${words(best)}; ${last.run.label} falls to ${format.percent(last.low)} %`
    : best.low === 1 ? `${best.run.label} ${words(best)}` : `${best.run.label} ${words(best)}; the worst is at ${format.clock(best.at, page.span_s)}`;
  addChart(section, {
    id, title, sub, time: true, wide: true, height: 320,
    option: (t) => ({
      grid: { left: 64, right: 20, top: 34, bottom: 66 },
      legend: legendOf(runs),
      xAxis: timeAxis(t, page.span_s),
      yAxis: percentAxis(t, "", { min: (v) => Math.max(0, Math.floor((Math.min(v.min, 0.99) - 0.01) * 20) / 20) }),
      dataZoom: timeZooms(t, [0]),
      tooltip: { trigger: "axis", formatter: (params) => tip(format.clock(params[0].value[0] / 1000, page.span_s),
        params.map((p) => [p.color, p.seriesName, p.value[1] === null ? "–" : `${format.percent(p.value[1])} %`])) },
      series: runs.map((run) => lineOf(run, t, { data: overTime(run, (i) => shareOf(run, i)), connectNulls: true })),
    }),
  });
}

function addModels(section, page) {
  const runs = page.runs.filter((run) => run.models);
  if (runs.length === 0) return;
  let run = runs.includes(page.best) ? page.best : runs[0];
  const percent = (v) => format.percent(v);
  const sparks = runs.some((r) => r.model_windows);
  const rowsOf = (r) => r.models.model.map((_, i) => i);
  const column = (name, title, show, more) => ({ title, value: (i) => run.models[name][i], show, ...more });
  const heading = el("h3", {});
  const say = () => {
    const n = run.models.model.length;
    const good = run.models.attainment_service.filter((v) => v >= 0.99).length;
    heading.textContent = `${run.label}: ${format.number(good)} of ${format.plural(n, "model")} have at least 99 % of their service time within target`;
  };
  say();
  section.append(heading, el("p", { class: "sub" }, sparks ? "arrivals over time in the last column: blue where at least 99 % of a window's tokens came in time, yellow from 90 %, red below" : "sort by any column"));
  const select = runs.length > 1 ? el("label", {}, "Run ", el("select", { id: "models-run", onchange: (event) => {
    run = runs[Number(event.target.value)];
    say();
    table.setRows(rowsOf(run));
  } }, runs.map((r, i) => el("option", { value: i, selected: r === run }, r.label)))) : null;
  const table = addTable(section, {
    id: "models", caption: "Models", rows: rowsOf(run), sort: 3, search: "Search models", controls: [select],
    columns: [
      column("model", "model", undefined, { text: true }),
      column("llm", "LLM", undefined, { text: true }),
      column("pool", "pool", undefined, { text: true }),
      column("requests", "requests", format.short),
      column("attainment_service", "time", percent, { group: "% within target", help: "service attainment" }),
      column("attainment_token", "tokens", percent, { group: "% within target" }),
      column("attainment_request", "requests", percent, { group: "% within target" }),
      column("ttft_p50_s", "p50", format.seconds, { group: "TTFT" }),
      column("ttft_p99_s", "p99", format.seconds, { group: "TTFT" }),
      column("tbt_p99_s", "p99", format.seconds, { group: "TBT" }),
      column("switches", "switches", format.short),
      column("busy_gpu_s", "GPU time", format.seconds),
      ...(sparks ? [{ title: "arrivals", cell: (i, td) => { if (run.model_windows) td.append(sparkline(i, sparkOf(run))); } }] : []),
    ],
  });
  page.models = { runs, select, table };
}
const sparkOf = (run) => run.sparks || (run.sparks = { ...run.model_windows, arrived: bytesOf(run.model_windows.arrived), on_time: bytesOf(run.model_windows.on_time) });

// ----------------------------------------------------------------------------------------------------------- latency

// [upper, share at most that] from counts; the first point closes the curve at 0.
function cdf(distribution) {
  const total = sum(distribution.count);
  const floor = 1e-6; // a logarithmic axis has no 0
  let below = 0;
  const points = distribution.upper.map((upper, i) => [Math.max(floor, upper), (below += distribution.count[i]) / total]);
  return points.length > 0 ? [[points[0][0], 0], ...points] : [];
}

function addCdf(section, page, { id, quantity, name, target, title }) {
  const runs = page.runs.filter((run) => run.distributions && run.distributions[quantity] && run.distributions[quantity].count.length > 0);
  if (runs.length === 0) return;
  // Every target once, with the folders that have it where they differ.
  const targets = groupsBy(page.targets.flat().filter((source) => isNumber(source.scenario.slo[target]) && source.runs.length > 0), (source) => source.scenario.slo[target]);
  const slos = targets.map((sources) => sources[0].scenario.slo[target]);
  const dashed = targets.map((sources, i) => `${format.seconds(slos[i])}${targets.length > 1 ? ` (${folderNames(sources)})` : ""}`);
  const own = targets.flat().some(hasRules) ? ", but for models with their own" : "";
  addChart(section, {
    id, title: title(runs), height: 340, sub: `share of ${quantity === "ttft_s" ? "requests" : "gaps"} at most so long${slos.length > 0 ? `; dashed: the target${slos.length > 1 ? "s" : ""}, ${format.list(dashed)}${own}` : ""}`,
    option: (t) => ({
      grid: { left: 56, right: 20, top: 34, bottom: 46 },
      legend: legendOf(runs),
      xAxis: logSecondsAxis(t, name),
      yAxis: percentAxis(t, "", { min: 0 }),
      tooltip: { trigger: "axis", axisPointer: { type: "line", snap: false, lineStyle: { color: t.faint } }, formatter: (params) => tip(`${name.split(",")[0]} of at most ${format.seconds(params[0].axisValue)}`,
        params.map((p) => [p.color, p.seriesName, `${format.percent(p.value[1])} %`])) },
      series: runs.map((run, i) => lineOf(run, t, { step: "end", data: cdf(run.distributions[quantity]),
        markLine: i === 0 && slos.length > 0 ? { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: t.faint, type: [4, 4] }, data: slos.map((slo) => ({ xAxis: slo })) } : undefined })),
    }),
  });
}

function addLatency(page) {
  const runs = page.runs;
  if (runs.length === 0) return;
  const section = addSection("latency", "Latency", "How long requests wait for their first token and between tokens, and what they wait for.");
  const grid = el("div", { class: "pair" });
  section.append(grid);
  const p = (key, q) => (list) => list.map((run) => `${format.seconds(run.summary[key][q])} under ${run.label}`);
  addCdf(grid, page, { id: "ttft", quantity: "ttft_s", name: "TTFT", target: "ttft_slo_s", title: (list) => `Half of the first tokens come within ${format.list(p("ttft_s", "p50")(extremes(list, (r) => r.summary.ttft_s.p50)))}` });
  addCdf(grid, page, { id: "tbt", quantity: "tbt_s", name: "TBT", target: "tbt_slo_s", title: (list) => `99 % of gaps between tokens are at most ${format.list(p("tbt_s", "p99")(extremes(list, (r) => r.summary.tbt_s.p99)))}` });
  if (grid.childNodes.length === 0) grid.remove();
  const kinds = [["prefill_wait", "waiting for prefill"], ["prefill", "prefill"], ["decode_wait", "waiting for a turn"], ["decode", "decode"], ["switch", "switches"], ["kv", "KV copies"]];
  const colours = (t) => [t.name === "dark" ? "#98a2b0" : "#9aa3af", t.state.prefill, t.name === "dark" ? "#5d6875" : "#c9d0d8", t.state.decode, t.state.switch, t.state.kv_copy];
  const total = (run) => sum(kinds.map(([key]) => run.summary.breakdown_s[key] || 0));
  const decoding = runs.slice().sort((a, b) => total(a) - total(b));
  addChart(section, {
    id: "breakdown", wide: true, height: 82 + 38 * runs.length,
    title: decoding.length > 1 ? `A request takes ${format.seconds(total(decoding[0]))} under ${decoding[0].label} and ${format.seconds(total(decoding[decoding.length - 1]))} under ${decoding[decoding.length - 1].label}`
      : `A request takes ${format.seconds(total(runs[0]))}, of which ${format.seconds(runs[0].summary.breakdown_s.decode)} are decode steps`,
    sub: "mean of finished requests, by what the time went into",
    option: (t, width) => ({
      grid: { left: 8, right: 24, top: 34, bottom: 28, containLabel: true },
      legend: { data: kinds.map(([, name]) => name) },
      xAxis: axis(t, { type: "value", name: "seconds", nameGap: 26, min: 0 }),
      yAxis: nameAxis(t, runs.map((run) => run.label), isNarrow(width)),
      tooltip: { trigger: "axis", axisPointer: { type: "none" }, formatter: (params) => tip(params[0].name, [...params.map((q) => [q.color, q.seriesName, format.seconds(q.value)]), [null, "together", format.seconds(sum(params.map((q) => q.value)))]]) },
      series: kinds.map(([key, name], i) => ({ id: key, name, type: "bar", stack: "time", barMaxWidth: isNarrow(width) ? 10 : 20, color: colours(t)[i], data: runs.map((run) => run.summary.breakdown_s[key] || 0) })),
    }),
  });
}
// The first and the last by `of`, or the one there is.
function extremes(runs, of) {
  const order = runs.slice().sort((a, b) => of(a) - of(b));
  return order.length < 2 ? order : [order[0], order[order.length - 1]];
}

// ------------------------------------------------------------------------------------------------------------- fleet

function addFleet(page) {
  const runs = page.runs.filter((run) => run.windows || run.fleet);
  if (runs.length === 0) return;
  const section = addSection("fleet", "Fleet", "What every GPU did. Zoom with the sliders, ctrl + wheel (time) or alt + wheel (GPUs), or, when a chart is focused, with + − ← → along time, shift + ↑ ↓ and ↑ ↓ along GPUs, and 0 for all. Charts along time stay together, and fleets of one size along GPUs.");
  const fleets = runs.filter((run) => run.fleet);
  for (const run of fleets) run.fleetRead = readFleet(run.fleet);
  if (fleets.length > 0) {
    rankModels(fleets.map((run) => run.fleetRead));
    const names = [...modelRanks.keys()];
    const states = el("span", { class: "swatches" }, [...kStates, ...(fleets.some((run) => run.fleet.down) ? [kDown] : []), ["idle", "idle"]].map(([key, name]) => el("span", {}, el("span", { class: "swatch", style: `background:var(--state-${key})` }), name)));
    const legend = el("span", { class: "swatches", id: "fleet-legend", hidden: true });
    const redraw = () => {
      const swatch = (colour, name) => el("span", {}, el("span", { class: "swatch", style: `background:${colour}` }), name);
      states.hidden = fleetBy !== "state";
      legend.hidden = fleetBy === "state";
      if (fleetModel !== null) legend.replaceChildren(swatch(`var(--run-${kOneModel})`, fleetModel), swatch("color-mix(in srgb, var(--faint) 45%, var(--state-idle))", "other models"), el("span", {}, "by who took most of a cell's busy time; paler: more idle"));
      else legend.replaceChildren(...names.slice(0, kHues).map((name, i) => swatch(`var(--run-${i})`, name)), el("span", {}, `${names.length > kHues ? "and 14 shades for the next, then from the first again: " : ""}by busy time; paler: more idle`));
      for (const run of fleets) {
        const chart = charts.find((c) => c.id === `fleet-${run.number}`);
        if (chart && chart.instance) chart.draw();
      }
    };
    const radios = ["state", "model"].map((by) => el("input", { type: "radio", name: "fleet-by", value: by, checked: by === fleetBy, onchange: () => {
      fleetBy = by;
      if (by === "state") fleetModel = null;
      select.value = fleetModel === null ? "" : fleetModel;
      redraw();
    } }));
    const select = el("select", { id: "fleet-model", onchange: (event) => page.showModel(event.target.value) },
      el("option", { value: "" }, "all"), names.map((name) => el("option", { value: name }, name)));
    // One model in colour and the others grey; "": all of them again.
    page.showModel = (name) => {
      fleetModel = name === "" ? null : name;
      fleetBy = "model";
      radios[1].checked = true;
      select.value = name;
      redraw();
    };
    section.append(el("div", { class: "controls", role: "group", "aria-label": "Colour of the heat map" }, el("span", {}, "Colour by"),
      radios.map((radio) => el("label", {}, radio, ` ${radio.value}`)), el("label", {}, "Model ", select)), el("div", { class: "legend" }, states, legend),
      el("p", { class: "sub" }, "A click on a cell picks its model out, a second one lets it go."));
  }
  const grid = el("div", { class: runs.length > 1 ? "fleets" : null });
  section.append(grid);
  for (const run of runs) addFleetChart(grid, run, page);
}

// ---------------------------------------------------------------------------------------------------------- workload

function addWorkload(page) {
  // The requests are the same under every policy of a folder: its first run shows them.
  const first = [];
  for (const source of page.sources) {
    const run = source.runs.find((r) => r.feasible);
    if (run) first.push({ run, name: page.sources.length > 1 ? source.name : "requests" });
  }
  const seen_hashes = new Set();
  const shown = first.filter(({ run }) => {
    const hash = run.source.manifest.trace_hash;
    if (hash && seen_hashes.has(hash)) return false;
    seen_hashes.add(hash);
    return run.windows || run.models || run.distributions;
  });
  if (shown.length === 0) return;
  const section = addSection("workload", "Workload", "What was asked for: when, of which models, and how long.");
  const grid = el("div", { class: "pair" });
  section.append(grid);
  const colour = (t, i) => t.palette[[0, 4, 2, 3, 1, 5][i % 6]];
  const legend = shown.length > 1 ? { data: shown.map((s) => s.name) } : null;
  const top = shown.length > 1 ? 34 : 14;
  const timed = shown.filter(({ run }) => run.windows);
  if (timed.length > 0) {
    const rateOf = (run, i) => run.windows.length_s[i] > 0 ? run.windows.arrived_requests[i] / run.windows.length_s[i] : 0;
    // Windows cut short by the end of the run say little of a rate.
    const rates = (run) => run.windows.start_s.map((_, i) => i).filter((i) => run.windows.length_s[i] >= 0.5 * run.windows.length_s[0]).map((i) => rateOf(run, i));
    const run = timed[0].run, peak = Math.max(...rates(run)), mean = sum(run.windows.arrived_requests) / sum(run.windows.length_s);
    addChart(grid, {
      id: "arrivals", time: true, title: `${format.number(Number(mean.toPrecision(3)))} requests/s on average, ${format.number(Number(peak.toPrecision(3)))} at most`, sub: `requests that arrive, by ${format.seconds(run.windows.length_s[0])}`,
      option: (t) => ({
        grid: { left: 56, right: 20, top, bottom: 66 }, legend, xAxis: timeAxis(t, page.span_s), dataZoom: timeZooms(t, [0]),
        yAxis: axis(t, { type: "value", name: "requests/s", nameGap: 42, min: 0, axisLabel: { formatter: format.short } }),
        tooltip: { trigger: "axis", formatter: (params) => tip(format.clock(params[0].value[0] / 1000, page.span_s), params.map((p) => [p.color, p.seriesName, `${format.number(Number(p.value[1].toPrecision(3)))} /s`])) },
        series: timed.map(({ run: r, name }, i) => ({ id: `arrivals-${i}`, name, type: "line", step: "end", symbol: "none", color: colour(t, i), areaStyle: timed.length === 1 ? { opacity: 0.15 } : undefined, lineStyle: { width: 1.5 },
                                                      data: [...r.windows.start_s.map((s, k) => [s * 1000, rateOf(r, k)]), [r.end_s * 1000, rateOf(r, r.windows.start_s.length - 1)]] })),
      }),
    });
    const active = page.runs.filter((r) => r.windows);
    const most = Math.max(...active.map((r) => Math.max(0, ...r.windows.active_models_mean)));
    const models = active[0].summary.models;
    addChart(grid, {
      id: "active", time: true, title: `At most ${format.number(Number(most.toPrecision(3)))} of ${format.plural(models, "model")} have requests in the system at once`, sub: "models with a request in the system, mean of a window; slower service keeps more of them active",
      option: (t) => ({
        grid: { left: 56, right: 20, top: active.length > 1 ? 34 : 14, bottom: 66 }, legend: legendOf(active), xAxis: timeAxis(t, page.span_s), dataZoom: timeZooms(t, [0]),
        yAxis: axis(t, { type: "value", name: "models", nameGap: 42, min: 0, axisLabel: { formatter: format.short } }),
        tooltip: { trigger: "axis", formatter: (params) => tip(format.clock(params[0].value[0] / 1000, page.span_s), params.map((p) => [p.color, p.seriesName, format.number(Number(p.value[1].toPrecision(3)))])) },
        series: active.map((r) => lineOf(r, t, { data: overTime(r, (i) => r.windows.active_models_mean[i]) })),
      }),
    });
  }
  const ranked = shown.filter(({ run }) => run.models && run.models.model.length > 0);
  if (ranked.length > 0) {
    const order = (run) => run.models.requests.map((requests, i) => [requests, run.models.model[i]]).filter(([n]) => n > 0).sort((a, b) => b[0] - a[0]);
    const list = order(ranked[0].run), all = sum(list.map(([n]) => n));
    let half = 0;
    for (let got = 0; half < list.length && got < all / 2; ++half) got += list[half][0];
    addChart(grid, {
      id: "popularity", title: `Half of the requests go to ${format.number(half)} of ${format.plural(list.length, "model")}`, sub: "requests by rank of the model, both axes logarithmic",
      option: (t) => ({
        grid: { left: 56, right: 20, top, bottom: 46 }, legend,
        xAxis: axis(t, { type: "log", name: "rank", min: 1, axisLabel: { formatter: format.short } }),
        yAxis: axis(t, { type: "log", name: "requests", nameGap: 42, axisLabel: { formatter: format.short } }),
        tooltip: { trigger: "item", formatter: (p) => tip(p.value[2], [[p.color, "rank", format.number(p.value[0])], [null, "requests", format.number(p.value[1])]]) },
        series: ranked.map(({ run: r, name }, i) => ({ id: `popularity-${i}`, name, type: "scatter", symbolSize: 6, color: colour(t, i), itemStyle: { opacity: 0.75 }, data: order(r).map(([n, model], k) => [k + 1, n, model]) })),
      }),
    });
  }
  const lengths = shown.filter(({ run }) => run.distributions && run.distributions.prompt_tokens);
  if (lengths.length > 0) {
    const summary = lengths[0].run.summary;
    const requests = Math.max(1, sum(lengths[0].run.distributions.prompt_tokens.count));
    const mean = (tokens) => format.number(Math.round(tokens / requests));
    // Delivered is what was asked for where no request failed or was cut off.
    const whole = summary.requests.failed === 0 && !summary.requests.unfinished;
    const quantities = [["prompt_tokens", "prompts"], ["output_tokens", "answers"]];
    addChart(grid, {
      id: "lengths", title: `Prompts of ${mean(summary.tokens.prompt)} tokens on average, ${whole ? `answers of ${mean(summary.tokens.output)}` : `and ${mean(summary.tokens.output)} tokens of answer delivered a request under ${lengths[0].run.label}`}`, sub: "lengths as asked for: share of requests, in steps of a quarter octave",
      option: (t) => ({
        grid: { left: 56, right: 20, top: 34, bottom: 46 }, legend: {},
        xAxis: axis(t, { type: "log", name: "tokens", axisLabel: { formatter: format.short } }),
        yAxis: percentAxis(t, "", { min: 0, max: null }),
        tooltip: { trigger: "axis", formatter: (params) => tip(`about ${format.number(Math.round(params[0].axisValue))} tokens`, params.map((p) => [p.color, p.seriesName, `${format.percent(p.value[1])} %`])) },
        series: lengths.flatMap(({ run: r, name }, i) => quantities.filter(([key]) => r.distributions[key]).map(([key, words], k) => ({
          id: `lengths-${i}-${key}`, name: lengths.length > 1 ? `${name}: ${words}` : words, type: "line", step: "middle", symbol: "none", color: colour(t, 2 * i + k), lineStyle: { width: 1.5 }, areaStyle: { opacity: 0.12 },
          data: densities(r.distributions[key]) }))),
      }),
    });
  }
}

// Shares of counts in bins of a quarter octave: [middle, share].
function densities({ upper, count }) {
  const bins = new Map();
  upper.forEach((edge, i) => {
    const bin = Math.floor(4 * Math.log2(Math.max(1, edge)));
    bins.set(bin, (bins.get(bin) || 0) + count[i]);
  });
  const total = sum(count), keys = [...bins.keys()];
  const points = [];
  for (let bin = Math.min(...keys) - 1; bin <= Math.max(...keys) + 1; ++bin) points.push([2 ** ((bin + 0.5) / 4), (bins.get(bin) || 0) / total]);
  return points.filter(([x]) => x > 0);
}

// ------------------------------------------------------------------------------------------------- plan, tune, reproduce

function addPlans(page) {
  for (const source of page.sources.filter((s) => s.plan)) {
    const plan = source.plan;
    const several = page.sources.filter((s) => s.plan).length > 1;
    const found = plan.policies.filter((p) => p.status === "found");
    const section = addSection(several ? `plan-${plan.number}` : "plan", several ? `Plan: ${source.name}` : "Plan",
      `${format.plural(plan.replications, "replication")}, every size on the same requests; ${plan.searched && plan.searched.busiest_window ? "searched in the busiest" : "searched over"} ${format.seconds(plan.searched ? plan.searched.span_s : NaN)}.`);
    const curves = found.filter((p) => p.attainment_below);
    const kind = Object.keys(plan.targets)[0] || "service";
    if (curves.length > 0) {
      const colours = coloursOfPolicies(found.map((p) => p.policy));
      const below = (p) => sum(p.units.map((u) => u.below ? u.below.gpus : u.gpus || 0));
      addChart(section, {
        id: several ? `plan-curve-${plan.number}` : "plan-curve", height: 300, wide: true, title: curves.every((p) => p.attainment_below[kind].mean < plan.targets[kind]) ? "One size less misses the target" : "The answer and one size less", sub: `${kind} attainment at the answer and at the next size below; dashed: the target`,
        option: (t) => ({
          grid: { left: 64, right: 24, top: 34, bottom: 46 }, legend: { data: curves.map((p) => p.policy) },
          xAxis: axis(t, { type: "value", name: "GPUs", scale: true, minInterval: 1, axisLabel: { formatter: format.short } }),
          yAxis: percentAxis(t, "", { scale: true, max: null }),
          tooltip: { trigger: "item", formatter: (q) => tip(`${q.seriesName}, ${format.plural(q.value[0], "GPU")}`, [[q.color, `${kind} attainment`, `${format.percent(q.value[1])} %`]]) },
          series: curves.map((p, i) => ({ id: p.policy, name: p.policy, type: "line", symbol: "circle", symbolSize: 9, color: colourOf(colours[found.indexOf(p)], t), lineStyle: { width: 2 },
            data: [[below(p), p.attainment_below[kind].mean], [p.gpus, p.attainment[kind].mean]],
            markLine: i === 0 && plan.targets[kind] !== undefined ? { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: t.faint, type: [4, 4] }, data: [{ yAxis: plan.targets[kind] }] } : undefined })),
        }),
      });
    }
    const mean = (p, key) => p.attainment ? p.attainment[key].mean : NaN;
    addTable(section, {
      id: several ? `plan-table-${plan.number}` : "plan-table", caption: "Sizes", rows: plan.policies, sort: null,
      columns: [
        { title: "policy", text: true, value: (p) => p.policy },
        { title: "GPUs", value: (p) => p.gpus, show: (v) => v === undefined ? "not found" : format.number(v) },
        { title: "interval", text: true, value: (p) => p.ci_low === null || p.ci_low === undefined ? "–" : `${format.number(p.ci_low)}–${p.ci_high === null ? "?" : format.number(p.ci_high)}` },
        { title: "time", group: "% within target", value: (p) => mean(p, "service"), show: format.percent },
        { title: "tokens", group: "% within target", value: (p) => mean(p, "token"), show: format.percent },
        { title: "requests", group: "% within target", value: (p) => mean(p, "request"), show: format.percent },
        { title: "GPU time", group: "bound, GPUs", value: (p) => p.bound ? p.bound.fluid_gpus : NaN, show: format.number },
        { title: "memory", group: "bound, GPUs", value: (p) => p.bound ? p.bound.memory_gpus : NaN, show: format.number },
        { title: "busy, %", value: (p) => p.utilisation ? p.utilisation.busy : NaN, show: format.percent },
        { title: "USD/h", value: (p) => p.usd_per_hour, show: (v) => v === null || v === undefined ? "–" : format.number(Number(v.toPrecision(3))) },
        { title: "kW", value: (p) => p.power_kw, show: (v) => v === null || v === undefined ? "–" : format.number(Number(v.toPrecision(3))) },
        { title: "what binds", text: true, wrap: true, value: (p) => p.binding ? p.binding.words : p.reason || "" },
      ],
    });
    if (source.savings) {
      const s = source.savings;
      section.append(el("h3", {}, "Who frees GPUs"), el("p", { class: "sub" }, "model by model: GPUs of its own, its part of the shared ones by busy time, and the difference"));
      addTable(section, {
        id: several ? `savings-${plan.number}` : "savings", caption: "Savings by model", rows: s.model.map((_, i) => i), sort: 5, search: "Search models",
        columns: [
          { title: "model", text: true, value: (i) => s.model[i] }, { title: "pool", text: true, value: (i) => s.pool[i] },
          { title: "requests", value: (i) => s.requests[i], show: format.short },
          { title: "own", group: "GPUs", value: (i) => s.dedicated_gpus[i], show: format.number },
          { title: "in pool", group: "GPUs", value: (i) => s.pool_gpus_by_busy_time[i], show: format.number },
          { title: "freed", group: "GPUs", value: (i) => s.gpus_freed[i], show: format.number },
          { title: "of all, %", value: (i) => s.share_of_saving[i], show: (v) => (100 * v).toFixed(1) },
          { title: "time within target, %", value: (i) => s.service_attainment[i], show: format.percent },
          { title: "switches", value: (i) => s.switches[i], show: format.short },
        ],
      });
    }
  }
}

const parameterText = (value) => typeof value === "number" ? format.number(Number(value.toPrecision(4))) : String(value);

function tuneFinding(sources) {
  const source = sources.find((s) => s.tune && s.tune.points.length > 0);
  if (!source) return null;
  const best = source.tune.points[0];
  const params = format.list(Object.entries(best.params).map(([name, value]) => `${name} ${parameterText(value)}`));
  return { title: source.tune.objective === "gpus" ? `${source.tune.policy} needs ${format.plural(best.gpus, "GPU")} with ${params}` : `${source.tune.policy} serves best with ${params}: ${format.percent(best.attainment.mean)} %` };
}

function addTunes(page) {
  page.sources.filter((s) => s.tune).forEach((source, n) => {
    const tune = source.tune;
    const gpus = tune.objective === "gpus";
    const section = addSection(`tune${n || ""}`, "Tuning", `${format.plural(tune.points.length, "point")} of ${tune.policy}, ${format.plural(tune.replications, "replication")}; objective: ${gpus ? `fewest GPUs for ${format.percent(tune.target)} % ${tune.attainment} attainment` : `${tune.attainment} attainment`}.`);
    const grid = el("div", { class: "pair" });
    section.append(grid);
    tune.flatness.forEach((flat, i) => {
      const all = flat.values.every((v) => v.within);
      addChart(grid, {
        id: `tune${n || ""}-${i}`, height: 280, title: all ? `${flat.param}: the same everywhere` : flat.low === flat.high ? `${flat.param}: best at ${parameterText(flat.low)} alone` : `${flat.param}: flat from ${parameterText(flat.low)} to ${parameterText(flat.high)}`,
        sub: `${gpus ? "GPUs" : `${tune.attainment} attainment`} at each value, the other parameters at their best beside it; hollow: more than 1 % behind the best`,
        option: (t) => ({
          grid: { left: 64, right: 20, top: 14, bottom: 46 }, legend: null,
          xAxis: axis(t, { type: "category", name: flat.param, data: flat.values.map((v) => parameterText(v.value)) }),
          yAxis: gpus ? axis(t, { type: "value", scale: true, name: "GPUs", nameGap: 42 }) : percentAxis(t, "", { min: (v) => Math.floor(100 * Math.max(0, Math.min(v.min, v.max - 0.02))) / 100, max: (v) => Math.ceil(100 * v.max) / 100 }),
          tooltip: { trigger: "item", formatter: (p) => tip(`${flat.param} ${p.name}`, [[p.color, gpus ? "GPUs" : "attainment", gpus ? format.number(p.value) : `${format.percent(p.value)} %`]]) },
          series: [{ id: "best", type: "line", symbol: "circle", symbolSize: 9, color: t.palette[0], lineStyle: { width: 2 },
                     data: flat.values.map((v) => ({ value: gpus ? v.gpus : v.attainment, itemStyle: v.within ? undefined : { color: t.card, borderColor: t.palette[0], borderWidth: 2 } })) }],
        }),
      });
    });
    const points = tune.points.map((point, i) => ({ ...point, rank: i + 1 }));
    const share = (v) => v === undefined || v === null ? "–" : format.percent(v);
    addTable(section, {
      id: `tune${n || ""}-table`, caption: "Points by rank", rows: points, sort: 0, descending: false,
      columns: [
        { title: "rank", value: (p) => p.rank, show: format.number },
        ...tune.params.map((param) => ({ title: param.name, group: "parameters", value: (p) => p.params[param.name], show: parameterText })),
        { title: "GPUs", value: (p) => p.gpus, show: (v) => v === undefined || v === null ? "–" : format.number(v) },
        { title: "mean", group: "% within target", value: (p) => p.attainment ? p.attainment.mean : NaN, show: share },
        { title: "from", group: "% within target", value: (p) => p.attainment ? p.attainment.ci_low : NaN, show: (v) => share(v === null ? v : Math.max(0, v)) },
        { title: "to", group: "% within target", value: (p) => p.attainment ? p.attainment.ci_high : NaN, show: (v) => share(v === null ? v : Math.min(1, v)) },
        ...(gpus ? [] : [{ title: "behind the best, points", value: (p) => p.behind_best ? p.behind_best.mean : NaN, show: (v) => Number.isFinite(v) ? (100 * v).toFixed(2) : "–" }]),
        ...(points.some((p) => p.reason) ? [{ title: "remark", text: true, wrap: true, value: (p) => p.reason || "" }] : []),
      ],
    });
  });
}

function claimsFinding(sources) {
  const source = sources.find((s) => s.claims);
  if (!source) return null;
  const near = source.claims.filter((c) => Math.abs(c.deviation_pct) <= 10).length;
  return { title: `${format.number(near)} of ${format.plural(source.claims.length, "claim")} within 10 % of what the paper reports` };
}

function addReproductions(page) {
  page.sources.filter((s) => s.claims).forEach((source, n) => {
    const section = addSection(`claims${n || ""}`, "Claims and figures", "What the paper reports, what we find, and how far apart they are.");
    addTable(section, {
      id: `claims${n || ""}-table`, caption: "Claims", rows: source.claims, sort: null, pageSize: 50,
      columns: [
        { title: "claim", text: true, wrap: true, value: (c) => c.claim },
        { title: "figure", text: true, value: (c) => c.figure },
        { title: "ours", value: (c) => c.ours, show: (v) => format.number(Number(v.toPrecision(4))) },
        { title: "interval", text: true, value: (c) => c.ci_low === c.ci_high ? "–" : `${format.number(Number(c.ci_low.toPrecision(3)))} to ${format.number(Number(c.ci_high.toPrecision(3)))}` },
        { title: "reported", text: true, value: (c) => [].concat(c.reported).map((v) => format.number(v)).join(" to ") },
        { title: "off, %", value: (c) => c.deviation_pct, show: (v) => `${v > 0 ? "+" : v < 0 ? "−" : ""}${Math.abs(v).toFixed(1)}` },
        { title: "note", text: true, wrap: true, value: (c) => c.note || "" },
      ],
    });
    for (const figure of source.figures) {
      section.append(el("figure", { class: "image" }, el("figcaption", {}, el("h3", {}, `Figure ${figure.name}${figure.title ? `: ${figure.title}` : ""}`)),
        el("img", { src: `data:image/png;base64,${figure.png}`, alt: `Figure ${figure.name}: ${figure.title}` })));
    }
  });
}

// ------------------------------------------------------------------------------------------------------- assumptions

function addAssumptions(page) {
  const section = addSection("assumptions", "Assumptions", "Where these numbers come from, and how to get them again.");
  for (const source of page.sources) {
    const m = source.manifest;
    const box = el("div", { class: "box" });
    if (page.sources.length > 1) box.append(el("h3", {}, source.name));
    const list = el("dl");
    const fact = (name, value) => { if (value !== null && value !== undefined && value !== "") list.append(el("dt", {}, name), el("dd", {}, value)); };
    const code = (text) => el("code", {}, text);
    if (m.command) fact("To run it again", code(m.command));
    fact("poolsim", `${m.poolsim_version}${m.poolsim_commit ? `, commit ${m.poolsim_commit}` : ""}`);
    if (m.fingerprint) fact("Fingerprint", code(m.fingerprint));
    for (const [policy, print] of Object.entries(m.fingerprints || {})) if (print) fact(`Fingerprint, ${policy}`, code(print));
    fact("Seed", m.seed === undefined ? null : String(m.seed));
    if (source.sweep) {
      fact("Varied", m.sweep.vary.map((text) => el("div", {}, code(text))));
      if (m.sweep.policies.length > 0) fact("Policies", m.sweep.policies.join(", "));
      fact("Design", `${m.sweep.design}, ${format.plural(m.sweep.points, "point")}, ${format.plural(m.sweep.replications, "replication")}${source.sweep.replicated ? ": each with the next seed, means and 95 % intervals are over them" : ""}`);
      if (source.sweep.failed < source.sweep.count) fact("Fingerprints", "a point each, in the table of points");
    }
    if (m.trace_hash) fact("Hash of the requests", code(m.trace_hash));
    if (m.workload) {
      fact("Workload", m.workload.path || m.workload.source);
      if (m.workload.rows_skipped > 0) fact("Rows skipped", `${format.number(m.workload.rows_skipped)}, the first: ${m.workload.first_skipped}`);
    }
    if (m.forecast) fact("Forecast", `from ${m.forecast.from}, in windows of ${format.seconds(m.forecast.window_s)}`);
    for (const run of source.runs) if (run.feasible && run.windows && run.windows.merged > 1) { fact("Windows", `${run.windows.merged} together on this page`); break; }
    if (source.missing && source.missing.length > 0) fact("Not in the folder", `${format.list(source.missing)}: the charts made of ${source.missing.length === 1 ? "it" : "them"} are left out`);
    box.append(list);
    if (source.profile) addProfile(box, source.profile);
    const json = (title, value) => box.append(el("details", {}, el("summary", {}, title), el("pre", { tabindex: "0" }, JSON.stringify(value, null, 2))));
    if (source.scenario) json(source.sweep ? "Scenario, with every default, before anything is varied" : "Scenario, with every default", source.scenario);
    json("Manifest", m);
    section.append(box);
  }
}

function addProfile(parent, profile) {
  const kinds = { held_out: "held out", in_sample: "in the fit's sample", batch_extrapolation: "larger batches than fitted", token_extrapolation: "longer steps than fitted",
                  leave_one_model_out: "LLMs left out", leave_one_gpu_out: "GPUs left out", published: "published steps" };
  const rows = [];
  const take = (errors, where) => {
    for (const [kind, by] of Object.entries(errors || {})) {
      if (by === null || typeof by !== "object") continue;
      for (const [step, e] of Object.entries(by)) {
        if (e && Number.isFinite(e.median_pct)) rows.push({ where, kind: kinds[kind] || kind.replace(/_/g, " "), step, ...e });
      }
    }
  };
  take(profile.errors_on_gpu, "this GPU");
  take(profile.errors, "all GPUs");
  parent.append(el("h3", {}, `Prices: ${profile.name}`), el("p", { class: "sub" }, [profile.help, profile.source, profile.date].filter(Boolean).join(". ")));
  if (rows.length === 0) return;
  addTable(parent, {
    caption: `How far the prices of ${profile.name} are off`, rows, sort: null, pageSize: 10,
    columns: [
      { title: "predicted", text: true, value: (e) => e.kind }, { title: "on", text: true, value: (e) => e.where }, { title: "step", text: true, value: (e) => e.step },
      { title: "median", group: "relative error, %", value: (e) => e.median_pct, show: format.number }, { title: "p90", group: "relative error, %", value: (e) => e.p90_pct, show: format.number },
      { title: "points", value: (e) => e.points, show: format.number },
    ],
  });
}
