// The log of requests, newest first.

import { clock, duration } from "./time.js";

const KEPT = 300;
const REALM = /^\/realms\/[^/]+\/protocol\/openid-connect\//;

const body = document.getElementById("requests");
const paused = document.getElementById("paused");
let waiting = [];
let seen = 0;

export function addRequest(request) {
  seen += 1;
  document.getElementById("requests-count").textContent = seen;
  if (paused.checked) waiting.push(request);
  else show(request);
}

export function watchRequests() {
  const failedOnly = document.getElementById("failed-only");
  failedOnly.addEventListener("change", () =>
    body.parentElement.classList.toggle("failed-only", failedOnly.checked));
  paused.addEventListener("change", () => {
    if (paused.checked) return;
    waiting.forEach(show);
    waiting = [];
  });
  document.getElementById("clear").addEventListener("click", () => {
    body.replaceChildren();
    waiting = [];
    seen = 0;
    document.getElementById("requests-count").textContent = 0;
  });
}

function show(request) {
  document.getElementById("no-requests").hidden = true;
  const row = document.createElement("tr");
  row.className = request.status < 400 ? "ok" : "failed";
  const kind = request.status < 400 ? "good" : request.status < 500 ? "warn" : "bad";
  const chip = span(`chip ${kind}`, request.status);
  const path = cell("path", request.path.replace(REALM, "…/"));
  path.title = request.path;
  if (request.error) path.append(span("error", request.error));
  if (request.clientId) path.append(span("client-inline", request.clientId));
  row.append(
    cell("time", clock(request.time)), cell("", chip), cell("wide", request.method), path,
    cell("client", request.clientId ?? "–"), cell("wide number", took(request.duration)),
  );
  body.prepend(row);
  while (body.rows.length > KEPT) body.lastElementChild.remove();
}

function took(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : duration(seconds);
}

function span(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text; // never HTML: a client chose it
  return made;
}

function cell(className, content) {
  const made = document.createElement("td");
  made.className = className;
  made.append(content);
  return made;
}
