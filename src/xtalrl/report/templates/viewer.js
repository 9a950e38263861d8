"use strict";
// The dialog of a design: its crystal beside the true one, drawn by 3Dmol.js, and how its SCF went. The data are those of viewer_data.py.
const showDesign = (() => {
  const dialog = document.getElementById("design");
  const option = (name) => dialog.querySelector(`[data-option=${name}]`).checked;
  const make = (tag, attributes = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...children);
    return node;
  };
  const HALO = "#e6007e";
  const cells = [...dialog.querySelectorAll("[data-cell]")]; // each with its `viewer`, null without WebGL
  let data, table, position;

  const color = (element) => `#${($3Dmol.elementColors.Jmol[element] ?? 0xff1493).toString(16).padStart(6, "0")}`;
  const symbols = (text) => Array.from(text, (character) => data.elements.symbols[character.charCodeAt(0) - data.first_character]);
  const radius = (element) => data.elements.radii[data.elements.symbols.indexOf(element)];
  const metallic = (element) => data.elements.metals[data.elements.symbols.indexOf(element)];
  const formula = (species) => {
    const counts = new Map();
    for (const element of species) counts.set(element, (counts.get(element) ?? 0) + 1);
    return [...counts].map(([element, n]) => element + (n > 1 ? n : "")).join("");
  };

  // Sites of a cell with all their images on its faces; `n` cells along each vector.
  const atomsOf = (lattice, coordinates, species, n) => {
    const atoms = [];
    species.forEach((element, site) => {
      const frac = coordinates.slice(3 * site, 3 * site + 3).map((x) => x / data.coordinate_steps);
      const along = frac.map((x) => {
        const shifts = [...Array(n).keys()];
        if (x < 0.005) shifts.push(n);
        if (x > 0.995) shifts.push(-1);
        return shifts.map((shift) => x + shift);
      });
      for (const a of along[0]) for (const b of along[1]) for (const c of along[2]) {
        const [x, y, z] = [0, 1, 2].map((i) => a * lattice[i] + b * lattice[3 + i] + c * lattice[6 + i]);
        atoms.push({ elem: element, x, y, z, site, serial: atoms.length, bonds: [], bondOrder: [] });
      }
    });
    // The rule of `bonds` in cells.py.
    for (const one of atoms) for (const other of atoms) {
      if (other.serial <= one.serial) continue;
      if (metallic(one.elem) && metallic(other.elem) && !species.every(metallic)) continue; // the bonds that tell are those to the anions
      const reach = data.bonds.reach * (radius(one.elem) + radius(other.elem));
      const distance = Math.hypot(one.x - other.x, one.y - other.y, one.z - other.z);
      if (distance > data.bonds.least && distance < reach) {
        one.bonds.push(other.serial); one.bondOrder.push(1);
        other.bonds.push(one.serial); other.bondOrder.push(1);
      }
    }
    return atoms;
  };

  const draw = (viewer, lattice, atoms, changed) => {
    viewer.clear();
    viewer.setBackgroundColor(getComputedStyle(dialog).backgroundColor);
    viewer.addModel().addAtoms(atoms);
    const elements = new Set(atoms.map((atom) => atom.elem));
    for (const element of elements) {
      viewer.setStyle({ elem: element }, { sphere: { radius: 0.2 + 0.25 * radius(element), color: color(element) }, stick: { radius: 0.09, color: color(element) } });
    }
    for (const atom of atoms) {
      if (changed.has(atom.site)) viewer.addSphere({ center: atom, radius: 0.4 + 0.32 * radius(atom.elem), color: HALO, opacity: 0.28 });
    }
    const edge = getComputedStyle(dialog).color, corner = (a, b, c) => ({
      x: a * lattice[0] + b * lattice[3] + c * lattice[6], y: a * lattice[1] + b * lattice[4] + c * lattice[7], z: a * lattice[2] + b * lattice[5] + c * lattice[8],
    });
    const line = (start, end) => viewer.addCylinder({ start, end, radius: 0.025, color: edge });
    for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      line(corner(0, u, v), corner(1, u, v));
      line(corner(u, 0, v), corner(u, 1, v));
      line(corner(u, v, 0), corner(u, v, 1));
    }
    viewer.zoomTo();
    viewer.rotate(-75, "x"); // c upwards, seen a little from above and from the side
    viewer.rotate(20, "y");
    viewer.rotate(12, "x");
    viewer.zoom(1.4); // zoomTo leaves room for a molecule's surface
    viewer.render();
  };

  // Two viewers for all designs: a browser gives a page a limited number of WebGL contexts.
  const makeViewers = () => {
    for (const host of cells) {
      try {
        host.viewer = $3Dmol.createViewer(host, { backgroundColor: "white", orthographic: true }) ?? null;
      } catch {
        host.viewer = null;
      }
      const viewer = host.viewer;
      if (!viewer) host.append(make("p", { className: "none", textContent: "This browser has no WebGL: the crystal cannot be drawn. Save it as CIF instead." }));
      host.addEventListener("keydown", (event) => {
        const turn = { ArrowLeft: [-8, "y"], ArrowRight: [8, "y"], ArrowUp: [-8, "x"], ArrowDown: [8, "x"] }[event.key];
        if (!viewer || (!turn && !"+-=".includes(event.key))) return;
        event.preventDefault();
        event.stopPropagation();
        if (turn) viewer.rotate(...turn); else viewer.zoom(event.key === "-" ? 1 / 1.15 : 1.15);
        viewer.render();
      });
    }
    const [one, other] = cells.map((host) => host.viewer);
    if (one && other) {
      one.linkViewer(other);
      other.linkViewer(one);
    }
  };

  const legend = (host, species, reference) => {
    const list = host.parentElement.querySelector(".atoms");
    const names = [...new Set(species)];
    list.replaceChildren(...names.map((element) => {
      const swatch = make("i");
      swatch.style.background = color(element);
      const added = reference && !reference.includes(element);
      return make("li", { className: added ? "changed" : "", title: added ? "not in the true crystal" : "" }, swatch, `${element} ${species.filter((other) => other === element).length}`);
    }));
  };

  const facts = (name, pairs) => {
    dialog.querySelector(`[data-facts=${name}]`).replaceChildren(...pairs.filter(([, value]) => value !== null && value !== "")
      .flatMap(([term, value]) => [make("dt", { textContent: term }), make("dd", { textContent: value })]));
  };
  const unit = (value, name, decimals) => (value === null || value === undefined ? null : `${value.toFixed(decimals)} ${name}`);

  const crystalOf = (row) => {
    const skeleton = data.designs.skeleton[row];
    if (skeleton === null) return null;
    const design = symbols(data.designs.species[row]), hidden = data.skeletons.species[skeleton];
    return { skeleton, lattice: data.skeletons.lattice[skeleton], coordinates: data.skeletons.coordinates[skeleton], design, true: hidden === null ? null : symbols(hidden) };
  };

  const cutoff = (crystal, which) => {
    const values = crystal ? crystal.design.map((element) => data.elements.cutoffs[data.elements.symbols.indexOf(element)]) : [null];
    return values.includes(null) ? null : `${Math.max(...values.map((pair) => pair[which]))} Ry`;
  };
  const drawCells = (row) => {
    const crystal = crystalOf(row);
    for (const host of cells) {
      const which = host.dataset.cell, species = crystal && crystal[which], viewer = host.viewer;
      host.querySelector("p:not(.none)")?.remove();
      if (viewer) viewer.getCanvas().style.visibility = species ? "" : "hidden";
      legend(host, species ?? [], which === "design" ? crystal?.true : null);
      host.ariaLabel = species ? `Cell of ${formula(species)}` : "nothing to draw";
      if (!species) {
        host.append(make("p", { textContent: crystal ? "There is no true crystal: this one was designed on its own cell." : "The cell is not among this run’s structures." }));
      } else if (viewer) {
        const changed = new Set(which === "design" && option("changed") && crystal.true ? species.flatMap((element, site) => (element === crystal.true[site] ? [] : [site])) : []);
        draw(viewer, crystal.lattice, atomsOf(crystal.lattice, crystal.coordinates, species, option("cells") ? 2 : 1), changed);
      }
    }
  };

  const show = (row) => {
    const column = new Map(table.columns.map((entry) => [entry.key, entry]));
    const value = (key) => (column.has(key) ? table.value(column.get(key), row) : null);
    const crystal = crystalOf(row), scf = data.designs.scf[row], get = (key) => (scf === null ? null : data.scfs[key][scf]);
    dialog.querySelector("#design-title").textContent = crystal?.true
      ? `${value("formula")} on ${value("material_id")}, by ${value("policy")}` : `${value("formula")}, ${value("material_id")}`;
    dialog.querySelector("[data-text=true]").textContent = value("true_formula");
    dialog.querySelector("[data-text=design]").textContent = value("formula");
    facts("design", [
      ["Policy", value("policy")], ["Seed", value("seed")], ["Sample", value("sample")], ["Target", value("target_ev") && `${value("target_ev")} eV`],
      ["Gap", unit(value("band_gap"), "eV", 2)], ["True gap", unit(value("true_band_gap"), "eV", 2)], ["In range", value("hit")], ["Finer SCF", value("verdict")],
      ["E_form", unit(value("formation_energy_per_atom"), "eV/atom", 3)], ["True E_form", unit(value("true_formation_energy_per_atom"), "eV/atom", 3)],
      ["Above the hull", unit(value("energy_above_hull"), "eV/atom", 3)],
      ["Novel composition", value("novel")], ["Sites", value("n_correct") === null ? `${value("n_sites")}` : `${value("n_correct")} of ${value("n_sites")} as in the true crystal`],
      ["True space group", crystal && crystal.true && `${data.skeletons.spacegroup[crystal.skeleton]}`],
    ]);
    facts("scf", scf === null ? [["Outcome", value("outcome")]] : [
      ["Outcome", value("outcome")], ["Energy", unit(get("energy_ry"), "Ry", 6)], ["Spin", get("nspin") === null ? null : `nspin ${get("nspin")}${get("magnetization") === null ? "" : `, total magnetization ${get("magnetization")} µB`}`],
      ["Wall time", unit(get("wall_s"), "s", 1)], ["k points", crystal && data.skeletons.mesh[crystal.skeleton]],
      ["ecutwfc", cutoff(crystal, 0)], ["ecutrho", cutoff(crystal, 1)], ...data.settings,
      ["Protocol, family", data.texts[get("origin")]], ["Engine", data.texts[get("engine")]],
    ]);
    const heads = ["No.", "Strategy", "Outcome", "Detail", "nspin", "Magnetization (µB)", "Exit code", "Wall time (s)", "Record in the cache"];
    const attempts = get("attempts") ?? [];
    dialog.querySelector("[data-attempts]").replaceChildren(...(attempts.length ? [make("h3", { textContent: "Attempts" }), make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", textContent: head })))),
      make("tbody", {}, ...attempts.map(([strategy, outcome, detail, ...numbers], index) => make("tr", {},
        ...[index + 1, data.texts[strategy], data.texts[outcome], data.texts[detail] || "–", ...numbers.map((number) => number ?? "–")].map((text) => make("td", { textContent: text }))))))] : []));
    for (const button of dialog.querySelectorAll("[data-step]")) button.disabled = !(position + Number(button.dataset.step) in table.rows);
    dialog.querySelector("[data-save=true]").hidden = !(crystal && crystal.true);
    dialog.querySelector("[data-save=design]").hidden = !crystal;
    drawCells(row);
    history.replaceState(null, "", `#design-${row + 1}`); // an address to send
  };

  const cif = (name, lattice, coordinates, species) => {
    const vectors = [0, 3, 6].map((i) => lattice.slice(i, i + 3)), length = (v) => Math.hypot(...v);
    const angle = (u, v) => (Math.acos(u.reduce((sum, x, i) => sum + x * v[i], 0) / length(u) / length(v)) * 180) / Math.PI;
    const [a, b, c] = vectors;
    return [
      `data_${name}`, ...["a", "b", "c"].map((axis, i) => `_cell_length_${axis} ${length(vectors[i]).toFixed(5)}`),
      `_cell_angle_alpha ${angle(b, c).toFixed(4)}`, `_cell_angle_beta ${angle(a, c).toFixed(4)}`, `_cell_angle_gamma ${angle(a, b).toFixed(4)}`,
      "_symmetry_space_group_name_H-M 'P 1'", "loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'",
      "loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z",
      ...species.map((element, site) => `${element}${site} ${element} ${coordinates.slice(3 * site, 3 * site + 3).map((x) => (x / data.coordinate_steps).toFixed(4)).join(" ")}`), "",
    ].join("\n");
  };

  const step = (by) => {
    if (!(position + by in table.rows)) return;
    position += by;
    show(table.rows[position]);
  };
  dialog.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => step(Number(button.dataset.step))));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.querySelectorAll("[data-option]").forEach((box) => box.addEventListener("change", () => drawCells(table.rows[position])));
  dialog.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const crystal = crystalOf(table.rows[position]), species = crystal[button.dataset.save];
    const name = `${data.skeletons.id[crystal.skeleton]}_${formula(species)}`.replace(/[^\w.-]+/g, "_");
    const link = make("a", { download: `${name}.cif`, href: URL.createObjectURL(new Blob([cif(name, crystal.lattice, crystal.coordinates, species)], { type: "chemical/x-cif" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => history.replaceState(null, "", "#designs"));

  // A list of designs and a place in what it shows now.
  return async (designs, place) => {
    data ??= await unpack("viewer-data");
    table = designs;
    position = place;
    dialog.showModal();
    if (cells[0].viewer === undefined) makeViewers();
    for (const host of cells) host.viewer?.resize();
    show(table.rows[position]);
    dialog.focus();
  };
})();
