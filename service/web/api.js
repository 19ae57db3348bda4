// The requests of the page: the gateway's public routes, and POST /playground/embed. Paths are relative, so the page also
// works behind a prefix. The API key stays in this tab.

let key = null;
try {
  key = sessionStorage.getItem("key");
} catch {
  // Storage may be forbidden; then the key lives as long as the page.
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

// An error response of the gateway, or no response at all.
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
    text = await response.text(); // may be aborted or break off, too
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("unreachable", error.message);
  }
  if (response.ok) return JSON.parse(text);
  const refusal = parseError(text);
  const retryAfterS = Number(response.headers.get("retry-after")) || 1;
  throw new Refusal(refusal.error_type ?? "other", refusal.error ?? response.statusText, response.status, retryAfterS);
}

// Returns {} for a body that is not ours: a proxy in between may have answered.
function parseError(text) {
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
export const classify = (text, signal) => ask("classify", { body: { texts: [text] }, signal });
export const similar = (query, signal) => ask("similar", { body: query, signal });

// Returns unit vectors, null for texts without one; `is_cached` and `seconds` are measured by the gateway.
export const embed = (texts, signal) => ask("playground/embed", { body: { texts, normalize: true }, signal });
