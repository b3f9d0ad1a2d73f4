"use strict";
// Sweeps: what the varied settings do to a metric, and every point.

// The keys of summary.json as people call them (docs/metrics.md): [key, or what it begins with, words, kind, group]. Kinds say how
// values are read: shares, seconds, or a number of the unit that is named.
const kMetricNames = [
  ["attainment.service", "service attainment", "share", "Within target"],
  ["attainment.token", "token attainment", "share", "Within target"],
  ["attainment.request", "request attainment", "share", "Within target"],
  ["attainment.request_gaps", "request attainment by raw gaps", "share", "Within target"],
  ["goodput_tokens_per_s", "goodput", "tokens/s", "Within target"],
  ["fairness.worst_decile", "service attainment of the worst tenth of models", "share", "Within target"],
  ["fairness.tenants.worst_decile", "service attainment of the worst tenth of tenants", "share", "Within target"],
  ["fairness.jain", "fairness over models (Jain)", "", "Within target"],
  ["fairness.tenants.jain", "fairness over tenants (Jain)", "", "Within target"],
  ["ttft_s", "TTFT", "seconds", "Latency"],
  ["tbt_s", "TBT", "seconds", "Latency"],
  ["tpot_s", "TPOT", "seconds", "Latency"],
  ["e2e_s", "E2E", "seconds", "Latency"],
  ["breakdown_s", "part of a request's time", "seconds", "Latency"],
  ["kv_sync_s", "KV synchronisation", "seconds", "Latency"],
  ["gpus", "GPUs", "GPUs", "Fleet"],
  ["stranded_gpus", "stranded GPUs", "GPUs", "Fleet"],
  ["instances", "instances", "instances", "Fleet"],
  ["models", "models", "models", "Fleet"],
  ["models_per_gpu", "models per GPU", "models/GPU", "Fleet"],
  ["active_models_mean", "active models, mean", "models", "Fleet"],
  ["gpu_hours", "GPU-hours", "GPU-h", "Fleet"],
  ["cost_usd", "cost", "USD", "Fleet"],
  ["energy_kwh", "energy", "kWh", "Fleet"],
  ["power_kw", "power", "kW", "Fleet"],
  ["utilisation", "utilisation", "share", "Fleet"],
  ["switches", "switches", "switches", "Switches and memory"],
  ["switching.from", "switches with weights from", "switches", "Switches and memory"],
  ["switching.latency_s", "switch time", "seconds", "Switches and memory"],
  ["switching.stages_s", "stages of switches, sum", "seconds", "Switches and memory"],
  ["switching.prefetches", "prefetches", "prefetches", "Switches and memory"],
  ["switching.host_cache", "host cache", "loads", "Switches and memory"],
  ["switching.bytes_from", "weights read", "bytes", "Switches and memory"],
  ["bytes_moved", "traffic between hosts and GPUs", "bytes", "Switches and memory"],
  ["kv_fragmentation", "KV fragmentation", "share", "Switches and memory"],
  ["requests.failed_by", "requests that failed", "requests", "Requests and tokens"],
  ["requests", "requests", "requests", "Requests and tokens"],
  ["tokens", "tokens", "tokens", "Requests and tokens"],
  ["failures.down_gpu_hours", "GPU-hours down", "GPU-h", "What failed"],
  ["failures.tokens_recomputed", "tokens recomputed", "tokens", "What failed"],
  ["failures.by", "failures", "failures", "What failed"],
  ["failures.requests", "requests at failures", "requests", "What failed"],
  ["simulated_s", "simulated time", "seconds", "The run"],
];
const kNoMetric = ["events"]; // of the simulator, not of what is simulated
const kService = "attainment.service";

function metricOf(key) {
  const known = kMetricNames.filter(([start]) => key === start || key.startsWith(`${start}.`)).sort((a, b) => b[0].length - a[0].length)[0];
  const [start, words, kind, group] = known || [key, key, "", "Others"];
  const rest = key.slice(start.length + 1).replace(/[._]/g, " ").replace(/\bkv\b/, "KV").replace(/\bnvme\b/, "NVMe");
  const plural = /^(stranded |active )?(GPUs|instances|models|GPU-hours|switches|stages|prefetches|requests|tokens|failures|weights)\b/.test(words);
  const share = kind === "share", seconds = kind === "seconds";
  const plain = (v) => format.short(Number(v.toPrecision(4)));
  const unit = share || seconds || !kind || words.includes(kind) ? "" : kind === "bytes" ? "B" : `\u00a0${kind}`;
  const is = (v) => v !== null && Number.isFinite(v);
  return {
    key, group, place: known ? kMetricNames.indexOf(known) : kMetricNames.length, share, seconds, verb: (verb) => plural ? verb : `${verb}s`, is: plural ? "are" : "is", name: rest ? `${words}, ${rest}` : words, unit: share || seconds ? "" : kind,
    show: (v) => !is(v) ? "–" : share ? `${format.percent(v)}\u00a0%` : seconds ? format.seconds(v) : `${plain(v)}${unit}`,
    // Where the unit is named beside it.
    plain: (v) => !is(v) ? "–" : share ? format.percent(v) : seconds ? format.seconds(v) : plain(v),
    // What lies between two values of it.
    difference: (v) => !is(v) ? "–" : share ? `${(100 * v).toFixed(1)} percentage points` : seconds ? format.seconds(v) : `${plain(v)}${unit}`,
    // From one to another, the unit once.
    fromTo: (a, b) => share ? `from ${format.percent(a)} to ${format.percent(b)}\u00a0%` : `from ${seconds ? format.seconds(a) : plain(a)} to ${seconds ? format.seconds(b) : `${plain(b)}${unit}`}`,
    isNothing: (v, most) => share ? Math.abs(v) < 1e-3 : Math.abs(v) <= 5e-3 * Math.abs(most),
    clamp: (v) => share && v !== null ? Math.max(0, Math.min(1, v)) : v, // Student's intervals know of no bounds
  };
}
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
// Whole numbers as they are, others to so many digits. Formats are dear to make, and there are 10,000 numbers.
const kWhole = new Intl.NumberFormat("en-US"), kDigits = new Map([3, 4, 6, 9].map((digits) => [digits, new Intl.NumberFormat("en-US", { maximumSignificantDigits: digits })]));
const settingText = (value, digits = 6) => typeof value !== "number" ? value === "" ? "(empty)" : value : (Number.isInteger(value) ? kWhole : kDigits.get(digits)).format(value);
const meanOf = (values) => sum(values) / values.length;

// ------------------------------------------------------------------------------------------------------ what there is

// A varied setting: its levels in order (numbers by size, texts as they come) and as texts, the level of every point, and the
// scale on which the levels are spread more evenly.
function readSetting(name, values) {
  const numeric = values.every(isNumber);
  const levels = [...new Set(values)];
  if (numeric) levels.sort((a, b) => a - b);
  const index = new Map(levels.map((level, i) => [level, i]));
  const unevenness = (list) => {
    const gaps = list.slice(1).map((v, i) => v - list[i]), mean = meanOf(gaps);
    return Math.sqrt(meanOf(gaps.map((gap) => (gap - mean) ** 2))) / mean;
  };
  const log = numeric && levels.length > 1 && levels[0] > 0 && levels[levels.length - 1] > 4 * levels[0]
    && (levels.length === 2 ? levels[1] >= 10 * levels[0] : unevenness(levels.map(Math.log)) < unevenness(levels));
  // As few digits as tell the levels apart; those of a large random design may look alike.
  let texts = [];
  for (const digits of kDigits.keys()) {
    texts = levels.map((level) => settingText(level, digits));
    if (levels.length > 50 || new Set(texts).size === levels.length) break;
  }
  return { name, values, numeric, levels, texts, log, level: values.map((value) => index.get(value)), isPolicy: /(^|\.)policy(\.name)?$/.test(name) && !numeric };
}

