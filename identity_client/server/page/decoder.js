// The token decoder. The server decodes, as it can tell whether it signed the token.

import { call } from "./api.js";
import { clock, countdown, now } from "./time.js";

const TIMES = new Set(["exp", "iat", "nbf", "auth_time"]);

const field = document.getElementById("token");
const problem = document.getElementById("decoder-problem");
const decoded = document.getElementById("decoded");
const timeLeft = document.getElementById("time-left");
let expiry = null;
let latest = 0;

export function watchDecoder() {
  let timer;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(decode, 200);
  });
}

export function tickDecoder() {
  if (expiry === null) return;
  const left = expiry - now();
  timeLeft.className = `chip ${left > 0 ? "good" : "bad"}`;
  timeLeft.textContent = left > 0 ? `expires in ${countdown(left)}` : `expired ${countdown(left)} ago`;
}

async function decode() {
  const number = ++latest;
  const token = field.value.trim();
  let result = null;
  let text = "";
  try {
    result = token ? await call("POST", "/dev/decode", { token }) : null;
  } catch (error) {
    text = error.message;
  }
  if (number !== latest) return; // the field has changed meanwhile
  problem.textContent = text;
  decoded.hidden = result === null;
  if (result !== null) show(result);
}

function show({ header, claims, signedHere }) {
  const signed = document.getElementById("signed");
  signed.className = `chip ${signedHere ? "good" : "warn"}`;
  signed.textContent = signedHere ? "signed by this server" : "not signed by this server";
  expiry = typeof claims.exp === "number" ? claims.exp : null;
  timeLeft.className = "chip warn";
  timeLeft.textContent = "never expires";
  tickDecoder();
  const rows = [...Object.entries(claims), ["header", header]];
  document.getElementById("claims").replaceChildren(...rows.flatMap(row));
}

function row([name, value]) {
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  term.textContent = name;
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const isTime = TIMES.has(name) && typeof value === "number";
  description.textContent = isTime ? `${text} (${clock(value)})` : text;
  return [term, description];
}
