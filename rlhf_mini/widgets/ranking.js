// The view of one RankingWidget. It shows `view` (see controller.py) and sends the person's acts to it.
// All text goes in through textContent: whatever a model wrote appears literally and runs nothing.

const ORDINALS = ["best", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];
const RANK_KEYS = "1–9 rank from best to worst · T tie with the one before · Backspace take the latest back · "
  + "Enter submit · S skip · U undo · ← or → move, also a number in your order (Tab)";
const RATE_KEYS = "1–7 rate the marked text (7 is best) · Backspace take the latest back · ← or → move · "
  + "Enter submit · S skip · U undo";
const PATIENCE = 4000; // ms without an answer from Python, after which the person is told

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

// What a key means. A digit or a Latin letter means itself, wherever it is. Where the layout has neither in that place
// (the digits of AZERTY, the letters of Cyrillic), the key means what it means on the most common layout.
function meaning({ key, code = "" }) {
  const isCharacter = [...key].length === 1 || key === "Dead"; // and not "End", the 1 of a number pad without NumLock
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code);
  if (digit && isCharacter && !/^[0-9]$/.test(key)) return digit[1];
  const letter = /^Key([STU])$/.exec(code);
  if (letter && isCharacter && !/^\p{Script=Latin}/u.test(key)) return letter[1].toLowerCase();
  return key.toLowerCase();
}

// What was chosen but not submitted, by item. It outlives the widget, for when the cell has to be run again.
const drafts = {
  get(key) { try { return JSON.parse(sessionStorage.getItem(key)); } catch { return null; } },
  set(key, draft) { try { sessionStorage.setItem(key, JSON.stringify(draft)); } catch { /* a page without it */ } },
  remove(key) { try { sessionStorage.removeItem(key); } catch { /* the same */ } },
};

// Whether the focus can be taken: nobody is typing or answering a question, and no other cell was run than this one.
function isFree(root) {
  const active = document.activeElement;
  if (!document.hasFocus() || active?.closest(".rlhf-ranking, input, textarea, select, .jp-Dialog")) return false;
  if (active?.closest(".cm-editor, [contenteditable=true]")?.textContent.trim()) return false;
  const cell = root.closest(".jp-Cell");
  const chosen = root.closest(".jp-Notebook")?.querySelector(".jp-Cell.jp-mod-active");
  return !cell || !chosen || chosen === cell || chosen === cell.nextElementSibling; // Shift + Enter chooses the next
}

