// What the gateway answered, as elements of the page.

import { say } from "./words.js";

export const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

export const ms = (value) => (value < 0.1 ? "<0.1" : value < 10 ? value.toFixed(1) : Math.round(value));

// Of POST /tokenize: a chip a token, as the model sees it; a word that it cannot spell stands struck out beside its [UNK].
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

// Of POST /similar: a line of the list. Its text is a button that asks for it.
export function match({ text, score, count }, onPick) {
  const button = make("button", { type: "button", textContent: text, title: say("ask", text) });
  button.addEventListener("click", () => onPick(text));
  const seen = count > 1 ? [make("small", { textContent: `×${count}`, title: say("times", count) })] : [];
  const bar = make("i");
  bar.style.setProperty("--score", `${Math.max(0, score) * 100}%`);
  bar.setAttribute("aria-hidden", "true");
  return make("li", {}, button, ...seen, bar, make("data", { value: score, textContent: score.toFixed(3) }));
}