function readSweep(source, number) {
  const sweep = source.sweep, { policies } = source.manifest.sweep;
  sweep.number = number;
  sweep.source = source;
  sweep.count = sweep.status.length;
  sweep.ran = sweep.status.map((status) => status === "ok");
  sweep.failed = sweep.ran.filter((ran) => !ran).length;
  sweep.everywhere = new Map(); // of keys that are the same at all points, as if they were not
  sweep.replicated = sweep.replications > 1;
  const varied = sweep.varied.map(({ name, values }) => readSetting(name, values));
  const policy = policies.length > 0 ? [readSetting("policy", sweep.policy)] : [];
  sweep.settings = [...varied, ...policy];
  sweep.latin = sweep.design === "lhs";
  sweep.zip = sweep.design === "zip";
  // Settings that can be chosen apart from each other; those of a zip go together.
  sweep.dimensions = (sweep.zip && varied.length > 1 ? [varied, policy] : sweep.settings.map((setting) => [setting])).filter((d) => d.some((s) => s.levels.length > 1));
  sweep.dimensions.forEach((dimension) => dimension.forEach((setting) => { setting.dimension = dimension; }));
  sweep.open = sweep.dimensions.flat().filter((setting) => setting.levels.length > 1);
  sweep.keys = [...Object.keys(sweep.metrics), ...(sweep.same[kService] !== undefined ? [kService] : [])].filter((key) => !kNoMetric.includes(key));
}

// What the points have of a key: mean, low and high, null where there is nothing.
function pointsOf(sweep, key) {
  if (sweep.metrics[key]) return sweep.metrics[key];
  if (sweep.everywhere.has(key)) return sweep.everywhere.get(key);
  const all = sweep.ran.map((ran) => ran && sweep.same[key] !== undefined ? sweep.same[key] : null);
  sweep.everywhere.set(key, { mean: all, low: all, high: all });
  return sweep.everywhere.get(key);
}
const textAt = (setting, p) => setting.texts[setting.level[p]];
const pointText = (sweep, p) => sweep.settings.map((s) => s.isPolicy && s.name === "policy" ? s.values[p] : `${s.name} ${textAt(s, p)}`).join(", ");
const atLevel = (setting, text) => setting.isPolicy ? `under ${text}` : `at ${setting.name} ${text}`;

// What a setting does to a metric: the mean at each of its levels, over those combinations of the other settings of which all
// could be run, so that all levels are held against each other on the same ones. Of a Latin hypercube, which has no such
// combinations, over quarters of the points by the setting's value.
function effectOf(sweep, setting, key) {
  const { mean } = pointsOf(sweep, key);
  const points = mean.map((_, p) => p).filter((p) => mean[p] !== null);
  const found = (labels, groups, more) => {
    const kept = groups.map((group, i) => ({ label: labels[i], values: group })).filter(({ values }) => values.length > 0);
    if (kept.length === 0) return null;
    const means = kept.map(({ values }) => meanOf(values));
    const low = means.indexOf(Math.min(...means)), high = means.indexOf(Math.max(...means));
    return { setting, labels: kept.map(({ label }) => label), means, low, high, span: means[high] - means[low], ...more };
  };
  if (sweep.latin && setting.numeric) {
    const rank = rankCorrelation(points.map((p) => setting.values[p]), points.map((p) => mean[p]));
    if (setting.levels.length > 8) {
      const order = points.map((p) => setting.values[p]).sort((a, b) => a - b);
      const edges = [0.25, 0.5, 0.75].map((share) => order[Math.floor(share * order.length)]);
      const groups = [[], [], [], []];
      for (const p of points) groups[edges.filter((edge) => setting.values[p] >= edge).length].push(p);
      const range = (group) => {
        const values = group.map((p) => setting.values[p]);
        return `${settingText(Math.min(...values), 3)}–${settingText(Math.max(...values), 3)}`;
      };
      return found(groups.map((group) => group.length > 0 ? range(group) : ""), groups.map((group) => group.map((p) => mean[p])), { rank, quarters: true });
    }
    return found(setting.texts, setting.levels.map((_, l) => points.filter((p) => setting.level[p] === l).map((p) => mean[p])), { rank });
  }
  const others = sweep.settings.filter((other) => other !== setting && (!setting.dimension || !setting.dimension.includes(other)));
  const blocks = groupsBy(points, (p) => others.map((other) => other.level[p]).join(" "));
  const levelsIn = (block) => new Set(block.map((p) => setting.level[p])).size;
  const levels = levelsIn(points);  // of which any point ran
  const whole = blocks.filter((block) => levelsIn(block) === levels);
  const used = (whole.length > 0 ? whole : blocks).flat();
  const groups = setting.levels.map(() => []);
  for (const p of used) groups[setting.level[p]].push(mean[p]);
  return found(setting.texts, groups, { leftOut: whole.length > 0 ? blocks.length - whole.length : 0, unlike: whole.length === 0 });
}

// Spearman's: of the ranks, equal values sharing theirs.
function rankCorrelation(xs, ys) {
  const ranks = (values) => {
    const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]), rank = [];
    for (let from = 0, to; from < order.length; from = to) {
      for (to = from; to < order.length && values[order[to]] === values[order[from]]; ++to);
      for (let i = from; i < to; ++i) rank[order[i]] = (from + to - 1) / 2;
    }
    return rank;
  };
  const a = ranks(xs), b = ranks(ys), middle = (xs.length - 1) / 2;
  const dot = (u, v) => sum(u.map((x, i) => (x - middle) * (v[i] - middle)));
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

// From the first to the last where that is the way they go, by and large; else 0.
function trendOf(means) {
  const change = means[means.length - 1] - means[0];
  const way = sum(means.slice(1).map((v, i) => Math.abs(v - means[i])));
  return way <= 1.2 * Math.abs(change) ? change : 0;
}

// "service attainment rises from 45.1 to 99.9 % as fleet.gpus goes from 3 to 16", of means at levels in order.
function effectWords(metric, { setting, labels, means, low, high, span, quarters }) {
  const name = setting.dimension ? setting.dimension.map((s) => s.name).join(" with ") : setting.name;
  if (means.length === 1) return `${metric.name} ${metric.is} ${metric.show(means[0])} at ${name} ${labels[0]}, the only value that ran`;
  const last = means.length - 1, change = trendOf(means);
  if (metric.isNothing(span, means[high])) return `${metric.name} hardly ${metric.verb("change")} with ${name}: ${metric.show(meanOf(means))}`;
  if (!setting.numeric) {
    const where = (i) => setting.isPolicy ? `under ${labels[i]}` : `with ${setting.name} ${labels[i]}`;
    return means.length === 2 ? `${metric.name} ${metric.is} ${metric.show(means[high])} ${where(high)} and ${metric.show(means[low])} ${where(low)}`
      : `${metric.name} ${metric.is} between ${metric.show(means[low])} ${where(low)} and ${metric.show(means[high])} ${where(high)}`;
  }
  if (change !== 0) {
    const words = (to) => `${metric.name} ${metric.verb(change > 0 ? "rise" : "fall")} ${metric.fromTo(means[0], means[to])}`;
    if (quarters) return `${words(last)} from the lowest to the highest quarter of ${name}`;
    // Where all but a twentieth of the way is done.
    const there = means.findIndex((_, i) => means.slice(i).every((v) => Math.abs(v - means[last]) <= 0.05 * Math.abs(change)));
    return `${words(there)} as ${name} goes from ${labels[0]} to ${labels[there]}${there < last ? ", and hardly beyond" : ""}`;
  }
  return `${metric.name} ${metric.is} between ${metric.show(means[low])} at ${name} ${labels[low]} and ${metric.show(means[high])} at ${labels[high]}`;
}

// ---------------------------------------------------------------------------------------------------------- headline

const effectsOf = (sweep, key) => sweep.dimensions.map((d) => d.find((s) => s.levels.length > 1)).map((s) => effectOf(sweep, s, key)).filter(Boolean).sort((a, b) => b.span - a.span);

