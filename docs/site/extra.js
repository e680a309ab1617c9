// What keys and screen readers need of the theme's parts, some of which it adds later:
// wide tables scroll, so they must be reached; landmarks of one kind need names.
const mend = () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap")) wide.tabIndex = 0;
  const navs = document.querySelectorAll("nav.md-code__nav, article nav, nav.md-nav .md-nav");
  navs.forEach((nav, i) => {
    const name = nav.getAttribute("aria-label") || "code";
    if (!name.includes("#")) nav.setAttribute("aria-label", `${name} #${i + 1}`);
  });
  for (const link of document.querySelectorAll(".md-footer__link")) {
    // narrow screens hide the text of some, whose label then is their name
    if (link.innerText.trim()) link.removeAttribute("aria-label");
  }
};
mend();
// browsers run no search in pages from the disk; `make docs` says how to serve them
if (location.protocol === "file:") document.documentElement.classList.add("from-disk");
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
