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
  // Wilson's 90 % interval
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
  };
  const cards = new Map();
  const mark = (id) => {
    const card = cards.get(id);
    if (!card) return;
    const now = decided.get(id);
    if (now) card.dataset.decided = now.decision; else delete card.dataset.decided;
    for (const button of card.querySelectorAll("button[data-act]")) button.setAttribute("aria-pressed", String(Boolean(now && now.decision === button.dataset.act)));
    const other = card.querySelector("select");
    other.value = now && now.decision === "other" ? String(now.label) : "";
  };
  const act = (item, decision, label) => set(item.id, { decision, label });
  const acts = {
    accept: (item) => act(item, "accept", item.suggested),
    keep: (item) => act(item, "keep", item.given),
    unsure: (item) => act(item, "unsure", item.given),
  };
  const card = (item) => {
    if (cards.has(item.id)) return cards.get(item.id);
    const node = make("li", { className: "card", tabIndex: 0 });
    const name = data.classes;
    if (item.image) node.append(make("img", { className: "main", src: item.image, alt: `given ${name[item.given]}, suggested ${name[item.suggested]}`, loading: "lazy" }));
    node.append(make("div", { className: "names", textContent: `${name[item.given]} → ${name[item.suggested]}` }));
    node.append(make("div", { className: "dim", textContent: `rank ${item.rank}; given label right ${item.own}, suggestion ${item.sure}; ${item.decision}` }));
    const id = make("button", { type: "button", className: "id", textContent: item.id, title: "copy" });
    id.addEventListener("click", () => navigator.clipboard && navigator.clipboard.writeText(item.id));
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
      const button = make("button", { type: "button", textContent: word });
      button.dataset.act = word;
      button.addEventListener("click", () => run(item));
      row.append(button);
    }
    const other = make("select", {}, make("option", { value: "", textContent: "other…" }));
    other.setAttribute("aria-label", "another class");
    name.forEach((text, number) => other.append(make("option", { value: String(number), textContent: text })));
    other.addEventListener("change", () => (other.value === "" ? set(item.id, undefined) : act(item, "other", Number(other.value))));
    row.append(other);
    node.append(row);
    node.addEventListener("keydown", (event) => {
      if (event.target !== node || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowRight: "nextElementSibling", ArrowDown: "nextElementSibling", ArrowLeft: "previousElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      const run = { a: acts.accept, k: acts.keep, u: acts.unsure }[event.key];
      if (step && node[step]) node[step].focus();
      else if (run) { run(item); if (node.nextElementSibling) node.nextElementSibling.focus(); }
      else if (event.key === "o") other.focus();
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
    at("gallery").replaceChildren(...found.slice(0, shown).map(card));
    at("more").hidden = found.length <= shown;
    tell();
  };
  for (const id of ["given", "suggested", "show"]) at(id).addEventListener("change", () => { shown = PAGE; draw(); });
  at("search").addEventListener("input", () => { shown = PAGE; draw(); });
  at("more").addEventListener("click", () => { shown += PAGE; draw(); });
  at("undo").addEventListener("click", undo);
  for (const button of document.querySelectorAll(".matrix button")) {
    button.addEventListener("click", () => {
      at("given").value = button.dataset.given;
      at("suggested").value = button.dataset.suggested;
      shown = PAGE;
      draw();
      at("h-gallery").scrollIntoView();
    });
  }
  const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
  at("save").addEventListener("click", () => {
    const lines = [["id", "decision", "label", "given_label", "note"].map(cell).join(",")];
    for (const item of data.items) {
      const now = decided.get(item.id);
      if (now) lines.push([item.id, now.decision, data.classes[now.label], data.classes[item.given], ""].map(cell).join(","));
    }
    const link = make("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })), download: "corrections.csv" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  draw();
})();