function sweepFinding(sources) {
  const source = sources.find((s) => s.sweep);
  if (!source) return null;
  const { sweep } = source, of = sources.filter((s) => s.sweep).length > 1 ? `${source.short}: ` : "";
  const all = format.plural(sweep.count, "point");
  if (sweep.failed === sweep.count) return { title: `${of}${sweep.count === 1 ? "The one point failed" : `None of ${all} could be run`}`, sweep };
  const metric = metricOf(kService);
  const top = effectsOf(sweep, kService).filter((effect) => !effect.unlike)[0];
  const { mean, low, high } = pointsOf(sweep, kService), values = mean.filter((v) => v !== null);
  const interval = sweep.replicated ? meanOf(mean.map((v, p) => v === null ? null : (high[p] - low[p]) / 2).filter((v) => v !== null)) : 0;
  const least = Math.min(...values), most = Math.max(...values);
  const goes = `${metric.name} goes ${metric.fromTo(least, most)}`;
  const words = metric.isNothing(most - least, most) ? `${metric.name} is ${metric.show(meanOf(values))} at ${sweep.count === 1 ? "the one point" : sweep.failed > 0 ? "every point that ran" : `all ${all}`}`
    : !top ? `${goes} over the points that ran` : metric.isNothing(top.span, most) ? `${goes}, by no setting alone`
    : top.span <= interval ? `${goes}, and no setting changes it by more than the intervals over replications` : effectWords(metric, top);
  return { title: `${of}${of ? words : capital(words)}${sweep.failed > 0 ? `; ${format.number(sweep.failed)} of ${all} failed` : ""}`, sweep };
}

// "24 points: every combination of fleet.gpus (4 values) and policy (2), 3 replications each."
function designOf(sweep) {
  const named = sweep.settings.map((s, i) => `${s.name} (${i === 0 ? format.plural(s.levels.length, "value") : format.number(s.levels.length)})`);
  const policy = sweep.settings[sweep.settings.length - 1].name === "policy" && sweep.settings.length > sweep.varied.length;
  const own = policy ? named.slice(0, -1) : named;
  const design = sweep.latin ? `a Latin hypercube over ${format.list(sweep.varied.map((v) => v.name))}` : sweep.zip && own.length > 1 ? `${format.list(own)} in step` : null;
  const words = design === null ? (named.length === 1 ? `the values of ${named[0].replace(/ \(.*/, "")}` : `every combination of ${format.list(named)}`) : `${design}${policy ? `, each under ${format.plural(sweep.settings[sweep.settings.length - 1].levels.length, "policy").replace(/policys$/, "policies")}` : ""}`;
  return `${format.plural(sweep.count, "point")}: ${words}${sweep.replicated ? `, ${format.number(sweep.replications)} replications each` : ""}.`;
}

function addSweepTiles(tiles, sweep) {
  const metric = metricOf(kService), { mean, low, high } = pointsOf(sweep, kService);
  const gpus = pointsOf(sweep, "gpus").mean;
  tiles.append(tile(format.number(sweep.count - sweep.failed), sweep.failed > 0 ? `of ${format.number(sweep.count)}` : "", "points that ran", sweep.replicated ? `${format.number(sweep.replications)} replications each` : "one run each"));
  const points = mean.map((_, p) => p).filter((p) => sweep.ran[p]);
  if (points.length === 0) return;
  const number = (v) => format.percent(v);
  const order = points.slice().sort((a, b) => mean[b] - mean[a] || gpus[a] - gpus[b]);
  const best = order[0], worst = order[order.length - 1];
  tiles.append(tile(number(mean[best]), "%", "most service attainment", pointText(sweep, best)));
  if (best !== worst) tiles.append(tile(number(mean[worst]), "%", "least service attainment", pointText(sweep, worst)));
  const enough = points.filter((p) => (sweep.replicated ? low : mean)[p] >= 0.99).sort((a, b) => gpus[a] - gpus[b] || mean[b] - mean[a]);
  if (sweep.metrics.gpus && enough.length > 0) tiles.append(tile(format.number(gpus[enough[0]]), gpus[enough[0]] === 1 ? "GPU" : "GPUs", sweep.replicated ? "fewest with all of the 95 % interval above 99 % service attainment" : "fewest with 99 % service attainment", pointText(sweep, enough[0])));
  if (sweep.replicated) {
    const [from, to] = [low, high].map((list) => (p) => metric.clamp(list[p]));
    const widest = points.reduce((a, b) => to(b) - from(b) > to(a) - from(a) ? b : a);
    if (to(widest) - from(widest) >= 1e-3) tiles.append(tile(`${number(from(widest))}–${number(to(widest))}`, "%", "widest 95 % interval", pointText(sweep, widest)));
  }
}

// ------------------------------------------------------------------------------------------------------------- charts

// Of one level to the next: lighter on dark ground, darker on light; of the map, from dark to light.
const kRamp = { light: ["#440154", "#3f4889", "#287d8e", "#1f9d82"], dark: ["#5b7fd6", "#33a3b6", "#62cf86", "#f3e54a"] };
const kHeat = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
function ramp(stops, share) {
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
  return `rgb(${mixed(rgb(stops[i]), rgb(stops[i + 1]), at - i).join(",")})`;
}
const kMostLines = 12, kMostOptions = 200, kMostWhiskers = 40, kMostSymbols = 60;
const kCross = "path://M0,0L8,8M8,0L0,8";
const kSymbols = ["circle", "rect", "triangle", "diamond"], kSymbolNames = ["circles", "squares", "triangles", "diamonds"];

// At most so many of a list, evenly, both ends included.
const someOf = (list, most) => list.length <= most ? list : Array.from({ length: most }, (_, i) => list[Math.round(i * (list.length - 1) / (most - 1))]);

// Policies have their colours, numbers a ramp, other texts the palette.
function levelColour(setting, level, t) {
  if (setting === null) return t.palette[0];
  const name = setting.levels[level];
  if (setting.isPolicy && policyColours.has(name)) return colourOf({ colour: policyColours.get(name) }, t);
  if (setting.numeric && setting.levels.length > 2) return ramp(kRamp[t.name], level / (setting.levels.length - 1));
  return t.palette[level % t.palette.length];
}

// Along a setting: numbers as numbers, texts side by side.
function settingAxis(t, setting, width) {
  const { levels } = setting;
  if (!setting.numeric) {
    return axis(t, { axisLine: offZero(t), type: "value", min: -0.5, max: levels.length - 0.5, name: setting.name, splitLine: { show: false },
      axisTick: { show: false }, axisLabel: { customValues: levels.map((_, i) => i), formatter: (i) => setting.texts[Math.round(i)], hideOverlap: true,
                                              overflow: "truncate", width: Math.max(48, (width - 90) / levels.length - 8), showMinLabel: true, showMaxLabel: true } });
  }
  const low = levels[0], high = levels[levels.length - 1];
  const labels = { formatter: (v) => settingText(Number(v.toPrecision(6))), showMinLabel: false, showMaxLabel: false };
  const whole = { ...labels, showMinLabel: true, showMaxLabel: true };
  if (setting.log) {
    const steps = [];
    for (let ten = 10 ** Math.floor(Math.log10(low)); ten <= high; ten *= 10) steps.push(...[1, 2, 5].map((k) => k * ten));
    const inside = steps.map((v) => Number(v.toPrecision(6))).filter((v) => v >= low && v <= high);
    const ticks = levels.length <= 10 ? levels : someOf(inside, 10);
    const pad = (high / low) ** 0.03;
    return axis(t, { axisLine: offZero(t), type: "log", name: `${setting.name}, logarithmic`, min: low / pad, max: high * pad, splitLine: { show: false }, axisTick: { customValues: ticks }, axisLabel: { ...whole, customValues: ticks } });
  }
  const pad = 0.03 * (high - low);
  const ticks = levels.length <= 10 ? { axisTick: { customValues: levels }, axisLabel: { ...whole, customValues: levels } } : { axisLabel: labels };
  return axis(t, { axisLine: offZero(t), type: "value", name: setting.name, min: low - pad, max: high + pad, splitLine: { show: false }, ...ticks });
}
const placeOf = (setting, level) => setting.numeric ? setting.levels[level] : level;

