// /metrics, once a second, as charts of the last two minutes.

import { ask } from "./api.js";
import { $, drawn, element, seconds, shown } from "./dom.js";

const SAMPLES = 120;
const WIDTH = 240;
const HEIGHT = 56;

/** The samples of Prometheus' text format by name; those that differ by labels only are added up. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([\w:]+)(?:\{.*\})? (\S+)/.exec(line);
    if (match) found.set(match[1], (found.get(match[1]) ?? 0) + Number(match[2]));
  }
  return found;
}

const percent = (share) => `${shown(100 * share)} %`;
const gauge = (name) => (now) => now.get(name) ?? 0;

/** What a counter gained each second. */
const rate = (name) => (now, before, time) => Math.max(gauge(name)(now) - gauge(name)(before), 0) / time;

/** What one counter gained for each of another; nothing gained is no value. */
function ratio(part, of) {
  return (now, before) => {
    const gained = rate(of)(now, before, 1);
    return gained > 0 ? rate(part)(now, before, 1) / gained : null;
  };
}

const CHARTS = [
  {
    title: "Tokens per second",
    lines: [
      ["generated", rate("vllm:generation_tokens_total")],
      ["prompts", rate("vllm:prompt_tokens_total")],
    ],
    format: shown,
  },
  {
    title: "Requests",
    lines: [
      ["running", gauge("vllm:num_requests_running")],
      ["waiting", gauge("vllm:num_requests_waiting")],
    ],
    format: shown,
    least: 4,
  },
  { title: "KV cache in use", lines: [["used", gauge("vllm:kv_cache_usage_perc")]], format: percent, most: 1 },
  {
    title: "Prompt tokens from the cache",
    lines: [["hits", ratio("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")]],
    format: percent,
    most: 1,
  },
  {
    title: "First token after",
    lines: [["mean", ratio("vllm:time_to_first_token_seconds_sum", "vllm:time_to_first_token_seconds_count")]],
    format: seconds,
  },
  {
    title: "Between tokens",
    lines: [["mean", ratio("vllm:inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_count")]],
    format: seconds,
  },
];

/** One chart: its caption says the values of now, its lines what they were. */
class Chart {
  constructor({ title, lines, format, most, least = 0 }) {
    Object.assign(this, { title, format, most, least });
    this.image = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.image.append(drawn("path", { class: "grid", d: `M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }));
    this.scale = element("span", { className: "scale" });
    const caption = element("figcaption", {}, element("h3", { textContent: title }));
    this.lines = lines.map(([name, read], number) => {
      const path = drawn("path", { class: `line line-${number}` });
      const dots = drawn("path", { class: `line dots line-${number}` });
      const value = element("b", { textContent: "–" });
      this.image.append(path, dots);
      caption.append(element("span", { className: `key key-${number}` }, value, ` ${name}`));
      return { name, read, path, dots, value, values: [] };
    });
    this.figure = element("figure", {}, caption, element("div", { className: "plot" }, this.image, this.scale));
  }

  push(now, before, time) {
    for (const line of this.lines) {
      line.values.push(line.read(now, before, time));
      if (line.values.length > SAMPLES) line.values.shift();
    }
    this.draw();
  }

  draw() {
    const all = this.lines.flatMap((line) => line.values).filter((value) => value !== null);
    const top = this.most ?? roundUp(Math.max(this.least, ...all, 0));
    this.scale.textContent = top ? this.format(top) : "";
    const words = [];
    for (const line of this.lines) {
      const last = line.values.findLast((value) => value !== null);
      line.value.textContent = last === undefined ? "–" : this.format(last);
      words.push(`${line.name} ${line.value.textContent}`);
      const [path, dots] = curve(line.values, top || 1);
      line.path.setAttribute("d", path);
      line.dots.setAttribute("d", dots);
    }
    this.image.setAttribute("aria-label", `${this.title}: ${words.join(", ")}`);
  }
}

/** A path through the values, the newest at the right, with gaps where nothing was measured; and the lonely ones. */
function curve(values, top) {
  let path = "";
  let dots = "";
  let isOpen = false;
  values.forEach((value, number) => {
    if (value === null) {
      isOpen = false;
      return;
    }
    const x = WIDTH - ((values.length - 1 - number) * WIDTH) / (SAMPLES - 1);
    const y = HEIGHT - 1.5 - (value / top) * (HEIGHT - 4);
    const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
    if (!isOpen && (values[number + 1] ?? null) === null) dots += `M${point}h.01`;
    path += (isOpen ? "L" : "M") + point;
    isOpen = true;
  });
  return [path, dots];
}

/** The next of 1, 2, 5, 10, 20, 50 … */
function roundUp(value) {
  if (value <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((digit) => digit * power >= value * 0.999) * power;
}

/** Draw until the page is closed; the server is not asked while nobody looks. */
export async function watch() {
  const charts = CHARTS.map((each) => new Chart(each));
  $("charts").append(...charts.map((chart) => chart.figure));
  let before = null;
  let since = 0;
  for (;;) {
    try {
      const now = parse(await (await ask("metrics")).text());
      const time = performance.now();
      if (before) for (const chart of charts) chart.push(now, before, (time - since) / 1000);
      [before, since] = [now, time];
      $("live-error").textContent = "";
    } catch (error) {
      before = null;
      $("live-error").textContent = `No metrics: ${error.message}`;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
    if (document.hidden) {
      before = null;
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    }
  }
}
