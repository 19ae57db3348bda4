// What the page asks of the gateway: its public routes, and POST /playground/embed. Paths are relative, so that it also
// works behind a prefix. The API key stays in this tab.

let key = null;
try {
  key = sessionStorage.getItem("key");
} catch {
  // Then it is kept as long as the page.
}

export const hasKey = () => Boolean(key);

export function useKey(given) {
  key = given || null;
  try {
    sessionStorage.setItem("key", given);
  } catch {
    // As above.
  }
}

// What the gateway answers in the place of what was asked.
export class Refusal extends Error {
  constructor(type, message, status = 0, retryAfterS = 1) {
    super(message);
    Object.assign(this, { type, status, retryAfterS });
  }
}

async function ask(path, { body, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response, text;
  try {
    response = await fetch(path, { ...options, headers, signal, cache: "no-store" });
    text = await response.text(); // which may be given up, or break off, as well
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("unreachable", error.message);
  }
  if (response.ok) return JSON.parse(text);
  const answer = errorIn(text);
  const retryAfterS = Number(response.headers.get("retry-after")) || 1;
  throw new Refusal(answer.error_type ?? "other", answer.error ?? response.statusText, response.status, retryAfterS);
}

// A proxy in between may refuse in words of its own.
function errorIn(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

export const info = () => ask("info");
export const collections = () => ask("collections");
export const mapOf = (name) => ask(`collections/${encodeURIComponent(name)}/map`);
export const tokenize = (text, signal) => ask("tokenize", { body: { texts: [text] }, signal });
export const similar = (query, signal) => ask("similar", { body: query, signal });

// Unit vectors, null where there is none; `is_cached` and `seconds` are the gateway's own.
export const embed = (texts, signal) => ask("playground/embed", { body: { texts, normalize: true }, signal });
