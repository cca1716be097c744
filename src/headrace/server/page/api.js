// The server's API, at addresses relative to the page.

const KEY = "headrace.key";

/** The key lives in this tab, until it is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What a server said no with. */
export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Called when a key is missing or wrong. */
export const onLocked = { call: () => {} };

/** Fetch with the key; raises Refused for what is not a success. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const options = { headers, signal, cache: "no-store" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, options);
  if (response.ok) return response;
  const text = await response.text();
  if (response.status === 401) onLocked.call();
  const error = parsed(text)?.error;
  throw new Refused(response.status, error?.message ?? (text.slice(0, 300) || response.statusText), error?.code);
}

/** The objects of a stream of server-sent events, and when they came: those of one read came together. */
export async function* events(path, body, signal) {
  const response = await ask(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const time = performance.now();
    if (done) break;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(500, event.error.message, event.error.code);
      yield { event, time };
    }
  }
  throw new Refused(500, "The answer broke off: the server closed the connection. Send it again.");
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
