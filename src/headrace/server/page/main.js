// What the page does as a whole: models, key, colours, parts, keys.

import { ask, key, onLocked } from "./api.js";
import { again, clear, isRunning, send, stop } from "./chat.js";
import { $, element } from "./dom.js";
import { watch } from "./live.js";
import { prepare } from "./settings.js";

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
const FIRST_FIELDS = { settings: "mode", chat: "message" };

async function listModels() {
  try {
    const { data } = await (await ask("v1/models")).json();
    const chosen = $("model").value;
    $("model").replaceChildren(...data.map(({ id }) => element("option", { value: id, textContent: id })));
    if (data.some(({ id }) => id === chosen)) $("model").value = chosen;
    $("key-form").hidden = true;
    $("key-error").textContent = "";
  } catch (error) {
    if (error.status !== 401) $("health").textContent = `No models: ${error.message}`;
    else if (key.get()) $("key-error").textContent = error.message;
  }
}

async function watchHealth() {
  for (;;) {
    try {
      await ask("health/ready");
      show("ready", "ready");
    } catch (error) {
      show("trouble", error.status ? error.message : "the server cannot be reached");
    }
    if (!$("model").options.length && $("key-form").hidden) await listModels();
    await new Promise((resolve) => setTimeout(resolve, 5000));
  }
}

function show(state, words) {
  $("health").dataset.state = state;
  if ($("health").textContent !== words) $("health").textContent = words;
}

function turnTo(view, focuses = false) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === view));
  }
  const field = $(FIRST_FIELDS[view]);
  if (focuses && field) field.focus();
}

function paint(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme-name").textContent = theme[0].toUpperCase() + theme.slice(1);
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  localStorage.setItem("headrace.theme", theme);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const now = document.documentElement.dataset.theme ?? "auto";
  paint(names[(names.indexOf(now) + 1) % names.length]);
}

const LETTERS = {
  "/": () => turnTo("chat", true),
  "?": () => $("help").showModal(),
  c: () => turnTo("chat", true),
  l: () => turnTo("live"),
  n: clear,
  r: again,
  s: () => turnTo("settings", true),
  t: nextTheme,
};

function onKey(event) {
  if (event.isComposing || $("help").open) return;
  const isField = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    if (isRunning()) stop();
    else if (isField) event.target.blur();
    return;
  }
  if (isField || event.ctrlKey || event.metaKey || event.altKey || !$("letters").checked) return;
  const action = LETTERS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function onMessageKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

function connect() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("message").addEventListener("keydown", onMessageKey);
  $("stop").addEventListener("click", stop);
  $("again").addEventListener("click", again);
  $("new").addEventListener("click", clear);
  $("theme").addEventListener("click", nextTheme);
  $("help-button").addEventListener("click", () => $("help").showModal());
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => turnTo(button.dataset.show));
  }
  $("letters").checked = localStorage.getItem("headrace.letters") !== "off";
  $("letters").addEventListener("change", () => {
    localStorage.setItem("headrace.letters", $("letters").checked ? "on" : "off");
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    key.set($("key").value.trim());
    await listModels();
    if ($("key-form").hidden) $("message").focus();
  });
  document.addEventListener("keydown", onKey);
  onLocked.call = () => {
    if (!$("key-form").hidden) return;
    $("key-form").hidden = false;
    $("key").focus();
  };
}

const kept = localStorage.getItem("headrace.theme");
paint(kept in THEMES ? kept : "auto");
prepare();
connect();
await listModels();
if ($("key-form").hidden) $("message").focus();
void watchHealth();
void watch();
