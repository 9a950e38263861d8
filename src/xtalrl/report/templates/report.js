"use strict";
// What `packed` of viewer_data.py wrote: JSON, deflated, as base64.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
};
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const count = (number) => number.toLocaleString("en-US");

  // Light or dark: the reader's choice, else the system's.
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const sortable = (header, sort) => {
    const cells = [...header.children];
    cells.forEach((cell, index) => {
      const button = make("button", { type: "button" }, ...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        cells.forEach((other) => other.removeAttribute("aria-sort"));
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(index, up);
      });
    });
  };
  const compare = (a, b, up) => {
    if (a === null || b === null) return (a === null) - (b === null); // nothing comes last, either way
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return up ? order : -order;
  };

  // Tables that are in the page as HTML.
  for (const table of document.querySelectorAll("table.sortable")) {
    const key = (row, index) => {
      const cell = row.children[index];
      if (cell.dataset.value === undefined) return cell.textContent.trim();
      return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    sortable(table.tHead.rows[0], (index, up) => {
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(key(a, index), key(b, index), up));
      table.tBodies[0].append(...rows);
    });
  }

  // Tables that are in the page as columns of JSON: filtered and sorted as numbers, drawn a piece at a time.
  const PIECE = 100;
  class LazyTable {
    constructor(host, columns) {
      this.columns = columns;
      this.opens = "opens" in host.dataset;
      this.size = this.columns.length ? this.columns[0].data.length : 0;
      this.filters = new Map();
      this.order = null;
      this.found = make("output", { className: "found" });
      this.body = make("tbody");
      this.more = make("button", { type: "button", className: "more", textContent: "Show more rows", hidden: true });
      this.more.addEventListener("click", () => this.draw());
      const header = make("tr", {}, ...this.columns.map((column) =>
        make("th", { scope: "col", className: column.kind === "number" ? "num" : "" }, column.label)));
      const scroller = make("div", { className: "scroll tall", tabIndex: 0, role: "region", ariaLabel: host.dataset.label },
        make("table", {}, make("thead", {}, header), this.body), this.more);
      host.replaceChildren(this.controls(host.dataset.name), scroller);
      sortable(header, (index, up) => { this.order = [index, up]; this.update(); });
      new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) this.draw(); },
        { root: scroller, rootMargin: "400px" }).observe(this.more);
      this.update();
    }
    value(column, row) {
      return column.kind === "text" ? column.dictionary[column.data[row]] : column.data[row];
    }
    controls(name) {
      const bar = make("div", { className: "filters" });
      const search = make("input", { type: "search", placeholder: "formula, id, …", size: 18 });
      search.addEventListener("input", () => this.search(search.value));
      bar.append(make("label", {}, "Search", search));
      for (const column of this.columns) {
        if (column.filter === "select") {
          const choices = column.dictionary.map((text, code) => [text, code]).filter(([text]) => text !== "");
          if (column.key !== "policy") choices.sort((a, b) => a[0].localeCompare(b[0]));
          if (!choices.length) continue;
          const select = make("select", {}, make("option", { value: "", textContent: "any" }),
            ...choices.map(([text, code]) => make("option", { value: String(code), textContent: text })));
          select.addEventListener("change", () => {
            const code = Number(select.value);
            this.filter(column.key, select.value === "" ? null : (row) => column.data[row] === code);
          });
          bar.append(make("label", {}, column.label, select));
        } else if (column.filter === "range") {
          const ends = ["from", "to"].map((end) => make("input", { type: "number", step: "any", placeholder: end, ariaLabel: `${column.label} ${end}` }));
          const apply = () => {
            const [low, high] = ends.map((end) => (end.value === "" ? null : Number(end.value)));
            this.filter(column.key, low === null && high === null ? null : (row) => {
              const value = column.data[row];
              return value !== null && (low === null || value >= low) && (high === null || value <= high);
            });
          };
          ends.forEach((end) => end.addEventListener("input", apply));
          bar.append(make("label", {}, column.label, make("span", { className: "pair" }, ends[0], "–", ends[1])));
        }
      }
      const save = make("button", { type: "button", textContent: "Save as CSV" });
      save.addEventListener("click", () => this.save(name));
      bar.append(save, this.found);
      return bar;
    }
    filter(key, test) {
      if (test) this.filters.set(key, test); else this.filters.delete(key);
      this.update();
    }
    search(text) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      const texts = this.columns.filter((column) => column.kind === "text");
      // A word is looked up once in each dictionary, then rows are tested by code.
      const hits = words.map((word) => texts.map((column) => column.dictionary.map((entry) => String(entry).toLowerCase().includes(word))));
      this.filter("search", words.length ? (row) => hits.every((word) => word.some((hit, i) => hit[texts[i].data[row]])) : null);
    }
    update() {
      const tests = [...this.filters.values()];
      this.rows = [];
      for (let row = 0; row < this.size; row++) if (tests.every((test) => test(row))) this.rows.push(row);
      if (this.order) {
        const column = this.columns[this.order[0]];
        const keys = new Map(this.rows.map((row) => [row, this.value(column, row)]));
        this.rows.sort((a, b) => compare(keys.get(a) === "" ? null : keys.get(a), keys.get(b) === "" ? null : keys.get(b), this.order[1]));
      }
      this.found.textContent = this.rows.length === this.size ? `${count(this.size)} rows` : `${count(this.rows.length)} of ${count(this.size)} rows`;
      this.drawn = 0;
      this.body.replaceChildren();
      this.draw();
    }
    draw() {
      const piece = this.rows.slice(this.drawn, this.drawn + PIECE);
      this.drawn += piece.length;
      this.body.append(...piece.map((row) => make("tr", {}, ...this.columns.map((column) => {
        const value = this.value(column, row);
        const text = value === null || value === "" ? "–" : column.kind === "text" ? value
          : column.decimals !== null ? value.toFixed(column.decimals) : Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
        return make("td", { className: column.kind === "number" ? "num" : ({ hit: "hit", detail: "detail", note: "detail" })[column.key] ?? "", textContent: text });
      }))));
      this.found.dataset.drawn = count(this.drawn); // for the print, which holds what is drawn
      this.found.classList.toggle("cut", this.drawn < this.rows.length);
      if (this.opens) this.link(this.drawn - piece.length, piece);
      if (!this.rows.length && this.size) {
        this.body.append(make("tr", {}, make("td", { colSpan: this.columns.length, textContent: "Nothing fits these filters." })));
      }
      this.more.hidden = this.drawn >= this.rows.length;
    }
    // Rows that open a design: by a click anywhere, by keyboard on the first cell.
    link(first, piece) {
      piece.forEach((_, index) => {
        const row = this.body.children[first + index], cell = row.firstChild;
        cell.replaceChildren(make("button", { type: "button", className: "link", textContent: cell.textContent, ariaLabel: `${cell.textContent}: show the design` }));
        row.className = row.querySelector("td.hit")?.textContent === "yes" ? "opens hit" : "opens";
        row.addEventListener("click", () => showDesign(this, first + index));
      });
    }
    save(name) {
      // A text that a spreadsheet would take for a formula gets an apostrophe before it.
      const guard = (value) => (typeof value === "string" && /^[=+\-@\t\r]/.test(value) && isNaN(value) ? `'${value}` : String(value));
      const quote = (value) => (value === null ? "" : /[",\r\n]/.test(value) ? `"${guard(value).replaceAll('"', '""')}"` : guard(value));
      const lines = [this.columns.map((column) => column.key).join(",")];
      for (const row of this.rows) lines.push(this.columns.map((column) => quote(this.value(column, row))).join(","));
      const link = make("a", { download: `${name}.csv`, href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
  }
  // A table that is wider than the page says so.
  const say = new ResizeObserver((entries) => entries.forEach(({ target }) => { target.previousElementSibling.hidden = target.scrollWidth <= target.clientWidth + 1; }));
  const watch = (scroller) => {
    scroller.before(make("p", { className: "note wide", hidden: true, textContent: "Wider than the page: scroll sideways for the other columns." }));
    say.observe(scroller);
  };
  document.querySelectorAll(".scroll").forEach(watch);

  // One table a turn, so that the page is readable at once.
  const tables = [...document.querySelectorAll("[data-columns]")].map((host) => new Promise((drawn) => setTimeout(async () => {
    const table = new LazyTable(host, await unpack(host.dataset.columns));
    watch(host.querySelector(".scroll"));
    drawn(table);
  })));
  // What the address names has moved while tables were drawn above it; an opened design has an address, too.
  Promise.all(tables).then((drawn) => {
    const [, row] = location.hash.match(/^#design-(\d+)$/) ?? [];
    const designs = drawn.find((table) => table.opens), place = row ? designs.rows.indexOf(row - 1) : -1;
    if (place >= 0) showDesign(designs, place);
    else if (location.hash) requestAnimationFrame(() => setTimeout(() => document.getElementById(location.hash.slice(1))?.scrollIntoView()));
  });

  // Figures: zoom in a dialog, by buttons, wheel and drag.
  const dialog = document.getElementById("zoom");
  if (dialog) {
    const view = dialog.querySelector(".view"), image = dialog.querySelector("img");
    let scale = 1;
    const show = (next) => {
      const before = scale, x = view.scrollLeft + view.clientWidth / 2, y = view.scrollTop + view.clientHeight / 2;
      scale = Math.min(4, Math.max(0.2, next));
      image.style.width = `${image.naturalWidth * scale}px`;
      view.scrollTo(x * scale / before - view.clientWidth / 2, y * scale / before - view.clientHeight / 2);
    };
    for (const button of document.querySelectorAll("figure > button")) {
      button.addEventListener("click", () => {
        const source = button.querySelector("img");
        image.src = source.src;
        image.alt = source.alt;
        dialog.showModal();
        scale = 1;
        show(Math.min(innerWidth * 0.96 / source.naturalWidth, innerHeight * 0.88 / source.naturalHeight));
      });
    }
    dialog.querySelector("[data-zoom='in']").addEventListener("click", () => show(scale * 1.3));
    dialog.querySelector("[data-zoom='out']").addEventListener("click", () => show(scale / 1.3));
    view.addEventListener("wheel", (event) => { event.preventDefault(); show(scale * (event.deltaY < 0 ? 1.12 : 1 / 1.12)); }, { passive: false });
    view.addEventListener("pointermove", (event) => { if (event.buttons === 1) { event.preventDefault(); view.scrollBy(-event.movementX, -event.movementY); } });
    image.draggable = false;
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
})();
