// Tables are in boxes that scroll: the theme's, and those of results. Keys must reach them, too. The
// theme calls the button of each code block a navigation, which is none.
const boxes = ".md-typeset__scrollwrap:not([tabindex]), .clipkit .scroll:not([tabindex])";
const reach = () => {
  for (const buttons of document.querySelectorAll(".md-code__nav:not([role])")) {
    buttons.setAttribute("role", "none");
  }
  for (const box of document.querySelectorAll(boxes)) {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Table");
  }
};
new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
reach();
