// Turns responses of the gateway into elements of the page.

import { say } from "./words.js";

export const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const ms = (value) => (value < 0.1 ? "<0.1" : value < 10 ? value.toFixed(1) : Math.round(value));

// Shows how long the gateway took to embed and, if there was a search, its round trip as the browser measured it.
export function times({ is_cached, seconds }, searchMs) {
  const how = make("b", { textContent: say(is_cached ? "cached" : "encoded") });
  const all = [say("embedTook", ms(seconds * 1000)), ...(searchMs === null ? [] : [say("searchTook", ms(searchMs))])];
  return [how, ...all.map((words) => make("span", { textContent: words }))];
}

// Shows a result of POST /tokenize as one chip per token; a word outside the vocabulary is struck out beside its [UNK].
export function chips({ tokens, unknown, truncated }) {
  let next = 0;
  const all = tokens.map((token) => {
    const chip = make("li", { className: token === "[CLS]" || token === "[SEP]" ? "frame" : "", textContent: token });
    if (token === "[UNK]" && unknown[next]) {
      const { text } = unknown[next++];
      chip.className = "unknown";
      chip.title = say("unknownToken", text);
      chip.prepend(make("span", { textContent: text }), " ");
    }
    return chip;
  });
  const cut = [...truncated].length;
  if (cut) all.push(make("li", { className: "cut", textContent: say("truncated", cut), title: truncated }));
  return all;
}

// Shows a match of POST /similar as a line of the list. Its text is a button that searches for it.
export function match({ text, score, count, relation }, onPick) {
  const button = make("button", { type: "button", textContent: text, title: say("ask", text) });
  button.addEventListener("click", () => onPick(text));
  const seen = count > 1 ? [make("small", { textContent: `×${count}`, title: say("times", count) })] : [];
  const bar = make("i");
  bar.style.setProperty("--score", `${Math.max(0, score) * 100}%`);
  bar.setAttribute("aria-hidden", "true");
  const related = make("small", { textContent: say(relation) });
  return make("li", { className: relation }, button, ...seen, related, bar, make("data", { value: score, textContent: score.toFixed(3) }));
}

// Shows what a head says as a term and its description: the most probable label, and all probabilities on hovering.
export function label(head, { label, scores }) {
  const all = Object.entries(scores).map(([name, score]) => `${name} ${score.toFixed(3)}`).join("\n");
  return [
    make("dt", { textContent: head }),
    make("dd", { title: all }, make("span", { textContent: label }), " ", make("data", { value: scores[label], textContent: scores[label].toFixed(2) })),
  ];
}
