// Applies the last chosen theme and language before anything is painted. A classic script, since modules run later.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("theme");
    if (theme) root.dataset.theme = theme;
    if (localStorage.getItem("language") === "en") root.lang = "en";
  } catch {
    // Storage may be forbidden; then nothing is remembered.
  }
})();
