"use strict";
// Values below the pointer: each figure carries its points, in the units of its drawing.
for (const figure of document.querySelectorAll("figure[data-points]")) {
  const points = JSON.parse(figure.dataset.points), svg = figure.querySelector("svg");
  if (!points.length) continue;
  const tip = figure.appendChild(document.createElement("div"));
  const mark = svg.appendChild(document.createElementNS(svg.namespaceURI, "circle"));
  tip.className = "tip";
  mark.setAttribute("class", "mark");
  mark.setAttribute("r", 4);
  const hide = () => { tip.hidden = true; mark.style.display = "none"; };
  const look = event => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
    const far = p => Math.hypot(p[0] - x, p[1] - y);
    const near = points.reduce((best, p) => far(p) < far(best) ? p : best);
    if (far(near) > 40) return hide();
    tip.textContent = near[2];
    tip.hidden = false;
    const room = figure.clientWidth - tip.offsetWidth - 4;
    tip.style.left = Math.max(4, Math.min(room, near[0] * scale + svg.clientLeft)) + "px";
    tip.style.top = near[1] * scale + 24 + "px";
    mark.style.display = "";
    mark.setAttribute("cx", near[0]);
    mark.setAttribute("cy", near[1]);
  };
  hide();
  for (const name of ["pointermove", "pointerdown"]) svg.addEventListener(name, look);
  svg.addEventListener("pointerleave", hide);
}

// The scrubber: texts, dots and rings of both arms at one look and one opening.
const watch = document.getElementById("watch");
if (watch && watch.dataset.looks) {
  const looks = JSON.parse(watch.dataset.looks), find = name => watch.querySelector(name);
  const slider = find("input"), play = find(".play"), numbers = [...watch.querySelectorAll(".numbers button")];
  let opening = 0, timer = null;
  const move = (circle, at) => {
    circle.style.display = at ? "" : "none";
    if (at) { circle.setAttribute("cx", at[0]); circle.setAttribute("cy", at[1]); }
  };
  const show = () => {
    const count = looks.updates[slider.value];
    find("output").textContent = slider.ariaValueText =
      count === 0 ? "before training" : `after ${count} update${count === 1 ? "" : "s"}`;
    find(".opening").textContent = looks.openings[opening];
    numbers.forEach((button, n) => button.setAttribute("aria-pressed", n === opening));
    for (const [arm, stops] of Object.entries(looks.arms)) {
      const stop = stops[slider.value], [told, worth, verdict, broken, at] = stop.stories[opening];
      const card = find(`.ending.${arm}`);
      card.querySelector(".told").textContent = told;
      card.querySelector(".worth").textContent = worth;
      card.querySelector(".verdict").textContent = verdict;
      card.querySelector(".verdict").classList.toggle("broken", broken);
      move(find(`.dot.${arm}`), stop.dot);
      move(find(`.ring.${arm}`), at);
    }
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  const step = () => {
    slider.stepUp();
    show();
    if (slider.value === slider.max) stop();
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) { slider.value = 0; show(); }
    timer = setInterval(step, 900);
    play.textContent = "Pause";
  });
  slider.addEventListener("input", () => { stop(); show(); });
  numbers.forEach((button, n) => button.addEventListener("click", () => { opening = n; show(); }));
  const details = find("details");
  details.open = false;
  addEventListener("beforeprint", () => { details.open = true; });
  find(".controls").hidden = false;
  show();
}
