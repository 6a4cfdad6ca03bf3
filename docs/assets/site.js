// What the theme leaves out for those who use a keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, pre > code, .katex-display, .arithmatex, .highlight pre")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
  const seen = new Set();
  for (const nav of document.querySelectorAll("nav[aria-label]")) {
    const label = nav.getAttribute("aria-label");
    if (seen.has(label)) nav.setAttribute("aria-label", `${label}, contents ${seen.size}`);
    seen.add(label);
  }
});
