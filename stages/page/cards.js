// A card for every head: by address (#decoder/L5H1), by a click on a cell, by search; arrow keys go to its neighbours.
const cards = read("cards");
const card = document.getElementById("card");
const element = (name, text, classes = "") => {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (classes) made.className = classes;
  return made;
};
const numeric = (text) => /^[\u2212+]?[0-9.]+$/.test(text) || text.startsWith("[") || text === "\u2013" || text.startsWith("below ");
const grid = ({ columns, rows }) => {
  const table = element("table", null), head = table.createTHead().insertRow(), body = table.createTBody();
  for (const name of columns) { const cell = element("th", name); cell.scope = "col"; head.append(cell); }
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((text, at) => {
      const cell = element(at ? "td" : "th", text, at && numeric(text) ? "n" : "");
      if (!at) cell.scope = "row";
      line.append(cell);
    });
  }
  return table;
};
// What a head looks at from one position: shade and number are attention, in hundredths; the target is outlined.
const strip = ({ cells, query, targets }, weights, says) => {
  const row = element("p", null, "strip");
  row.role = "img"; row.ariaLabel = says;
  weights.split(" ").forEach((weight, at) => {
    const left = typeof cells[at] === "number", cell = element("span", left ? `\u22ef ${cells[at]} left out` : cells[at]);
    cell.style.setProperty("--weight", weight);
    for (const [name, on] of [["left", left], ["query", query.includes(at)], ["target", targets.includes(at)]]) cell.classList.toggle(name, on);
    if (Number(weight) >= 5) cell.append(element("small", weight));
    row.append(cell);
  });
  return row;
};
const has = (slot, head) => Object.hasOwn(cards, slot) && Object.hasOwn(cards[slot].heads, head);
const address = () => {
  const [, slot, head] = location.hash.match(/^#([^/]+)\/(L\d+H\d+)$/) ?? [];
  return slot && has(slot, head) ? { slot, head } : null;
};
const show = () => {
  const at = address();
  if (!at) { if (card.open) card.close(); return; }
  const { says, tables, examples } = cards[at.slot].heads[at.head];
  const title = document.getElementById("card-title");
  title.textContent = `${at.head} of ${at.slot}`;
  const content = document.getElementById("card-content");
  content.replaceChildren(...says.map((text) => element("p", text)));
  const parts = tables.map((table) => {
    const scroll = element("div", null, "scroll");
    scroll.tabIndex = 0; scroll.role = "group"; scroll.ariaLabel = table.title;
    scroll.append(grid(table));
    return [element("h3", table.title, "label"), scroll];
  });
  const seen = examples.flatMap(({ family, weights, says }) =>
    [element("h4", family, "label"), strip(cards[at.slot].strips[family], weights, says), element("p", says, "note")]);
  if (seen.length) parts.splice(1, 0, [element("h3", "In one prompt of each of its families", "label"), element("p", document.getElementById("strips-say").textContent, "note"), ...seen]);
  content.append(...parts.flat());
  if (!card.open) card.showModal();
  content.scrollTop = 0;
};
const neighbour = (layers, heads) => {
  const at = address();
  if (!at) return;
  const names = Object.keys(cards[at.slot].heads).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));  // L2 before L10
  if (heads) { open(at.slot, names[names.indexOf(at.head) + heads]); return; }
  const [, layer, head] = at.head.match(/L(\d+)H(\d+)/);
  open(at.slot, `L${Number(layer) + layers}H${head}`);
};
const open = (slot, head) => {
  if (!has(slot, head)) return;
  if (address()) { history.replaceState(null, "", `#${slot}/${head}`); show(); } else location.hash = `${slot}/${head}`;
};
addEventListener("hashchange", show);
card.addEventListener("close", () => { if (address()) history.replaceState(null, "", location.pathname + location.search); });
card.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (move) { event.preventDefault(); neighbour(...move); }
});
for (const [id, move] of [["card-before", [0, -1]], ["card-after", [0, 1]]])
  document.getElementById(id).addEventListener("click", () => neighbour(...move));
document.getElementById("card-close").addEventListener("click", () => card.close());

// Every chart that names heads opens their cards.
const opening = (place) => ({ view }) => {
  const slot = place.closest("article")?.id;
  if (!slot || !Object.hasOwn(cards, slot)) return;
  view.addEventListener("click", (event, item) => {
    const named = ["name", "source", "head", "target"].map((field) => item?.datum?.[field]);
    const head = named.find((name) => /^L\d+H\d+$/.test(name));
    if (head) open(slot, head);
  });
};

// The search box: a head, with its slot where there are several: L5H1, encoder/L2H3.
const search = document.getElementById("search");
search.addEventListener("change", () => {
  if (!search.value.trim()) return;
  const [, slot, layer, head] = search.value.trim().match(/^(?:(.+)[/ ])?L?(\d+)[Hh. ](\d+)$/i) ?? [];
  const name = `L${Number(layer)}H${Number(head)}`;
  const asked = Object.keys(cards).filter((known) => !slot || known.toLowerCase() === slot.toLowerCase());
  const found = asked.find((known) => has(known, name));
  search.setCustomValidity(found ? "" : "No such head on this page; write it like L5H1 or decoder/L5H1.");
  search.reportValidity();
  if (found) { search.value = ""; open(found, name); }
});
search.addEventListener("input", () => search.setCustomValidity(""));

// The table of all heads: made when it is unfolded; a click on a column sorts, the box filters.
document.querySelectorAll("details.all-heads").forEach((part) => part.addEventListener("toggle", () => {
  const slot = part.closest("article").id, hold = part.querySelector(".scroll");
  if (hold.firstChild) return;
  const table = grid(cards[slot].listing);
  table.querySelectorAll("tbody th").forEach((cell) => {
    const link = element("a", cell.textContent);
    link.href = `#${slot}/${cell.textContent}`;
    cell.replaceChildren(link);
  });
  const value = (row, at) => {
    const text = row.cells[at].textContent, head = text.match(/^L(\d+)H(\d+)$/);
    const known = head ? head[1] * 1000 + Number(head[2]) : Number(text.replace("\u2212", "-"));
    return Number.isNaN(known) ? (text === "\u2013" ? -Infinity : text) : known;
  };
  table.querySelectorAll("thead th").forEach((cell, at) => {
    const button = element("button", cell.textContent);
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = cell.ariaSort !== "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      cell.ariaSort = falling ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows].map((row) => [value(row, at), row]);
      rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (falling ? -1 : 1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
  const filter = part.querySelector("input");
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  hold.append(table);
}));
