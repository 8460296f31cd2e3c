"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const announce = (text) => { document.querySelector(".status").textContent = text; };
const textOf = (cell) => (cell.querySelector(".text, button") || cell).textContent.trim().replace(/\s+/g, " ");

const numberOf = (text) => parseFloat(text.replace(/,/g, ""));

// A number at the start of a cell; an empty cell sorts behind all others.
function sortKey(cell) {
  const match = textOf(cell).replace(/[\u2212\u2013]/g, "-").match(/[-+]?[\d,]*\.?\d+(e[-+]?\d+)?/i);
  return match ? numberOf(match[0]) : NaN;
}

// Numbers in texts count as numbers, so that 0.05 stands before 0.5 and l9 before l10.
function compareTexts(a, b) {
  const [x, y] = [a, b].map((text) => text.split(/(\d+(?:,\d{3})*(?:\.\d+)?)/)); // numbers at odd places
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const order = i % 2 ? numberOf(x[i]) - numberOf(y[i]) : x[i].localeCompare(y[i]);
    if (order) return order;
  }
  return x.length - y.length;
}

function compare(a, b, isNumeric, sign) {
  if (!isNumeric) return sign * compareTexts(textOf(a), textOf(b));
  const [x, y] = [sortKey(a), sortKey(b)];
  if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
  return sign * (x - y);
}

function sortBy(table, header) {
  const next = { none: "descending", descending: "ascending", ascending: "none" };
  const isNumeric = header.classList.contains("n");
  if (!isNumeric) Object.assign(next, { none: "ascending", ascending: "descending", descending: "none" });
  const order = next[header.getAttribute("aria-sort")];
  const column = header.cellIndex;
  const rows = [...table.originalRows];
  const sign = order === "ascending" ? 1 : -1;
  if (order !== "none") rows.sort((a, b) => compare(a.cells[column], b.cells[column], isNumeric, sign));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", other === header ? order : "none");
  announce(order === "none" ? "Original order" : `Sorted by ${textOf(header)}, ${order}`);
}

for (const table of all("table.sortable")) {
  table.originalRows = [...table.tBodies[0].rows];
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header));
    header.append(button);
    header.setAttribute("aria-sort", "none");
  }
}

// Where a table is wider than its box, as on a telephone, its results are seen first: they begin
// where the first column ends, so that no cell is cut.
for (const box of all(".scroll")) {
  const cell = box.querySelector("tbody .n:has(.bar)") || box.querySelector("tbody .n");
  if (!cell || cell.offsetLeft + cell.offsetWidth <= box.clientWidth) continue;
  const start = cell.offsetLeft - cell.parentElement.cells[0].offsetWidth;
  const missing = start - (box.scrollWidth - box.clientWidth);
  if (missing > 0) box.firstElementChild.style.marginInlineEnd = `${missing}px`;
  box.scrollLeft = start;
}

// Pages that are opened from disk may lack navigator.clipboard.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    button.focus();
    return isCopied;
  }
}

function copyByClick(button, text) {
  const label = button.textContent;
  let timer;
  button.addEventListener("click", async () => {
    const outcome = (await copy(text(), button)) ? "Copied" : "Not copied: the browser forbids it";
    button.textContent = outcome;
    announce(outcome);
    clearTimeout(timer);
    timer = setTimeout(() => { button.textContent = label; }, 1500);
  });
}

function tableText(button) {
  const rows = [...button.closest("figure").querySelector("table").rows];
  return rows.map((row) => [...row.cells].map(textOf).join("\t")).join("\n") + "\n";
}
for (const button of all(".copy-table")) copyByClick(button, () => tableText(button));
for (const button of all(".copy-commands")) {
  copyByClick(button, () => button.parentElement.querySelector("pre").textContent + "\n");
}

const dialog = document.querySelector("dialog");
for (const button of all(".zoom")) {
  button.addEventListener("click", () => {
    const [small, large] = [button.querySelector("img"), dialog.querySelector("img")];
    large.src = small.src;
    large.alt = small.alt;
    large.className = small.className;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target.localName !== "img") dialog.close(); });

// A link into what is folded away unfolds it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  let isFolded = false;
  for (let one = target && target.closest("details"); one; one = one.parentElement.closest("details")) {
    isFolded ||= !one.open;
    one.open = true;
  }
  if (isFolded) target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();

// Beside the text, the contents are always open. Above it, they are open only on demand.
const contents = document.querySelector(".toc");
const isWide = matchMedia("(min-width: 64rem)");
const fold = () => { contents.open = isWide.matches; };
isWide.addEventListener("change", fold);
fold();
const links = new Map(all("a", contents).map((link) => [link.hash.slice(1), link]));
for (const link of links.values()) link.addEventListener("click", () => { if (!isWide.matches) contents.open = false; });
const headings = [...links.keys()].map((id) => document.getElementById(id)); // of sections, the section
let isPending = false;
function mark() {
  isPending = false;
  const passed = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight / 4);
  const current = passed.length ? passed[passed.length - 1] : headings[0];
  for (const [id, link] of links) {
    if (id === current.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
addEventListener("scroll", () => {
  if (!isPending) requestAnimationFrame(mark);
  isPending = true;
}, { passive: true });
mark();
