"use strict";
// Numbers as people read them, and elements of the page. Names from results are only ever set as text.

const format = {
  // 1234567 -> "1,234,567"; fractions keep three digits.
  number(value) {
    if (!Number.isFinite(value)) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
    return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: 0 });
  },
  // At most four digits: "9,876", "12.3k", "4.56M".
  short(value) {
    if (!Number.isFinite(value)) return "–";
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (Math.abs(value) >= size) {
        const scaled = value / (unit === "k" ? 1e3 : size);
        return `${Number(scaled.toPrecision(3))}${unit}`;
      }
    }
    return format.number(value);
  },
  // A share in per cent: "100" is said of the whole only, "0" of nothing.
  percent(share) {
    if (!Number.isFinite(share)) return "–";
    if (share === 1) return "100";
    if (share === 0) return "0";
    if (share > 0 && share < 5e-4) return "<0.1";
    return Math.min(99.9, 100 * share).toFixed(1);
  },
  seconds(s) {
    if (!Number.isFinite(s)) return "–";
    if (s === 0) return "0 s";
    if (s < 1e-3) return `${Number((s * 1e6).toPrecision(3))} µs`;
    if (s < 1) return `${Number((s * 1e3).toPrecision(3))} ms`;
    if (s < 600) return `${Number(s.toPrecision(3))} s`;
    if (s < 3 * 3600) return `${Math.round(s / 60)} min`;
    return `${Number((s / 3600).toPrecision(3))} h`;
  },
  // A moment of a run that lasts `span` seconds.
  clock(s, span) {
    const two = (n) => String(Math.floor(n)).padStart(2, "0");
    if (span <= 180) return `${Number(s.toPrecision(4))} s`;
    if (span <= 3 * 3600) return s % 60 < 0.5 ? `${Math.round(s / 60)} min` : `${Math.floor(s / 60)}:${two(s % 60)}`;
    const time = `${two((s % 86400) / 3600)}:${two((s % 3600) / 60)}`;
    return span <= 2 * 86400 ? `${s >= 86400 ? "day 2 " : ""}${time}` : `day ${Math.floor(s / 86400) + 1} ${time}`;
  },
  list(words) {
    return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
  },
  plural(count, noun) {
    return `${format.number(count)} ${noun}${count === 1 ? "" : "s"}`;
  },
};

// el("p", {class: "sub"}, "text", child, ...): strings become text nodes.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; ++i) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const isNumber = (value) => typeof value === "number";
// Lists of what has the same key, in order of the first of each.
function groupsBy(list, key) {
  const groups = new Map();
  for (const item of list) {
    const of = key(item);
    if (!groups.has(of)) groups.set(of, []);
    groups.get(of).push(item);
  }
  return [...groups.values()];
}
const sum = (values) => values.reduce((a, b) => a + b, 0);
