// Danmaku that fly through the lanes above the heading: a few from the collection when the page opens, and each one that
// is sent. They take five seconds, and stay away if the user prefers reduced motion.

const lanes = document.getElementById("lanes");
const LANES = 2;
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");
let next = 0;

export function fly(text, { isYours = false, delayS = 0 } = {}) {
  if (isCalm.matches) return;
  const flying = document.createElement("span");
  flying.textContent = text;
  flying.className = isYours ? "yours" : "";
  flying.style.setProperty("--lane", isYours ? 0 : next++ % LANES);
  flying.style.animationDelay = `${delayS}s`;
  flying.addEventListener("animationend", () => flying.remove());
  lanes.append(flying);
}

export function greet(texts) {
  const some = texts.filter((text) => text.length <= 12);
  const step = Math.max(1, Math.floor(some.length / 9));
  some.filter((_, index) => index % step === 0).slice(0, 9).forEach((text, index) => fly(text, { delayS: index * 0.16 }));
}
