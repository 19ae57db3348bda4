// The tabs: the playground, and the page for overlays with the example chat, in a frame that is there while it is seen.

import { say } from "./words.js";

const $ = (id) => document.getElementById(id);

export function turn() {
  const isLive = location.hash === "#live";
  $("search-page").hidden = isLive;
  $("live-page").hidden = !isLive;
  for (const tab of $("tabs").children) {
    if ((tab.hash === "#live") === isLive) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  $("live-address").textContent = `${new URL("live", location.href).href}?collection=${say("room")}&background=transparent`;
  const isOpen = $("stage").childElementCount > 0;
  if (isLive && !isOpen) $("stage").append(Object.assign(document.createElement("iframe"), { src: "live", title: say("liveTab") }));
  else if (!isLive) $("stage").replaceChildren();
}

addEventListener("hashchange", turn);
