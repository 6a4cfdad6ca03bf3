// What the theme leaves out for those who use a keyboard or a screen reader.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, pre > code, .katex-display, .arithmatex, .highlight pre")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
  const labelled = [...document.querySelectorAll("nav[aria-labelledby]")];
  const nameOf = (nav) => document.getElementById(nav.getAttribute("aria-labelledby"))?.textContent.trim().toLowerCase();
  const seen = new Set(labelled.map(nameOf)); // `prediction`, a module, and `Prediction`, its class, are one name
  let again = 0;
  for (const nav of document.querySelectorAll("nav[aria-label]")) {
    const label = nav.getAttribute("aria-label");
    if (seen.has(label.toLowerCase())) nav.setAttribute("aria-label", `${label}, contents ${++again}`);
    seen.add(label.toLowerCase());
  }
});
