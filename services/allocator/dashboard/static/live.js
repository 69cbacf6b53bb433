// Keeps an open page current: asks for its board every few seconds and replaces the sections that changed. What is open,
// and what has the focus, stays so. Pauses while nobody looks. Without it the page works, and is reloaded by hand.
"use strict";

const board = document.getElementById("board");
const state = document.getElementById("state");
const pause = document.getElementById("pause");
const everyMs = Number(board.dataset.everyMs);
let paused = false;

function say(word, kind) {
  if (state.textContent !== word) state.textContent = word;
  state.className = `state ${kind}`;
}

function replace(old, fresh) {
  for (const details of fresh.querySelectorAll("details[id]")) {
    details.open = Boolean(document.getElementById(details.id)?.open);
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const places = "a, summary, button";
  const index = focused ? [...old.querySelectorAll(places)].indexOf(focused) : -1;
  old.replaceWith(fresh);
  if (index >= 0) fresh.querySelectorAll(places)[index]?.focus({ preventScroll: true });
}

async function refresh() {
  if (paused || document.hidden) return;
  const answer = await fetch(board.dataset.live, { cache: "no-store", credentials: "same-origin" });
  if (answer.status === 401) {
    window.location.assign("/dashboard/login");
    return;
  }
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (paused) return;
  for (const section of [...fresh.querySelectorAll("section[id]")]) {
    const old = document.getElementById(section.id);
    if (old && old.innerHTML !== section.innerHTML) replace(old, document.adoptNode(section));
  }
  say("live", "ok");
}

async function turn() {
  try {
    await refresh();
  } catch (error) {
    say(`not updating: ${error.message}`, "bad");
  }
  window.setTimeout(turn, everyMs);
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  say(paused ? "paused" : "live", paused ? "plain" : "ok");
});
state.hidden = pause.hidden = false;
document.getElementById("reload").hidden = true;
say("live", "ok");
window.setTimeout(turn, everyMs);
