"""The fixed parts of the HTML report: style, script, and the frame that holds them."""

__all__ = ["PAGE"]


# Everything is inline: the page needs no network. The conversations lie in one JSON element each, and are
# parsed and drawn when they are chosen, so that opening the page does not depend on how many there are.
_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fcfcfa; --panel: #ffffff; --ink: #1d1f23; --muted: #666b74; --line: #dcdee3;
  --raised: 38, 110, 220; --lowered: 214, 96, 20;
  --chosen: #266edc; --rejected: #bd5009; --student: #1f7d4b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --panel: #1c1f25; --ink: #e4e6ea; --muted: #9aa0ab; --line: #343943;
    --raised: 84, 150, 255; --lowered: 240, 130, 50;
    --chosen: #6ea4ff; --rejected: #f5924a; --student: #58c08a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 10px; }
h3 { font-size: 14px; margin: 0 0 6px; font-weight: 600; }
p { margin: 4px 0 10px; max-width: 75ch; }
.muted { color: var(--muted); }
.panel, .facts div {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px;
}
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 18px 0; }
.facts b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
details summary { cursor: pointer; }
details table { margin-top: 8px; font-size: 13px; }
.charts, .columns { display: grid; gap: 14px; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); margin-top: 14px; }
.columns { grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); align-items: start; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .axis { stroke: var(--muted); }
svg .grid { stroke: var(--line); stroke-width: .7; }
svg .zero { stroke: var(--muted); stroke-dasharray: 3 3; }
.key { white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
tr:last-child td, tr:last-child th { border-bottom: 0; }
th { color: var(--muted); font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
.number:last-child { padding-right: 0; }
td.bar { width: 30%; }
.bar i { display: block; height: 9px; border-radius: 2px; opacity: .7; }
code, .tokens { font-family: ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace; font-size: 13px; }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; }
.tokens span { border-radius: 3px; padding: 1px 0; cursor: default; }
.tokens span:hover, .tokens span:focus { outline: 2px solid var(--ink); }
.prompt { max-height: 220px; overflow: auto; margin-bottom: 14px; }
.choose { display: flex; gap: 8px; align-items: center; margin-bottom: 12px; flex-wrap: wrap; }
.choose select { max-width: 100%; }
.scale { margin-left: auto; color: var(--muted); font-size: 13px; display: flex; gap: 8px; align-items: center; }
.scale i {
  width: 110px; height: 12px; border-radius: 3px;
  background: linear-gradient(90deg, rgba(var(--lowered), .75), transparent, rgba(var(--raised), .75));
}
button, select {
  font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: 4px 12px;
}
button:not(:disabled) { cursor: pointer; }
button:disabled { opacity: .4; }
#hint {
  position: fixed; z-index: 2; pointer-events: none; background: var(--panel); border: 1px solid var(--muted);
  border-radius: 8px; padding: 8px 12px; box-shadow: 0 4px 18px rgb(0 0 0 / 25%); width: 350px;
  max-width: calc(100vw - 16px); font-size: 14px;
}
#hint td, #hint th { border: 0; padding-top: 0; padding-bottom: 0; }
#hint .own { font-weight: 700; }
"""

_SCRIPT = """
"use strict";
const texts = JSON.parse(document.getElementById("texts").textContent);
const box = document.getElementById("conversation");
const hint = document.getElementById("hint");
const chooser = document.getElementById("choose");
const visible = (text) => text.replace(/\\n/g, "↵\\n");
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

function shade(advantage) {
  // Square root: small advantages are the rule, and should still be seen. Two nats are full strength.
  const strength = Math.min(1, Math.sqrt(Math.abs(advantage) / 2)) * 0.75;
  return `rgba(var(--${advantage >= 0 ? "raised" : "lowered"}), ${strength.toFixed(3)})`;
}

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob / 100);
  return share < 0.05 ? `${share.toExponential(0)}%` : `${share.toFixed(1)}%`;
};
const nats = (hundredths) => (hundredths > 0 ? "+" : "") + (hundredths / 100).toFixed(2);

