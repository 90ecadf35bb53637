"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const WIDTH = 440, HEIGHT = 220, LEFT = 52, RIGHT = 12, TOP = 8, BOTTOM = 26;
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const drawn = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const number = (value) => {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
};
const color = (run) => `var(--run-${run % 8})`;
const dash = (run) => DASHES[Math.floor(run / 8) % DASHES.length];
const hidden = new Set();
let smoothing = 0;

// A mean over neighbours with weights that halve every few points, started without bias.
function smooth(values) {
  if (!smoothing) return values;
  let sum = 0, weight = 0;
  return values.map((value) => {
    sum = smoothing * sum + value;
    weight = smoothing * weight + 1;
    return sum / weight;
  });
}

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

function drawChart(box) {
  const term = box.dataset.term;
  const series = [];
  data.runs.forEach((run, index) => {
    const curve = run.curves[term];
    if (curve && !hidden.has(index)) series.push({ index, name: run.name, x: curve[0], raw: curve[1], y: smooth(curve[1]) });
  });
  const svg = box.querySelector("svg");
  const readout = box.querySelector(".readout");
  svg.replaceChildren();
  readout.replaceChildren();
  if (!series.length) { readout.textContent = "no run that is shown has this term"; return; }
  const xs = series.flatMap((s) => [s.x[0], s.x[s.x.length - 1]]);
  // The scale fits the smoothed curves: a first spike must not flatten all that follows.
  const ys = series.flatMap((s) => s.y);
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  const padding = (y1 - y0) * 0.06 || Math.abs(y1) * 0.1 || 1;
  y0 -= padding; y1 += padding;
  const px = (x) => LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
  for (const y of ticks(y0, y1, 5)) {
    svg.append(drawn("line", { class: y === 0 ? "zero" : "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }));
    svg.append(drawn("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, number(y)));
  }
  for (const x of ticks(x0, x1, 5))
    svg.append(drawn("text", { x: px(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, number(x)));
  svg.append(drawn("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  const clip = drawn("clipPath", { id: `clip-${box.dataset.number}` });
  clip.append(drawn("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }));
  svg.append(clip);
  const line = (s, values) => values.map((y, i) => `${i ? "L" : "M"}${px(s.x[i]).toFixed(1)},${py(y).toFixed(1)}`).join("");
  for (const s of series) {
    const look = { stroke: color(s.index), "stroke-dasharray": dash(s.index), "clip-path": `url(#clip-${box.dataset.number})` };
    if (smoothing) svg.append(drawn("path", { ...look, class: "raw", d: line(s, s.raw) }));
    svg.append(drawn("path", { ...look, d: line(s, s.y) }));
    if (s.x.length === 1) svg.append(drawn("circle", { cx: px(s.x[0]), cy: py(s.y[0]), r: 3, fill: color(s.index) }));
  }
  const cursor = drawn("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  svg.append(cursor);
  const steps = [...new Set(series.flatMap((s) => s.x))].sort((a, b) => a - b);
  const nearest = (list, x) => list.reduce((best, value, i) => Math.abs(value - x) < Math.abs(list[best] - x) ? i : best, 0);
  const show = (place) => {
    const step = steps[place];
    box.dataset.place = place;
    cursor.setAttribute("x1", px(step));
    cursor.setAttribute("x2", px(step));
    readout.replaceChildren(element("span", "", `step ${number(step)}`));
    for (const s of series) {
      const said = element("span", "", `${s.name} ${number(s.y[nearest(s.x, step)])}`);
      said.style.color = color(s.index);
      readout.append(said);
    }
  };
  svg.onpointermove = (event) => {
    const bounds = svg.getBoundingClientRect();
    const at = (event.clientX - bounds.left) / bounds.width * WIDTH;
    show(nearest(steps, x0 + (at - LEFT) / (WIDTH - LEFT - RIGHT) * (x1 - x0)));
  };
  svg.onkeydown = (event) => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -steps.length, End: steps.length }[event.key];
    if (jump === undefined) return;
    event.preventDefault();
    const place = Number(box.dataset.place ?? steps.length - 1) + jump;
    show(Math.max(0, Math.min(steps.length - 1, place)));
  };
  show(Math.min(Number(box.dataset.place ?? steps.length - 1), steps.length - 1));
}

const charts = [...document.querySelectorAll(".chart")];
charts.forEach((box, index) => { box.dataset.number = index; });
const redraw = () => charts.forEach(drawChart);
for (const check of document.querySelectorAll(".legend input")) {
  const run = Number(check.value);
  const sample = check.parentElement.querySelector("svg");
  sample.append(drawn("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke: color(run), "stroke-width": 3, "stroke-dasharray": dash(run) }));
  check.addEventListener("change", () => { check.checked ? hidden.delete(run) : hidden.add(run); redraw(); });
}
const slider = document.getElementById("smoothing");
if (slider) {
  slider.addEventListener("input", () => {
    smoothing = Number(slider.value) / 100;
    document.getElementById("smoothing-value").textContent = smoothing ? `${slider.value}%` : "off";
    redraw();
  });
}
redraw();

function shade(advantage) {
  // Square root: small advantages are the rule, and should still be seen. Two nats are full strength.
  const strength = Math.min(1, Math.sqrt(Math.abs(advantage) / 2)) * 0.75;
  return `rgba(var(--${advantage >= 0 ? "raised" : "lowered"}), ${strength.toFixed(3)})`;
}

function drawAnswer(answer) {
  const panel = element("div", "panel answer");
  panel.append(element("h4", "", answer.model), element("p", "muted", answer.note));
  const text = element("div", "tokens");
  if (answer.tokens) {
    for (const [piece, advantage] of answer.tokens) {
      const token = element("span", "", piece);
      token.style.background = shade(advantage);
      token.title = `${advantage > 0 ? "+" : ""}${advantage.toFixed(2)} nats`;
      text.append(token);
    }
  } else text.textContent = answer.text;
  if (!answer.text.trim()) text.append(element("em", "muted", "(empty)"));
  panel.append(text);
  return panel;
}

for (const section of document.querySelectorAll("[data-samples]")) {
  const samples = data.evaluations[Number(section.dataset.samples)].samples;
  const chooser = section.querySelector("select");
  const box = section.querySelector(".sample");
  const [previous, next] = section.querySelectorAll("button");
  const show = (index) => {
    const sample = samples[index];
    const columns = element("div", "columns");
    for (const answer of sample.answers) columns.append(drawAnswer(answer));
    box.replaceChildren(element("div", "panel prompt tokens", sample.prompt), columns);
    chooser.value = index;
    previous.disabled = index === 0;
    next.disabled = index === samples.length - 1;
  };
  chooser.addEventListener("change", () => show(Number(chooser.value)));
  previous.addEventListener("click", () => show(Number(chooser.value) - 1));
  next.addEventListener("click", () => show(Number(chooser.value) + 1));
  show(0);
}
