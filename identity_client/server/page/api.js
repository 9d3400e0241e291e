// The server's calls, with the key that opens them, and its stream of events.

const NAME = "identity-api-key";

// The key comes in the fragment, which browsers send to no server; it must not stay in the
// history or be copied with the address.
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    setKey(given);
    history.replaceState(null, "", location.pathname);
  }
  return key();
}

export function setKey(value) {
  sessionStorage.setItem(NAME, value);
}

function key() {
  return sessionStorage.getItem(NAME);
}

function request(method, path, body, options = {}) {
  const headers = { Authorization: `Bearer ${key()}`, ...options.headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  return fetch(path, { method, body, headers, cache: "no-store", signal: options.signal });
}

async function failure(response) {
  const document = await response.json().catch(() => ({}));
  const error = new Error(document.message || `The server returned HTTP ${response.status}.`);
  error.status = response.status;
  return error;
}

export async function call(method, path, body) {
  const response = await request(method, path, body);
  if (!response.ok) throw await failure(response);
  return response.status === 204 ? null : (await response.json()).data;
}

export function serviceCall(name, action) {
  return call("POST", `/dev/services/${encodeURIComponent(name)}/${action}`);
}

// EventSource sends no Authorization header, so the stream is read with fetch.
export async function stream(since, onOpen, onEvent) {
  const headers = { Accept: "text/event-stream", "Last-Event-ID": String(since) };
  const response = await request("GET", "/dev/events", undefined, { headers });
  if (!response.ok) throw await failure(response);
  onOpen(response.headers.get("Date"));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const fields = new Map(text.slice(0, end).split("\n").map(field));
      text = text.slice(end + 2);
      if (fields.has("data")) onEvent(fields.get("event"), JSON.parse(fields.get("data")));
    }
  }
}

function field(line) {
  const colon = line.indexOf(":");
  return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
}
