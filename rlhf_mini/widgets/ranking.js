// The view of one RankingWidget. It shows `view` (see controller.py) and sends the person's acts to it.
// All text goes in through textContent: whatever a model wrote appears literally and runs nothing.

const ORDINALS = ["best", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];
const RANK_KEYS = "1–9 rank from best to worst · T tie with the one before · Enter submit · S skip · U undo · ← or → move";
const RATE_KEYS = "1–7 rate the marked text (7 is best) · ← or → move · Enter submit · S skip · U undo";

function element(tag, className, text, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function button(label, className, onClick, attributes = {}) {
  const made = element("button", `rlhf-button ${className}`, label, { type: "button", ...attributes });
  made.addEventListener("click", onClick);
  return made;
}

function render({ model, el }) {
  const root = element("div", "rlhf-ranking", undefined, { role: "group", "aria-label": "Ranking" });
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys (S saves …) must not fire in here
  el.append(root);

  let view = model.get("view");
  let groups = []; // tie groups of positions, best first
  let ratings = []; // by position, 0 where none is given yet
  let focused = 0;
  let waiting = false; // an act is on its way to the kernel

  const flat = () => groups.flat();
  const place = (position) => groups.slice(0, groups.findIndex((g) => g.includes(position))).flat().length;

  // ---- what a person can do -------------------------------------------------------------------------------

  function send(act, more = {}) {
    if (waiting) return;
    waiting = true;
    root.classList.add("rlhf-waiting");
    model.send({ act, turn: view.turn, ...more });
  }

  function submit() {
    if (view.finished) return;
    const missing = view.rating ? ratings.filter((r) => !r).length : view.shown.length - flat().length;
    if (missing) return say(`${missing} of ${view.shown.length} not ${view.rating ? "rated" : "ranked"} yet`, true);
    send("submit", view.rating ? { ratings } : { ranking: groups });
  }

  function toggle(position) {
    if (flat().includes(position)) {
      groups = groups.map((g) => g.filter((p) => p !== position)).filter((g) => g.length);
    } else {
      groups.push([position]);
    }
    changed(`text ${position + 1}: ${standing(position)}`);
  }

  function tie() {
    if (groups.length < 2) return say("rank two texts first, then press T to tie them", true);
    const last = groups.pop();
    groups[groups.length - 1].push(...last);
    changed(`text ${last[0] + 1} ties with the one before`);
  }

  function untie(index) {
    const [first, ...rest] = groups[index];
    groups.splice(index, 1, [first], ...rest.map((position) => [position]));
    changed("tie removed");
  }

  function moveTo(position, index) {
    // before what is now at this index of the flat order, as a rank of its own
    const target = flat()[index];
    if (target === position) return;
    groups = groups.map((g) => g.filter((p) => p !== position)).filter((g) => g.length);
    const at = target === undefined ? groups.length : groups.findIndex((g) => g.includes(target));
    groups.splice(at, 0, [position]);
    changed(`text ${position + 1}: ${standing(position)}`);
  }

  function rate(position, value) {
    ratings[position] = value;
    changed(`text ${position + 1}: ${value} of 7`);
  }

  function focus(position) {
    const cards = root.querySelectorAll(".rlhf-card");
    if (!cards.length) return root.querySelector("button")?.focus();
    focused = (position + cards.length) % cards.length;
    cards.forEach((card, i) => card.setAttribute("tabindex", i === focused ? "0" : "-1"));
    cards[focused].focus();
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inButton = event.target.closest("button");
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
    const key = event.key.toLowerCase();
    if (digit && view.rating && digit <= 7 && !view.finished) {
      rate(focused, digit);
      focus(Math.min(focused + 1, view.shown.length - 1));
    } else if (digit && !view.rating && digit <= view.shown.length) {
      toggle(digit - 1);
      focus(digit - 1);
    } else if (key === "t" && !view.rating) tie();
    else if (key === "s" && !view.finished) send("skip");
    else if (key === "u" && view.can_undo) send("undo");
    else if (key === "arrowright" || key === "arrowdown") focus(focused + 1);
    else if (key === "arrowleft" || key === "arrowup") focus(focused - 1);
    else if (key === " " && !inButton && !view.rating && !view.finished) toggle(focused);
    else if (key === "backspace" && flat().length) toggle(flat().at(-1));
    else if (key === "enter" && !inButton) submit();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // ---- what is to be seen ---------------------------------------------------------------------------------

  const standing = (position) =>
    flat().includes(position) ? `ranked ${ORDINALS[place(position)]}` : "not ranked";

  function card(text, position) {
    const made = element("div", "rlhf-card", undefined, {
      tabindex: position === focused ? "0" : "-1", role: view.rating ? "group" : "button",
    });
    made.append(element("span", "rlhf-number", String(position + 1), { "aria-hidden": "true" }));
    made.append(element("div", "rlhf-text", text));
    if (view.rating) made.append(points(position));
    else made.append(element("span", "rlhf-badge", "", { "aria-hidden": "true" }));
    made.addEventListener("focus", () => { focused = position; });
    if (!view.rating) {
      made.addEventListener("click", () => {
        if (String(window.getSelection())) return; // the person marks text, and does not rank
        toggle(position);
        focus(position);
      });
      draggable(made, position);
    }
    return made;
  }

  function points(position) {
    const made = element("div", "rlhf-points", undefined, { role: "radiogroup", "aria-label": `text ${position + 1}` });
    for (let value = 1; value <= 7; value++) {
      made.append(button(String(value), "rlhf-point", () => { focused = position; rate(position, value); }, {
        role: "radio", "aria-checked": "false", "aria-label": `${value} of 7`, tabindex: "-1",
      }));
    }
    return made;
  }

  function draggable(made, position) {
    made.setAttribute("draggable", "true");
    made.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("text/plain", String(position));
      event.dataTransfer.effectAllowed = "move";
    });
  }

  function droppable(made, index) {
    made.addEventListener("dragover", (event) => { event.preventDefault(); made.classList.add("rlhf-over"); });
    made.addEventListener("dragleave", () => made.classList.remove("rlhf-over"));
    made.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      made.classList.remove("rlhf-over");
      const position = Number.parseInt(event.dataTransfer.getData("text/plain"), 10);
      if (position >= 0 && position < view.shown.length) moveTo(position, index());
    });
  }

  function drawOrder(order) {
    order.replaceChildren(element("span", "rlhf-order-label", "best"));
    let index = 0;
    groups.forEach((group, g) => {
      group.forEach((position, i) => {
        if (i) {
          order.append(button("=", "rlhf-separator", () => untie(g), { title: "remove this tie", "aria-label": "remove this tie" }));
        } else if (g) order.append(element("span", "rlhf-separator", ">"));
        const at = index++;
        const chip = element("span", "rlhf-chip", String(position + 1), { title: "drag to another place" });
        draggable(chip, position);
        droppable(chip, () => at);
        order.append(chip);
      });
    });
    if (!groups.length) order.append(element("span", "rlhf-hint", "nothing ranked yet: press numbers, click or drag here"));
    order.append(element("span", "rlhf-order-label", "worst"));
  }

  function changed(message) {
    root.querySelectorAll(".rlhf-card").forEach((made, position) => {
      const ranked = flat().includes(position);
      made.classList.toggle("rlhf-ranked", view.rating ? Boolean(ratings[position]) : ranked);
      if (view.rating) {
        made.setAttribute("aria-label", `text ${position + 1}: ${ratings[position] || "no"} points`);
        made.querySelectorAll(".rlhf-point").forEach((point, i) => {
          point.setAttribute("aria-checked", String(ratings[position] === i + 1));
        });
      } else {
        made.setAttribute("aria-pressed", String(ranked));
        made.setAttribute("aria-label", `text ${position + 1}, ${standing(position)}: ${view.shown[position]}`);
        made.querySelector(".rlhf-badge").textContent = ranked ? ORDINALS[place(position)] : "";
      }
    });
    const order = root.querySelector(".rlhf-order");
    if (order) drawOrder(order);
    const complete = view.rating ? ratings.every(Boolean) : flat().length === view.shown.length;
    root.querySelector(".rlhf-submit")?.classList.toggle("rlhf-ready", complete);
    say(message);
  }

  function say(message, wrong = false) {
    const status = root.querySelector(".rlhf-status");
    if (!status || message === undefined) return;
    status.textContent = message;
    status.classList.toggle("rlhf-wrong", wrong);
    status.classList.toggle("rlhf-saved", !wrong && message === view.saved && Boolean(message));
  }

  function draw() {
    const hadFocus = root.contains(document.activeElement);
    groups = [];
    ratings = view.shown.map(() => 0);
    focused = 0;
    const percent = view.total ? Math.round((100 * view.done) / view.total) : 100;
    const head = element("div", "rlhf-head");
    const bar = element("div", "rlhf-bar", undefined, {
      role: "progressbar", "aria-valuemin": "0", "aria-valuemax": String(view.total),
      "aria-valuenow": String(view.done), "aria-label": "items done",
    });
    bar.append(element("div", "rlhf-bar-fill"));
    bar.firstChild.style.width = `${percent}%`;
    head.append(bar, element("span", "rlhf-count", `${view.done} of ${view.total}`));
    head.append(element("span", "rlhf-annotator", view.annotator, { title: "who is ranking" }));
    root.replaceChildren(head);

    if (view.finished) {
      root.append(element("p", "rlhf-prompt", view.total ? `All ${view.total} are done. Thank you!` : "There is nothing to rank."));
    } else {
      root.append(element("p", "rlhf-prompt", view.prompt));
      const cards = element("div", "rlhf-cards");
      view.shown.forEach((text, position) => cards.append(card(text, position)));
      root.append(cards);
      if (!view.rating) {
        const order = element("div", "rlhf-order", undefined, { "aria-label": "your order" });
        droppable(order, () => flat().length);
        root.append(order);
      }
    }
    const row = element("div", "rlhf-row");
    if (!view.finished) {
      row.append(button("Submit", "rlhf-submit", submit));
      if (!view.rating) row.append(button("Tie", "rlhf-tie", tie, { title: "tie the latest with the one before" }));
      row.append(button("Skip", "rlhf-skip", () => send("skip")));
    }
    const undo = button("Undo", "rlhf-undo", () => send("undo"));
    undo.disabled = !view.can_undo;
    row.append(undo, element("span", "rlhf-status", "", { role: "status", "aria-live": "polite" }));
    root.append(row);
    if (!view.finished) root.append(element("p", "rlhf-keys", view.rating ? RATE_KEYS : RANK_KEYS));

    changed(view.error || view.saved);
    root.querySelector(".rlhf-status").classList.toggle("rlhf-wrong", Boolean(view.error));
    if (hadFocus) focus(0);
    if (!view.finished) model.send({ act: "seen", turn: view.turn });
  }

  function refresh() {
    const before = view;
    view = model.get("view");
    if (view.turn !== before.turn) draw();
  }

  function answered() {
    waiting = false;
    root.classList.remove("rlhf-waiting");
    view = model.get("view");
    if (view.error) say(view.error, true); // the same item, and what was ranked, stay as they are
  }

  model.on("change:view", refresh);
  model.on("msg:custom", answered);
  draw();
  return () => {
    model.off("change:view", refresh);
    model.off("msg:custom", answered);
  };
}

export default { render };
