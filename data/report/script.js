"use strict";
// The conversations are stored in one JSON element each, parsed and drawn when they are chosen, so that opening the page
// does not depend on how many there are. The first search parses them all.
const stored = (name) => JSON.parse(document.getElementById(name).textContent);
const settings = stored("settings");
const index = stored("index");
const texts = stored("texts");
const box = document.getElementById("conversation");
const hint = document.getElementById("hint");
const list = document.getElementById("list");
const search = document.getElementById("search");
const sort = document.getElementById("sort");
const visible = (text) => text.replace(/\n/g, "↵\n");
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

function shade(value) {
  // Square root: small values are the rule, and should still be seen. The scale is full strength.
  const strength = Math.min(1, Math.sqrt(Math.abs(value) / settings.scale)) * 0.75;
  return `rgba(var(--${value >= 0 ? "raised" : "lowered"}), ${strength.toFixed(3)})`;
}

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob / 100);
  return share < 0.05 ? `${share.toExponential(0)}%` : `${share.toFixed(1)}%`;
};
const nats = (hundredths) => (hundredths > 0 ? "+" : "") + (hundredths / 100).toFixed(2);

// What colours a token, hundredths of a nat: its advantage, or how likely the student that said it found it.
function colourOf(response, position) {
  if (response.advantages) return response.advantages[position];
  return settings.who === "student" && response.logprobs ? response.logprobs[position] : null;
}

function showHint(token, response, position) {
  hint.replaceChildren();
  const ownId = response.ids[position];
  hint.append(element("h3", "", JSON.stringify(texts[ownId])));
  const own = response.logprobs[position];
  let line = `${settings.who} ${percent(own)}`;
  if (response.advantages) {
    const advantage = response.advantages[position];
    line += `, reference ${percent(own - advantage)}: ${nats(advantage)} nats`;
  } else if (settings.who === "student") {
    line += `: ${nats(own)} nats`;
  }
  hint.append(element("div", "muted", line));
  if (response.alternatives) hint.append(alternativesTable(response, position, ownId));
  hint.hidden = false;
  const place = token.getBoundingClientRect();
  const size = hint.getBoundingClientRect();
  hint.style.left = `${Math.max(8, Math.min(place.left, innerWidth - size.width - 8))}px`;
  const below = place.bottom + 8;
  const above = Math.max(8, place.top - size.height - 8);
  hint.style.top = `${below + size.height < innerHeight ? below : above}px`;
}

function alternativesTable(response, position, ownId) {
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
  return table;
}

function drawResponse(response) {
  const panel = element("div", "panel");
  const name = response.sample ? `${response.role} ${response.sample}` : response.role;
  const title = element("h3", "", response.of ? `${name} · ${response.of}` : name);
  title.style.color = `var(--${response.role})`;
  panel.append(title);
  if (response.summary) panel.append(element("p", "muted", response.summary));
  const tokens = element("div", "tokens", response.text);
  response.ids.forEach((id, position) => {
    // Where a character is spread over several tokens, the first shows it and the others a dot.
    const token = element("span", "", visible(response.shown[position] ?? texts[id]) || "·");
    const colour = colourOf(response, position);
    if (colour !== null) token.style.background = shade(colour / 100);
    if (response.logprobs && response.logprobs[position] !== null) {
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

const conversation = (number) => stored(`conversation-${number}`);

// Which conversations the list shows, in its order, and which of all is drawn.
let listed = index.map((_, number) => number);
let current = -1;

function show(number) {
  current = number;
  const drawn = conversation(number);
  hint.hidden = true;
  box.replaceChildren();
  if (drawn.prompt) box.append(element("div", "panel prompt tokens", drawn.prompt));
  const columns = element("div", "columns");
  for (const response of drawn.responses) columns.append(drawResponse(response));
  box.append(columns);
  mark();
}

function mark() {
  for (const button of list.children) {
    const chosen = Number(button.dataset.number) === current;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  const place = listed.indexOf(current);
  document.getElementById("previous").disabled = place <= 0;
  document.getElementById("next").disabled = place === listed.length - 1 || !listed.length;
  const button = list.children[place];
  if (button && button.dataset.number) {
    const top = button.offsetTop - list.offsetTop;
    // Within the list alone: the page must not jump.
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + button.offsetHeight > list.scrollTop + list.clientHeight)
      list.scrollTop = top + button.offsetHeight - list.clientHeight;
  }
}

function step(by, focus) {
  const place = listed.indexOf(current) + by;
  if (place < 0 || place >= listed.length) return;
  show(listed[place]);
  if (focus) list.children[place].focus({ preventScroll: true });
}

const orders = {
  order: (a, b) => a - b,
  disagreement: (a, b) => (index[a].margin ?? Infinity) - (index[b].margin ?? Infinity) || a - b,
  margin: (a, b) => (index[b].margin ?? -Infinity) - (index[a].margin ?? -Infinity) || a - b,
  longest: (a, b) => index[b].length - index[a].length || a - b,
  shortest: (a, b) => index[a].length - index[b].length || a - b,
};

let searchable = null;
function textOf(number) {
  searchable ??= index.map((entry, place) => {
    const { prompt, responses } = conversation(place);
    const said = responses.map((response) =>
      response.text ?? response.ids.map((id, position) => response.shown[position] ?? texts[id]).join(""));
    return [entry.id, prompt, ...said].join("\n").toLowerCase();
  });
  return searchable[number];
}

function drawList() {
  const wanted = search.value.toLowerCase().trim();
  listed = index.map((_, number) => number).filter((number) => !wanted || textOf(number).includes(wanted));
  listed.sort(orders[sort.value]);
  list.replaceChildren(...listed.map((number) => {
    const { id, start, margin, length } = index[number];
    const button = element("button");
    button.type = "button";
    button.setAttribute("role", "option");
    button.dataset.number = number;
    const facts = margin === null ? `${length} tokens` : `margin ${nats(100 * margin)}, ${length} tokens`;
    button.append(element("span", "", start || id), element("span", "", `${id} · ${facts}`));
    button.addEventListener("click", () => show(number));
    return button;
  }));
  if (!listed.length) list.append(element("div", "none muted", "Nothing is found."));
  document.getElementById("count").textContent =
    listed.length === index.length ? `${index.length} shown` : `${listed.length} of ${index.length} found`;
  if (listed.length && (!listed.includes(current) || sort.dataset.changed)) show(listed[0]);
  else mark();
  delete sort.dataset.changed;
}

if (list) {
  search.addEventListener("input", drawList);
  sort.addEventListener("change", () => { sort.dataset.changed = "yes"; drawList(); });
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inField = event.target.matches("input, select, textarea");
    if (inField) {
      if (event.key === "Escape" && event.target === search) { search.value = ""; drawList(); }
      return;
    }
    const inList = list.contains(event.target);
    if (event.key === "ArrowLeft" || (inList && event.key === "ArrowUp")) step(-1, inList);
    else if (event.key === "ArrowRight" || (inList && event.key === "ArrowDown")) step(1, inList);
    else if (event.key === "/") search.focus();
    else return;
    event.preventDefault();
  });
  drawList();
}
