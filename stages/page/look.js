"use strict";
// Draws what `stages.page.look` wrote: small maps of all heads, enlarged ones, and one family's targets on them.
const look = JSON.parse(document.getElementById("look").textContent);
const size = look.tokens.length;
const steps = Uint8Array.from(atob(look.values), (letter) => letter.charCodeAt(0));
const each = look.causal ? (size * (size + 1)) / 2 : size * size; // bytes of one head
const heads = [];
for (const { layer, heads: number, sees } of look.layers)
  for (let head = 0; head < number; head++) heads.push({ layer, head, sees, name: `L${layer}H${head}`, index: heads.length });
const named = new Map(heads.map((head) => [head.name, head]));
const open = new Map(); // name of an enlarged head -> how to mark its targets
const dark = matchMedia("(prefers-color-scheme: dark)");
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    name in element ? (element[name] = value) : element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const step = (head, query, key) =>
  steps[head.index * each + (look.causal ? (query * (query + 1)) / 2 + key : query * size + key)];
const shown = (value) => (value == null ? "–" : value.toFixed(2));
const share = (value) => (value < 0.005 ? "below 0.01" : value.toFixed(2));
const family = () => look.families.find(({ name }) => name === $("family").value);

function colour() {
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function paint(canvas, width, height, value) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height), rgb = colour();
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at += 4) {
      [image.data[at], image.data[at + 1], image.data[at + 2]] = rgb;
      image.data[at + 3] = 255 * Math.sqrt(value(y, x));
    }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const draw = (canvas, head) =>
  paint(canvas, size, size, (query, key) => (look.causal && key > query ? 0 : step(head, query, key) / look.levels));

function drawAll() {
  paint($("scale"), 101, 1, (_, x) => x / 100);
  for (const canvas of document.querySelectorAll("canvas[data-head]")) draw(canvas, named.get(canvas.dataset.head));
}

document.body.classList.toggle("fine", size > 64); // small maps of many tokens are shrunk smoothly

// The small maps: one row per layer, one button per head.
const widest = Math.max(...look.layers.map(({ heads: number }) => number));
const grid = document.querySelector(".grid"), buttons = new Map();
grid.tHead.append(make("tr", {}, make("td"), ...Array.from({ length: widest }, (_, head) => make("th", { scope: "col" }, `H${head}`))));
for (const { layer, heads: number } of look.layers) {
  const row = make("tr", {}, make("th", { scope: "row" }, `L${layer}`));
  for (let index = 0; index < number; index++) {
    const head = named.get(`L${layer}H${index}`);
    const canvas = make("canvas", { "aria-hidden": "true" });
    canvas.dataset.head = head.name;
    const value = make("span", { className: "value" });
    const button = make("button", { type: "button", "aria-pressed": "false", id: head.name }, canvas, value);
    button.addEventListener("click", () => (open.has(head.name) ? close(head) : enlarge(head, true)));
    buttons.set(head.name, button);
    row.append(make("td", {}, button));
  }
  grid.tBodies[0].append(row);
}

function mark() {
  const chosen = family();
  for (const head of heads) {
    const button = buttons.get(head.name), member = Boolean(chosen?.members.includes(head.index));
    const value = chosen?.here ? shown(chosen.here.mass[head.index]) : "";
    button.classList.toggle("member", member);
    button.querySelector(".value").textContent = value;
    button.setAttribute("aria-label", [head.name, value, member ? `member of ${chosen.name}` : ""].filter(Boolean).join(", "));
  }
  const where = !chosen ? "" : chosen.here
    ? ` Numbers: share of attention on its targets in this text, over ${chosen.here.positions} position${chosen.here.positions === 1 ? "" : "s"}; the targets are outlined in enlarged maps.`
    : ` Not to be seen in this text: ${chosen.why}.`;
  const members = !chosen || look.unjudged ? "" : chosen.members.length
    ? ` Dashed: its ${chosen.members.length} member${chosen.members.length === 1 ? "" : "s"} on the run's prompts.` : " It has no member on the run's prompts.";
  $("marked").textContent = chosen ? `${chosen.name}: ${chosen.says}.${where}${members}` : "";
  for (const outline of open.values()) outline();
}

// An enlarged head: what it does in words, its map, and the same as a table.
function enlarge(head, byUser) {
  const heading = make("h3", { id: `${head.name}-title`, tabIndex: -1 }, head.name);
  const closing = make("button", { type: "button", "aria-label": `Close ${head.name}` }, "Close");
  closing.addEventListener("click", () => { close(head); buttons.get(head.name).focus(); });
  const { map, readout, outline } = mapOf(head);
  const panel = make("section", { className: "panel", "aria-labelledby": heading.id, id: `${head.name}-panel` },
    make("header", {}, heading, closing), make("p", { className: "muted" }, `Layer ${head.layer} ${head.sees}.`),
    make("div", { className: "both" }, make("div", {}, map, readout), rolesOf(head)), keysOf(head));
  $("enlarged").prepend(panel);
  draw(map.querySelector("canvas"), head);
  open.set(head.name, outline);
  outline();
  buttons.get(head.name).setAttribute("aria-pressed", "true");
  if (byUser) heading.focus();
}

function close(head) {
  $(`${head.name}-panel`).remove();
  open.delete(head.name);
  buttons.get(head.name).setAttribute("aria-pressed", "false");
  $("said").textContent = `${head.name} closed`;
}

