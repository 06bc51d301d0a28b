"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = { "-": "", "--": "6 4", ":": "2 3", "-.": "8 3 2 3" };
  const content = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const views = content.views.map(decoded);
  const choices = views.flatMap((view) => view.quantities.map((quantity) => ({ view, quantity, key: `${view.key}.${quantity.column}` })));
  const state = { choice: choices[0], filters: {}, hidden: new Set() };
  let drawn = [];
  let current = -1;

  /* Data: columns of texts are places in a list of texts, columns of numbers are lists. */

  function decoded(view) {
    const rows = Array.from({ length: view.rows }, () => ({}));
    for (const [name, column] of Object.entries(view.columns)) {
      rows.forEach((row, at) => { row[name] = Array.isArray(column) ? column[at] : column.texts[column.places[at]]; });
    }
    return { ...view, rows };
  }

  const unique = (values) => [...new Set(values)];

  function chosenRows() {
    const { view } = state.choice;
    return view.filters.reduce((rows, { column }) => rows.filter((row) => row[column] === state.filters[column]), view.rows);
  }

  /* Texts */

  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

  /* A measured value: three significant digits, or all of a longer integer part. */
  function numberText(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1000) return grouped.format(value);
    return size && size < 1e-4 ? value.toExponential(2) : value.toPrecision(3);
  }

  /* A size or a tick: every digit that it has. */
  function plainText(value) {
    if (value === null || value === undefined) return "–";
    if (Math.abs(value) >= 1000) return grouped.format(value);
    return String(Number(value.toPrecision(6)));
  }

  /* A tick of the y axis: beside a turned label there is room for five letters. */
  function tickText(value) {
    const [size, unit] = [[1e9, " G"], [1e6, " M"], [1e4, " k"]].find(([least]) => value >= least) ?? [1, ""];
    return `${plainText(value / (unit === " k" ? 1e3 : size))}${unit}`;
  }

  function intervalText(row, quantity) {
    if (!quantity.ends.length || row[quantity.ends[0]] === null) return "";
    return `${numberText(row[quantity.ends[0]])} to ${numberText(row[quantity.ends[1]])}`;
  }

  function xLabel() {
    return state.choice.view.xLabels[state.filters.axis] ?? state.choice.view.xLabels[""] ?? "";
  }

  function describe(row) {
    const { view, quantity } = state.choice;
    const value = row[quantity.column];
    const interval = intervalText(row, quantity);
    const run = content.runs[row.run_id];
    return [
      `${row[view.series]}, ${xLabel()}: ${view.names ? row[view.x] : plainText(row[view.x])}`,
      value === null ? `no value: ${row.status}${row.reason ? `, ${row.reason}` : ""}` : `${quantity.label}: ${numberText(value)}`,
      interval && `${quantity.interval}: ${interval}`,
      row.floor > 1 && quantity.ratio ? `noise floor: ${numberText(1 / row.floor)} to ${numberText(row.floor)}` : "",
      row.pairs ? `${row.pairs} pairs from ${row.processes} process${row.processes > 1 ? "es" : ""}` : "",
      value !== null && row.status !== "ok" ? `status: ${row.status}, ${row.reason}` : "",
      row.case_key && `case ${row.case_key}, environment ${row.env_id}`,
      run && `commit ${run.commit.slice(0, 12)}, ${run.machine}`,
    ].filter(Boolean);
  }

  /* Controls */

  function fill(select, options, selected) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === selected)));
  }

  function buildQuantities() {
    const groups = new Map();
    for (const { view, quantity, key } of choices) {
      if (!groups.has(view.title)) {
        const group = document.createElement("optgroup");
        group.label = view.title;
        groups.set(view.title, group);
      }
      groups.get(view.title).append(new Option(quantity.label, key, false, key === state.choice.key));
    }
    element("quantity").replaceChildren(...groups.values());
  }

  function buildFilters() {
    const { view } = state.choice;
    const fields = [];
    let rows = view.rows;
    for (const { column, label } of view.filters) {
      const options = unique(rows.map((row) => row[column]));
      if (!options.includes(state.filters[column])) {
        const preferred = view.preferred[column];
        state.filters[column] = options.includes(preferred) ? preferred : options[0];
      }
      rows = rows.filter((row) => row[column] === state.filters[column]);
      const field = document.createElement("p");
      field.className = "field";
      const name = document.createElement("label");
      name.htmlFor = `filter-${column}`;
      name.textContent = label;
      const select = document.createElement("select");
      select.id = name.htmlFor;
      select.dataset.column = column;
      fill(select, options.map((option) => [option, option]), state.filters[column]);
      field.append(name, select);
      fields.push(field);
    }
    const focused = document.activeElement && document.activeElement.id;
    element("filters").replaceChildren(...fields);
    if (focused && focused.startsWith("filter-")) element(focused)?.focus();
  }

  function buildSeries() {
    const { view } = state.choice;
    const names = seriesNames(chosenRows());
    element("series-legend").textContent = view.series === "arm" ? "Arms" : "Series";
    const focused = document.activeElement && document.activeElement.dataset.series;
    element("series").replaceChildren(...names.map((name) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !state.hidden.has(name);
      box.dataset.series = name;
      const sample = node("svg", { width: 34, height: 14, "aria-hidden": "true", focusable: "false" });
      const look = lookOf(name);
      if (view.joined && !view.names) {
        sample.append(node("line", { x1: 1, x2: 33, y1: 7, y2: 7, stroke: look.paint, "stroke-width": 2, "stroke-dasharray": DASHES[look.line] ?? "" }));
      }
      sample.append(marker(look, 17, 7, 4.5));
      label.append(box, sample, document.createTextNode(name));
      return label;
    }));
    if (focused) element("series").querySelector(`[data-series="${CSS.escape(focused)}"]`)?.focus();
  }

  function seriesNames(rows) {
    const present = new Set(rows.map((row) => row[state.choice.view.series]));
    return [...Object.keys(content.looks).filter((name) => present.has(name)), ...[...present].filter((name) => !(name in content.looks))];
  }

  /* Drawing */

  function dark() {
    const theme = document.documentElement.dataset.theme;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function lookOf(name) {
    const look = content.looks[name] ?? { colour: "#737373", dark: "#a6a6a6", marker: "o", line: "-" };
    return { ...look, paint: dark() ? look.dark : look.colour };
  }

  function node(name, attributes = {}, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function polygon(sides, turn, inner) {
    const count = inner ? 2 * sides : sides;
    return Array.from({ length: count }, (_, at) => {
      const angle = turn + (2 * Math.PI * at) / count;
      const radius = inner && at % 2 ? inner : 1;
      return [radius * Math.sin(angle), -radius * Math.cos(angle)];
    });
  }

  const SHAPES = {
    s: polygon(4, Math.PI / 4), D: polygon(4, 0), d: [[0, -1], [0.6, 0], [0, 1], [-0.6, 0]], "^": polygon(3, 0), v: polygon(3, Math.PI), "<": polygon(3, -Math.PI / 2),
    ">": polygon(3, Math.PI / 2), p: polygon(5, 0), h: polygon(6, 0), "8": polygon(8, Math.PI / 8), "*": polygon(5, 0, 0.4), X: polygon(4, 0, 0.45),
    P: [[-0.35, -1], [0.35, -1], [0.35, -0.35], [1, -0.35], [1, 0.35], [0.35, 0.35], [0.35, 1], [-0.35, 1], [-0.35, 0.35], [-1, 0.35], [-1, -0.35], [-0.35, -0.35]],
  };

  function marker(look, x, y, size) {
    const shape = SHAPES[look.marker];
    if (!shape) return node("circle", { cx: x, cy: y, r: size, fill: look.paint });
    const scale = look.marker === "s" || look.marker === "P" ? 1.1 * size : 1.3 * size;
    return node("polygon", { points: shape.map(([dx, dy]) => `${(x + scale * dx).toFixed(2)},${(y + scale * dy).toFixed(2)}`).join(" "), fill: look.paint });
  }

  function cross(look, x, y, size) {
    return node("path", { d: `M${x - size},${y - size}L${x + size},${y + size}M${x - size},${y + size}L${x + size},${y - size}`, stroke: look.paint, "stroke-width": 2, fill: "none" });
  }

  function scale(low, high, from, to, logarithmic) {
    const of = logarithmic ? Math.log10 : (value) => value;
    const [a, b] = [of(low), of(high)];
    return (value) => from + ((of(value) - a) / (b - a || 1)) * (to - from);
  }

  function ticks(low, high, logarithmic, most) {
    if (!logarithmic) {
      const rough = (high - low) / most;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
      const found = [];
      for (let at = Math.ceil(low / step); at * step <= high; at += 1) found.push(Number((at * step).toPrecision(12)));
      return found;
    }
    const among = (factors) => {
      const found = [];
      for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.ceil(Math.log10(high)); power += 1) {
        for (const factor of factors) {
          const value = Number((factor * 10 ** power).toPrecision(3));
          if (value >= low && value <= high) found.push(value);
        }
      }
      return found;
    };
    const fits = [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].map(among).find((found) => found.length <= most);
    const found = fits ?? among([1]).filter((_, at, all) => at % Math.ceil(all.length / most) === 0);
    return found.length > 1 ? found : ticks(low, high, false, most);
  }

  function limits(values, logarithmic, spare) {
    const finite = values.filter((value) => Number.isFinite(value) && (!logarithmic || value > 0));
    if (!finite.length) return [1, 10];
    let [low, high] = [Math.min(...finite), Math.max(...finite)];
    if (logarithmic) {
      const room = Math.max((high / low) ** spare, 1.1);
      return [low / room, high * room];
    }
    low = Math.min(low, 0);
    return [low, high + (high - low || 1) * spare];
  }

  function draw() {
    const { view, quantity } = state.choice;
    const rows = chosenRows().filter((row) => !state.hidden.has(row[view.series]));
    const names = seriesNames(rows);
    const box = element("chart");
    const width = Math.max(box.clientWidth, 280);
    const narrow = width < 560;
    const height = narrow ? 340 : 440;
    const logx = element("logx").checked && !view.names;
    const logy = element("logy").checked;
    element("logx").disabled = view.names;
    const inside = { left: narrow ? 52 : 66, right: width - 12, top: 12, bottom: height - 44 };

    const known = rows.filter((row) => row[quantity.column] !== null && row[view.x] !== null && (!logy || row[quantity.column] > 0));
    const failed = rows.filter((row) => row[quantity.column] === null);
    const marks = unique(failed.map((row) => row[view.series]));
    const room = marks.length ? 10 + 12 * marks.length : 0;
    const floors = quantity.ratio ? known.filter((row) => row.floor > 1) : [];
    const ys = [
      ...known.flatMap((row) => [row[quantity.column], ...quantity.ends.map((end) => row[end])]),
      ...floors.flatMap((row) => [row.floor, 1 / row.floor]),
      ...(quantity.ratio ? [1] : []),
    ].filter((value) => value !== null);
    const [ylow, yhigh] = limits(ys, logy, 0.06);
    const y = scale(ylow, yhigh, inside.bottom, inside.top + room, logy);

    const places = unique(rows.map((row) => row[view.x]).filter((value) => value !== null && value !== ""));
    if (!view.names) places.sort((a, b) => a - b);
    let x;
    if (view.names) {
      const band = (inside.right - inside.left) / Math.max(places.length, 1);
      x = (row) => inside.left + band * (places.indexOf(row[view.x]) + (names.indexOf(row[view.series]) + 1) / (names.length + 1));
    } else {
      const [xlow, xhigh] = limits(places, logx, 0.04);
      const along = scale(xlow, xhigh, inside.left, inside.right, logx);
      x = (row) => along(row[view.x]);
    }

    const svg = node("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
    const clip = node("clipPath", { id: "inside" });
    clip.append(node("rect", { x: inside.left, y: inside.top, width: inside.right - inside.left, height: inside.bottom - inside.top }));
    svg.append(clip);

    for (const tick of known.length ? ticks(ylow, yhigh, logy, narrow ? 6 : 9) : []) {
      const at = y(tick);
      if (at < inside.top) continue;
      svg.append(node("line", { class: "grid", x1: inside.left, x2: inside.right, y1: at, y2: at }));
      svg.append(node("text", { x: inside.left - 6, y: at + 4, "text-anchor": "end" }, tickText(tick)));
    }
    let last = -Infinity;
    const measured = places.length <= 12;
    const span = limits(places, logx, 0.04);
    const shownTicks = view.names ? places : measured ? places : ticks(span[0], span[1], logx, narrow ? 5 : 9);
    shownTicks.forEach((tick, index) => {
      const band = (inside.right - inside.left) / Math.max(places.length, 1);
      const at = view.names ? inside.left + band * (index + 0.5) : x({ [view.x]: tick });
      const text = view.names ? String(tick) : plainText(tick);
      if (view.names && index) svg.append(node("line", { class: "grid", x1: at - band / 2, x2: at - band / 2, y1: inside.top, y2: inside.bottom }));
      if (!view.names) svg.append(node("line", { class: "grid", x1: at, x2: at, y1: inside.top, y2: inside.bottom }));
      if (at - last > 7 * text.length + 6 || view.names) {
        svg.append(node("text", { x: at, y: inside.bottom + 17, "text-anchor": "middle" }, text));
        last = at;
      }
    });
    svg.append(node("path", { class: "frame", d: `M${inside.left},${inside.top}V${inside.bottom}H${inside.right}` }));
    svg.append(node("text", { x: (inside.left + inside.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel()));
    const middle = (inside.top + inside.bottom) / 2;
    svg.append(node("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, quantity.label));

    const plot = node("g", { "clip-path": "url(#inside)" });
    svg.append(plot);
    if (floors.length && !view.names) {
      const widest = new Map();
      for (const row of floors) widest.set(row[view.x], Math.max(widest.get(row[view.x]) ?? 1, row.floor));
      const path = [...widest].sort((a, b) => a[0] - b[0]);
      const upper = path.map(([at, floor]) => `${x({ [view.x]: at })},${y(floor)}`);
      const lower = path.map(([at, floor]) => `${x({ [view.x]: at })},${y(1 / floor)}`).reverse();
      plot.append(node("polygon", { class: "floor", points: [...upper, ...lower].join(" ") }));
    }
    if (quantity.ratio) plot.append(node("line", { class: "one", x1: inside.left, x2: inside.right, y1: y(1), y2: y(1) }));

    drawn = [];
    for (const name of names) {
      const look = lookOf(name);
      const own = known.filter((row) => row[view.series] === name).sort((a, b) => x(a) - x(b));
      const joined = view.joined && !view.names;
      if (quantity.ends.length) {
        const ended = own.filter((row) => quantity.ends.every((end) => row[end] !== null));
        const bottom = (row) => y(Math.max(row[quantity.ends[0]], logy ? ylow : -Infinity));
        if (joined && ended.length > 1) {
          const upper = ended.map((row) => `${x(row)},${y(row[quantity.ends[1]])}`);
          const lower = ended.map((row) => `${x(row)},${bottom(row)}`).reverse();
          plot.append(node("polygon", { points: [...upper, ...lower].join(" "), fill: look.paint, opacity: 0.15 }));
        }
        for (const row of ended) {
          plot.append(node("line", { x1: x(row), x2: x(row), y1: bottom(row), y2: y(row[quantity.ends[1]]), stroke: look.paint, "stroke-width": 1.5 }));
        }
      }
      if (joined && own.length > 1) {
        const line = { points: own.map((row) => `${x(row)},${y(row[quantity.column])}`).join(" "), fill: "none", stroke: look.paint, "stroke-width": 2 };
        plot.append(node("polyline", { ...line, "stroke-dasharray": DASHES[look.line] ?? "" }));
      }
      for (const row of own) {
        plot.append(marker(look, x(row), y(row[quantity.column]), 4.5));
        drawn.push({ row, x: x(row), y: y(row[quantity.column]) });
      }
      for (const row of failed.filter((one) => one[view.series] === name && one[view.x] !== null && one[view.x] !== "")) {
        const at = inside.top + 8 + 12 * marks.indexOf(name);
        plot.append(cross(look, x(row), at, 4.5));
        drawn.push({ row, x: x(row), y: at });
      }
    }
    svg.append(node("circle", { class: "halo", r: 9, cx: -99, cy: -99 }));
    box.replaceChildren(svg);
    current = -1;
    hideTip();
    box.setAttribute("aria-label", `${quantity.label} over ${xLabel()}`);
    const failures = failed.length ? ` ${failed.length} without a value, drawn as × at the top, where heights mean nothing.` : "";
    const shade = floors.length ? " The grey band with a dashed edge is the noise floor." : "";
    const lone = quantity.interval && quantity.ratio && known.some((row) => row.processes === 1);
    const ends = quantity.interval ? ` Bars and bands: ${quantity.interval}${lone ? "; what was timed in one process has none" : ""}.` : "";
    const zeros = logy ? rows.filter((row) => row[quantity.column] !== null && row[quantity.column] <= 0).length : 0;
    const below = zeros ? ` ${zeros} at 0, which a logarithmic axis does not have.` : "";
    element("summary").textContent = `${known.length} values of ${names.length} series.${ends}${shade}${failures}${below}`;
    fillTable(rows, names);
    remember();
  }

  function fillTable(rows, names) {
    const { view, quantity } = state.choice;
    const caption = document.createElement("caption");
    caption.textContent = [quantity.label, ...view.filters.map(({ column }) => state.filters[column])].join("; ");
    const sorted = names.flatMap((name) => rows.filter((row) => row[view.series] === name));
    const header = [view.series === "arm" ? "arm" : view.series, xLabel(), quantity.label, quantity.interval, "status", "reason", "case"];
    const used = header.map((heading, at) => at < 3 || (heading && sorted.some((row) => cells(row)[at])));
    const head = document.createElement("thead");
    head.append(line("th", header.filter((_, at) => used[at]), "col"));
    const body = document.createElement("tbody");
    body.append(...sorted.map((row) => line("td", cells(row).filter((_, at) => used[at]))));
    [...head.rows[0].cells].forEach((cell, at) => {
      if (body.rows.length && [...body.rows].every((row) => row.cells[at].className === "number")) cell.className = "number";
    });
    element("table").replaceChildren(caption, head, body);
  }

  function cells(row) {
    const { view, quantity } = state.choice;
    const where = view.names ? row[view.x] : plainText(row[view.x]);
    return [row[view.series], where, numberText(row[quantity.column]), intervalText(row, quantity), row.status ?? "", row.reason ?? "", row.case_key ?? ""];
  }

  function line(tag, texts, scope) {
    const made = document.createElement("tr");
    texts.forEach((text, at) => {
      const cell = document.createElement(tag === "td" && at === 0 ? "th" : tag);
      cell.textContent = text;
      if (scope) cell.scope = scope;
      else if (at === 0) cell.scope = "row";
      else if (/^[\d.,–-]+$/.test(text)) cell.className = "number";
      made.append(cell);
    });
    return made;
  }

  /* Pointing */

  function show(at) {
    current = at;
    const { row, x, y } = drawn[at];
    const halo = element("chart").querySelector(".halo");
    halo.setAttribute("cx", x);
    halo.setAttribute("cy", y);
    const tip = element("tip");
    tip.replaceChildren(...describe(row).map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    tip.hidden = false;
    const frame = element("chart").getBoundingClientRect();
    const left = Math.min(Math.max(8, frame.left + x + 14), innerWidth - tip.offsetWidth - 8);
    const below = frame.top + y + 14;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? Math.max(8, frame.top + y - tip.offsetHeight - 14) : below}px`;
  }

  function hideTip() {
    element("tip").hidden = true;
    const halo = element("chart").querySelector(".halo");
    if (halo) halo.setAttribute("cx", -99);
  }

  function nearest(event) {
    const frame = element("chart").getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    let [best, least] = [-1, 28 ** 2];
    drawn.forEach((point, at) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [at, distance];
    });
    return best;
  }

  function point(event) {
    const at = nearest(event);
    if (at < 0) hideTip();
    else if (at !== current || element("tip").hidden) show(at);
  }

  function key(event) {
    if (event.key === "Escape") { hideTip(); current = -1; return; }
    const { view } = state.choice;
    const series = (at) => drawn[at].row[view.series];
    let next = current;
    if (!drawn.length) return;
    if (event.key === "ArrowRight") next = Math.min(current + 1, drawn.length - 1);
    else if (event.key === "ArrowLeft") next = Math.max(current - 1, 0);
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = drawn.length - 1;
    else if (event.key === "ArrowDown") next = current < 0 ? 0 : drawn.findIndex((_, at) => at > current && series(at) !== series(current));
    else if (event.key === "ArrowUp") {
      const before = drawn.findLastIndex((_, at) => at < current && series(at) !== series(current));
      next = before < 0 ? 0 : drawn.findIndex((_, at) => series(at) === series(before));
    } else return;
    event.preventDefault();
    show(next < 0 ? current : next);
  }

  /* State in the address, so that a view can be linked to */

  function remember() {
    const words = new URLSearchParams({ show: state.choice.key });
    for (const { column } of state.choice.view.filters) words.set(column, state.filters[column]);
    if (state.hidden.size) words.set("hide", [...state.hidden].join(","));
    if (!element("logx").checked) words.set("x", "linear");
    if (!element("logy").checked) words.set("y", "linear");
    try { history.replaceState(null, "", `#${words}`); } catch { /* a page without an address of its own */ }
  }

  function recall() {
    const words = new URLSearchParams(location.hash.slice(1));
    state.choice = choices.find((choice) => choice.key === words.get("show")) ?? choices[0];
    state.filters = {};
    for (const { column } of state.choice.view.filters) if (words.has(column)) state.filters[column] = words.get(column);
    state.hidden = new Set((words.get("hide") ?? "").split(",").filter(Boolean));
    element("logx").checked = words.get("x") !== "linear";
    element("logy").checked = words.get("y") !== "linear";
  }

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    element("theme").value = theme;
    try { localStorage.setItem("theme", theme); } catch { /* storage may be switched off */ }
  }

  function storedTheme() {
    try { return localStorage.getItem("theme") ?? ""; } catch { return ""; }
  }

  function csv() {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const { view, quantity } = state.choice;
    const names = [view.series, view.x, quantity.column, ...quantity.ends, "status", "reason", "case_key"];
    const rows = chosenRows().filter((row) => !state.hidden.has(row[view.series]));
    const lines = [names, ...rows.map((row) => names.map((name) => row[name] ?? ""))];
    return lines.map((cellsOfLine) => cellsOfLine.map((cell) => quoted(String(cell))).join(",")).join("\n") + "\n";
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = `${state.choice.key}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function refresh() {
    buildQuantities();
    buildFilters();
    buildSeries();
    draw();
  }

  element("controls").addEventListener("submit", (event) => event.preventDefault());
  element("quantity").addEventListener("change", (event) => {
    state.choice = choices.find((choice) => choice.key === event.target.value);
    refresh();
  });
  element("filters").addEventListener("change", (event) => {
    state.filters[event.target.dataset.column] = event.target.value;
    refresh();
  });
  element("series").addEventListener("change", (event) => {
    const name = event.target.dataset.series;
    if (event.target.checked) state.hidden.delete(name);
    else state.hidden.add(name);
    draw();
  });
  element("all").addEventListener("click", () => { state.hidden.clear(); buildSeries(); draw(); });
  element("none").addEventListener("click", () => { seriesNames(chosenRows()).forEach((name) => state.hidden.add(name)); buildSeries(); draw(); });
  for (const id of ["logx", "logy"]) element(id).addEventListener("change", draw);
  element("chart").addEventListener("pointermove", point);
  element("chart").addEventListener("pointerdown", point);
  element("chart").addEventListener("pointerleave", hideTip);
  element("chart").addEventListener("keydown", key);
  element("chart").addEventListener("blur", hideTip);
  addEventListener("scroll", hideTip, { passive: true });
  element("download").addEventListener("click", download);
  element("theme").addEventListener("change", (event) => { setTheme(event.target.value); refresh(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
  addEventListener("hashchange", () => { recall(); refresh(); });

  setTheme(storedTheme());
  if (!choices.length) {
    element("summary").textContent = "No case of this report has points to draw.";
    return;
  }
  recall();
  refresh();
  let width = element("chart").clientWidth;
  new ResizeObserver(() => {
    if (element("chart").clientWidth !== width) { width = element("chart").clientWidth; draw(); }
  }).observe(element("chart"));
})();
