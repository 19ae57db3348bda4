// The heat map: the cosine of every pair of lines, coloured by whether both say the same, are related, or neither. It is
// a table, so a screen reader can read the numbers.

import { similar } from "./api.js";
import { say, sayError, short } from "./words.js";

export const MOST = 24;

const heat = document.getElementById("heat");
const note = document.getElementById("heat-note");

export const splitLines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

export const pairsOf = (lines) => ({ query: lines, candidates: lines, top_k: lines.length });

// Compares the lines and draws the table. Throws Refusal.
export async function compare(text, signal) {
  const all = splitLines(text);
  const lines = all.slice(0, MOST);
  const { results, errors } = await similar(pairsOf(lines), signal);
  const notes = errors
    .filter(({ field }) => field === "query")
    .map(({ index, error_type }) => say("noVector", short(lines[index]), sayError(error_type)));
  const pairs = results.map(({ matches }) => lines.map((_, place) => matches.find(({ id }) => id === `${place}`) ?? null));
  const closest = findClosest(pairs);
  if (closest) notes.unshift(say("alike", short(lines[closest[0]]), short(lines[closest[1]]), pairs[closest[0]][closest[1]].score.toFixed(2)));
  if (lines.length < 2) notes.push(say("tooFew"));
  if (all.length > MOST) notes.push(say("tooMany", all.length - MOST));
  heat.replaceChildren(table(lines, pairs));
  note.replaceChildren(...notes.map((words) => Object.assign(document.createElement("p"), { textContent: words })));
}

function findClosest(pairs) {
  let best = null;
  pairs.forEach((row, i) =>
    row.forEach((pair, j) => {
      if (i < j && pair && (!best || pair.score > pairs[best[0]][best[1]].score)) best = [i, j];
    }),
  );
  return best;
}

function table(lines, pairs) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  head.append(document.createElement("td"), ...lines.map((line) => header(line, "col")));
  const body = table.createTBody();
  pairs.forEach((row, i) => {
    const line = body.insertRow();
    line.append(header(lines[i], "row"));
    row.forEach((pair, j) => {
      const cell = line.insertCell();
      cell.textContent = pair ? pair.score.toFixed(2) : "–";
      cell.title = [`${lines[i]} × ${lines[j]}`, ...(pair ? [say(pair.relation)] : [])].join("\n");
      cell.className = pair?.relation ?? "";
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