// From the least to the most of what is drawn, to round numbers; logarithmic where they are far apart.
function metricScale(metric, values) {
  const low = Math.min(...values), high = Math.max(...values);
  if (values.length === 0) return { min: 0, max: 1, interval: 0.2 };
  if (!metric.share && low > 0 && high > 100 * low) return { log: true, min: 10 ** Math.floor(Math.log10(low)), max: 10 ** Math.ceil(Math.log10(high)) };
  const from = !metric.share && low >= 0 && low < 0.7 * high ? 0 : low;
  const span = high - from || Math.abs(high) * 0.1 || (metric.share ? 0.02 : 1);
  const size = 10 ** Math.floor(Math.log10(span)), step = span / size > 5 ? 2 * size : span / size > 2.5 ? size : span / size > 1.2 ? size / 2 : size / 5;
  const round = (v) => Number(v.toPrecision(9));
  let min = from === 0 ? 0 : round(Math.floor((from - 0.02 * span) / step) * step), max = round(Math.ceil((high + 0.02 * span) / step) * step);
  if (low >= 0) min = Math.max(0, min);
  if (metric.share) max = Math.min(1, max);
  return { log: false, min, max, interval: step };
}
const offZero = (t) => ({ onZero: false, lineStyle: { color: t.line } }); // axes stay at the edge
const metricAxis = (t, metric, { log, min, max, interval }) => metric.share ? percentAxis(t, "", { min, max, interval, axisLine: offZero(t) })
  : axis(t, { axisLine: offZero(t), type: log ? "log" : "value", min, max, interval: log ? undefined : interval, name: `${metric.unit}${log ? `${metric.unit ? ", " : ""}logarithmic` : ""}`, nameGap: 52,
              axisLabel: { formatter: (v) => metric.seconds ? format.seconds(Number(v.toPrecision(6))) : format.short(Number(v.toPrecision(6))) } });

// What is drawn at a place: the mean over the points there, how far they or their replications are apart, and those that failed.
function cellOf(sweep, metric, points) {
  const { mean, low, high } = pointsOf(sweep, metric.key);
  const ran = points.filter((p) => mean[p] !== null);
  if (ran.length === 0) return { points, ran, mean: null, low: null, high: null };
  const values = ran.map((p) => mean[p]);
  const spread = points.length > 1 ? [Math.min(...values), Math.max(...values)] : sweep.replicated ? [metric.clamp(low[ran[0]]), metric.clamp(high[ran[0]])] : [null, null];
  return { points, ran, mean: meanOf(values), low: spread[0], high: spread[1] };
}
const failedIn = (cell) => cell.points.length - cell.ran.length;
// Rows of a tooltip about it.
function cellRows(sweep, metric, cell, colour, name) {
  const many = cell.points.length > 1;
  if (cell.mean === null) {
    const [p] = cell.points;
    return [[colour, name, many ? `all ${format.number(cell.points.length)} points failed` : sweep.ran[p] ? "–" : `${sweep.status[p]}: ${shorter(sweep.reason[p])}`]];
  }
  const spread = cell.low !== null && cell.high > cell.low ? ` (${metric.show(cell.low)} to ${metric.show(cell.high)})` : "";
  return [[colour, name, `${metric.show(cell.mean)}${spread}`], failedIn(cell) > 0 ? [null, "", `${format.number(failedIn(cell))} of ${format.plural(cell.points.length, "point")} failed`] : null].filter(Boolean);
}
const shorter = (text) => text.length > 90 ? `${text.slice(0, 88)}…` : text;

// -------------------------------------------------------------------------------------------------------- the section

function addSweeps(page) {
  const sweeps = page.sources.filter((s) => s.sweep).map((s) => s.sweep);
  for (const sweep of sweeps) addSweep(sweep, sweeps.length > 1 ? `: ${sweep.source.name}` : "");
}

function addSweep(sweep, of) {
  const id = (name) => `${name}${sweep.number || ""}`;
  const section = addSection(id("sweep"), `Sweep${of}`, "What the varied settings do. Choose a metric, what it is drawn along, and what the lines are.");
  if (sweep.failed > 0) section.append(failureRemark(sweep));
  const state = { metric: metricOf(sweep.keys.includes(kService) ? kService : sweep.keys[0] || kService), x: null, lines: null, against: null, only: new Map() };
  // The strongest setting along, the next in colour; a policy rather in colour.
  const strongest = effectsOf(sweep, kService).map((effect) => effect.setting);
  const order = [...strongest, ...sweep.open.filter((s) => !strongest.includes(s))];
  state.x = order.find((s) => s.numeric) || order[0] || null;
  const apart = (setting) => sweep.open.filter((s) => s.dimension !== setting.dimension);
  const firstOf = (list) => list.find((s) => s.isPolicy) || list.find((s) => order.includes(s)) || null;
  if (state.x !== null) {
    const rest = order.filter((s) => s.dimension !== state.x.dimension);
    state.lines = sweep.latin ? rest.find((s) => !s.numeric) || null : firstOf(rest);
    state.against = firstOf(sweep.latin ? rest.filter((s) => s.numeric) : rest) || rest[0] || null;
  }

  const parts = []; // what is shown anew when something else is chosen
  const show = () => parts.forEach((part) => part());
  if (state.x !== null && sweep.failed < sweep.count) {
    const controls = el("div", { class: "controls", role: "group", "aria-label": "What the charts show" });
    section.append(controls);
    fillControls(controls);
    parts.push(addResponse(section, sweep, state, id("response"), filterWords));
    if (state.against !== null && !(sweep.zip && sweep.dimensions.length < 2)) parts.push(addMap(section, sweep, state, id("map"), { apart, controlId: id("map-against"), filterWords, show: () => show() }));
    parts.push(addEffects(section, sweep, state, id("effects")));

    function fillControls() {
      const choice = (label, name, options, chosen, change) => el("label", {}, `${label} `, el("select", { id: name, onchange: (event) => { change(event.target.value); } },
        options.map(([value, text]) => el("option", { value, selected: value === chosen }, text))));
      const metrics = sweep.keys.map(metricOf), groups = groupsBy(metrics.sort((a, b) => a.place - b.place), (m) => m.group);
      const metric = el("label", {}, "Metric ", el("select", { id: id("sweep-metric"), onchange: (event) => { state.metric = metricOf(event.target.value); show(); } },
        groups.map((group) => el("optgroup", { label: group[0].group }, group.map((m) => el("option", { value: m.key, selected: m.key === state.metric.key }, m.name))))));
      const again = () => { fillControls(); show(); };
      const number = (setting) => String(sweep.settings.indexOf(setting));
      const along = choice("Along", id("sweep-along"), sweep.open.map((s) => [number(s), s.name]), number(state.x), (value) => {
        state.x = sweep.settings[Number(value)];
        const rest = apart(state.x);
        if (state.lines !== null && !rest.includes(state.lines)) state.lines = firstOf(rest);
        if (!rest.includes(state.against)) state.against = rest.find((s) => s === state.lines) || firstOf(rest);
        again();
      });
      const rest = apart(state.x);
      const lines = rest.length === 0 ? null : choice(sweep.latin ? "Colour" : "A line per", id("sweep-lines"), [["", "–"], ...rest.map((s) => [number(s), s.name])], state.lines === null ? "" : number(state.lines), (value) => {
        state.lines = value === "" ? null : sweep.settings[Number(value)];
        again();
      });
      // The settings that are left: one value, or all.
      const left = sweep.latin ? rest.filter((s) => !s.numeric) : sweep.dimensions.filter((d) => d !== state.x.dimension && (state.lines === null || d !== state.lines.dimension)).map((d) => d.find((s) => s.levels.length > 1));
      for (const setting of [...state.only.keys()]) if (!left.includes(setting)) state.only.delete(setting);
      const filters = left.map((setting) => choice(setting.name, `${id("sweep-only")}-${number(setting)}`,
        [["", sweep.latin ? "all" : "all (mean)"], ...someOf(setting.levels.map((_, l) => l), kMostOptions).map((l) => [String(l), setting.texts[l]])],
        state.only.has(setting) ? String(state.only.get(setting)) : "", (value) => {
          if (value === "") state.only.delete(setting);
          else state.only.set(setting, Number(value));
          show();
        }));
      const focused = document.activeElement && controls.contains(document.activeElement) ? document.activeElement.id : null;
      controls.replaceChildren(...[metric, along, lines, ...filters].filter(Boolean));
      if (focused !== null && document.getElementById(focused)) document.getElementById(focused).focus(); // it was made anew
    }
  }
  addPoints(sweep, state, id, of, parts);
  show();

  // What goes along, is averaged or held, in words, of a chart that shows these settings; and what else is to be said.
  function filterWords(shown, some) {
    const held = [...state.only].filter(([s]) => !shown.some((other) => other && other.dimension === s.dimension)).map(([s, l]) => `${s.name} ${s.texts[l]}`);
    const over = sweep.latin ? [] : sweep.dimensions.filter((d) => !shown.some((s) => s && s.dimension === d) && !d.some((s) => state.only.has(s))).map((d) => d.map((s) => s.name).join(" with "));
    const step = sweep.zip && sweep.varied.length > 1 && shown.some((s) => s && s.dimension.length > 1) ? shown.filter((s) => s && s.dimension.length > 1).flatMap((s) => s.dimension.filter((other) => other !== s).map((other) => other.name)) : [];
    return [step.length > 0 ? `${format.list(step)} ${step.length === 1 ? "goes" : "go"} along` : null, over.length > 0 ? `mean over ${format.list(over)}` : null, held.length > 0 ? `only ${format.list(held)}` : null, some].filter(Boolean).join("; ");
  }
}

