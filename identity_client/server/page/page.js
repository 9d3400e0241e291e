// The development page: what the server does, and what can be changed about it.

import { setKey, stream, takeKey } from "./api.js";
import { tickDecoder, watchDecoder } from "./decoder.js";
import { addRequest, watchRequests } from "./requests.js";
import { showServices, tickServices } from "./services.js";
import { showSettings, watchSettings } from "./settings.js";
import { setServerTime } from "./time.js";

const connection = document.getElementById("connection");
const content = document.getElementById("content");
const door = document.getElementById("door");
const notice = document.getElementById("notice");
let lastRequest = 0;
let noticeTimer;

function notify(text) {
  clearTimeout(noticeTimer);
  notice.textContent = text;
  notice.hidden = false;
  noticeTimer = setTimeout(() => { notice.hidden = true; }, 4000);
}

function complain(error) {
  if (error.status === 401) askForKey("This key is not valid: the server has been restarted. " +
    "Open the address that it printed, or enter its key.");
  else notify(error.message);
}

function setConnection(state, text) {
  connection.dataset.state = state;
  connection.textContent = text;
}

function askForKey(text) {
  if (text) document.getElementById("door-text").textContent = text;
  setConnection("lost", "no key");
  content.hidden = true;
  door.hidden = false;
  document.getElementById("key").focus();
}

function onEvent(kind, data) {
  if (kind === "request") {
    lastRequest = data.number;
    addRequest(data);
  } else {
    showSettings(data.settings);
    showServices(data.services, notify, complain);
  }
}

function onOpen(date) {
  setServerTime(date);
  setConnection("live", "live");
  door.hidden = true;
  content.hidden = false;
}

async function follow() {
  for (;;) {
    try {
      await stream(lastRequest, onOpen, onEvent);
      setConnection("lost", "disconnected");
    } catch (error) {
      if (error.status === 401) return complain(error);
      setConnection("lost", error.status ? error.message : "disconnected");
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
    setConnection("waiting", "reconnecting");
  }
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key");
  setKey(field.value.trim());
  field.value = "";
  follow();
});
// The printed address of a restarted server, opened in this tab, changes only the fragment.
addEventListener("hashchange", () => location.reload());

watchDecoder();
watchRequests();
watchSettings(complain);
setInterval(() => { tickServices(); tickDecoder(); }, 500);
if (takeKey()) follow();
else askForKey();
