"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const key = "kdmlc_jax:" + data.run;
  const PAGE = 60;
  let decided = new Map(), past = [], shown = PAGE;
  try { decided = new Map(JSON.parse(localStorage.getItem(key) || "[]")); } catch { /* a browser without storage */ }

  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const store = () => { try { localStorage.setItem(key, JSON.stringify([...decided])); } catch { /* kept until it is closed */ } };
  const set = (id, value) => {
    past.push([id, decided.get(id)]);
    if (value) decided.set(id, value); else decided.delete(id);
    store();
    mark(id);
    tell();
  };
  const undo = () => {
    const last = past.pop();
    if (!last) return;
    if (last[1]) decided.set(last[0], last[1]); else decided.delete(last[0]);
    store();
    mark(last[0]);
    tell();
  };
  const percent = (share) => `${Math.round(100 * share)} %`;
  // Wilson's 90 % interval; counts may be parts of one
  const interval = (right, all) => {
    const z = 1.645, p = right / all, d = 1 + z * z / all;
    const mid = (p + z * z / (2 * all)) / d, half = z / d * Math.sqrt(p * (1 - p) / all + z * z / (4 * all * all));
    return [mid - half, mid + half].map((v) => Math.round(100 * v));
  };
  const tell = () => {
    const all = data.items.filter((item) => decided.has(item.id));
    const judged = all.filter((item) => decided.get(item.id).decision !== "unsure");
    const wrong = judged.filter((item) => decided.get(item.id).label !== item.given).length;
    const right = judged.filter((item) => decided.get(item.id).label === item.suggested && item.suggested !== item.given).length;
    let text = `${all.length} of ${data.items.length} looked at`;
    if (judged.length) {
      const [low, high] = interval(right, judged.length);
      text += `; of ${judged.length} judged, ${wrong} labels were wrong and ${right} suggestions right (${Math.round(100 * right / judged.length)} %, 90 % interval ${low}–${high})`;
    }
    at("progress").textContent = text + ".";
    for (const node of document.querySelectorAll("[data-depth]")) estimate(node, data.depths[Number(node.dataset.depth)]);
  };
  // Of the first k labels: those judged count as they are, the others by held-out images and the judged ones together.
  const estimate = (node, depth) => {
    const judged = data.items.filter((item) => item.rank <= depth.count && decided.has(item.id) && decided.get(item.id).decision !== "unsure");
    if (!judged.length) { node.textContent = "–"; return; }
    const wrong = judged.filter((item) => decided.get(item.id).label !== item.given).length;
    const rows = depth.prior_worth + judged.length, known = depth.prior * depth.prior_worth + wrong;
    const left = depth.count - judged.length, of = (share) => (wrong + left * share) / depth.count;
    const [low, high] = interval(known, rows).map((v) => percent(of(v / 100)));
    node.textContent = left ? `${percent(of(known / rows))} (${low} to ${high}); ${wrong} of ${judged.length} judged` : `${percent(wrong / judged.length)}, all judged`;
  };
  const cards = new Map();
  // Options are made when they are needed: of many classes and cards they are too many.
  const fill = (select) => {
    if (select.options.length < 2) data.classes.forEach((text, number) => select.append(make("option", { value: String(number), textContent: text })));
  };
  const mark = (id) => {
    const card = cards.get(id);
    if (!card) return;
    const now = decided.get(id);
    if (now) card.dataset.decided = now.decision; else delete card.dataset.decided;
    for (const button of card.querySelectorAll("button[data-act]")) button.setAttribute("aria-pressed", String(Boolean(now && now.decision === button.dataset.act)));
    const other = card.querySelector("select");
    if (now && now.decision === "other") fill(other);
    other.value = now && now.decision === "other" ? String(now.label) : "";
    card.querySelector("input").value = now && now.note ? now.note : "";
  };
  const act = (item, decision, label) => set(item.id, { decision, label, note: (decided.get(item.id) || {}).note || "" });
  const remark = (item, note) => {
    const now = decided.get(item.id);
    if (now || note) set(item.id, { ...(now || { decision: "unsure", label: item.given }), note });
  };
  const copy = async (button, text) => {
    try { await navigator.clipboard.writeText(text); } catch {
      const field = make("textarea", { value: text });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    const before = button.textContent;
    button.textContent = "copied";
    setTimeout(() => { button.textContent = before; }, 900);
  };
  const acts = {
    accept: (item) => (item.suggested === item.given ? acts.keep(item) : act(item, "accept", item.suggested)),
    keep: (item) => act(item, "keep", item.given),
    unsure: (item) => act(item, "unsure", item.given),
  };
  const card = (item) => {
    if (cards.has(item.id)) return cards.get(item.id);
    const node = make("li", { className: "card", tabIndex: 0 });
    const name = data.classes, doubt = item.suggested === item.given; // without a likelier class
    if (item.image) node.append(make("img", { className: "main", src: item.image, alt: `given ${name[item.given]}, ${doubt ? "no other class likelier" : `suggested ${name[item.suggested]}`}` }));
    node.append(make("div", { className: "names", textContent: `${name[item.given]} → ${doubt ? "?" : name[item.suggested]}` }));
    node.append(make("div", { className: "dim", textContent: `${item.rank}. given label right ${item.own.toFixed(2)}, ${doubt ? "no other class likelier" : `suggestion ${item.sure.toFixed(2)}`}; ${item.decision}` }));
    const id = make("button", { type: "button", className: "id", textContent: item.id, title: `copy ${item.path}` });
    id.addEventListener("click", () => copy(id, item.path));
    node.append(id);
    if (item.near.length) {
      const near = make("div", { className: "near" });
      for (const number of item.near) {
        const trusted = data.trusted[number];
        near.append(make("figure", { title: trusted.id }, make("img", { className: "small", src: trusted.image, alt: "nearest trusted image" }), make("figcaption", { textContent: name[trusted.label] })));
      }
      node.append(near);
    }
    const row = make("div", { className: "acts" });
    for (const [word, run] of Object.entries(acts)) {
      if (doubt && word === "accept") continue;
      const button = make("button", { type: "button", textContent: word });
      button.dataset.act = word;
      button.addEventListener("click", () => run(item));
      row.append(button);
    }
    const other = make("select", {}, make("option", { value: "", textContent: "other…" }));
    other.setAttribute("aria-label", "another class");
    for (const kind of ["focus", "pointerdown"]) other.addEventListener(kind, () => fill(other));
    other.addEventListener("change", () => (other.value === "" ? set(item.id, undefined) : act(item, "other", Number(other.value))));
    row.append(other);
    const note = make("input", { type: "text", placeholder: "note", maxLength: 500 });
    note.setAttribute("aria-label", "note");
    note.addEventListener("change", () => remark(item, note.value));
    note.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") node.focus(); });
    row.append(note);
    node.append(row);
    node.addEventListener("keydown", (event) => {
      if (event.target !== node || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: "nextElementSibling", ArrowDown: "nextElementSibling", ArrowLeft: "previousElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      const run = { a: acts.accept, k: acts.keep, u: acts.unsure }[event.key];
      if (step && node[step]) node[step].focus();
      else if (run) { run(item); if (node.nextElementSibling) node.nextElementSibling.focus(); }
      else if (event.key === "o") other.focus();
      else if (event.key === "n") note.focus();
      else if (event.key === "c") copy(id, item.path);
      else if (event.key === "z") undo();
      else return;
      event.preventDefault();
    });
    cards.set(item.id, node);
    mark(item.id);
    return node;
  };
  const draw = () => {
    const given = at("given").value, suggested = at("suggested").value, show = at("show").value, text = at("search").value.toLowerCase();
    const found = data.items.filter((item) =>
      (given === "" || item.given === Number(given)) && (suggested === "" || item.suggested === Number(suggested)) &&
      (show === "" || (show === "open" ? !decided.has(item.id) : item.decision === show)) && item.id.toLowerCase().includes(text));
    const by = at("sort").value;
    if (by === "sure") found.sort((a, b) => b.sure - a.sure || a.rank - b.rank);
    else if (by === "id") found.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
    else if (by !== "rank") found.sort((a, b) => a[by] - b[by] || a.rank - b.rank);
    at("gallery").replaceChildren(...found.slice(0, shown).map(card));
    at("more").hidden = found.length <= shown;
    tell();
  };
  for (const id of ["given", "suggested", "show", "sort"]) at(id).addEventListener("change", () => { shown = PAGE; draw(); });
  at("search").addEventListener("input", () => { shown = PAGE; draw(); });
  at("more").addEventListener("click", () => { shown += PAGE; draw(); });
  at("undo").addEventListener("click", undo);
  for (const button of document.querySelectorAll("button.filter")) {
    button.addEventListener("click", () => {
      at("given").value = button.dataset.given;
      at("suggested").value = button.dataset.suggested;
      shown = PAGE;
      draw();
      at("h-gallery").scrollIntoView();
      if (at("gallery").firstElementChild) at("gallery").firstElementChild.focus({ preventScroll: true });
    });
  }
  const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
  at("save").addEventListener("click", () => {
    const lines = [["id", "decision", "label", "given_label", "note"].map(cell).join(",")];
    for (const item of data.items) {
      const now = decided.get(item.id);
      if (now) lines.push([item.id, now.decision, data.classes[now.label], data.classes[item.given], now.note || ""].map(cell).join(","));
    }
    const link = make("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })), download: "corrections.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  draw();
})();