function failureRemark(sweep) {
  const failed = sweep.ran.map((_, p) => p).filter((p) => !sweep.ran[p]);
  const reasons = groupsBy(failed, (p) => `${sweep.status[p]}: ${sweep.reason[p]}`).sort((a, b) => b.length - a.length);
  const told = reasons.slice(0, 3).map(([first, ...others]) => el("li", {}, `${others.length > 0 ? `${format.number(others.length + 1)} points ${sweep.status[first]}, the first at` : `${sweep.status[first]}, at`} ${pointText(sweep, first)}: ${sweep.reason[first]}`));
  return el("div", { class: "remark", id: `sweep-failed${sweep.number || ""}` }, el("strong", {}, `${format.number(failed.length)} of ${format.plural(sweep.count, "point")} failed. `),
    el("ul", {}, told), reasons.length > told.length ? `The table of points has the others' reasons.` : null);
}

// The points that the filters let through.
const chosenPoints = (sweep, state, but) => sweep.ran.map((_, p) => p).filter((p) => [...state.only].every(([s, l]) => but.includes(s) || s.level[p] === l));

// A metric along a setting, a line per value of another one; of a Latin hypercube, a dot per point.
function addResponse(parent, sweep, state, id, filterWords) {
  const read = () => {
    const { metric, x, lines } = state;
    const points = chosenPoints(sweep, state, [x, lines]);
    if (sweep.latin) return { points: chosenPoints(sweep, state, [x]) };
    const levels = lines === null ? [0] : someOf(lines.levels.map((_, l) => l), kMostLines);
    const rows = levels.map((level) => {
      const mine = groupsBy(points.filter((p) => lines === null || lines.level[p] === level), (p) => x.level[p]);
      const cells = mine.map((group) => ({ at: x.level[group[0]], ...cellOf(sweep, metric, group) })).sort((a, b) => a.at - b.at);
      return { level, name: lines === null ? metric.name : lines.texts[level], cells };
    });
    const values = rows.flatMap(({ cells }) => cells.flatMap((c) => [c.mean, c.low, c.high])).filter((v) => v !== null);
    return { points, rows, scale: metricScale(metric, values) };
  };
  let now = read();
  const title = () => {
    const { metric, x, lines } = state;
    if (sweep.latin) {
      const values = pointsOf(sweep, metric.key).mean, list = now.points.filter((p) => values[p] !== null);
      if (!x.numeric) return capital(effectWords(metric, effectOf(sweep, x, metric.key)));
      const rank = rankCorrelation(list.map((p) => x.values[p]), list.map((p) => values[p]));  // of chance alone: within 2 / sqrt(n - 1)
      const of = Number.isFinite(rank) ? ` (rank correlation ${signed(rank)})` : "";
      return `${capital(metric.name)} ${!(Math.abs(rank) >= Math.max(0.3, 1.96 / Math.sqrt(list.length - 1))) ? `hardly ${metric.verb("depend")} on` : `${metric.verb(rank > 0 ? "rise" : "fall")} with`} ${x.name}${of}`;
    }
    const drawn = now.rows.map((row) => ({ ...row, cells: row.cells.filter((c) => c.mean !== null) })).filter((row) => row.cells.length > 0);
    if (drawn.length === 0) return `None of these points could be run`;
    const effect = (row) => {
      const means = row.cells.map((c) => c.mean);
      const low = means.indexOf(Math.min(...means)), high = means.indexOf(Math.max(...means));
      return { setting: x, labels: row.cells.map((c) => x.texts[c.at]), means, low, high, span: means[high] - means[low] };
    };
    if (drawn.length === 1) return capital(`${effectWords(metric, effect(drawn[0]))}${lines === null ? "" : ` ${atLevel(lines, drawn[0].name)}`}`);
    const all = drawn.flatMap((row) => row.cells.map((c) => c.mean)), most = Math.max(...all);
    if (metric.isNothing(most - Math.min(...all), most)) return `${capital(metric.name)} ${metric.is} ${metric.show(meanOf(all))} at every value of ${x.name} and ${lines.name}`;
    // Of the lines, those that are lowest and highest where all are.
    const common = x.levels.map((_, l) => l).filter((l) => drawn.every((row) => row.cells.some((c) => c.at === l)));
    const height = (row) => meanOf(row.cells.filter((c) => common.length === 0 || common.includes(c.at)).map((c) => c.mean));
    const byHeight = drawn.slice().sort((a, b) => height(a) - height(b)), lowest = byHeight[0], highest = byHeight[byHeight.length - 1];
    const words = (row) => {
      const { means, low, high } = effect(row);
      const way = x.numeric && trendOf(means) !== 0;
      const words = metric.isNothing(means[high] - means[low], means[high]) ? metric.show(meanOf(means))
        : way ? metric.fromTo(means[0], means[means.length - 1]) : metric.fromTo(means[low], means[high]).replace(/^from (.*) to /, "between $1 and ");
      return `${words} ${atLevel(lines, row.name)}`;
    };
    return `${capital(metric.name)} ${x.numeric ? `along ${x.name}` : `by ${x.name}`}: ${words(highest)}, ${words(lowest)}`;
  };
  const sub = () => {
    const { metric, x, lines } = state;
    if (sweep.latin) return filterWords([x], [`a dot per point${lines !== null ? `, coloured by ${lines.name}` : ""}`, x.numeric ? "line: the mean of neighbours" : null, sweep.failed > 0 ? "crosses: points that failed" : null].filter(Boolean).join("; "));
    const cells = now.rows.flatMap((row) => row.cells);
    const averaged = cells.some((c) => c.points.length > 1), spread = cells.some((c) => c.low !== null);
    const mark = isBand() ? "bands" : "whiskers";
    const words = [
      spread ? averaged ? `${mark}: the lowest and the highest of the points averaged` : `${mark}: 95 % interval over ${format.number(sweep.replications)} replications` : null,
      lines !== null && lines.levels.length > kMostLines ? `${format.number(kMostLines)} of ${format.number(lines.levels.length)} values of ${lines.name}` : null,
      cells.some((c) => c.mean === null) ? "crosses: points that failed" : null,
      cells.some((c) => c.mean !== null && failedIn(c) > 0) ? "hollow: some of the points failed" : null,
    ].filter(Boolean).join("; ");
    return [`${metric.name}${metric.unit ? ` [${metric.unit}]` : ""}${lines !== null ? `, a line per value of ${lines.name}` : ""}`, filterWords([x, lines], words)].filter(Boolean).join("; ");
  };
  const isBand = () => state.x.numeric && state.x.levels.length > kMostWhiskers;
  const figure = addChart(parent, { id, title: title(), sub: sub(), wide: true, height: 380, anew: true, option: (t, width) => sweep.latin ? latinResponse(sweep, state, now.points, t, width) : lineResponse(t, width) });
  const chart = charts[charts.length - 1];

  function lineResponse(t, width) {
    const { metric, x, lines } = state, { rows, scale } = now;
    const text = !x.numeric;
    // Beside each other at the places of texts, so that whiskers are apart.
    const step = Math.min(0.14, 0.7 / rows.length);
    const place = (row, i) => (cell) => text ? cell.at + (i - (rows.length - 1) / 2) * step : placeOf(x, cell.at);
    const series = rows.flatMap((row, i) => {
      const at = place(row, i), colour = levelColour(lines, row.level, t), dense = row.cells.length > kMostSymbols;
      const symbol = lines !== null && !lines.numeric ? kSymbols[Math.floor(row.level / t.palette.length) % kSymbols.length] : "circle";
      const line = {
        id: `line-${row.level}`, name: row.name, type: "line", color: colour, symbol, symbolSize: 8, showSymbol: !dense, sampling: dense ? "lttb" : undefined, z: 4,
        lineStyle: { width: text ? 0 : 2 }, emphasis: { focus: "series" },
        data: row.cells.map((cell) => ({ value: [at(cell), cell.mean], cell, itemStyle: cell.mean !== null && failedIn(cell) > 0 ? { color: t.card, borderColor: colour, borderWidth: 2 } : undefined })),
      };
      const spread = row.cells.filter((cell) => cell.low !== null && cell.high > cell.low);
      if (spread.length === 0) return [line];
      return [line, isBand() ? bandSeries(row, at, colour) : {
        id: `spread-${row.level}`, name: row.name, type: "custom", silent: true, color: colour, z: 3, encode: { x: 0, y: [1, 2] }, data: spread.map((cell) => [at(cell), cell.low, cell.high]),
        renderItem: (params, api) => {
          const [px, low] = api.coord([api.value(0), api.value(1)]), upper = api.coord([api.value(0), api.value(2)])[1];
          const stroke = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colour, lineWidth: 1.5, opacity: 0.75 } });
          return { type: "group", children: [stroke(px, low, px, upper), stroke(px - 4, low, px + 4, low), stroke(px - 4, upper, px + 4, upper)] };
        },
      }];
    });
    const failed = rows.flatMap((row, i) => row.cells.filter((cell) => cell.mean === null).map((cell) => ({ value: [place(row, i)(cell), scale.min], cell, row })));
    if (failed.length > 0) {
      series.push({ id: "failed", name: "failed", type: "scatter", symbol: kCross, symbolSize: 8, z: 6, data: failed, clip: false, itemStyle: { color: "transparent", borderColor: t.text, borderWidth: 1.8 } });
    }
    const nameOf = (level) => x.texts[level];
    const few = !text && rows.length <= kMostLines;
    return {
      grid: { left: 64, right: 24, top: lines === null ? 14 : 38, bottom: 50 },
      legend: lines === null ? null : { data: rows.map((row) => row.name), formatter: (name) => lines.isPolicy ? name : `${shortName(lines.name)} ${name}` },
      xAxis: settingAxis(t, x, width), yAxis: metricAxis(t, metric, scale), series,
      tooltip: few ? { trigger: "axis", axisPointer: { type: "line", lineStyle: { color: t.faint } }, formatter: (params) => {
        const found = params.filter((p) => p.data && p.data.cell);
        if (found.length === 0) return "";
        const at = found[0].data.cell.at;
        return tip(`${x.name} ${nameOf(at)}`, found.flatMap((p) => cellRows(sweep, metric, p.data.cell, p.seriesId === "failed" ? null : p.color, p.seriesId === "failed" ? (lines === null ? "failed" : p.data.row.name) : p.seriesName)));
      } } : { trigger: "item", formatter: (p) => tip(`${x.name} ${nameOf(p.data.cell.at)}`, cellRows(sweep, metric, p.data.cell, p.seriesId === "failed" ? null : p.color, p.seriesId === "failed" ? p.data.row.name : p.seriesName)) },
    };
  }
  // The stretches in which there is something, as areas.
  function bandSeries(row, at, colour) {
    const stretches = [[]];
    for (const cell of row.cells) {
      if (cell.low === null) stretches.push([]);
      else stretches[stretches.length - 1].push(cell);
    }
    const shown = stretches.filter((stretch) => stretch.length > 1);
    return {
      id: `spread-${row.level}`, name: row.name, type: "custom", silent: true, color: colour, z: 2, encode: { x: 0, y: 1 }, clip: true,
      data: shown.map((stretch) => [at(stretch[0]), stretch[0].low]),
      renderItem: (params, api) => {
        const stretch = shown[params.dataIndex];
        const points = [...stretch.map((cell) => api.coord([at(cell), cell.high])), ...stretch.slice().reverse().map((cell) => api.coord([at(cell), cell.low]))];
        return { type: "polygon", shape: { points }, style: { fill: colour, opacity: 0.18 } };
      },
    };
  }
  return () => {
    now = read();
    nameChart(figure, title(), sub());
    if (chart.instance !== null) chart.draw();
  };
}
const signed = (v) => `${v < 0 ? "−" : ""}${Math.abs(v).toFixed(2)}`;
const shortName = (name) => name.split(".").slice(-1)[0];

