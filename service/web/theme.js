// Before anything is painted: the theme and the language that were chosen here last.
// A classic script, since modules run only when the page is there.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("theme");
    if (theme) root.dataset.theme = theme;
    if (localStorage.getItem("language") === "en") root.lang = "en";
  } catch {
    // Storage may be forbidden; then nothing is kept.
  }
})();
