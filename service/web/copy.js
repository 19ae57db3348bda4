// "Copy as curl" and "copy as Python": a request of this page as a user would send it. The key is named, never written.

import { hasKey } from "./api.js";
import { say } from "./words.js";

const urlOf = (path) => new URL(path, document.baseURI).href;
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`; // for a shell

const curl = (path, body) =>
  [
    `curl -s ${urlOf(path)}`,
    ...(hasKey() ? ['-H "Authorization: Bearer $DANMAKU_API_KEY"'] : []),
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");

// JSON of texts and numbers is valid Python.
const python = (path, body, use) =>
  [
    `import json${hasKey() ? ", os" : ""}, urllib.request`,
    "",
    `body = ${JSON.stringify(body)}`,
    `request = urllib.request.Request(${JSON.stringify(urlOf(path))}, json.dumps(body).encode())`,
    ...(hasKey() ? [`request.add_header("Authorization", f"Bearer {os.environ['DANMAKU_API_KEY']}")`] : []),
    "answer = json.load(urllib.request.urlopen(request))",
    use,
  ].join("\n");

const USE = 'for match in answer["results"][0]["matches"]:\n    print(f\'{match["score"]:.3f}\', match["text"])';

// Adds two buttons to `place`; they show the request of POST /similar below the head of its card and copy it.
export function addCopyButtons(place, bodyOf) {
  const code = Object.assign(document.createElement("pre"), { className: "code", hidden: true, tabIndex: 0 });
  const outcome = Object.assign(document.createElement("span"), { className: "outcome" });
  outcome.setAttribute("role", "status");
  const label = Object.assign(document.createElement("span"), { className: "label" });
  label.dataset.t = "copyAs";
  label.textContent = say("copyAs");
  place.append(outcome, label);
  for (const [name, write] of Object.entries({ curl, Python: python })) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", async () => {
      code.textContent = write("similar", bodyOf(), USE);
      code.hidden = false;
      outcome.textContent = (await copyToClipboard(code.textContent)) ? say("copied") : say("copyYourself");
    });
    place.append(button);
  }
  place.closest(".head").after(code);
}

// A page loaded over plain HTTP from another machine has no clipboard.
async function copyToClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