function latinResponse(sweep, state, points, t, width) {
  const { metric, x, lines } = state, { mean } = pointsOf(sweep, metric.key);
  const ran = points.filter((p) => mean[p] !== null), failed = points.filter((p) => !sweep.ran[p]);
  const scale = metricScale(metric, ran.map((p) => mean[p]));
  const at = (p) => placeOf(x, x.level[p]);
  const byNumber = lines !== null && lines.numeric;
  const groups = lines === null || byNumber ? [{ level: null, points: ran }] : lines.levels.map((_, level) => ({ level, points: ran.filter((p) => lines.level[p] === level) }));
  const series = groups.flatMap(({ level, points: mine }) => {
    const colour = level === null ? t.palette[0] : levelColour(lines, level, t);
    const name = level === null ? metric.name : lines.texts[level];
    const dots = { id: `dots-${level}`, name, type: "scatter", color: colour, symbolSize: mine.length > 2000 ? 4 : 8, itemStyle: { opacity: 0.75 },
                   data: mine.map((p) => ({ value: [at(p), mean[p], byNumber ? lines.values[p] : 0], point: p })) };
    // A running mean over a tenth of the points says what a cloud does.
    const order = mine.slice().sort((a, b) => at(a) - at(b)), reach = Math.max(2, Math.round(order.length / 20));
    const steps = order.map((p, i) => i).filter((i) => i === 0 || at(order[i]) !== at(order[i - 1])); // where a value begins
    const around = (i, next) => order.slice(Math.max(0, i - reach), next + reach).map((p) => mean[p]);
    const trend = !x.numeric || order.length < 10 ? [] : [{ id: `trend-${level}`, name, type: "line", color: byNumber ? t.faint : colour, symbol: "none", silent: true, z: 3, lineStyle: { width: 2.5, type: byNumber ? [6, 4] : "solid" },
      data: steps.map((i, k) => [at(order[i]), meanOf(around(i, k + 1 < steps.length ? steps[k + 1] : order.length))]) }];
    return [dots, ...trend];
  });
  if (failed.length > 0) series.push({ id: "failed", name: "failed", type: "scatter", symbol: kCross, symbolSize: 7, z: 6, clip: false, data: failed.map((p) => ({ value: [at(p), scale.min], point: p })), itemStyle: { color: "transparent", borderColor: t.text, borderWidth: 1.5 } });
  return {
    grid: { left: 64, right: 24, top: lines === null ? 14 : byNumber ? 52 : 38, bottom: 50 },
    legend: lines !== null && !byNumber ? { data: lines.texts } : null,
    visualMap: byNumber ? colourBar(t, lines.levels, settingText, lines.name, series.findIndex((s) => s.id === "dots-null"), width) : undefined,
    xAxis: settingAxis(t, x, width), yAxis: metricAxis(t, metric, scale), series,
    tooltip: { trigger: "item", formatter: (p) => p.data && p.data.point !== undefined ? pointTip(sweep, metric, p.data.point) : "" },
  };
}