function render({ model, el }) {
  const root = element("div", "rlhf-ranking", undefined, { role: "group", "aria-label": "Ranking", tabindex: "-1" });
  el.append(root);

  let view = model.get("view");
  let groups = []; // tie groups of positions, best first
  let ratings = []; // by position, 0 where none is given yet
  let focused = 0;
  let waiting = null; // the act that is on its way to the kernel, and the item it is about
  let silent = false; // the kernel has not answered for a while
  let timer = 0;
  let gone = false;

  const flat = () => groups.flat();
  const place = (position) => groups.slice(0, groups.findIndex((g) => g.includes(position))).flat().length;
  const find = (selector) => root.querySelector(selector);
  const item = () => `rlhf-mini ${JSON.stringify([view.annotator, view.rating, view.prompt, view.shown])}`;
  const without = (position) => groups.map((g) => g.filter((p) => p !== position)).filter((g) => g.length);

  // ---- the kernel -----------------------------------------------------------------------------------------

  function ask(content) {
    try { model.send({ ...content, turn: view.turn }); } catch { /* no connection: nobody answers, as below */ }
    clearTimeout(timer);
    timer = setTimeout(unanswered, PATIENCE);
  }

  function send(act, more = {}) {
    waiting = { act, turn: view.turn, item: item() };
    ask({ act, ...more });
    if (silent) unanswered();
  }

  function unanswered() {
    if (gone || (view.finished && !waiting)) return;
    silent = true;
    say(`${waiting ? "Not saved yet: " : ""}Python does not answer. If a cell is running, wait until it is done. `
      + "If the kernel was restarted, run the cells above and then this one again. What you chose is kept.", "wrong");
  }

  function answered({ act, to } = {}) {
    if (waiting && act && (act !== waiting.act || to !== waiting.turn)) return; // the answer to an earlier message
    clearTimeout(timer);
    refresh();
    if (view.error) say(view.error, "wrong"); // the same item, and what was ranked, stay as they are
    else if (silent) say("Python answers again");
    silent = false;
    waiting = null;
  }

  function restarted() {
    if (!view.finished) ask({ act: "seen" });
  }

  function refresh() {
    const before = view;
    view = model.get("view");
    if (view.turn === before.turn && view.finished === before.finished) return;
    if (view.saved && waiting && waiting.act !== "undo") drafts.remove(waiting.item);
    silent = false;
    draw(view.before ?? (waiting?.item === item() ? null : drafts.get(item())));
    waiting = null;
  }

  // ---- what a person can do -------------------------------------------------------------------------------

  function submit() {
    const missing = view.rating ? ratings.filter((r) => !r).length : view.shown.length - flat().length;
    const what = view.rating ? "rated" : "ranked";
    if (missing) return say(`${missing} of ${view.shown.length} not ${what} yet`, "wrong");
    send("submit", view.rating ? { ratings } : { ranking: groups });
  }

  function toggle(position) {
    groups = flat().includes(position) ? without(position) : [...groups, [position]];
    changed(`text ${position + 1}: ${standing(position)}`);
  }

  function tie(at = groups.length - 1) {
    if (at < 1) return say("rank two texts first, then press T to tie them", "wrong");
    const [group] = groups.splice(at, 1);
    groups[at - 1].push(...group);
    changed(`text ${group[0] + 1} ties with the one before`);
  }

  function untie(position) {
    const index = groups.findIndex((g) => g.includes(position));
    const at = groups[index].indexOf(position);
    groups.splice(index, 1, groups[index].slice(0, at), groups[index].slice(at));
    changed("tie removed");
  }

  function moveTo(position, index) {
    // before what is now at this index of the flat order, as a rank of its own
    const target = flat()[index];
    if (target === position) return;
    groups = without(position);
    const at = target === undefined ? groups.length : groups.findIndex((g) => g.includes(target));
    groups.splice(at, 0, [position]);
    changed(`text ${position + 1}: ${standing(position)}`);
  }

  function shift(position, step) {
    // one rank up (-1) or down (1); out of its tie first
    const at = groups.findIndex((g) => g.includes(position));
    const rest = groups[at].filter((p) => p !== position);
    if (rest.length) groups.splice(at, 1, ...(step < 0 ? [[position], rest] : [rest, [position]]));
    else if (groups[at + step]) [groups[at], groups[at + step]] = [groups[at + step], groups[at]];
    changed(`text ${position + 1}: ${standing(position)}`);
  }

  function rate(position, value) {
    ratings[position] = value;
    changed(`text ${position + 1}: ${value ? `${value} of 7` : "no points"}`);
  }

  function takeBack() {
    if (!view.rating) return flat().length ? toggle(flat().at(-1)) : undefined;
    const position = ratings[focused] ? focused : Math.max(focused - 1, 0);
    rate(position, 0);
    goTo(position);
  }

  // ---- keys and focus -------------------------------------------------------------------------------------

  function goTo(position, scroll = true) {
    const cards = root.querySelectorAll(".rlhf-card");
    focused = cards.length ? (position + cards.length) % cards.length : 0;
    cards.forEach((card, i) => card.setAttribute("tabindex", i === focused ? "0" : "-1"));
    const made = cards[focused] ?? find(".rlhf-closing");
    made.focus({ preventScroll: true });
    if (!scroll) return;
    made.style.scrollMarginTop = `${(find(".rlhf-prompt")?.offsetHeight ?? 0) + 8}px`; // the opening stays at the top
    root.scrollIntoView({ block: "nearest" });
    made.scrollIntoView({ block: "nearest" });
  }

  // What a key does; undefined where it is not the widget's.
  function action(key, target) {
    if (key === "u" && view.can_undo) return () => send("undo");
    if (view.finished) return undefined;
    const [chip, inButton] = [target.closest(".rlhf-chip"), target.closest("button")];
    const own = Number(chip?.dataset.position);
    const step = { arrowright: 1, arrowdown: 1, arrowleft: -1, arrowup: -1 }[key];
    if (/^[1-9]$/.test(key)) {
      if (!view.rating && key <= view.shown.length) return () => { toggle(key - 1); goTo(key - 1); };
      if (!view.rating || key > 7) return undefined;
      return () => { rate(focused, Number(key)); goTo(Math.min(focused + 1, view.shown.length - 1)); };
    }
    if (key === "s") return () => send("skip");
    if (key === "t" && !view.rating) return () => tie(chip ? groups.findIndex((g) => g.includes(own)) : undefined);
    if (step) return chip ? () => shift(own, step) : () => goTo(focused + step);
    if (key === "backspace" || (key === "delete" && chip)) return chip ? () => toggle(own) : takeBack;
    if (key === "enter" && !inButton) return submit;
    if (key === " " && !inButton) return chip || view.rating ? () => {} : () => toggle(focused);
    return undefined;
  }

  root.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.key === "Process") return; // of an input method
    if (event.ctrlKey || event.metaKey || event.altKey || event.getModifierState("AltGraph")) return;
    const act = action(meaning(event), event.target);
    if (!act && !(event.repeat && event.key === "Enter")) return; // which would press a button again
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat) return; // a key that is held acts once
    if (waiting) { if (silent) unanswered(); } else act();
  });

  // A click beside the cards and buttons: the next key is meant for the widget.
  root.addEventListener("click", (event) => {
    const own = event.target.closest("button:enabled, .rlhf-card, .rlhf-chip");
    if (!own && getSelection().isCollapsed) goTo(focused, false);
  });

  const press = (act) => () => { if (!waiting) act(); else if (silent) unanswered(); };

  // ---- what is to be seen ---------------------------------------------------------------------------------

  const standing = (position) =>
    flat().includes(position) ? `ranked ${ORDINALS[place(position)]}` : "not ranked";

  function card(text, position) {
    const made = element("div", "rlhf-card", undefined, {
      tabindex: position === focused ? "0" : "-1", role: view.rating ? "group" : "button",
    });
    const top = element("div", "rlhf-top");
    top.append(element("span", "rlhf-number", String(position + 1), { "aria-hidden": "true" }));
    top.append(view.rating ? points(position) : element("span", "rlhf-badge", "", { "aria-hidden": "true" }));
    made.append(top, element("div", "rlhf-text", text, { dir: "auto" }));
    made.addEventListener("focus", () => { focused = position; });
    made.addEventListener("click", (event) => {
      if (event.target.closest("button")) return;
      const marked = getSelection();
      if (!marked.isCollapsed && made.contains(marked.anchorNode)) return; // the person marks text, and does not rank
      if (!view.rating) press(() => toggle(position))();
      goTo(position, false);
    });
    if (!view.rating) draggable(made, position);
    return made;
  }

  function points(position) {
    const made = element("div", "rlhf-points", undefined, { role: "radiogroup", "aria-label": `text ${position + 1}` });
    for (let value = 1; value <= 7; value++) {
      const give = press(() => { rate(position, value); goTo(position, false); });
      made.append(button(String(value), "rlhf-point", give, {
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
      if (position >= 0 && position < view.shown.length) press(() => moveTo(position, index()))();
    });
  }

  function drawOrder(order) {
    const held = order.contains(document.activeElement) ? document.activeElement.dataset.position : undefined;
    order.replaceChildren(element("span", "rlhf-order-label", "best"));
    let index = 0;
    groups.forEach((group, g) => {
      group.forEach((position, i) => {
        const at = index++;
        const data = { "data-position": position };
        if (i) {
          const cut = press(() => untie(position));
          const told = { title: "remove this tie", "aria-label": "remove this tie" };
          order.append(button("=", "rlhf-separator", cut, { ...told, ...data }));
        } else if (g) order.append(element("span", "rlhf-separator", ">"));
        const chip = element("span", "rlhf-chip", String(position + 1), {
          role: "button", tabindex: "0", title: "drag it, or move it with ← and →", ...data,
          "aria-label": `text ${position + 1}, ${standing(position)}: arrows move it, Backspace takes it out`,
        });
        draggable(chip, position);
        droppable(chip, () => at);
        order.append(chip);
      });
    });
    const hint = "nothing ranked yet: press numbers, click or drag here";
    if (!groups.length) order.append(element("span", "rlhf-hint", hint));
    order.append(element("span", "rlhf-order-label", "worst"));
    if (held === undefined) return;
    const chips = [...order.querySelectorAll(".rlhf-chip")];
    const chip = chips.find((made) => made.dataset.position === held) ?? chips.at(-1);
    if (chip) chip.focus({ preventScroll: true }); // what had the focus was drawn anew, or is gone
    else goTo(focused, false);
  }

  function changed(message) {
    if (flat().length || ratings.some(Boolean)) drafts.set(item(), { ranking: groups, ratings });
    else drafts.remove(item());
    drawChoices();
    if (!silent) say(message);
  }

  function drawChoices() {
    root.querySelectorAll(".rlhf-card").forEach((made, position) => {
      const ranked = flat().includes(position);
      made.classList.toggle("rlhf-ranked", view.rating ? Boolean(ratings[position]) : ranked);
      const text = view.shown[position];
      if (view.rating) {
        made.setAttribute("aria-label", `text ${position + 1}, ${ratings[position] || "no"} points: ${text}`);
        made.querySelectorAll(".rlhf-point").forEach((point, i) => {
          point.setAttribute("aria-checked", String(ratings[position] === i + 1));
        });
      } else {
        made.setAttribute("aria-pressed", String(ranked));
        made.setAttribute("aria-label", `text ${position + 1}, ${standing(position)}: ${text}`);
        made.querySelector(".rlhf-badge").textContent = ranked ? ORDINALS[place(position)] : "";
      }
    });
    if (find(".rlhf-order")) drawOrder(find(".rlhf-order"));
    const complete = view.rating ? ratings.every(Boolean) : flat().length === view.shown.length;
    find(".rlhf-submit")?.classList.toggle("rlhf-ready", complete);
  }

  function say(message, kind = "") {
    const status = find(".rlhf-status");
    status.textContent = message ?? "";
    status.classList.toggle("rlhf-wrong", kind === "wrong");
    status.classList.toggle("rlhf-saved", kind === "saved");
  }

  function head() {
    const percent = view.total ? Math.round((100 * view.done) / view.total) : 100;
    const made = element("div", "rlhf-head");
    const bar = element("div", "rlhf-bar", undefined, {
      role: "progressbar", "aria-valuemin": "0", "aria-valuemax": String(view.total),
      "aria-valuenow": String(view.done), "aria-label": "items done",
    });
    bar.append(element("div", "rlhf-bar-fill"));
    bar.firstChild.style.width = `${percent}%`;
    made.append(bar, element("span", "rlhf-count", `${view.done} of ${view.total}`));
    made.append(element("span", "rlhf-annotator", view.annotator, { title: "who is ranking", dir: "auto" }));
    if (!view.finished) made.prepend(element("span", "rlhf-away", "Click here, then type"));
    return made;
  }

  // The buttons stand above all texts, so that they stay where they are from item to item.
  function row() {
    const made = element("div", "rlhf-row");
    if (!view.finished) {
      made.append(button("Submit", "rlhf-submit", press(submit)));
      const title = "tie the latest with the one before";
      if (!view.rating) made.append(button("Tie", "rlhf-tie", press(() => tie()), { title }));
      made.append(button("Skip", "rlhf-skip", press(() => send("skip"))));
    }
    const undo = button("Undo", "rlhf-undo", press(() => send("undo")));
    undo.disabled = !view.can_undo;
    made.append(undo, element("span", "rlhf-status", "", { role: "status", "aria-live": "polite", dir: "auto" }));
    return made;
  }

  function draw(before) {
    const mine = root.contains(document.activeElement) || (waiting && isFree(root));
    const kept = before ?? {};
    groups = kept.ranking && !view.rating ? kept.ranking.map((g) => [...g]) : [];
    ratings = view.shown.map((_, position) => (view.rating && kept.ratings?.[position]) || 0);
    focused = 0;
    root.replaceChildren(head(), row());
    if (view.finished) {
      const closing = view.closing || `All ${view.total} are done.`;
      root.append(element("p", "rlhf-closing", closing, { tabindex: "-1", dir: "auto" }));
    } else {
      if (!view.rating) {
        root.append(element("div", "rlhf-order", undefined, { role: "group", "aria-label": "your order" }));
        droppable(find(".rlhf-order"), () => flat().length);
      }
      root.append(element("p", "rlhf-prompt", view.prompt, { dir: "auto" }));
      const cards = element("div", "rlhf-cards");
      view.shown.forEach((text, position) => cards.append(card(text, position)));
      root.append(cards, element("p", "rlhf-keys", view.rating ? RATE_KEYS : RANK_KEYS));
    }
    drawChoices();
    say(view.error || view.saved, view.error ? "wrong" : view.saved ? "saved" : "");
    if (mine) begin();
    if (!view.finished) ask({ act: "seen" });
  }

  function begin() {
    goTo(0, false);
    root.scrollIntoView({ block: "nearest" });
    root.scrollTop = 0; // the buttons stand where they stood
    const seen = [root, find(".rlhf-card"), find(".rlhf-prompt")].map((made) => made?.getBoundingClientRect());
    const [own, first, opening] = seen;
    if (first && first.top + 60 > own.bottom) root.scrollTop = first.top - own.top - opening.height - 8; // little room
  }

  function appear() {
    if (gone) return;
    if (!root.isConnected) requestAnimationFrame(appear);
    else if (!view.finished && isFree(root)) begin();
  }

  // JupyterLab's own keys (3 makes a heading, D D deletes the cell) stay out. It asks the element that has the focus,
  // before any of us hears of the key. Only Shift + Enter passes in a finished widget, to run on as the message says.
  function keepOut(event) {
    if (!root.contains(event.target)) return;
    const passes = view.finished && event.shiftKey && event.key === "Enter";
    for (const made of [root, event.target]) made.toggleAttribute("data-lm-suppress-shortcuts", !passes);
  }

  model.on("change:view", refresh);
  model.on("msg:custom", answered);
  model.on("comm_live_update", restarted);
  window.addEventListener("keydown", keepOut, true);
  draw(drafts.get(item()) ?? view.before);
  appear();
  return () => {
    gone = true;
    clearTimeout(timer);
    window.removeEventListener("keydown", keepOut, true);
    model.off("change:view", refresh);
    model.off("msg:custom", answered);
    model.off("comm_live_update", restarted);
  };
}

export default { render };
