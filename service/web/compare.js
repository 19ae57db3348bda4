// The heat map: the cosine similarity of every pair of lines. It is a table, so a screen reader can read the numbers.

import { embed } from "./api.js";
import { say, short } from "./words.js";

export const MOST = 24;

const heat = document.getElementById("heat");
const note = document.getElementById("heat-note");

export const splitLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

// Embeds the lines and draws the table. Throws Refusal.
export async function compare(text, signal) {
  const all = splitLines(text);
  const lines = all.slice(0, MOST);
  const { embeddings, errors } = await embed(lines, signal);
  const notes = errors.map(({ index, error }) => say("noVector", short(lines[index]), error));
  const scores = embeddings.map((a) => embeddings.map((b) => (a && b ? dot(a, b) : null)));
  const pair = findClosest(scores);
  if (pair) notes.unshift(say("alike", short(lines[pair[0]]), short(lines[pair[1]]), scores[pair[0]][pair[1]].toFixed(2)));
  if (lines.length < 2) notes.push(say("tooFew"));
  if (all.length > MOST) notes.push(say("tooMany", all.length - MOST));
  heat.replaceChildren(table(lines, scores));
  note.replaceChildren(...notes.map((words) => Object.assign(document.createElement("p"), { textContent: words })));
}

const dot = (a, b) => Math.max(-1, Math.min(1, a.reduce((sum, value, index) => sum + value * b[index], 0)));

function findClosest(scores) {
  let best = null;
  scores.forEach((row, i) =>
    row.forEach((score, j) => {
      if (i < j && score !== null && (!best || score > scores[best[0]][best[1]])) best = [i, j];
    }),
  );
  return best;
}

function table(lines, scores) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  head.append(document.createElement("td"), ...lines.map((line) => header(line, "col")));
  const body = table.createTBody();
  scores.forEach((row, i) => {
    const line = body.insertRow();
    line.append(header(lines[i], "row"));
    row.forEach((score, j) => {
      const cell = line.insertCell();
      cell.textContent = score === null ? "–" : score.toFixed(2);
      cell.title = `${lines[i]} × ${lines[j]}`;
      cell.style.setProperty("--warmth", `${Math.round(Math.max(0, score ?? 0) * 100)}%`);
    });
  });
  return table;
}

function header(text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.title = text;
  cell.append(Object.assign(document.createElement("span"), { textContent: text }));
  return cell;
}
