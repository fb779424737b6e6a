"use strict";
(() => {
  const config = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    // Named one by one: among Plotly's own choice is a button that sends the figure to its servers.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "png", scale: 2 },
  };
  const printWidth = 690; // pixels between the margins of an A4 page
  const plotOf = (panel) => panel.querySelector(".plot");
  const isShown = (panel) => !panel.hidden;
  const panels = [...document.querySelectorAll(".panel")];

  // A figure is read and drawn when its panel is first shown: a study has dozens, most behind tabs.
  const draw = (panel) => {
    const plot = plotOf(panel);
    if (plot.data) {
      Plotly.Plots.resize(plot); // the window may have changed while the panel was hidden
      return;
    }
    const figure = JSON.parse(panel.querySelector("script").textContent);
    Plotly.newPlot(plot, figure.data, figure.layout, config);
  };

  // One figure a frame, so that the page can be read and scrolled meanwhile.
  const waiting = panels.filter(isShown);
  const drawNext = () => {
    const panel = waiting.shift();
    if (!panel) return;
    if (isShown(panel) && !plotOf(panel).data) draw(panel);
    setTimeout(drawNext);
  };
  drawNext();

  for (const list of document.querySelectorAll("[role=tablist]")) {
    const tabs = [...list.querySelectorAll("[role=tab]")];
    const select = (chosen) => {
      for (const tab of tabs) {
        const selected = tab === chosen;
        tab.setAttribute("aria-selected", String(selected));
        tab.tabIndex = selected ? 0 : -1;
        document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
      }
      draw(document.getElementById(chosen.getAttribute("aria-controls")));
    };
    list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) select(tab);
    });
    list.addEventListener("keydown", (event) => {
      const at = tabs.indexOf(document.activeElement);
      const last = tabs.length - 1;
      const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tabs[to].focus();
      select(tabs[to]);
    });
  }

  // Where the reader is, in the table of contents.
  const links = new Map([...document.querySelectorAll("nav li a")].map((link) => [link.hash.slice(1), link]));
  const here = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id).setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -75% 0px" },
  );
  for (const id of links.keys()) here.observe(document.getElementById(id));

  let closed = [];
  const screenWidths = new Map();
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
    for (const panel of panels.filter(isShown)) {
      draw(panel);
      const plot = plotOf(panel);
      const width = plot.layout.width ?? null; // null: as wide as the window lets it
      if (width !== null && width <= printWidth) continue;
      screenWidths.set(plot, width);
      Plotly.relayout(plot, { width: printWidth });
    }
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
    for (const [plot, width] of screenWidths) Plotly.relayout(plot, { width, autosize: width === null });
    screenWidths.clear();
  });
})();
