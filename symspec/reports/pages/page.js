"use strict";
// a figure is drawn when it is first opened: a page of many opens at once
for (const details of document.querySelectorAll("details[data-zoom]")) {
  details.addEventListener("toggle", () => {
    const name = details.dataset.zoom;
    const item = JSON.parse(document.getElementById(`${name}-data`).textContent);
    Bokeh.embed.embed_item(item, name);
  }, { once: true });
}
