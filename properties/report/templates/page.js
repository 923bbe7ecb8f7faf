"use strict";
// The page is complete without this: it adds copying of scripts, filtering of the matrix and opening of what is linked to.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2500);
  });
}

const words = document.getElementById("filter-words");
const onlyOpen = document.getElementById("filter-open");
function filterMatrix() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const body of document.querySelectorAll(".matrix tbody")) {
    let shown = 0;
    for (const row of body.querySelectorAll("tr.claim")) {
      const text = row.dataset.words;
      row.hidden = !wanted.every((word) => text.includes(word)) || (onlyOpen.checked && row.dataset.open === "no");
      shown += row.hidden ? 0 : 1;
    }
    body.hidden = shown === 0;
  }
}
document.querySelector(".controls").hidden = false;
words.addEventListener("input", filterMatrix);
onlyOpen.addEventListener("change", filterMatrix);

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let parent = target; parent; parent = parent.parentElement) {
    if (parent.tagName === "DETAILS") parent.open = true;
  }
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
if (location.hash) openTarget();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.for-print")) details.open = true;
});
