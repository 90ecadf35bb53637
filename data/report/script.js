"use strict";
const texts = JSON.parse(document.getElementById("texts").textContent);
const box = document.getElementById("conversation");
const hint = document.getElementById("hint");
const chooser = document.getElementById("choose");
const visible = (text) => text.replace(/\n/g, "↵\n");
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