function showHint(token, response, position) {
  hint.replaceChildren();
  const ownId = response.ids[position];
  hint.append(element("h3", "", JSON.stringify(texts[ownId])));
  const own = response.logprobs[position];
  let line = `teacher ${percent(own)}`;
  if (response.advantages) {
    const advantage = response.advantages[position];
    line += `, reference ${percent(own - advantage)}: ${nats(advantage)} nats`;
  }
  hint.append(element("div", "muted", line));
  const table = element("table");
  const head = element("tr");
  head.append(element("th", "", "the teacher's choices"), element("th", "number", "p"));
  if (response.advantages) head.append(element("th", "number", "nats"));
  table.append(head);
  for (const [id, logprob, advantage] of response.alternatives[position]) {
    const row = element("tr", id === ownId ? "own" : "");
    row.append(element("td", "", JSON.stringify(texts[id])), element("td", "number", percent(logprob)));
    if (advantage !== undefined) {
      const cell = element("td", "number", nats(advantage));
      cell.style.background = shade(advantage / 100);
      row.append(cell);
    }
    table.append(row);
  }
  hint.append(table);
  hint.hidden = false;
  const place = token.getBoundingClientRect();
  const size = hint.getBoundingClientRect();
  hint.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  const below = place.bottom + 8;
  const above = Math.max(8, place.top - size.height - 8);
  hint.style.top = `${below + size.height < innerHeight ? below : above}px`;
}

function drawResponse(response) {
  const panel = element("div", "panel");
  const name = response.sample ? `${response.role} ${response.sample}` : response.role;
  const title = element("h3", "", name);
  title.style.color = `var(--${response.role})`;
  panel.append(title);
  if (response.summary) panel.append(element("p", "muted", response.summary));
  const tokens = element("div", "tokens");
  response.ids.forEach((id, position) => {
    // Where a character is spread over several tokens, the first shows it and the others a dot.
    const token = element("span", "", visible(response.shown[position] ?? texts[id]) || "·");
    if (response.advantages) token.style.background = shade(response.advantages[position] / 100);
    if (response.alternatives) {
      token.tabIndex = 0;
      for (const event of ["mouseenter", "focus"])
        token.addEventListener(event, () => showHint(token, response, position));
      for (const event of ["mouseleave", "blur"])
        token.addEventListener(event, () => { hint.hidden = true; });
    }
    tokens.append(token);
  });
  panel.append(tokens);
  return panel;
}

function show(index) {
  const conversation = JSON.parse(document.getElementById(`conversation-${index}`).textContent);
  box.replaceChildren();
  const prompt = element("div", "panel prompt tokens", conversation.prompt);
  const columns = element("div", "columns");
  for (const response of conversation.responses) columns.append(drawResponse(response));
  box.append(prompt, columns);
  chooser.value = index;
  document.getElementById("previous").disabled = index === 0;
  document.getElementById("next").disabled = index === chooser.length - 1;
}

if (chooser && chooser.length) {
  chooser.addEventListener("change", () => show(Number(chooser.value)));
  document.getElementById("previous").addEventListener("click", () => show(Number(chooser.value) - 1));
  document.getElementById("next").addEventListener("click", () => show(Number(chooser.value) + 1));
  show(0);
}
"""

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>@STYLE@</style>
</head>
<body>
<main>
{body}
</main>
<div id="hint" hidden></div>
{data}
<script>@SCRIPT@</script>
</body>
</html>
"""

#: A format string with the fields `title`, `body` and `data`, all of them HTML.
PAGE = _FRAME.replace("@STYLE@", _STYLE.replace("{", "{{").replace("}", "}}")).replace(
    "@SCRIPT@", _SCRIPT.replace("{", "{{").replace("}", "}}")
)
