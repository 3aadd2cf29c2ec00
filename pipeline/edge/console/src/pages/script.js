// What the pages can do beside showing themselves: move through a waterfall with the arrow keys, open all of its steps,
// and follow the queues. Without this file everything can be seen too.
"use strict";

const steps = [...document.querySelectorAll(".steps summary")];
const all = document.getElementById("all");
if (all) {
  all.hidden = false;
  all.addEventListener("click", () => {
    const open = all.textContent === "Open all";
    for (const step of steps) step.parentElement.open = open;
    all.textContent = open ? "Close all" : "Open all";
  });
}
document.addEventListener("keydown", (event) => {
  const at = steps.indexOf(document.activeElement);
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (at < 0 || !move || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  steps[at + move]?.focus();
  event.preventDefault();
});

const follow = document.getElementById("follow");
const EVERY_MS = 5000;
let timer = 0;
async function again() {
  const told = document.getElementById("followed");
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("live").replaceWith(page.getElementById("live"));
    told.textContent = "";
  } catch {
    told.textContent = "The last one could not be fetched.";
  }
  if (follow.getAttribute("aria-pressed") === "true") timer = setTimeout(again, EVERY_MS);
}
if (follow) {
  follow.hidden = false;
  follow.addEventListener("click", () => {
    const pressed = follow.getAttribute("aria-pressed") !== "true";
    follow.setAttribute("aria-pressed", String(pressed));
    clearTimeout(timer);
    if (pressed) again();
  });
}
