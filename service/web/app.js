// START HERE: sends what is typed to the gateway and shows the responses. Only the latest input counts: a response to an
// earlier one is dropped.

import { chips, label, make, match, times } from "./answers.js";
import * as api from "./api.js";
import { compare, pairsOf, splitLines } from "./compare.js";
import { addCopyButtons } from "./copy.js";
import { fly, greet } from "./fly.js";
import { Atlas, ZOOM } from "./map.js";
import { turn } from "./tabs.js";
import { keep, language, say, sayError, short, switchLanguage, translate } from "./words.js";

const EXAMPLES = ["阿夸", "awsl", "草", "23333", "下次一定", "这是什么歌，好好听", "一碗𰻝𰻝面"];
const LINES = ["阿夸", "aqua", "夸哥", "草", "哈哈哈哈", "233333", "awsl", "晚安", "来了来了", "8888"];
const TOP_K = 12;
const NEAR = 5; // of them, linked on the map
const PAUSE_MS = 160;

const $ = (id) => document.getElementById(id);

const atlas = new Atlas($("map"), {
  onPick: (text) => askFor(text),
  onZoom: (level) => ($("zoom-level").textContent = `${Math.round(level * 100)}%`),
});
let map; // undefined: being drawn; null: none
let picked = null; // the cluster that is shown alone
let last = null; // the last responses: {text, tokens, labels, embedded, matches, searchMs}
let asking = new AbortController();
let retry = null;

const query = () => ({ query: $("text").value.trim(), collection: $("collection").value, top_k: TOP_K });

// Shows one text: its tokens, its vector and the closest danmaku.
async function search() {
  forgetTyping();
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const { query: text, collection } = query();
  if (!text) return showNothing();
  await attempt(search, async () => {
    const [tokens, found] = await Promise.all([fetchTokens(text, signal), fetchNearest(text, collection, signal)]);
    const labels = found.embedded.embeddings[0] ? await fetchLabels(text, signal) : {};
    last = { text, tokens, labels, ...found };
    show();
  });
}

// Searches after embedding: in parallel, either request might find in the cache what the other has just put there.
async function fetchNearest(text, collection, signal) {
  const embedded = await api.embed([text], signal);
  if (!collection || !embedded.embeddings[0]) return { embedded, matches: null, searchMs: null };
  const started = performance.now();
  const { results } = await api.similar({ query: text, collection, top_k: TOP_K }, signal);
  return { embedded, matches: results[0].matches, searchMs: performance.now() - started };
}

// Returns what each head says, after embedding, so that the vector is cached; nothing if the gateway has no heads.
async function fetchLabels(text, signal) {
  if (!Object.keys(model?.heads ?? {}).length) return {};
  return (await api.classify(text, signal)).results[0] ?? {};
}

// Returns null if the model is a genuine bert-serving-server, which does not publish its vocabulary.
async function fetchTokens(text, signal) {
  try {
    return (await api.tokenize(text, signal)).results[0];
  } catch (error) {
    if (error.type === "no_vocabulary") return null;
    throw error;
  }
}

// Runs work and shows a refusal; `again` is what the retry button does.
async function attempt(again, work) {
  try {
    await work();
    if (retry === again) hideError();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof api.Refusal)) throw error;
    retry = again;
    showError(error);
  }
}

function showError({ type, message, status, retryAfterS }) {
  const code = make("code", { textContent: [status || "", type].join(" ").trim() });
  const button = make("button", { type: "button", textContent: say("retry") });
  button.addEventListener("click", () => retry());
  $("alert").replaceChildren(make("strong", { textContent: sayError(type, retryAfterS) }), code, button);
  if (message) button.before(make("span", { textContent: message, lang: "en" }));
  $("alert").hidden = false;
  if (type === "unauthorized") askForKey();
}

// Most gateways run without a key, so its button appears when one is asked for.
function askForKey() {
  $("key-button").hidden = false;
  $("key").showPopover();
}

function hideError() {
  $("alert").hidden = true;
  $("alert").replaceChildren();
}

function showNothing() {
  last = null;
  if (retry === search) hideError();
  $("seen").hidden = true;
  $("matches").replaceChildren();
  $("no-matches").hidden = false;
  $("no-matches").textContent = say("noMatches");
  $("status").textContent = "";
  atlas.land("", null, []);
  describeMap();
}

function show() {
  if (!last) return;
  const { text, tokens, labels, embedded, matches, searchMs } = last;
  $("seen").hidden = false;
  $("tokens").replaceChildren(...(tokens ? chips(tokens) : []));
  $("labels").hidden = !Object.keys(labels).length;
  $("labels").replaceChildren(...Object.entries(labels).flatMap(([head, said]) => label(head, said)));
  $("meter").replaceChildren(...(embedded.embeddings[0] ? times(embedded, searchMs) : []));
  $("matches").replaceChildren(...(matches ?? []).map((each) => match(each, askFor)));
  $("no-matches").hidden = Boolean(matches?.length);
  const [failure] = embedded.errors;
  if (failure) $("no-matches").textContent = sayError(failure.error_type);
  else $("no-matches").textContent = matches ? say("foundNone", short(text)) : say("noCollection");
  $("status").textContent = failure
    ? sayError(failure.error_type)
    : matches?.length
      ? say("found", short(text), matches.length, short(matches[0].text), matches[0].score.toFixed(2))
      : say("foundNone", short(text));
  land();
}

function land() {
  const { text, embedded, matches } = last;
  const isSame = map && map.fingerprint === embedded.fingerprint;
  atlas.land(text, isSame ? embedded.embeddings[0] : null, (matches ?? []).slice(0, NEAR).map(({ id }) => id));
  describeMap();
}