// All that is known of a point, short.
function pointTip(sweep, metric, p) {
  const cell = cellOf(sweep, metric, [p]);
  return tip(`point ${format.number(p + 1)}`, [...sweep.settings.map((s) => [null, s.name, textAt(s, p)]), ...cellRows(sweep, metric, cell, null, metric.name)]);
}

// From the least to the most; what hardly differs looks alike.
function coloursFrom(values) {
  const min = Math.min(...values), max = Math.max(...values), little = 0.02 * (Math.max(Math.abs(min), Math.abs(max)) || 1);
  return [Math.min(min, max - little), max];
}

// A bar from the least to the most in the colours of the map; `series` is the index of what it colours.
function colourBar(t, values, show, name, series, width) {
  const [min, max] = coloursFrom(values);
  return { type: "continuous", seriesIndex: series, dimension: 2, min, max, orient: "horizontal", left: 0, top: 0, itemWidth: 12, itemHeight: isNarrow(width) ? 110 : 150, calculable: false,
           inRange: { color: kHeat }, text: [show(max), `${isNarrow(width) ? "" : `${name}  `}${show(min)}`], textStyle: { color: t.text, fontSize: 12 }, formatter: (v) => show(v) };
}

// A metric over two settings: a cell per combination; of a Latin hypercube, a dot per point.
function addMap(parent, sweep, state, id, { apart, controlId, filterWords, show }) {
  const controls = el("div", { class: "controls" });
  parent.append(controls);
  const read = () => {
    const { metric, x, against: y } = state;
    const points = chosenPoints(sweep, state, [x, y]);
    if (sweep.latin) return { points };
    const cells = groupsBy(points, (p) => x.level[p] * y.levels.length + y.level[p]).map((group) => ({ x: x.level[group[0]], y: y.level[group[0]], ...cellOf(sweep, metric, group) }));
    return { points, cells };
  };
  let now = read();
  const title = () => {
    const { metric, x, against: y } = state;
    const { mean } = pointsOf(sweep, metric.key);
    const values = sweep.latin ? now.points.filter((p) => mean[p] !== null).map((p) => ({ mean: mean[p], text: `${x.name} ${textAt(x, p)} and ${y.name} ${textAt(y, p)}` }))
      : now.cells.filter((c) => c.mean !== null).map((c) => ({ mean: c.mean, text: `${x.name} ${x.texts[c.x]} and ${y.name} ${y.texts[c.y]}` }));
    if (values.length === 0) return "None of these points could be run";
    const best = values.reduce((a, b) => b.mean > a.mean ? b : a), worst = values.reduce((a, b) => b.mean < a.mean ? b : a);
    if (metric.isNothing(best.mean - worst.mean, best.mean)) return `${capital(metric.name)} ${metric.is} ${metric.show(meanOf(values.map((v) => v.mean)))} everywhere`;
    return `${capital(metric.name)} ${metric.is} ${metric.show(worst.mean)} at ${worst.text}, ${metric.show(best.mean)} at ${best.text}`;
  };
  const sub = () => {
    const { metric, x, against: y } = state;
    const failed = sweep.latin ? now.points.some((p) => !sweep.ran[p]) : now.cells.some((c) => c.mean === null);
    const policies = policiesBeside(sweep, state);
    const first = sweep.latin ? `a mark per point, by ${x.name} and ${y.name}, coloured by ${metric.name}${policies ? `; side by side ${format.list(policies.levels.map((level, i) => `${level} (${kSymbolNames[i % kSymbols.length]})`))}` : ""}` : `${metric.name} by ${x.name} and ${y.name}`;
    return [first, filterWords([x, y], failed ? "crosses: points that failed" : "")].filter(Boolean).join("; ");
  };
  const figure = addChart(parent, { id, title: title(), sub: sub(), wide: true, height: 340, anew: true, option: (t, width) => sweep.latin ? latinMap(sweep, state, now.points, t, width) : heatMap(t, width) });
  const chart = charts[charts.length - 1];
  const top = 46, bottom = 54;
  const size = () => { chart.plot.style.height = `${sweep.latin ? 420 : top + bottom + Math.max(120, Math.min(520, state.against.levels.length * 34))}px`; };

  function heatMap(t, width) {
    const { metric, x, against: y } = state;
    const values = now.cells.filter((c) => c.mean !== null);
    const range = values.map((c) => c.mean), [low, high] = coloursFrom(range);
    const widest = Math.max(...y.texts.map((text) => text.length));
    const left = Math.min(150, 44 + 7 * widest), room = (width - left - 24) / x.levels.length;
    const labels = room >= (metric.share ? 44 : 58) && now.cells.length <= 300;
    const light = (v) => (v - low) / (high - low) > 0.62; // ground of the text
    const names = (setting, option) => axis(t, { type: "category", data: setting.texts, name: setting.name, axisTick: { show: false }, splitLine: { show: false }, ...option });
    return {
      grid: { left, right: 24, top, bottom, outerBoundsMode: "none" }, legend: null,
      visualMap: values.length > 0 ? colourBar(t, range, metric.show, metric.name, 0, width) : undefined,
      xAxis: names(x, { nameGap: 32, axisLabel: { overflow: "truncate", width: Math.max(40, room - 6) } }),
      yAxis: names(y, { nameGap: left - 18, axisLabel: { interval: Math.ceil(y.levels.length / 16) - 1, overflow: "truncate", width: left - 40 } }),
      series: [
        { id: "cells", name: metric.name, type: "heatmap", progressive: 0, data: values.map((c) => ({ value: [c.x, c.y, c.mean], cell: c, label: { show: labels, color: light(c.mean) ? "#16202c" : "#ffffff", fontSize: 11, formatter: () => metric.plain(c.mean) } })),
          itemStyle: now.cells.length <= 2500 ? { borderColor: t.card, borderWidth: 1 } : {}, emphasis: { itemStyle: { borderColor: t.text, borderWidth: 2 } } },
        { id: "failed", name: "failed", type: "scatter", symbol: kCross, symbolSize: Math.max(3, Math.min(9, room / 2)), data: now.cells.filter((c) => c.mean === null).map((c) => ({ value: [c.x, c.y], cell: c })), itemStyle: { color: "transparent", borderColor: t.faint, borderWidth: 1.8 } },
      ],
      tooltip: { trigger: "item", formatter: ({ data }) => data && data.cell ? tip(`${x.name} ${x.texts[data.cell.x]}, ${y.name} ${y.texts[data.cell.y]}`, cellRows(sweep, metric, data.cell, null, metric.name)) : "" },
    };
  }
  const again = () => {
    const rest = apart(state.x);
    controls.hidden = rest.length < 2;
    const number = (setting) => String(sweep.settings.indexOf(setting));
    if (!controls.contains(document.activeElement)) {
      controls.replaceChildren(el("label", {}, `${sweep.latin ? "Points" : "Map"} over ${state.x.name} and `, el("select", { id: controlId, "aria-label": "The second setting of the map", onchange: (event) => { state.against = sweep.settings[Number(event.target.value)]; show(); } },
        rest.map((s) => el("option", { value: number(s), selected: s === state.against }, s.name)))));
    }
    figure.hidden = state.against === null;
    if (state.against === null) return;
    now = read();
    size();
    nameChart(figure, title(), sub());
    if (chart.instance !== null) chart.draw();
  };
  return again;
}

