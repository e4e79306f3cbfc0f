"use strict";
// Tables are sorted by a click on a column's title: first up, then down.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
      rows.sort(([a], [b]) => compare(a, b, down));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function value(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(cell.dataset.order ?? text.replace("\u2212", "-").replace(",", ""));
  return Number.isNaN(number) ? (text === "\u2013" ? null : text) : number;
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null); // gaps stay at the end
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  return down ? -order : order;
}
