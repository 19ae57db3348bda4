// All words of the page, in Chinese and in English. The Chinese is also in index.html, which shows it before scripts run.

const WORDS = {
  zh: {
    document: "弹幕试验场",
    skip: "跳到输入框",
    brand: "弹幕试验场",
    tabs: "页面",
    searchTab: "检索",
    liveTab: "直播话题",
    liveTitle: "弹幕刷得再快，也知道大家在聊什么",
    liveLede: "示例聊天以十倍速回放：意思相同的弹幕合并计数，话题相同的归在一起。",
    liveNote: "用在自己的直播间：让机器人把弹幕发到 observe 接口，再在 OBS 里把这个地址添加为浏览器源：",
    room: "集合名",
    tools: "设置",
    api: "接口文档",
    key: "密钥",
    theme: "切换浅色与深色",
    keyLabel: "API 密钥",
    keyNote: "密钥只保存在当前标签页，关闭后即清除。",
    keyUse: "确定",
    title: "发条弹幕，看看谁和它最像",
    lede: "先把弹幕变成向量，再比较相似度：意思越接近，排得越靠前。",
    textLabel: "弹幕",
    placeholder: "发个友善的弹幕见证当下",
    collection: "集合",
    send: "发送",
    examples: "试试这些",
    tokens: "模型看到的 token",
    labels: "标签",
    nearest: "意思最接近的弹幕",
    noCollection: "此网关未启用集合，无法检索；查看 token 和两两比较不受影响。",
    noMatches: "输入一条弹幕，这里会列出集合中意思最接近的弹幕。",
    map: "集合地图",
    zoom: "缩放",
    zoomIn: "放大",
    zoomOut: "缩小",
    reset: "重置",
    mapLabel: "地图：方向键移动，加减号缩放，0 重置",
    clusters: "聚类",
    compare: "两两比较",
    lines: "每行一条，最多 24 条",
    heat: "余弦相似度和关系",
    same: "同义",
    related: "相关",
    unrelated: "无关",
    scroll: "左右滑动可查看全部",
    copyAs: "复制为",
    copied: "已复制",
    copyYourself: "浏览器禁止自动复制，请手动选中后复制",
    retry: "重试",
    unknownToken: (text) => `词表里没有「${text}」`,
    truncated: (count) => `超出长度上限，末尾 ${count} 个字未读入`,
    cached: "命中缓存",
    encoded: "未命中缓存，实时计算",
    embedTook: (ms) => `向量化耗时 ${ms} 毫秒`,
    searchTook: (ms) => `检索耗时（含网络）${ms} 毫秒`,
    found: (query, count, text, score) => `「${query}」有 ${count} 条结果，最接近的是「${text}」，相似度 ${score}`,
    foundNone: (query) => `「${query}」没有结果`,
    times: (count) => `出现 ${count} 次`,
    ask: (text) => `检索「${text}」`,
    mapNote: (shown, count, clusters, share) =>
      `${shown < count ? `${count} 条中的 ${shown} 条` : `${count} 条`}弹幕，分为 ${clusters} 类。平面图只保留了 ${share}% 的差异，实际远近以列表中的分数为准。`,
    drawing: "正在绘制…",
    mapEmpty: "这个集合还是空的。",
    noMap: "暂无地图：无法读取集合。",
    landed: (text, near) => `「${text}」与「${near}」一类最接近。`,
    cluster: (text, size) => `「${text}」等 ${size} 条`,
    you: "你的弹幕",
    alike: (a, b, score) => `最像的一对：「${a}」和「${b}」，相似度 ${score}。`,
    tooMany: (count) => `超出上限，末尾 ${count} 条未参与比较。`,
    tooFew: "请至少输入两条。",
    noVector: (text, why) => `「${text}」没有向量：${why}。`,
    model: (model, dim, fingerprint) => `${model} · ${dim} 维 · 指纹 ${fingerprint}`,
    errors: {
      overloaded: (seconds) => `网关繁忙，请 ${seconds} 秒后再试`,
      unauthorized: () => "此网关需要 API 密钥",
      encoder_unavailable: () => "暂无可用模型，请稍后再试",
      encoder_failure: () => "模型出错，请稍后再试",
      out_of_time: () => "请求超时",
      fingerprint_mismatch: () => "此集合的向量来自另一个模型，请先重建",
      not_found: () => "未找到",
      no_vocabulary: () => "此模型未提供词表",
      empty_text: () => "弹幕不能为空",
      unspellable: () => "这条弹幕的字都不在模型的词表里",
      text_too_long: () => "弹幕太长",
      unreachable: () => "无法连接网关",
      other: () => "网关拒绝了该请求",
    },
  },
  en: {
    document: "Danmaku playground",
    skip: "Skip to the input",
    brand: "Danmaku playground",
    tabs: "Pages",
    searchTab: "Search",
    liveTab: "Live topics",
    liveTitle: "However fast they fly, see what they are about",
    liveLede: "The example chat at ten times its speed: what says the same is merged and counted, and grouped by topic.",
    liveNote: "For your own room, let a bot send its lines to observe, and add this address as a browser source to OBS:",
    room: "NAME",
    tools: "Settings",
    api: "API",
    key: "Key",
    theme: "Switch between light and dark",
    keyLabel: "API key",
    keyNote: "Stored in this tab only, until it is closed.",
    keyUse: "Use",
    title: "Post a danmaku, see what is close",
    lede: "A danmaku becomes a vector, and vectors are compared: the closest in meaning come first.",
    textLabel: "Danmaku",
    placeholder: "Say something kind",
    collection: "Collection",
    send: "Post",
    examples: "Try these",
    tokens: "Tokens the model sees",
    labels: "Labels",
    nearest: "Closest in meaning",
    noCollection: "Collections are disabled on this gateway, so search is not available; tokens and comparison still work.",
    noMatches: "Type a danmaku to see the closest ones in the collection.",
    map: "Map of the collection",
    zoom: "Zoom",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    reset: "Reset",
    mapLabel: "Map: arrow keys move it, plus and minus zoom, 0 resets",
    clusters: "Clusters",
    compare: "Compare",
    lines: "One per line, 24 at most",
    heat: "Cosine similarity and relation",
    same: "same",
    related: "related",
    unrelated: "unrelated",
    scroll: "Scroll sideways to see all",
    copyAs: "Copy as",
    copied: "Copied",
    copyYourself: "The browser does not allow copying; select the text and copy it",
    retry: "Try again",
    unknownToken: (text) => `“${text}” is not in the vocabulary`,
    truncated: (count) => `too long: the last ${count} characters are ignored`,
    cached: "from the cache",
    encoded: "not cached, computed now",
    embedTook: (ms) => `Vector ${ms} ms`,
    searchTook: (ms) => `Search with network ${ms} ms`,
    found: (query, count, text, score) => `“${query}”: ${count} results, the closest “${text}”, similarity ${score}`,
    foundNone: (query) => `“${query}”: no results`,
    times: (count) => `seen ${count} times`,
    ask: (text) => `Search for “${text}”`,
    mapNote: (shown, count, clusters, share) =>
      `${shown < count ? `${shown} of ${count}` : count} danmaku in ${clusters} clusters. The plane shows ${share}% of the differences; for distances, trust the scores in the list.`,
    drawing: "Drawing…",
    mapEmpty: "This collection is empty.",
    noMap: "No map: the collections could not be read.",
    landed: (text, near) => `“${text}” is closest to the cluster of “${near}”.`,
    cluster: (text, size) => `${text} and similar, ${size}`,
    you: "yours",
    alike: (a, b, score) => `The closest pair: “${a}” and “${b}”, similarity ${score}.`,
    tooMany: (count) => `${count} more lines were not compared.`,
    tooFew: "Enter at least two lines.",
    noVector: (text, why) => `“${text}” has no vector: ${why}.`,
    model: (model, dim, fingerprint) => `${model} · ${dim} dimensions · fingerprint ${fingerprint}`,
    errors: {
      overloaded: (seconds) => `The gateway is busy: try again in ${seconds} s`,
      unauthorized: () => "This gateway requires an API key",
      encoder_unavailable: () => "No model is available; try again later",
      encoder_failure: () => "The model failed; try again later",
      out_of_time: () => "The request timed out",
      fingerprint_mismatch: () => "The vectors of this collection are from another model; rebuild it first",
      not_found: () => "Not found",
      no_vocabulary: () => "This model does not publish its vocabulary",
      empty_text: () => "A danmaku must not be blank",
      unspellable: () => "None of its characters are in the model's vocabulary",
      text_too_long: () => "This danmaku is too long",
      unreachable: () => "The gateway cannot be reached",
      other: () => "The gateway refused the request",
    },
  },
};

// Shortens a text for a sentence or the map.
export const short = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);

export const language = () => (document.documentElement.lang === "en" ? "en" : "zh");

export const say = (key, ...values) => {
  const word = WORDS[language()][key];
  return typeof word === "function" ? word(...values) : word;
};

export const sayError = (type, ...values) => {
  const errors = WORDS[language()].errors;
  return (errors[type] ?? errors.other)(...values);
};

// Fills in every element that names its words.
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

// Remembers a choice for the next visit.
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Storage may be forbidden; then nothing is remembered.
  }
}
