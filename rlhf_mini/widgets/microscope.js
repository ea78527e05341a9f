// The view of one KLMicroscope: `view` (see microscope.py) as a row of tokens, and the numbers of the `chosen` one.
// All text goes in through textContent: whatever a model wrote appears literally and runs nothing.

function element(tag, className, text, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function render({ model, el }) {
  const { opening, scale, tokens } = model.get("view");
  const root = element("div", "rlhf-lens", undefined, { role: "group", "aria-label": "KL microscope" });
  const help = `Click a token, or press ← and →. More orange is more KL; the full colour is ${scale} nats.`;
  root.append(element("p", "rlhf-lens-help", help));
  if (opening) root.append(element("p", "rlhf-lens-opening", opening, { dir: "auto" }));
  const row = element("div", "rlhf-lens-row", undefined, {
    role: "toolbar", "aria-label": "the tokens of the ending", dir: "auto",
  });
  const numbers = element("div", "rlhf-lens-numbers", undefined, { role: "status", "aria-live": "polite" });
  root.append(row, numbers);
  el.append(root);

  const buttons = tokens.map((token, place) => {
    const made = element("button", "rlhf-token", token.label, { type: "button", title: token.title });
    made.style.backgroundColor = token.colour;
    made.dataset.lmSuppressShortcuts = ""; // JupyterLab's own keys (3 makes a heading, D D deletes the cell) stay out
    made.addEventListener("click", () => choose(place));
    row.append(made);
    return made;
  });

  function choose(place) {
    model.set("chosen", place);
    try { model.save_changes(); } catch { /* the kernel is gone; the numbers are all here */ }
    show();
    buttons[place].focus();
  }

  function show() {
    const chosen = model.get("chosen");
    buttons.forEach((made, place) => {
      made.setAttribute("aria-pressed", String(place === chosen));
      made.setAttribute("tabindex", place === chosen ? "0" : "-1");
    });
    numbers.replaceChildren(...tokens[chosen].numbers.map((text) => element("div", "", text, { dir: "auto" })));
  }

  row.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const place = buttons.indexOf(event.target);
    const ahead = getComputedStyle(row).direction === "rtl" ? -1 : 1;
    const steps = { ArrowRight: ahead, ArrowLeft: -ahead, ArrowDown: 1, ArrowUp: -1 };
    const goal = { Home: 0, End: buttons.length - 1 }[event.key] ?? place + (steps[event.key] ?? NaN);
    if (Number.isNaN(goal)) return;
    event.preventDefault();
    event.stopPropagation();
    if (buttons[goal]) choose(goal);
  });

  model.on("change:chosen", show);
  show();
  return () => model.off("change:chosen", show);
}

export default { render };