// Of a Latin hypercube under several policies, each of which has a point at every place: the policies, unless one is chosen.
function policiesBeside(sweep, state) {
  const own = sweep.settings.slice(sweep.varied.length).find((s) => s.levels.length > 1);
  return own && own !== state.x && own !== state.against && !state.only.has(own) ? own : null;
}
function latinMap(sweep, state, points, t, width) {
  const { metric, x, against: y } = state, { mean } = pointsOf(sweep, metric.key);
  const ran = points.filter((p) => mean[p] !== null), failed = points.filter((p) => !sweep.ran[p]);
  const spot = (p) => [placeOf(x, x.level[p]), placeOf(y, y.level[p])];
  const own = policiesBeside(sweep, state), small = ran.length > 2000, size = small ? 5 : 11;
  const beside = (p) => own === null ? {} : { symbol: kSymbols[own.level[p] % kSymbols.length], symbolOffset: [(own.level[p] - (own.levels.length - 1) / 2) * (size + 1), 0] };
  const { name, min, max, ...across } = settingAxis(t, y, width);
  return {
    grid: { left: 76, right: 24, top: 52, bottom: 50 }, legend: null,
    visualMap: ran.length > 0 ? colourBar(t, ran.map((p) => mean[p]), metric.show, metric.name, 0, width) : undefined,
    xAxis: settingAxis(t, x, width), yAxis: { ...across, min, max, name, nameGap: 56, splitLine: { show: false }, axisLabel: { ...across.axisLabel, overflow: "truncate", width: 64 } },
    series: [
      { id: "dots", name: metric.name, type: "scatter", symbolSize: size, data: ran.map((p) => ({ value: [...spot(p), mean[p]], point: p, ...beside(p) })), itemStyle: { borderColor: t.text, borderWidth: small ? 0 : 0.5, opacity: 0.95 } },
      { id: "failed", name: "failed", type: "scatter", symbol: kCross, symbolSize: 8, data: failed.map((p) => ({ value: spot(p), point: p, symbolOffset: beside(p).symbolOffset })), itemStyle: { color: "transparent", borderColor: t.faint, borderWidth: 1.8 } },
    ],
    tooltip: { trigger: "item", formatter: ({ data }) => data && data.point !== undefined ? pointTip(sweep, metric, data.point) : "" },
  };
}

// What every setting does to the metric, the strongest first.
function addEffects(parent, sweep, state, id) {
  const heading = el("h3", {}), sub = el("p", { class: "sub" }), place = el("div");
  parent.append(heading, sub, place);
  return () => {
    const { metric } = state, effects = effectsOf(sweep, metric.key);
    [heading, sub, place].forEach((node) => { node.hidden = effects.length === 0; });
    if (effects.length === 0) return;
    const names = (e) => e.setting.dimension.map((s) => s.name).join(" with ");
    const leftOut = Math.max(0, ...effects.map((e) => e.leftOut || 0));
    heading.textContent = effects.length === 1 ? `What ${names(effects[0])} does to ${metric.name}`
      : metric.isNothing(effects[0].span, effects[0].means[effects[0].high]) ? `No setting does much to ${metric.name}` : `${names(effects[0])} does the most to ${metric.name}: ${metric.difference(effects[0].span)}`;
    sub.textContent = sweep.latin ? "means of the points that ran: in quarters by each setting's value, or at its values where they are few"
      : `means at each value of ${effects.length === 1 ? "it" : "a setting, over the combinations of the others"}${leftOut > 0 ? " of which all points ran" : ""}${effects.some((e) => e.unlike) ? "; where there is no such combination, over the points that ran, which are not alike" : ""}`;
    place.replaceChildren();
    addTable(place, {
      id, caption: `What every setting does to ${metric.name}`, rows: effects, sort: null,
      columns: [
        { title: "setting", text: true, value: names },
        { title: "values", text: true, value: ({ setting: { texts, numeric } }) => texts.length <= 4 ? texts.join(", ") : `${numeric ? `${texts[0]} to ${texts[texts.length - 1]}` : `${texts.slice(0, 2).join(", ")}, …`} (${format.number(texts.length)})` },
        { title: "least", group: metric.name, value: (e) => e.means[e.low], show: metric.show },
        { title: "at", group: metric.name, text: true, value: (e) => e.labels[e.low] },
        { title: "most", group: metric.name, value: (e) => e.means[e.high], show: metric.show },
        { title: "at", group: metric.name, text: true, value: (e) => e.labels[e.high] },
        { title: "difference", value: (e) => e.span, show: metric.difference },
        ...(sweep.latin ? [{ title: "rank correlation", value: (e) => e.rank === undefined ? NaN : e.rank, show: (v) => Number.isFinite(v) ? signed(v) : "–" }] : []),
      ],
    });
  };
}

// ------------------------------------------------------------------------------------------------------------ points

function addPoints(sweep, state, id, of, parts) {
  const section = addSection(id("points"), `Points${of}`, sweep.failed > 0 ? `${format.number(sweep.count - sweep.failed)} of ${format.plural(sweep.count, "point")} ran; those that failed say why.` : `${sweep.count === 1 ? "The one point" : `All ${format.plural(sweep.count, "point")}`} ran.`);
  const place = el("div");
  section.append(place);
  const outcome = (p) => sweep.ran[p] ? "ran" : `${sweep.status[p]}: ${sweep.reason[p]}`;
  const column = (key, title, group) => {
    const metric = metricOf(key), { mean } = pointsOf(sweep, key);
    return { key, title, group, help: metric.name, value: (p) => mean[p], show: metric.plain };
  };
  const service = pointsOf(sweep, kService), metric = metricOf(kService);
  const some = sweep.failed < sweep.count;
  const ownPolicy = sweep.settings.every((s) => !s.isPolicy) && new Set(sweep.policy).size > 1;
  const gpus = pointsOf(sweep, "gpus").mean;
  const saysGpus = sweep.settings.some((s) => s.numeric && s.values.every((v, p) => gpus[p] === null || gpus[p] === v));
  const fixed = [
    ...(saysGpus ? [] : [column("gpus", "GPUs")]), column(kService, "time", "% within target"), column("attainment.token", "tokens", "% within target"), column("attainment.request", "requests", "% within target"),
    column("ttft_s.p50", "p50", "TTFT"), column("ttft_s.p99", "p99", "TTFT"), column("tbt_s.p99", "p99", "TBT"),
    column("utilisation.busy", "busy, %"), column("switches", "switches"), column("cost_usd", "USD"),
    ...(sweep.metrics["requests.failed"] || sweep.same["requests.failed"] > 0 ? [column("requests.failed", "failed")] : []),
  ];
  const ofService = fixed.findIndex((c) => c.key === kService);
  let shown = null;
  const draw = () => {
    const chosen = some && !fixed.some((c) => c.key === state.metric.key) ? state.metric : null;
    if (shown === (chosen && chosen.key) && place.childNodes.length > 0) return;
    shown = chosen && chosen.key;
    place.replaceChildren();
    addTable(place, {
      id: id("points-table"), caption: "Points", rows: sweep.ran.map((_, p) => p), sort: 0, descending: false, search: "Search points",
      words: (p) => `${sweep.settings.map((s) => `${s.name}=${s.values[p]}`).join(" ")} ${sweep.policy[p]} ${outcome(p)} ${sweep.fingerprint[p]}`,
      columns: [
        { title: "point", value: (p) => p + 1, show: format.number },
        ...sweep.settings.map((s) => ({ title: s.name, group: "varied", text: !s.numeric, wrap: !s.numeric && s.levels.some((level) => level.length > 40), value: (p) => s.values[p], show: (_, p) => textAt(s, p) })),
        ...(ownPolicy ? [{ title: "policy", text: true, value: (p) => sweep.policy[p] }] : []),
        ...(sweep.failed > 0 ? [{ title: "outcome", text: true, wrap: "wide", value: outcome }] : []),
        ...(some && chosen !== null ? [{ title: `${chosen.name}${chosen.share ? ", %" : chosen.unit ? `, ${chosen.unit}` : ""}`, group: "chosen", value: (p) => pointsOf(sweep, chosen.key).mean[p], show: chosen.plain }] : []),
        ...(some ? fixed.slice(0, ofService + 1) : []),
        ...(some && sweep.replicated ? [{ title: "interval", group: "% within target", help: "95 % interval of service attainment", value: (p) => sweep.ran[p] ? service.high[p] - service.low[p] : null,
                                          show: (v, p) => v === null ? "–" : `${format.percent(metric.clamp(service.low[p]))} to ${format.percent(metric.clamp(service.high[p]))}` }] : []),
        ...(some ? fixed.slice(ofService + 1) : []),
        ...(some ? [{ title: "fingerprint", text: true, value: (p) => sweep.fingerprint[p] || "–" }] : []),
      ],
    });
  };
  parts.push(draw);
}
