// Draws the figures of the page, in the colours of the page: again whenever these change.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function coloured(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    for (const place of document.querySelectorAll(".plot")) {
      const { data, layout } = coloured(figures[place.dataset.figure], style);
      Plotly.react(place, data, layout, { displayModeBar: false });
    }
  }

  // By its place, not by the window: a place also changes where a scroll bar comes, or a section opens.
  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) if (contentRect.width) Plotly.Plots.resize(target);
  });

  draw();
  for (const place of document.querySelectorAll(".plot")) sizes.observe(place);
  dark.addEventListener("change", draw);
})();