function askFor(text) {
  $("text").value = text;
  search();
}

async function openCollections() {
  const collections = await fetchCollections();
  $("collection").parentElement.hidden = !collections.length;
  const chosen = $("collection").value;
  $("collection").replaceChildren(
    ...collections.map(({ name, count }) => make("option", { value: name, textContent: `${name} · ${count}` })),
  );
  const names = collections.map(({ name }) => name);
  $("collection").value = [chosen, "default", names[0]].find((name) => names.includes(name)) ?? "";
}

// Returns none if collections are disabled.
async function fetchCollections() {
  try {
    return (await api.collections()).collections;
  } catch (error) {
    if (error.type === "not_found") return [];
    throw error;
  }
}

async function openMap() {
  const name = $("collection").value;
  placeMap(undefined);
  let drawn = null;
  try {
    if (name) drawn = await api.mapOf(name);
  } finally {
    if (name === $("collection").value) placeMap(drawn); // otherwise another one is on its way
  }
}

function placeMap(drawn) {
  map = drawn;
  picked = null;
  atlas.show(map);
  listClusters();
  if (last) land(); // the list stays as it is: it may have the focus
  else describeMap();
}

function describeMap() {
  $("map-note").textContent = listMapNotes().join(language() === "en" ? " " : "");
}

function listMapNotes() {
  if (!map) return [say(map === null ? "noMap" : "drawing")];
  const { danmaku, clusters, share, count } = map;
  if (!danmaku.length) return [say("mapEmpty")];
  const kept = Math.round(100 * share.reduce((sum, part) => sum + part, 0));
  const near = danmaku.find(({ id }) => id === last?.matches?.[0]?.id);
  const landed = near ? [say("landed", short(last.text), short(danmaku[clusters[near.cluster].centre].text))] : [];
  return [say("mapNote", danmaku.length, count, clusters.length, kept), ...landed];
}

function listClusters() {
  const { danmaku, clusters = [] } = map ?? {};
  const buttons = clusters.map(({ size, centre }, cluster) => {
    const button = make("button", { type: "button", className: "cluster", textContent: say("cluster", short(danmaku[centre].text), size) });
    button.dataset.cluster = cluster;
    button.setAttribute("aria-pressed", cluster === picked);
    button.addEventListener("click", () => {
      picked = cluster === picked ? null : cluster;
      for (const [index, each] of buttons.entries()) each.setAttribute("aria-pressed", index === picked);
      atlas.pick(picked);
    });
    return button;
  });
  $("clusters").replaceChildren(...buttons.map((button) => make("li", {}, button)));
}

// Shows the hint if the table is wider than its box.
const showHeatHint = () => ($("heat-hint").hidden = $("heat").scrollWidth <= $("heat").clientWidth);

let comparing = new AbortController();
async function compareLines() {
  comparing.abort();
  comparing = new AbortController();
  const { signal } = comparing;
  await attempt(compareLines, () => compare($("lines").value, signal));
  showHeatHint();
}

// Runs work after a pause in typing, and not while an input method is composing. Returns a function that cancels it: a
// search after the one that was sent would replace the list while the keyboard is in it.
function onTyping(field, work) {
  let timer;
  const schedule = (event) => {
    clearTimeout(timer);
    if (!event.isComposing) timer = setTimeout(work, PAUSE_MS);
  };
  field.addEventListener("input", schedule);
  field.addEventListener("compositionend", schedule);
  return () => clearTimeout(timer);
}

const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark"
  || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

function showTheme() {
  $("theme").setAttribute("aria-pressed", isDark());
  atlas.redraw();
}

let model = null;
function showWords() {
  translate();
  $("language").textContent = language() === "en" ? "中文" : "English";
  $("language").lang = language() === "en" ? "zh-CN" : "en";
  if (model) $("model").textContent = say("model", model.model, model.dim, model.fingerprint);
  turn();
  show();
  describeMap();
  listClusters();
}

async function open() {
  await attempt(open, async () => {
    try {
      [model] = await Promise.all([api.info(), openCollections()]);
    } catch (error) {
      placeMap(null);
      throw error;
    }
    showWords();
    const isEmpty = !$("text").value && !last;
    if (isEmpty) $("text").value = EXAMPLES[0]; // an example fills the page, and leaves the field to the visitor
    await search();
    if (isEmpty && $("text").value === EXAMPLES[0]) $("text").value = "";
    compareLines();
    await openMap();
    greet(map?.danmaku.map(({ text }) => text) ?? []);
  });
}

$("examples").append(...EXAMPLES.map((text) => {
  const button = make("button", { type: "button", textContent: text });
  button.addEventListener("click", () => askFor(text));
  return make("li", {}, button);
}));
$("lines").value = LINES.join("\n");
const forgetTyping = onTyping($("text"), search);
onTyping($("lines"), compareLines);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const { query: text } = query();
  if (text) fly(text, { isYours: true });
  search();
});
$("collection").addEventListener("change", () => attempt(openMap, openMap).then(search));
$("zoom-in").addEventListener("click", () => atlas.zoom(ZOOM));
$("zoom-out").addEventListener("click", () => atlas.zoom(1 / ZOOM));
$("zoom-reset").addEventListener("click", () => atlas.reset());
$("language").addEventListener("click", () => {
  switchLanguage();
  showWords();
  compareLines();
});
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  keep("theme", document.documentElement.dataset.theme);
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey($("key-field").value.trim());
  $("key").hidePopover();
  open();
});
addCopyButtons($("copy-similar"), query);
addCopyButtons($("copy-compare"), () => pairsOf(splitLines($("lines").value)));
if (api.hasKey()) $("key-button").hidden = false;
addEventListener("resize", showHeatHint);
showWords();
showTheme();
open();
