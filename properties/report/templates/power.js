"use strict";
// Reads out the square that is pointed at; without this the page has the tables.
const kills = document.getElementById("kills");
if (kills) {
  const rows = new Map(JSON.parse(document.getElementById("rows").textContent)), squares = new Map();
  const columns = new Map([...kills.querySelectorAll(".hits rect")].map((hit) => [+hit.getAttribute("x"), hit.textContent]));
  for (const path of kills.querySelectorAll("path.judged, path[data-way]")) {
    let x = 0, y = 0;
    for (const [, row, gap, n] of path.getAttribute("d").matchAll(/M0 (\d+)|m(\d+) 0h(\d+)/g)) {
      if (row !== undefined) { x = 0; y = +row; continue; }
      x += +gap;
      for (const end = x + +n; x < end; x++) squares.set(`${x} ${y}`, path.dataset.way || "judged, not noticed");
    }
  }
  const readout = document.getElementById("readout");
  readout.hidden = false;
  kills.addEventListener("mousemove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(kills.getScreenCTM().inverse());
    const x = Math.floor(at.x), y = Math.round(at.y);
    readout.replaceChildren();
    if (columns.has(x) && rows.has(y)) {
      readout.append(columns.get(x), document.createElement("br"), `${rows.get(y)}: ${squares.get(`${x} ${y}`) || "not judged"}`);
    } else if (columns.has(x)) readout.append(columns.get(x));
    else if (rows.has(y)) readout.append(rows.get(y));
  });
  kills.addEventListener("click", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(kills.getScreenCTM().inverse());
    const line = document.getElementById(`s-${columns.get(Math.floor(at.x))}`);
    if (line) line.scrollIntoView({ block: "center" });
  });
}
