// Switches and sliders for the server's settings.

import { call } from "./api.js";
import { duration } from "./time.js";

const LIFETIMES = [1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600, 21600, 86400];
const FAULTS = {
  tokenOutage: false, tokenLatency: 0, tokenErrorRate: 0,
  apiOutage: false, apiLatency: 0, apiErrorRate: 0,
};

const form = document.getElementById("settings");
const inputs = [...form.querySelectorAll("input")];
// Inputs that were changed a moment ago: a state that was on its way then is older than they are.
const HOLD = 1000;
const held = new Map();
let latest = null;

export function showSettings(settings) {
  latest = settings;
  for (const input of inputs) {
    if (held.has(input.name) || input.matches(":active")) continue;
    const value = settings[input.name];
    if (input.type === "checkbox") input.checked = value;
    else {
      input.value = input.name === "tokenLifetime" ? nearestLifetime(value) : value;
      label(input, value);
    }
  }
}

function hold(name) {
  clearTimeout(held.get(name));
  held.set(name, setTimeout(() => {
    held.delete(name);
    showSettings(latest);
  }, HOLD));
}

export function watchSettings(onError) {
  let changes = Promise.resolve(); // one after the other, so that the last one wins
  const change = (settings) => {
    const names = Object.keys(settings);
    names.forEach(hold);
    changes = changes.then(() => call("PATCH", "/dev/settings", settings))
      .catch(onError)
      .then(() => names.forEach(hold));
  };
  form.addEventListener("input", ({ target }) => {
    hold(target.name);
    if (target.type === "range") label(target, valueOf(target));
  });
  form.addEventListener("change", ({ target }) => change({ [target.name]: valueOf(target) }));
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("reset").addEventListener("click", () => {
    showSettings({ ...latest, ...FAULTS });
    change(FAULTS);
  });
}

function valueOf(input) {
  if (input.type === "checkbox") return input.checked;
  return input.name === "tokenLifetime" ? LIFETIMES[input.value] : Number(input.value);
}

function nearestLifetime(seconds) {
  const distance = (lifetime) => Math.abs(Math.log(lifetime / seconds));
  const sorted = [...LIFETIMES.keys()].sort((a, b) => distance(LIFETIMES[a]) - distance(LIFETIMES[b]));
  return sorted[0];
}

function label(input, value) {
  const text = input.name.endsWith("Rate") ? `${Math.round(value * 100)} %` : duration(value);
  const output = input.parentElement.querySelector("output");
  output.textContent = text;
  output.classList.toggle("on", value > 0 && input.name !== "tokenLifetime");
  input.setAttribute("aria-valuetext", text);
}
