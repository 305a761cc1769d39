"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, given = {}, ...inside) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  };

  // Theme: that of the system until a reader chooses; storage may be shut to files.
  const remembered = () => { try { return localStorage.getItem("ismn-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("ismn-theme", theme); } catch { /* not kept */ } };
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const kept = remembered();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  const toggle = make("button", { type: "button" });
  const named = () => { toggle.textContent = dark() ? "Light theme" : "Dark theme"; };
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    named();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
  named();
  document.getElementById("controls").append(toggle);

  // Sorting: by the value of a box where it has one; what has none comes last, whichever way.
  const valueOf = (row, column) => {
    const box = row.cells[column];
    if (box.dataset.v === undefined) return box.tagName === "TH" ? box.textContent.trim() : null;
    const number = Number(box.dataset.v);
    return Number.isNaN(number) ? box.dataset.v : number;
  };
  const compared = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (table, head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("thead tr:last-child th", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
    const full = keyed.filter(([value]) => value !== null).sort((a, b) => (down ? -1 : 1) * compared(a[0], b[0]));
    body.append(...full.concat(keyed.filter(([value]) => value === null)).map(([, row]) => row));
  };
  for (const table of all("table[data-sortable]")) {
    for (const head of all("thead tr:last-child th", table)) {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, head, head.cellIndex));
    }
  }

  // Filtering: rows that have every word.
  for (const table of all("table[data-filterable]")) {
    const input = make("input", { type: "search", id: `${table.id}-filter`, autocomplete: "off" });
    const count = make("output", { for: input.id });
    const label = make("label", { for: input.id }, "Filter");
    table.parentElement.before(make("div", { class: "filter" }, label, input, count));
    const texts = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of texts) {
        row.hidden = !words.every((word) => text.includes(word));
        if (!row.hidden) shown += 1;
      }
      count.textContent = `${shown} of ${texts.length} rows`;
    };
    input.addEventListener("input", apply);
    apply();
  }

  // Legends: one series stands out, the others step back.
  for (const block of all(".panels-block")) {
    const entries = all(".legend li[data-series]", block);
    if (entries.length < 2) continue;
    let chosen = null;
    const show = (series) => {
      for (const line of all(".series", block)) {
        line.style.opacity = series === null || line.classList.contains(`series-${series}`) ? "" : "0.12";
      }
    };
    for (const entry of entries) {
      const button = make("button", { type: "button", "aria-pressed": "false" }, ...entry.childNodes);
      entry.append(button);
      button.addEventListener("click", () => {
        chosen = chosen === entry.dataset.series ? null : entry.dataset.series;
        for (const other of all(".legend button", block)) {
          other.setAttribute("aria-pressed", String(other.parentElement.dataset.series === chosen));
        }
        show(chosen);
      });
      entry.addEventListener("pointerenter", () => show(entry.dataset.series));
      entry.addEventListener("pointerleave", () => show(chosen));
    }
  }

  // Gallery: by outcome and by system.
  const stories = document.getElementById("stories");
  if (stories) {
    const cards = all(".story", stories);
    const bar = make("div", { class: "filter" });
    const count = make("output");
    const choices = ["outcome", "system"].map((name) => {
      const values = [...new Set(cards.map((card) => card.dataset[name]))].sort();
      const select = make("select", { id: `stories-${name}` }, make("option", { value: "" }, "all"));
      for (const value of values) select.append(make("option", { value }, value));
      bar.append(make("label", { for: select.id }, name[0].toUpperCase() + name.slice(1)), select);
      return [name, select];
    });
    bar.append(count);
    stories.before(bar);
    const apply = () => {
      for (const card of cards) {
        card.hidden = choices.some(([name, select]) => select.value !== "" && card.dataset[name] !== select.value);
      }
      count.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
    };
    for (const [, select] of choices) select.addEventListener("change", apply);
    apply();
  }

  // Commands: to the clipboard, where the browser lets a file.
  if (navigator.clipboard) {
    for (const command of all("pre.command")) {
      const button = make("button", { type: "button" }, "Copy");
      const frame = make("div", { class: "copied" });
      command.before(frame);
      frame.append(command, button);
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(command.textContent);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Not allowed";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
    }
  }

  // Everything is printed, also what is folded.
  addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });

  // Contents: where the reader is.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of all("main > section[id]")) watcher.observe(section);
})();