function rolesOf(head) {
  const member = ({ members }) => members.includes(head.index);
  const rows = look.families.filter((each) => each.here || member(each)).sort((a, b) => member(b) - member(a));
  const titles = ["Family", "Member", "On the run's prompts", "Null", "In this text", "Null"];
  const body = rows.map((each) => make("tr", {},
    make("th", { scope: "row", title: each.says }, each.name),
    make("td", {}, look.unjudged || !each.score.length ? "–" : member(each) ? "yes" : "no"),
    make("td", { className: "n", title: each.statistic }, shown(each.score[head.index])),
    make("td", { className: "n" }, shown(each.chance[head.index])),
    ...(each.here ? [make("td", { className: "n" }, shown(each.here.mass[head.index])), make("td", { className: "n" }, shown(each.here.mass_null[head.index]))]
      : [make("td", { colSpan: 2 }, "not to be seen")])));
  const note = `Scores are ${[...new Set(rows.map(({ statistic }) => statistic))].join("; or: ")}. In this text: share of attention on the targets. Null: what as many average tokens would get.`;
  const table = make("table", {}, make("caption", {}, look.unjudged || note),
    make("thead", {}, make("tr", {}, ...titles.map((title, at) => make("th", { scope: "col", className: at > 1 ? "n" : "" }, title)))), make("tbody", {}, ...body));
  return rows.length ? make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `Families of ${head.name}` }, table)
    : make("p", {}, "No family of heads can be seen in this text.");
}

function mapOf(head) {
  const cell = Math.max(15, Math.min(30, Math.floor(Math.min(620, $("enlarged").clientWidth - 130) / size)));
  const label = (token, at) => make("span", { className: look.special[at] ? "special" : "", title: `${at} ${token}` }, token);
  const across = make("div", { className: "across", "aria-hidden": "true" }, ...look.tokens.map(label));
  const down = make("div", { className: "down", "aria-hidden": "true" }, ...look.tokens.map(label));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  svg.setAttribute("aria-hidden", "true");
  const tip = make("span", { className: "tip" }), cursor = make("div", { className: "cursor", hidden: true }, tip);
  const canvas = make("canvas", { "aria-hidden": "true" });
  canvas.dataset.head = head.name;
  const cells = make("div", { className: "cells" }, canvas, svg, cursor);
  const readout = make("output", { className: "readout" }, "Point at a cell, or use the arrow keys in the map.");
  const map = make("div", { className: "map", tabIndex: 0, role: "application", "aria-roledescription": "attention map",
    "aria-label": `Attention of ${head.name}: rows look, columns are looked at. Arrow keys move from cell to cell; the table below has the strongest.` },
    make("div", { className: "corner", "aria-hidden": "true" }, "from ↓ to →"), across, down, cells);
  map.style.setProperty("--cell", `${cell}px`);
  map.style.setProperty("--size", size);
  let at = null;

  function point(query, key) {
    for (const list of [across, down]) list.querySelector(".at")?.classList.remove("at");
    at = [query, key];
    across.children[key].classList.add("at");
    down.children[query].classList.add("at");
    const value = look.causal && key > query ? "it comes later, not visible" : share(step(head, query, key) / look.levels);
    [cursor.hidden, tip.textContent] = [false, value];
    tip.classList.toggle("left", key > size / 2);
    [cursor.style.left, cursor.style.top] = [`${key * cell}px`, `${query * cell}px`];
    readout.textContent = `${query} “${look.tokens[query]}” looks at ${key} “${look.tokens[key]}”: ${value}`;
  }

  cells.addEventListener("pointermove", (event) => {
    const box = cells.getBoundingClientRect();
    const place = (offset) => Math.max(0, Math.min(size - 1, Math.floor(offset / cell)));
    point(place(event.clientY - box.top), place(event.clientX - box.left));
  });
  map.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const from = at ?? [size - 1 - move[0], -move[1]]; // the first key press lands on the last row
    point(...from.map((place, axis) => Math.max(0, Math.min(size - 1, place + move[axis]))));
    cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  function outline() {
    const targets = family()?.here?.targets ?? [];
    path.setAttribute("d", targets.flatMap(([query, keys]) => keys.map((key) => `M${key + .05} ${query + .05}h.9v.9h-.9z`)).join(""));
  }
  return { map, readout, outline };
}

function keysOf(head) {
  const body = make("tbody"), table = make("table", { className: "keys" },
    make("caption", {}, `The three tokens that each token looks at most in ${head.name}.`),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Token"), make("th", { scope: "col" }, "Looks at"))), body);
  const details = make("details", {}, make("summary", {}, "The map as a table"),
    make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `Strongest keys of ${head.name}` }, table));
  details.addEventListener("toggle", () => {
    if (body.rows.length) return;
    for (let query = 0; query < size; query++) {
      const keys = Array.from({ length: look.causal ? query + 1 : size }, (_, key) => key);
      const top = keys.sort((a, b) => step(head, query, b) - step(head, query, a)).slice(0, 3);
      const text = top.map((key) => `${key} ${look.tokens[key]} ${share(step(head, query, key) / look.levels)}`).join(", ");
      body.append(make("tr", {}, make("th", { scope: "row" }, `${query} ${look.tokens[query]}`), make("td", {}, text)));
    }
  });
  return details;
}

$("family").append(make("option", { value: "" }, "none"), ...look.families.map(({ name, here }) =>
  make("option", { value: name }, here ? name : `${name} (members only)`)));
$("family").value = look.marked;
$("family").addEventListener("change", mark);
dark.addEventListener("change", drawAll);
mark();
drawAll();
for (const name of [...look.enlarged].reverse()) enlarge(named.get(name), false);
