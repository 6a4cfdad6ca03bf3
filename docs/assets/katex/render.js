// Typesets the formulas of a page: arithmatex leaves \(…\) and \[…\] in elements of its class.
for (const element of document.querySelectorAll(".arithmatex")) {
  const source = element.textContent.trim();
  katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\["), throwOnError: false });

  // No line break between a formula and the punctuation after it: page.css forbids one in this box.
  const next = element.nextSibling;
  const mark = next?.nodeType === Node.TEXT_NODE && /^[.,;:!?)]+/.exec(next.data);
  if (mark) {
    const box = document.createElement("span");
    box.className = "formula-with-mark";
    next.data = next.data.slice(mark[0].length);
    element.replaceWith(box);
    box.append(element, mark[0]);
  }
}
