"use strict";
// The page of a report. Data arrives in scripts that call report.store, report.items, … because a page that is opened
// from the disk may load scripts and pictures, and nothing else. Text of a store is only ever set as text.
const report = (() => {
  const COLUMNS = ["key", "name", "sums", "drawn", "height", "width", "largest", "mean", "by_class", "differ", "miou", "accuracy"];
  const DECISIONS = ["accept", "fix", "reject"];
  const CELL = { width: 190, height: 174 };
  const state = { about: null, items: {}, order: [], at: -1, decisions: new Map(), undo: [], arrived: new Map(), waiting: new Map(), drawnAs: null };
  const byId = (id) => document.getElementById(id);

  // --- text and elements
  function shown(text) { // control characters and unpaired surrogates, which no font has, as escapes
    const visible = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
      (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
    return visible.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
      (c) => "\\u" + c.charCodeAt(0).toString(16));
  }
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.map((child) => (child instanceof Node ? child : shown(child))));
    return made;
  }
  const percent = (value, digits = 1) => (value === null || value === undefined || value < 0 ? "–" : (100 * value).toFixed(digits) + " %");
  const thousandths = (value) => (value < 0 ? "–" : (value / 10).toFixed(1) + " %");
  const count = (value) => value.toLocaleString("en-GB");
  function swatch(index) {
    const made = element("span", { class: "swatch" });
    made.style.background = colour(index);
    return made;
  }
  const colour = (index) => { const own = state.about.classes[index]; return own ? `rgb(${own.colour.join(",")})` : "transparent"; };
  const className = (index) => (state.about.classes[index] ? state.about.classes[index].name : "no class");

  // --- data
  function load(path) { // once; resolved when the script has run, or could not be read
    if (!state.waiting.has(path)) {
      state.waiting.set(path, new Promise((resolve) => {
        const script = element("script", { src: path });
        script.addEventListener("load", () => { script.remove(); resolve(true); });
        script.addEventListener("error", () => { script.remove(); state.waiting.delete(path); resolve(false); });
        document.head.append(script);
      }));
    }
    return state.waiting.get(path);
  }
  function items(page) {
    for (const name of COLUMNS) (state.items[name] ||= []).push(...page[name]);
  }
  async function picture(index) {
    const name = state.items.name[index];
    await load(`images/${name}.js`);
    return state.arrived.get(name) || null;
  }
  function image(name, maps) {
    if (state.arrived.size > 30) state.arrived.delete(state.arrived.keys().next().value);
    state.arrived.set(name, maps);
    state.waiting.delete(`images/${name}.js`);
  }
  function unrolled(runs, pixels) {
    const values = new Int32Array(pixels);
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) { values.fill(runs[i], at, at + runs[i + 1]); at += runs[i + 1]; }
    return values;
  }

  // --- decisions
  const storageKey = () => "ovlabel-decisions-" + state.about.id;
  function remember() {
    try { localStorage.setItem(storageKey(), JSON.stringify(asFile())); } catch (error) { /* private windows keep nothing */ }
    const number = state.decisions.size;
    byId("saved").textContent = number ? `${count(number)} decided; “Save decisions” writes them to a file` : "";
  }
  function asFile() {
    const decisions = [...state.decisions].map(([index, own]) => ({ key: state.items.key[index], sums: state.items.sums[index], ...own }));
    return { format: "ovlabel-decisions", version: 1, store: state.about.id, decisions };
  }
  function takeIn(file) { // returns how many were taken and how many belong to other labels
    if (!file || file.format !== "ovlabel-decisions" || !Array.isArray(file.decisions)) return null;
    if (file.store !== state.about.id) return { taken: 0, other: file.decisions.length };
    const indexOf = new Map(state.items.key.map((key, index) => [key, index]));
    let taken = 0;
    for (const entry of file.decisions) {
      const index = indexOf.get(entry.key);
      if (index === undefined || entry.sums !== state.items.sums[index] || !DECISIONS.includes(entry.decision)) continue;
      const { decision, classes = [], note = "", reviewer = "", time = "" } = entry;
      state.decisions.set(index, { decision, classes: classes.map(String), note: String(note), reviewer: String(reviewer), time: String(time) });
      taken += 1;
    }
    return { taken, other: file.decisions.length - taken };
  }
  function decide(index, decision, more = {}) {
    const before = state.decisions.get(index);
    state.undo.push([index, before]);
    if (decision === null) state.decisions.delete(index);
    else {
      const own = before || { classes: [], note: "" };
      state.decisions.set(index, { classes: own.classes, note: own.note, ...more, decision, reviewer: byId("reviewer").value, time: new Date().toISOString() });
    }
    remember();
    paintRows(true);
  }
  function undo() {
    const last = state.undo.pop();
    if (!last) return;
    if (last[1]) state.decisions.set(last[0], last[1]); else state.decisions.delete(last[0]);
    remember();
    paintRows(true);
    if (byId("viewer").open) open(state.order.indexOf(last[0]) >= 0 ? last[0] : state.shownIndex);
  }
  function save() {
    const text = JSON.stringify(asFile(), null, 1) + "\n";
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "decisions.json" });
    document.body.append(link);
    link.click();
    link.remove();
    byId("saved").textContent = `${count(state.decisions.size)} decisions saved; next: ovlabel review STORE decisions.json`;
  }

  // --- the queue and its grid
  function sort() {
    const queue = byId("queue").value, wanted = byId("decided").value, largest = byId("largest").value;
    const text = byId("find").value.toLowerCase(), total = state.items.key ? state.items.key.length : 0;
    const order = [];
    for (let i = 0; i < total; i += 1) {
      const own = state.decisions.get(i);
      if (wanted && (wanted === "open" ? own : !own || own.decision !== wanted)) continue;
      if (largest !== "" && state.items.largest[i] !== Number(largest)) continue;
      if (text && !state.items.key[i].toLowerCase().includes(text)) continue;
      order.push(i);
    }
    if (queue !== "name") {
      const column = state.items[queue], sign = queue === "differ" ? -1 : 1;
      const value = (i) => (column[i] < 0 ? 1e9 : sign * column[i]);
      order.sort((a, b) => value(a) - value(b) || a - b);
    }
    state.order = order;
    const entry = state.about.queues.find(([name]) => name === queue);
    byId("why").textContent = entry ? entry[2] : "in the order of the names";
    byId("count").textContent = `${count(order.length)} of ${count(total)} images`;
    byId("grid").scrollTop = 0;
    state.at = 0;
    paintRows(true);
  }
  const perRow = () => Math.max(1, Math.floor((byId("grid").clientWidth - 8) / CELL.width));
  function cell(index, place) {
    const own = state.decisions.get(index), queue = byId("queue").value;
    const made = element("button", { class: "cell", type: "button", "data-index": index, tabindex: "-1" });
    if (own) made.dataset.decision = own.decision;
    if (state.items.drawn[index]) made.append(element("img", { src: `images/${state.items.name[index]}-small.jpg`, alt: "", loading: "lazy" }));
    else made.append(element("span", { class: "none" }, "no picture made of this one (--top)"));
    const figure = queue === "name" ? state.items.mean[index] : state.items[queue][index];
    made.append(element("span", {}, element("bdi", {}, state.items.key[index])));
    made.append(element("span", {}, thousandths(figure) + (own ? " · " + own.decision : "")));
    made.addEventListener("click", () => { state.at = place; open(index); });
    return made;
  }
  function paintRows(anew = false) {
    const grid = byId("grid"), rows = byId("rows"), across = perRow();
    const first = Math.max(0, Math.floor(grid.scrollTop / CELL.height) - 1);
    const last = first + Math.ceil(grid.clientHeight / CELL.height) + 2;
    const mark = `${first} ${last} ${across}`;
    if (!anew && mark === state.drawnAs) return;
    state.drawnAs = mark;
    rows.style.height = Math.ceil(state.order.length / across) * CELL.height + "px";
    const made = [];
    for (let place = first * across; place < Math.min(state.order.length, last * across); place += 1) {
      const one = cell(state.order[place], place);
      one.style.left = (place % across) * CELL.width + "px";
      one.style.top = Math.floor(place / across) * CELL.height + "px";
      if (place === state.at) one.tabIndex = 0;
      made.push(one);
    }
    const focused = document.activeElement && document.activeElement.classList.contains("cell") && rows.contains(document.activeElement);
    rows.replaceChildren(...made);
    if (focused) focusCell(false);
  }
  function focusCell(scroll = true) {
    const grid = byId("grid"), top = Math.floor(state.at / perRow()) * CELL.height;
    if (scroll && (top < grid.scrollTop || top + CELL.height > grid.scrollTop + grid.clientHeight)) {
      grid.scrollTop = Math.max(0, top - grid.clientHeight / 2 + CELL.height / 2);
    }
    if (scroll) paintRows(true);
    const target = byId("rows").querySelector('[tabindex="0"]');
    if (target) target.focus({ preventScroll: true });
  }
  function move(step) {
    if (!state.order.length) return;
    state.at = Math.min(state.order.length - 1, Math.max(0, state.at + step));
    focusCell();
  }

  // --- the large picture
  async function open(index) {
    state.shownIndex = index;
    const viewer = byId("viewer"), key = state.items.key[index];
    if (!viewer.open) viewer.showModal();
    byId("viewer-name").replaceChildren(element("bdi", {}, key));
    const figures = [`${state.items.width[index]} × ${state.items.height[index]}`, `confidence ${thousandths(state.items.mean[index])}`,
      `by class ${thousandths(state.items.by_class[index])}`];
    if (state.items.miou[index] >= 0) figures.push(`mIoU ${thousandths(state.items.miou[index])}`, `right ${thousandths(state.items.accuracy[index])}`);
    if (state.items.differ[index] >= 0) figures.push(`differs ${thousandths(state.items.differ[index])}`);
    byId("viewer-figures").textContent = figures.join(" · ");
    showDecision(index);
    byId("pointed").textContent = "";
    const drawn = Boolean(state.items.drawn[index]);
    byId("photograph").src = drawn ? `images/${state.items.name[index]}.jpg` : "";
    byId("photograph").hidden = !drawn;
    byId("sure").src = drawn ? `images/${state.items.name[index]}-confidence.png` : "";
    byId("absent").hidden = drawn;
    byId("absent").textContent = drawn ? "" : "No picture was made of this image. 'ovlabel report' with a larger --top makes it.";
    state.maps = null;
    paint();
    if (!drawn) return;
    const maps = await picture(index);
    if (state.shownIndex !== index) return;
    state.maps = maps && unrolledMaps(maps);
    byId("photograph").hidden = Boolean(maps && maps.missing);
    byId("absent").hidden = !(maps && maps.missing);
    byId("absent").textContent = maps && maps.missing ? `The photograph could not be drawn: ${shown(maps.missing)}` : "";
    wrongClasses(index);
    offerMaps();
    paint();
    const next = state.order[state.order.indexOf(index) + 1];
    if (next !== undefined && state.items.drawn[next]) picture(next);
  }
  function unrolledMaps(maps) {
    const pixels = maps.height * maps.width, made = { height: maps.height, width: maps.width };
    for (const name of ["labels", "other", "truth", "wrong"]) if (maps[name]) made[name] = unrolled(maps[name], pixels);
    return made;
  }
  function offerMaps() {
    const offered = [["labels", "labels"]];
    if (state.maps && state.maps.wrong) offered.push(["wrong", "errors"], ["truth", "ground truth"]);
    offered.push(["sure", "confidence"]);
    if (state.maps && state.maps.other) offered.push(["other", "other store"]);
    offered.push(["none", "photograph"]);
    for (const id of ["show", "beside"]) {
      const select = byId(id), before = select.value;
      select.replaceChildren(...offered.map(([value, text]) => element("option", { value }, text)));
      select.value = offered.some(([value]) => value === before) ? before : id === "show" ? "labels" : offered[offered.length - 1][0];
    }
  }
  function paint() {
    const at = Number(byId("line").value), opacity = Number(byId("opacity").value) / 100;
    for (const [id, select] of [["left", "show"], ["right", "beside"]]) {
      const canvas = byId(id);
      canvas.hidden = !state.maps || (id === "right" && at >= 100);
      if (!canvas.hidden) fill(canvas, byId(select).value);
      canvas.style.opacity = opacity;
    }
    byId("left").style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    byId("right").style.clipPath = `inset(0 0 0 ${at}%)`;
    byId("sure").hidden = byId("show").value !== "sure" || byId("absent").hidden === false;
    byId("sure").style.opacity = opacity;
  }
  function fill(canvas, what) {
    const { height, width } = state.maps, values = state.maps[what];
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), drawn = context.createImageData(width, height);
    if (values) {
      const table = tableOf(what);
      const words = new Uint32Array(drawn.data.buffer);
      for (let i = 0; i < values.length; i += 1) words[i] = table[values[i]] || 0;
    }
    context.putImageData(drawn, 0, 0);
  }
  function tableOf(what) { // colour by value, as little-endian RGBA
    const word = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    if (what === "wrong") return [0, word([225, 0, 60])];
    if (what !== "truth") return state.about.classes.map((entry) => word(entry.colour));
    const named = new Map(state.about.classes.map((entry) => [entry.name, entry.colour]));
    return state.about.scores.classes.map((name, index) => word(named.get(name) || [(index * 97) % 256, (index * 57 + 80) % 256, (index * 23 + 160) % 256]));
  }
  function pointed(event) {
    const canvas = byId("left"), maps = state.maps;
    if (!maps) return;
    const box = byId("stage").getBoundingClientRect(), scale = Math.min(box.width / maps.width, box.height / maps.height);
    const x = Math.floor((event.clientX - box.left - (box.width - maps.width * scale) / 2) / scale);
    const y = Math.floor((event.clientY - box.top - (box.height - maps.height * scale) / 2) / scale);
    if (x < 0 || y < 0 || x >= maps.width || y >= maps.height || canvas.hidden) { byId("pointed").textContent = ""; return; }
    const place = y * maps.width + x, said = [className(maps.labels[place])];
    if (maps.truth) said.push("truth: " + (state.about.scores.classes[maps.truth[place]] ?? "not labelled"));
    if (maps.other) said.push("other: " + className(maps.other[place]));
    byId("pointed").textContent = said.map(shown).join(" · ");
  }
  function showDecision(index) {
    const own = state.decisions.get(index);
    for (const decision of DECISIONS) byId(decision).setAttribute("aria-pressed", String(Boolean(own && own.decision === decision)));
    byId("note").value = own ? own.note : "";
  }
  function wrongClasses(index) {
    const present = state.maps ? [...new Set(state.maps.labels)].filter((value) => value < state.about.classes.length) : [];
    const own = state.decisions.get(index), chosen = new Set(own ? own.classes : []);
    const boxes = present.map((value) => {
      const box = element("input", { type: "checkbox", value: className(value) });
      box.checked = chosen.has(className(value));
      box.addEventListener("change", () => note());
      return element("label", {}, box, swatch(value), element("bdi", {}, className(value)));
    });
    byId("wrong").replaceChildren(element("legend", {}, "Wrong classes"), ...boxes);
  }
  function note() { // a note or a wrong class without a decision means: to be fixed
    const index = state.shownIndex, own = state.decisions.get(index);
    const classes = [...byId("wrong").querySelectorAll("input:checked")].map((box) => box.value);
    const text = byId("note").value;
    if (!own && !classes.length && !text) return;
    decide(index, own ? own.decision : "fix", { classes, note: text });
    showDecision(index);
  }
  function step(by) {
    const place = state.order.indexOf(state.shownIndex), next = state.order[place + by];
    if (next === undefined) return;
    state.at = place + by;
    open(next);
  }
  function decideShown(decision) {
    const index = state.shownIndex, own = state.decisions.get(index);
    decide(index, own && own.decision === decision ? null : decision);
    showDecision(index);
    if (state.decisions.has(index)) step(1);
  }

  // --- the other pages
  function table(headings, rows, { text = [0] } = {}) {
    const made = element("table"), body = element("tbody");
    const fillBody = (sorted) => body.replaceChildren(...sorted.map((row) => element("tr", {}, ...row.map((value, i) =>
      element("td", text.includes(i) ? { class: "text" } : {}, ...(Array.isArray(value) ? value.slice(1) : [value === null ? "–" : value]))))));
    let way = 1, by = -1;
    const order = (value) => (Array.isArray(value) ? value[0] : value);
    const head = headings.map((heading, i) => {
      const cell = element("th", { scope: "col", ...(text.includes(i) ? { class: "text" } : {}) });
      cell.append(element("button", { type: "button", onclick: () => {
        way = by === i ? -way : 1;
        by = i;
        for (const other of cell.parentElement.children) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        fillBody([...rows].sort((a, b) => {
          const x = order(a[i]), y = order(b[i]);
          if (x === null || y === null) return (x === null) - (y === null);
          return way * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
        }));
      } }, heading));
      return cell;
    });
    made.append(element("thead", {}, element("tr", {}, ...head)), body);
    fillBody(rows);
    return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.join(", ") }, made);
  }
  function bar(value, low, high) {
    const NS = "http://www.w3.org/2000/svg", svg = document.createElementNS(NS, "svg");
    svg.setAttribute("width", "220"); svg.setAttribute("height", "14"); svg.setAttribute("aria-hidden", "true");
    const add = (x, width, y, height, fill) => {
      const rect = document.createElementNS(NS, "rect");
      for (const [name, v] of Object.entries({ x, y, width: Math.max(0, width), height, fill })) rect.setAttribute(name, v);
      svg.append(rect);
    };
    add(0, 220, 2, 10, "var(--soft)");
    if (value !== null) add(0, 220 * value, 2, 10, "var(--accent)");
    if (low !== null && high !== null) add(220 * low, Math.max(1, 220 * (high - low)), 6, 2, "var(--ink)");
    return svg;
  }
  function cards(pairs) {
    return element("dl", { class: "cards" }, ...pairs.map(([name, value, small]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value, ...(small ? [element("small", {}, small)] : [])))));
  }
  function overview() {
    const about = state.about, section = byId("overview"), made = [];
    const scores = about.scores, figures = scores && scores.figures;
    const interval = (name) => { const [low, high] = figures.intervals[name] || []; return low === undefined || low === null ? "" : `95 %: ${percent(low)} … ${percent(high)}`; };
    const first = [["images", count(about.images)], ["failed", count(about.failures)], ["classes", count(about.classes.length)]];
    if (figures) first.push(["mIoU", percent(figures.miou), interval("miou")], ["pixel accuracy", percent(figures.pixel_accuracy), interval("pixel_accuracy")],
      ["mean accuracy", percent(figures.mean_accuracy)], ["calibration error", percent(figures.calibration_error)]);
    made.push(element("h2", {}, "What this is"), cards(first));
    made.push(element("p", {}, "Store ", element("bdi", {}, about.path), ", photographs ", element("bdi", {}, about.folder), `, last commit ${about.committed || "none"}.`));
    if (scores) made.push(...scored(scores, figures));
    else made.push(element("p", {}, "No ground truth was given, so this page knows confidences and no errors. 'ovlabel report STORE -o DIR --truth GROUND_PATH' adds scores."));
    if (about.failed.length) made.push(element("h2", {}, "Images that failed"), table(["image", "step", "why"], about.failed, { text: [0, 1, 2] }));
    made.push(element("h2", {}, "The run"), element("p", {}, "Everything that changes a label, as resolved:"),
      element("pre", { tabindex: "0" }, JSON.stringify(about.run, null, 1).replace(/\n\s+(?=[-\d.]+,?\n)/g, " ")));
    section.replaceChildren(...made);
  }
  function scored(scores, figures) {
    const rows = scores.classes.map((name, i) => {
      const own = figures.classes[name] || {};
      return [name, own.iou, [own.iou, bar(own.iou, scores.low[i], scores.high[i])], own.precision, own.recall, own.true_pixels, own.predicted_pixels];
    }).filter((row) => row[5] || row[6]).sort((a, b) => (a[1] ?? 9) - (b[1] ?? 9))
      .map((row) => row.map((value, i) => (i === 1 || i === 3 || i === 4 ? [value ?? null, percent(value)] : i > 4 ? [value, count(value)] : value)));
    const made = [element("h2", {}, "Classes"), element("p", {}, "The thin line is the 95 % interval over the images."),
      table(["class", "IoU", "0 … 100 %", "precision", "recall", "true pixels", "predicted pixels"], rows)];
    made.push(element("h2", {}, "Confusion"), ...confusion(scores));
    made.push(element("h2", {}, "How far confidence can be trusted"), table(["confidence", "pixels", "right", "0 … 100 %"],
      scores.reliability.map(([wrong, right], i) => {
        const n = wrong + right, part = n ? right / n : null;
        return [`${(100 * i / 15).toFixed(0)} … ${(100 * (i + 1) / 15).toFixed(0)} %`, [n, count(n)], [part, percent(part)], [part, bar(part, (i + .5) / 15, (i + .5) / 15)]];
      })));
    made.push(element("h2", {}, "Thresholds"), element("p", {}, "If only pixels of at least some confidence are kept:"),
      table(["confidence", "kept", "accuracy of what is kept"], figures.coverage.map((row) => [[row.confidence, percent(row.confidence, 0)], [row.kept, percent(row.kept)], [row.accuracy, percent(row.accuracy)]])));
    return made;
  }
  function confusion(scores) {
    const counts = scores.confusion, total = scores.classes.length, names = [...scores.classes, "none"];
    const wrongOf = (i) => counts[i].reduce((sum, value, j) => sum + (j === i ? 0 : value), 0);
    const held = scores.classes.map((_, i) => i).filter((i) => wrongOf(i) || counts[i][i]);
    const shownClasses = held.sort((a, b) => wrongOf(b) - wrongOf(a)).slice(0, 30);
    const most = Math.max(1, ...counts.map((row) => Math.max(...row)));
    const matrix = element("table", { class: "matrix" });
    matrix.append(element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "true \\ labelled"), ...[...shownClasses, total].map((j) => element("th", { scope: "col" }, names[j])))));
    matrix.append(element("tbody", {}, ...shownClasses.map((i) => element("tr", {}, element("th", { scope: "row" }, names[i]), ...[...shownClasses, total].map((j) => {
      const value = counts[i][j], cell = element("td", { title: `${shown(names[i])} labelled ${shown(names[j])}: ${count(value)} pixels` }, value ? short(value) : "");
      const strength = value ? Math.log1p(value) / Math.log1p(most) : 0;
      cell.style.background = `color-mix(in srgb, ${i === j ? "var(--accept)" : "var(--reject)"} ${Math.round(45 * strength)}%, var(--paper))`;
      return cell;
    })))));
    const pairs = [];
    for (let i = 0; i < total; i += 1) for (let j = 0; j <= total; j += 1) if (i !== j && counts[i][j]) pairs.push([names[i], names[j], counts[i][j], counts[i][j] / Math.max(1, wrongOf(i) + counts[i][i])]);
    pairs.sort((a, b) => b[2] - a[2]);
    return [element("p", {}, `The ${shownClasses.length} classes with most wrong pixels; colour on a logarithmic scale.`),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, matrix),
      table(["true class", "labelled as", "pixels", "of the true class"], pairs.slice(0, 300).map(([a, b, n, part]) => [a, b, [n, count(n)], [part, percent(part)]]), { text: [0, 1] })];
  }
  const short = (value) => (value >= 1e6 ? (value / 1e6).toFixed(1) + "M" : value >= 1e3 ? Math.round(value / 1e3) + "k" : String(value));
  function classes(gallery) {
    const section = byId("classes"), select = element("select", { id: "class" });
    const order = gallery.map((own, i) => i).sort((a, b) => gallery[b].share - gallery[a].share);
    select.append(...order.map((i) => element("option", { value: i }, `${className(i)} (${count(gallery[i].images)} images, ${percent(gallery[i].share)} of the pixels)`)));
    const place = element("div");
    const fillPlace = () => {
      const own = gallery[Number(select.value)], part = (title, list) => [element("h2", {}, title), list.length
        ? element("div", { class: "gallery" }, ...list.map(([index, sure]) => { const one = cell(index, state.order.indexOf(index)); one.tabIndex = 0; one.lastChild.textContent = `here ${thousandths(sure)}`; return one; }))
        : element("p", {}, "In no image.")];
      place.replaceChildren(...part("Least sure first: mean confidence of the pixels of this class", own.least), ...part("Surest first", own.surest));
    };
    select.addEventListener("change", fillPlace);
    section.replaceChildren(element("p", {}, element("label", {}, "Class ", select)), place);
    if (order.length) fillPlace();
  }
  function statistics(figures) {
    const made = [element("h2", {}, "Classes that lie in one image"), table(["class", "class", "images"], figures.together.map(([a, b, n]) => [className(a), className(b), [n, count(n)]]), { text: [0, 1] }),
      element("h2", {}, "Sizes"), table(["width × height", "images"], figures.sizes.map(([size, n]) => [size, [n, count(n)]]))];
    made.push(element("h2", {}, "Files with the same content"), figures.duplicates.length
      ? table(["files"], figures.duplicates.map((keys) => [keys.map(shown).join("  =  ")])) : element("p", {}, "None."));
    byId("statistics").replaceChildren(...made);
  }
  async function go() {
    const pages = ["overview", "review", "classes", "statistics"];
    const page = pages.includes(location.hash.slice(1)) ? location.hash.slice(1) : "overview";
    for (const name of pages) byId(name).hidden = name !== page;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === "#" + page) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    if (page === "review") paintRows(true);
    if (page === "classes" || page === "statistics") await load(`data/${page}.js`);
  }

  // --- events
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (typing && event.key !== "Escape") return;
    const viewer = byId("viewer").open, review = !byId("review").hidden, ranged = event.target.matches("input[type=range]");
    const act = (what) => { event.preventDefault(); what(); };
    if (event.key === "?") return act(() => byId("keys").showModal());
    if (byId("keys").open) return;
    if (event.key === "u" && (viewer || review)) return act(undo);
    if (viewer) {
      if (event.key === "ArrowLeft" && !ranged) return act(() => step(-1));
      if (event.key === "ArrowRight" && !ranged) return act(() => step(1));
      const decision = { a: "accept", f: "fix", r: "reject" }[event.key];
      if (decision) return act(() => decideShown(decision));
      if (event.key === "n") return act(() => byId("note").focus());
      if (event.key === "o") return act(() => { const o = byId("opacity"); if (Number(o.value)) { o.dataset.before = o.value; o.value = 0; } else o.value = o.dataset.before || 55; paint(); });
      if (event.key === "m") return act(() => { const s = byId("show"); s.selectedIndex = (s.selectedIndex + 1) % s.options.length; paint(); });
      return;
    }
    if (!review) return;
    const across = perRow(), steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageDown: 4 * across, PageUp: -4 * across, Home: -1e9, End: 1e9 };
    if (event.key in steps && byId("grid").contains(event.target)) return act(() => move(steps[event.key]));
    if (event.key === "Enter" && event.target === byId("grid") && state.order.length) return act(() => open(state.order[state.at]));
    const decision = { a: "accept", f: "fix", r: "reject" }[event.key];
    if (decision && event.target.classList.contains("cell")) return act(() => { decide(Number(event.target.dataset.index), decision); move(1); });
  }
  function listen() {
    window.addEventListener("hashchange", go);
    window.addEventListener("resize", () => paintRows(true));
    document.addEventListener("keydown", keys);
    byId("grid").addEventListener("scroll", () => paintRows(), { passive: true });
    for (const id of ["queue", "decided", "largest"]) byId(id).addEventListener("change", sort);
    byId("find").addEventListener("input", sort);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("save").addEventListener("click", save);
    byId("undo").addEventListener("click", undo);
    byId("load").addEventListener("change", async (event) => {
      let result = null;
      try { result = takeIn(JSON.parse(await event.target.files[0].text())); } catch (error) { result = null; }
      remember();
      byId("saved").textContent = result ? `${count(result.taken)} decisions taken in` + (result.other ? `, ${count(result.other)} belong to other labels` : "") : "this file holds no decisions of ovlabel";
      sort();
    });
    byId("theme").addEventListener("click", () => {
      const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
    byId("help").addEventListener("click", () => byId("keys").showModal());
    byId("close").addEventListener("click", () => byId("viewer").close());
    byId("viewer").addEventListener("close", () => { if (!byId("review").hidden) focusCell(); });
    for (const id of ["show", "beside", "line", "opacity"]) byId(id).addEventListener("input", paint);
    byId("show").addEventListener("change", paint);
    byId("beside").addEventListener("change", () => { if (Number(byId("line").value) >= 100) byId("line").value = 50; paint(); });
    byId("stage").addEventListener("pointermove", pointed);
    for (const decision of DECISIONS) byId(decision).addEventListener("click", () => decideShown(decision));
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("note").addEventListener("change", note);
  }
  async function start() {
    if (!state.about) { byId("overview").append(element("p", {}, "The data of this report is not beside it (data/store.js).")); return; }
    for (const name of COLUMNS) state.items[name] = [];
    for (let page = 0; page < state.about.pages; page += 1) await load(`data/items-${String(page).padStart(4, "0")}.js`);
    byId("queue").append(...state.about.queues.map(([name, title]) => element("option", { value: name }, title)), element("option", { value: "name" }, "By name"));
    const present = [...new Set(state.items.largest)].filter((value) => value >= 0).sort((a, b) => className(a).localeCompare(className(b)));
    byId("largest").append(...present.map((value) => element("option", { value }, className(value))));
    try { takeIn(JSON.parse(localStorage.getItem(storageKey()))); } catch (error) { /* nothing was kept */ }
    overview();
    offerMaps();
    sort();
    remember();
    listen();
    await go();
    document.documentElement.dataset.ready = "true";
  }
  return { start, items, image, classes, statistics, store: (about) => { state.about = about; } };
})();
