// The registered services: one item each, which is kept, so that the focus stays where it is.

import { serviceCall } from "./api.js";
import { clock, countdown, now } from "./time.js";

const list = document.getElementById("services");
const items = new Map();

export function showServices(services, onDone, onError) {
  const names = new Set(services.map((service) => service.name));
  for (const [name, item] of items) {
    if (!names.has(name)) {
      item.element.remove();
      items.delete(name);
    }
  }
  for (const service of services) {
    if (!items.has(service.name)) items.set(service.name, make(service.name, onDone, onError));
    items.get(service.name).show(service);
  }
  document.getElementById("services-count").textContent = services.length;
  document.getElementById("no-services").hidden = services.length > 0;
}

export function tickServices() {
  for (const item of items.values()) item.tick();
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // never HTML: a client chose it
  return made;
}

function make(name, onDone, onError) {
  const item = element("li", "service");
  const row = element("div", "row");
  const state = element("span", "chip");
  const rotate = element("button", "quiet", "Rotate secret");
  const toggle = element("button", "quiet");
  const token = element("p", "service-token");
  const bar = element("progress", "");
  const label = element("span", "service-name", name);
  const grow = element("span", "grow");
  grow.append(label, " ", state);
  row.append(grow, rotate, toggle);
  item.append(row, token, bar);
  list.append(item);
  let service = null;

  const act = (action, text) =>
    serviceCall(name, action).then(() => onDone(text)).catch(onError);
  rotate.setAttribute("aria-label", `Rotate the secret of ${name}`);
  bar.setAttribute("aria-label", `Time left of the last token of ${name}`);
  rotate.addEventListener("click", () => act("rotate-secret", `Rotated the secret of ${name}.`));
  toggle.addEventListener("click", () =>
    service.enabled ? act("disable", `Disabled ${name}.`) : act("enable", `Enabled ${name}.`));

  function tick() {
    const last = service.lastToken;
    bar.hidden = !last;
    if (!last) {
      token.textContent = `No token yet. Registered at ${clock(service.registeredAt)}.`;
      return;
    }
    const left = last.expiresAt - now();
    const when = left > 0 ? `expires in ${countdown(left)}` : `expired ${countdown(left)} ago`;
    token.textContent = `Token issued at ${clock(last.issuedAt)}, ${when}.`;
    bar.max = last.expiresAt - last.issuedAt;
    bar.value = Math.max(0, left);
  }

  function show(changed) {
    service = changed;
    const alive = service.lastToken && service.lastToken.expiresAt > now();
    const [text, kind] = !service.enabled ? ["disabled", "bad"]
      : alive ? ["active", "good"] : ["no valid token", "warn"];
    state.textContent = text;
    state.className = `chip ${kind}`;
    toggle.textContent = service.enabled ? "Disable" : "Enable";
    toggle.setAttribute("aria-label", `${toggle.textContent} ${name}`);
    tick();
  }

  return { element: item, show, tick: () => show(service) };
}
