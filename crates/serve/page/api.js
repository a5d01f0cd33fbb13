// Requests to the service this page came from.

export class ApiError extends Error {
  constructor(status, body) {
    super(body?.message || `the service answered ${status}`);
    this.status = status;
    this.code = body?.code;
  }
}

/** Called with true when the service stops answering, with false when it answers again. */
let offline = () => {};
let login = null;
let isOffline = false;

export function onOffline(callback) {
  offline = callback;
}

/** Called when a token is needed; resolves when there may be one. */
export function onLogin(callback) {
  login = callback;
}

async function watch() {
  while (isOffline) {
    await new Promise((done) => setTimeout(done, 2000));
    try {
      const answer = await fetch("/api/health");
      if (answer.status < 500) {
        isOffline = false;
        offline(false);
      }
    } catch {
      // still away
    }
  }
}

async function request(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!isOffline) {
      isOffline = true;
      offline(true);
      watch();
    }
    throw new ApiError(0, { code: "offline", message: "the service does not answer" });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  if (answer.status === 401 && login) {
    await login();
    return request(path, options);
  }
  throw new ApiError(answer.status, body);
}

const json = (method, body, signal) => ({
  method,
  signal,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/** Waits out a service that is busy, a few times. */
async function patient(path, options) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await request(path, options);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 503 || tries >= 5) throw error;
      await new Promise((done) => setTimeout(done, 400 * (tries + 1)));
    }
  }
}

export const get = async (path, signal) => (await patient(path, { signal })).json();
export const post = async (path, body = {}, signal) => (await patient(path, json("POST", body, signal))).json();
export const patch = async (path, body) => (await patient(path, json("PATCH", body))).json();
export const remove = async (path) => void (await patient(path, { method: "DELETE" }));

export const upload = async (file) =>
  (
    await patient(`/api/images?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    })
  ).json();

export async function enter(token) {
  const answer = await fetch("/api/session", json("POST", { token }));
  return answer.ok;
}

/** Reads server-sent events of an answer to any method; calls `heard(name, data)` for each. */
export async function events(path, body, heard, signal) {
  const options = body === null ? { signal } : json("POST", body, signal);
  const answer = await patient(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) =>
        lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart()).join("\n");
      const data = field("data");
      if (data) heard(field("event"), JSON.parse(data));
    }
  }
}
