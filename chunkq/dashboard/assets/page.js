// What the page does besides showing: theme, buttons without leaving the page, choosing, copying.

import { Stream } from "./live.js";

const find = (selector) => document.querySelector(selector);

/** Tell whoever acted what became of it. */
let saying = 0;
function say(text, ok) {
  const said = find("#said");
  said.dataset.tone = ok ? "done" : "failed";
  said.textContent = text;
  said.hidden = false;
  clearTimeout(saying);
  saying = setTimeout(() => { said.hidden = true; }, ok ? 6000 : 20000);
}

/** State changes for those who listen instead of looking; many at once are counted. */
const heard = [];
function announce(text) {
  if (heard.push(text) > 1) return;
  setTimeout(() => {
    const texts = heard.splice(0);
    find("#changes").textContent = texts.length > 3 ? `${texts.length} transfers changed state` : texts.join(". ");
  }, 500);
}

function showState({ staleMs = 0, trouble = "", loggedOut = false }) {
  const banner = find("#stale");
  const pulse = find("#pulse");
  if (loggedOut) {
    banner.textContent = "You are no longer logged in: run chunkq dashboard --login, and open its address.";
  } else if (staleMs) {
    banner.textContent = `Stale for ${Math.round(staleMs / 1000)} s: the server is away. Trying again.`;
  } else if (trouble) {
    banner.textContent = `Stale: ${trouble}`;
  }
  const stale = Boolean(loggedOut || staleMs || trouble);
  if (banner.hidden === stale) banner.hidden = !stale;
  pulse.dataset.tone = stale ? "stalled" : "done";
  const word = stale ? "stale" : "live";
  if (find("#pulse-text").textContent !== word) find("#pulse-text").textContent = word;
}

function startTheme() {
  const button = find("#theme");
  const words = { "": "System", light: "Light", dark: "Dark" };
  const show = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    find("#theme-text").textContent = words[theme];
    button.setAttribute("aria-label", `Theme: ${words[theme]}`);
  };
  button.hidden = false;
  show(document.documentElement.dataset.theme ?? "");
  button.addEventListener("click", () => {
    const order = Object.keys(words);
    const now = document.documentElement.dataset.theme ?? "";
    const next = order[(order.indexOf(now) + 1) % order.length];
    try {
      localStorage.setItem("theme", next);
    } catch {
      // it holds for this page
    }
    show(next);
  });
}

/** A button of a form: done in the background; without this script the form does the same. */
async function submit(event) {
  const form = event.target;
  if (form.getAttribute("action") !== "/act") return;
  event.preventDefault();
  const button = event.submitter;
  const body = new URLSearchParams(new FormData(form, button));
  for (const menu of form.querySelectorAll("details[open]")) menu.open = false;
  button.setAttribute("aria-disabled", "true");
  try {
    const answer = await fetch("/act", { method: "POST", body, headers: { Accept: "application/json" } });
    if (answer.headers.get("Content-Type")?.startsWith("application/json")) {
      const { text, ok } = await answer.json();
      say(text, ok);
      if (ok) unpick(form);
    } else {
      say(answer.status === 401 ? "You are no longer logged in." : await answer.text(), false);
    }
  } catch {
    say("The server is away; nothing was done.", false);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function unpick(form) {
  for (const box of form.querySelectorAll("input[type=checkbox]")) box.checked = false;
  count();
}

function count() {
  const chosen = find("#chosen");
  if (!chosen) return;
  const number = document.querySelectorAll("input[name=id]:checked").length;
  chosen.hidden = number === 0;
  chosen.textContent = `${number} chosen`;
}

function startChoosing() {
  const all = find("#pick-all");
  if (!all) return;
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll("input[name=id]")) box.checked = all.checked;
    count();
  });
  document.addEventListener("change", count);
}

async function copy(button) {
  const code = button.closest("li")?.querySelector("code") ?? button;
  try {
    await navigator.clipboard.writeText(code.textContent);
    say(`Copied: ${code.textContent}`, true);
  } catch {
    getSelection()?.selectAllChildren(code);
    say("It is selected: copy it with the keyboard.", true);
  }
}

function start() {
  startTheme();
  startChoosing();
  document.addEventListener("submit", submit);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const menu = document.activeElement?.closest("details.menu[open]");
      if (menu) {
        menu.open = false;
        menu.querySelector("summary").focus();
      }
    } else if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      const search = find("input[type=search]");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
  });
  const view = document.body.dataset.view;
  if (!view) return;
  const query = new URLSearchParams(location.search);
  query.set("view", view);
  if (view === "transfer") query.set("id", decodeURIComponent(location.pathname.split("/").pop()));
  new Stream(`/events?${query}`, { announce, onState: showState });
}

start();
