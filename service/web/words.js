// Every word of the page, in Chinese and in English. Chinese also stands in index.html, so that it is there at once.

const WORDS = {
  zh: {
    document: "弹幕试验场",
    skip: "跳到输入框",
    brand: "弹幕试验场",
    tools: "设置",
    api: "接口文档",
    key: "密钥",
    theme: "切换浅色与深色",
    keyLabel: "API 密钥",
    keyNote: "只留在这个标签页里，关掉就忘。",
    keyUse: "使用",
    title: "发一条弹幕，看看谁在它身边",
    lede: "弹幕先变成向量，再量远近：意思近的，排在前面。",
    textLabel: "弹幕",
    placeholder: "发个友善的弹幕见证当下",
    collection: "集合",
    send: "发送",
    examples: "试试这些",
    tokens: "模型读到",
    nearest: "最近的弹幕",
    noCollection: "这个网关没有集合，所以没有邻居可找；词元和两两比较照常。",
    noMatches: "输入一条弹幕，这里会列出集合里和它意思最近的。",
    map: "集合地图",
    zoom: "缩放",
    zoomIn: "放大",
    zoomOut: "缩小",
    reset: "复原",
    mapLabel: "地图：方向键移动，加减号缩放，0 复原",
    clusters: "类",
    compare: "两两比较",
    lines: "一行一条，最多 24 条",
    heat: "余弦相似度",
    low: "0 无关",
    high: "1 相同",
    copyAs: "复制为",
    copied: "已复制",
    copyYourself: "浏览器不让复制，请选中后自己复制",
    retry: "再试",
    unknownToken: (text) => `词表里没有「${text}」`,
    truncated: (count) => `后面 ${count} 个字没有读`,
    cached: "来自缓存",
    encoded: "模型新算",
    embedTook: (ms) => `向量 ${ms} 毫秒`,
    searchTook: (ms) => `检索往返 ${ms} 毫秒`,
    found: (count, text, score) => `${count} 条结果，最近的是「${text}」，${score}`,
    foundNone: "没有结果",
    times: (count) => `出现 ${count} 次`,
    ask: (text) => `以「${text}」再查`,
    mapNote: (shown, count, clusters, share) =>
      `${shown < count ? `${count} 条中的 ${shown} 条` : `${count} 条`}弹幕，${clusters} 类。平面只留下全部差异的 ${share}%，远近以列表为准。`,
    drawing: "正在画…",
    mapEmpty: "这个集合还是空的。",
    noMap: "没有地图：没有读到集合。",
    landed: (text, near) => `「${text}」落在「${near}」那一类旁边。`,
    cluster: (text, size) => `「${text}」等 ${size} 条`,
    you: "你的弹幕",
    alike: (a, b, score) => `最像的一对：「${a}」和「${b}」，${score}。`,
    tooMany: (count) => `多出的 ${count} 条没有比较。`,
    tooFew: "至少要两条。",
    noVector: (text, why) => `「${text}」没有向量：${why}`,
    model: (model, dim, fingerprint) => `${model} · ${dim} 维 · 指纹 ${fingerprint}`,
    errors: {
      overloaded: (seconds) => `网关忙不过来，请过 ${seconds} 秒再试`,
      unauthorized: () => "这个网关要 API 密钥",
      encoder_unavailable: () => "现在没有能用的模型",
      encoder_failure: () => "模型出错了",
      out_of_time: () => "没能在时限内算完",
      fingerprint_mismatch: () => "这个集合的向量是另一个模型的，要先重建",
      not_found: () => "没有找到",
      no_vocabulary: () => "这个模型不说它的词表",
      empty_text: () => "这条弹幕是空白",
      unspellable: () => "模型的词表里没有这条弹幕的任何字",
      text_too_long: () => "这条弹幕太长",
      unreachable: () => "连不上网关",
      other: () => "网关没有照办",
    },
  },
  en: {
    document: "Danmaku playground",
    skip: "Skip to the field",
    brand: "Danmaku playground",
    tools: "Settings",
    api: "API",
    key: "Key",
    theme: "Switch between light and dark",
    keyLabel: "API key",
    keyNote: "Kept in this tab alone, and forgotten with it.",
    keyUse: "Use it",
    title: "Post a danmaku, see who is near",
    lede: "A danmaku becomes a vector, and vectors are compared: what means much the same comes first.",
    textLabel: "Danmaku",
    placeholder: "Say something kind",
    collection: "Collection",
    send: "Post",
    examples: "Try these",
    tokens: "The model reads",
    nearest: "Nearest danmaku",
    noCollection: "This gateway keeps no collection, so there is nobody near; tokens and comparisons are as usual.",
    noMatches: "Type a danmaku: what is nearest to it in the collection is listed here.",
    map: "Map of the collection",
    zoom: "Zoom",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    reset: "Reset",
    mapLabel: "Map: arrows move it, plus and minus zoom, 0 resets",
    clusters: "Clusters",
    compare: "Compare",
    lines: "One a line, 24 at most",
    heat: "Cosine similarity",
    low: "0 unrelated",
    high: "1 the same",
    copyAs: "Copy as",
    copied: "Copied",
    copyYourself: "The browser does not allow it: select and copy it yourself",
    retry: "Try again",
    unknownToken: (text) => `“${text}” is not in the vocabulary`,
    truncated: (count) => `${count} more characters are not read`,
    cached: "from the cache",
    encoded: "computed now",
    embedTook: (ms) => `Vector ${ms} ms`,
    searchTook: (ms) => `Search, there and back ${ms} ms`,
    found: (count, text, score) => `${count} results, the nearest “${text}”, ${score}`,
    foundNone: "No results",
    times: (count) => `seen ${count} times`,
    ask: (text) => `Ask for “${text}”`,
    mapNote: (shown, count, clusters, share) =>
      `${shown < count ? `${shown} of ${count}` : count} danmaku in ${clusters} clusters. The plane keeps ${share}% of all differences; trust the list for distances.`,
    drawing: "Being drawn…",
    mapEmpty: "This collection is still empty.",
    noMap: "No map: no collection could be read.",
    landed: (text, near) => `“${text}” landed beside the cluster of “${near}”.`,
    cluster: (text, size) => `${text} and like it, ${size}`,
    you: "yours",
    alike: (a, b, score) => `The closest pair: “${a}” and “${b}”, ${score}.`,
    tooMany: (count) => `${count} more lines were not compared.`,
    tooFew: "Two lines at least.",
    noVector: (text, why) => `“${text}” has no vector: ${why}`,
    model: (model, dim, fingerprint) => `${model} · ${dim} dimensions · fingerprint ${fingerprint}`,
    errors: {
      overloaded: (seconds) => `The gateway is busy: try again in ${seconds} s`,
      unauthorized: () => "This gateway wants an API key",
      encoder_unavailable: () => "No model can work just now",
      encoder_failure: () => "The model failed",
      out_of_time: () => "Not done in time",
      fingerprint_mismatch: () => "This collection is another model's, and has to be rebuilt",
      not_found: () => "Not found",
      no_vocabulary: () => "This model does not tell its vocabulary",
      empty_text: () => "This danmaku is blank",
      unspellable: () => "The model's vocabulary has none of its characters",
      text_too_long: () => "This danmaku is too long",
      unreachable: () => "The gateway cannot be reached",
      other: () => "The gateway refused",
    },
  },
};

export const language = () => (document.documentElement.lang === "en" ? "en" : "zh");

export const say = (key, ...values) => {
  const word = WORDS[language()][key];
  return typeof word === "function" ? word(...values) : word;
};

export const sayError = (type, ...values) => {
  const errors = WORDS[language()].errors;
  return (errors[type] ?? errors.other)(...values);
};

// Into all elements that name their words.
export function translate() {
  document.title = say("document");
  for (const [attribute, target] of [
    ["label", "aria-label"],
    ["placeholder", "placeholder"],
  ]) {
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) {
      element.setAttribute(target, say(element.dataset[attribute]));
    }
  }
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = say(element.dataset.t);
}

export function switchLanguage() {
  document.documentElement.lang = language() === "en" ? "zh-CN" : "en";
  keep("language", language());
  translate();
}

// For the next visit, where storage is allowed.
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // See theme.js.
  }
}
