"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;

  /* ---- theme: that of the system, until the reader chooses */
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    theme.setAttribute("aria-pressed", String(isDark()));
  };
  if (remembered) root.dataset.theme = remembered;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page opened from a file may have no storage */ }
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  /* ---- print: open what is folded */
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));

  /* ---- sorting: ascending, descending, original order; empty cells stay last */
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const valueOf = (row, place) => {
    const cell = row.cells[place];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "–" ? null : text;
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
      const order = next[head.ariaSort];
      heads.forEach((other) => { other.ariaSort = "none"; });
      head.ariaSort = order;
      const sign = order === "descending" ? -1 : 1;
      const by = (a, b) => compare(valueOf(a, place), valueOf(b, place), sign);
      body.append(...(order === "none" ? original : [...original].sort(by)));
    }));
  }

  /* ---- provenance: the trainings behind a number */
  const panel = document.getElementById("panel");
  let opener = null;
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const digits = (value) => (value === undefined ? "–" : String(Number(value.toPrecision(6))));
  const listed = (values) => Object.entries(values).map(([name, value]) => `${name} ${typeof value === "number" ? digits(value) : value}`).join(", ");
  const grid = (columns, lines) => {
    const table = make("table", undefined, panel);
    const head = table.createTHead().insertRow();
    columns.forEach((column) => { make("th", column, head).scope = "col"; });
    const body = table.createTBody();
    for (const [first, ...rest] of lines) {
      const row = body.insertRow();
      make("th", first, row).scope = "row";
      rest.forEach((text) => make("td", text, row));
    }
  };
  const trialsOf = (arm) => Object.entries(data.arms[arm].trials);
  const addVersions = (arms) => {
    const indices = new Set(arms.flatMap((arm) => trialsOf(arm).map(([, trial]) => trial.versions)));
    for (const index of indices) make("p", listed(data.versions[index]), panel);
  };
  const showNumber = (sources) => {
    const arms = [...new Set(sources.map(([arm]) => arm))];
    const metrics = [...new Set(sources.map(([, metric]) => metric))];
    make("h3", `${metrics.join(", ")} of ${arms.map((arm) => data.arms[arm].title).join(" and ")}`, panel).id = "panel-title";
    const lines = sources.flatMap(([arm, metric, scale]) => Object.entries(data.arms[arm].values[metric] ?? {}).map(([seed, value]) => {
      const trial = data.arms[arm].trials[seed];
      return [seed, ...(arms.length > 1 ? [data.arms[arm].title] : []), ...(metrics.length > 1 ? [metric] : []), digits(value * scale), trial.key, `${trial.seconds} s`, trial.device];
    }));
    grid(["Seed", ...(arms.length > 1 ? ["Arm"] : []), ...(metrics.length > 1 ? ["Metric"] : []), "Value", "Trial", "Time", "Device"], lines);
    addVersions(arms);
  };
  const showArm = (name) => {
    const arm = data.arms[name];
    make("h3", `${arm.title} (${name})`, panel).id = "panel-title";
    const facts = [["Method", arm.method], ["Parameters", listed(arm.params) || "none"]];
    if (arm.teacher) facts.push(["Teacher", arm.teacher]);
    if (arm.maps) facts.push(["Maps", listed(Object.fromEntries(Object.entries(arm.maps).filter(([, value]) => value !== null)))]);
    if (arm.search) facts.push(["Search trials", listed(arm.search.trials) || "none"], ["Chosen", listed(arm.search.chosen) || "nothing yet"]);
    if (arm.recipe) facts.push(["Recipe", arm.recipe]);
    trialsOf(name).forEach(([seed, trial]) => facts.push([`Seed ${seed}`, `${trial.key}, ${trial.seconds} s on ${trial.device}, ${trial.finished}`]));
    grid(["Property", "Value"], facts);
    addVersions([name]);
  };
  const close = (back) => {
    if (!opener) return;
    opener.setAttribute("aria-expanded", "false");
    if (back) opener.focus();
    panel.hidden = true;
    opener = null;
  };
  const open = (button) => {
    close(false);
    panel.replaceChildren();
    if (button.dataset.arm) showArm(button.dataset.arm); else showNumber(JSON.parse(button.dataset.from));
    panel.hidden = false;
    opener = button;
    button.setAttribute("aria-expanded", "true");
    const box = button.getBoundingClientRect();
    const room = document.documentElement.clientWidth - panel.offsetWidth - 16;
    panel.style.left = `${Math.max(16, Math.min(box.left, room)) + scrollX}px`;
    panel.style.top = `${box.bottom + scrollY + 6}px`;
    panel.focus({ preventScroll: true });
  };
  for (const button of document.querySelectorAll(".from")) {
    button.setAttribute("aria-haspopup", "dialog");
    button.setAttribute("aria-expanded", "false");
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".from");
    if (button) { if (button === opener) close(true); else open(button); } else if (!panel.contains(event.target)) close(false);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(true); });
})();
