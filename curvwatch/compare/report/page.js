"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const boxes = [...document.querySelectorAll("#runs input[data-run]")];
  const shown = data.runs.map(() => true);
  const charts = [];

  const colour = (name) => getComputedStyle(document.querySelector("." + name)).color;
  const runColour = (run) => colour("c" + (run % data.colours));
  const runDash = (run) => data.dashes[Math.floor(run / data.colours) % data.dashes.length];

  function written(value) {
    if (value === null || value === undefined) return "-";
    const size = Math.abs(value);
    if (size && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  }

  const placed = (x) => (data.x === "time" ? written(x) + " s" : data.x === "step" ? Math.round(x).toLocaleString("en") : written(x));

  // the whole axis, the same in all charts
  let first = Infinity, last = -Infinity;
  const widen = (x) => { first = Math.min(first, x); last = Math.max(last, x); };
  for (const panel of data.panels) for (const line of panel.lines) if (line.x.length) { widen(line.x[0]); widen(line.x.at(-1)); }
  for (const run of data.runs) for (const alert of run.alerts) widen(alert[0]);
  if (first > last) { first = 0; last = 1; }
  if (first === last) { first -= 0.5; last += 0.5; }

  function nearest(xs, x) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (xs[middle] < x) low = middle; else high = middle; }
    return x - xs[low] <= xs[high] - x ? low : high;
  }

  const lastKnown = (ys) => { for (let i = ys.length - 1; i >= 0; i--) if (ys[i] !== null) return ys[i]; return null; };

  function options(node, height, more) {
    const axis = { stroke: () => colour("axis"), grid: { stroke: () => colour("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return {
      width: Math.max(200, node.clientWidth), height, legend: { show: false },
      cursor: { sync: { key: "curvwatch", setSeries: false }, y: false, drag: { x: true, y: false }, ...more.cursor },
      scales: {
        x: { time: false, range: (u, low, high) => (low === null || (low <= u.data[0][0] && high >= u.data[0].at(-1)) ? [first, last] : [low, high]) },
        y: more.y,
      },
      axes: [{ ...axis, size: 34, values: (u, ticks) => ticks.map((t) => (t === null ? "" : placed(t))) },
             { ...axis, size: 64, values: (u, ticks) => ticks.map((t) => (t === null ? "" : written(t))), ...more.axis }],
      series: [{}, ...more.series], hooks: more.hooks,
    };
  }

  // ▼ at the top, in the colour of its run
  function drawAlerts(u) {
    const { ctx, bbox } = u, size = 5 * devicePixelRatio;
    ctx.save();
    data.runs.forEach((run, i) => {
      if (!shown[i]) return;
      ctx.fillStyle = runColour(i);
      for (const [x] of run.alerts) {
        const at = u.valToPos(x, "x", true);
        if (at < bbox.left || at > bbox.left + bbox.width) continue;
        ctx.beginPath(); ctx.moveTo(at - size, bbox.top); ctx.lineTo(at + size, bbox.top); ctx.lineTo(at, bbox.top + 1.6 * size); ctx.fill();
      }
    });
    ctx.restore();
  }

  function addPanel(figure) {
    const panel = data.panels[figure.dataset.panel], node = figure.querySelector(".plot");
    const items = [...figure.querySelectorAll(".readout li")];
    const tables = panel.lines.map((line) => (line.x.length ? [line.x, line.y] : [[first], [null]]));
    // a line across needs its own two points
    if (panel.level !== null) tables.push([[first, last], [panel.level, panel.level]]);
    const joined = uPlot.join(tables);
    const series = panel.lines.map((line) => ({
      label: data.runs[line.run].name, show: shown[line.run], stroke: () => runColour(line.run),
      width: line.edge ? 1.5 : 1.8, dash: line.edge ? [2, 4] : runDash(line.run),
      points: line.edge ? { show: false } : { size: 4, fill: () => runColour(line.run) },
    }));
    if (panel.level !== null) series.push({ stroke: () => colour("level"), width: 1, dash: [6, 4], points: { show: false } });

    const read = (x) => panel.lines.forEach((line, i) => {
      const value = !line.x.length ? null : x === null ? lastKnown(line.y) : line.y[nearest(line.x, x)];
      items[i].querySelector("b").textContent = written(value);
    });
    const scale = { linear: {}, log: { distr: 3 }, asinh: { distr: 4, asinh: panel.linear } }[panel.scale];
    const plot = new uPlot(options(node, 230, {
      y: scale, series,
      cursor: {
        points: { show: (u, i) => i <= panel.lines.length },
        // the reading of each line that is nearest to the pointer, not the joined table's row
        dataIdx: (u, i, index) => {
          const ys = u.data[i];
          for (let away = 0; away < ys.length; away++) {
            if (ys[index - away] !== undefined && index - away >= 0) return index - away;
            if (ys[index + away] !== undefined) return index + away;
          }
          return index;
        },
      },
      hooks: { draw: [drawAlerts], setCursor: [(u) => read(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)] },
    }), joined, node);
    read(null);
    charts.push({ plot, node, update: () => panel.lines.forEach((line, i) => {
      plot.setSeries(i + 1, { show: shown[line.run] });
      items[i].classList.toggle("off", !shown[line.run]);
    }) });
  }

  function addAlerts(figure) {
    const node = figure.querySelector(".plot"), readout = figure.querySelector(".readout");
    const with_ = data.runs.map((run, i) => i).filter((i) => data.runs[i].alerts.length);
    if (!with_.length) return;
    const rows = with_.length, row = (i) => rows - i;
    const tables = with_.map((run, i) => {
      const xs = [...new Set(data.runs[run].alerts.map((alert) => alert[0]))].sort((a, b) => a - b);
      return [xs, xs.map(() => row(i))];
    });
    tables.push([[first, last], [null, null]]);
    const names = (u) => {
      u.ctx.save();
      u.ctx.font = 11 * devicePixelRatio + "px system-ui, sans-serif"; u.ctx.textAlign = "left";
      with_.forEach((run, i) => {
        if (!shown[run]) return;
        u.ctx.fillStyle = runColour(run);
        u.ctx.fillText(data.runs[run].name.slice(0, 60), u.bbox.left + 4 * devicePixelRatio, u.valToPos(row(i), "y", true) - 7 * devicePixelRatio);
      });
      u.ctx.restore();
    };
    const read = (x) => {
      const near = [];
      for (const run of with_) if (shown[run]) for (const [at, rule, text, step] of data.runs[run].alerts)
        near.push([x === null ? 0 : Math.abs(at - x), run, step, rule, text]);
      near.sort((a, b) => a[0] - b[0]);
      readout.replaceChildren(...near.slice(0, 3).map(([, run, step, rule, text]) => {
        const item = document.createElement("li");
        item.textContent = `${data.runs[run].name}, step ${step.toLocaleString("en")}, ${rule}: ${text}`;
        return item;
      }));
    };
    const plot = new uPlot(options(node, 62 + 26 * rows, {
      y: { range: [0.4, rows + 1] },
      axis: { values: () => [], grid: { show: false }, size: 64 },
      cursor: { points: { show: false } },
      series: [...with_.map((run) => ({ stroke: () => runColour(run), paths: () => null, points: { show: true, size: 9, fill: () => runColour(run) } })), { show: false }],
      hooks: { draw: [names], setCursor: [(u) => read(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)] },
    }), uPlot.join(tables), node);
    read(null);
    charts.push({ plot, node, update: () => { with_.forEach((run, i) => plot.setSeries(i + 1, { show: shown[run] })); read(null); } });
  }

  const update = () => charts.forEach((chart) => chart.plot.batch(chart.update));
  const redraw = () => charts.forEach(({ plot }) => plot.redraw(false, true));
  const fit = () => charts.forEach(({ plot, node }) => {
    const width = Math.max(200, node.clientWidth);
    if (width !== plot.width) plot.setSize({ width, height: plot.height });
  });

  function show(states) {
    states.forEach((state, i) => { shown[i] = state; });
    boxes.forEach((box) => { box.checked = shown[box.dataset.run]; });
    update();
  }
  for (const box of boxes) box.addEventListener("change", () => { shown[box.dataset.run] = box.checked; update(); });
  document.getElementById("all").addEventListener("click", () => show(shown.map(() => true)));
  document.getElementById("none").addEventListener("click", () => show(shown.map(() => false)));

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    redraw();
  });
  // paper is white; charts are drawn again, as wide as its columns
  let before;
  addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; fit(); redraw(); });
  addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; fit(); redraw(); });

  const heads = [...document.querySelectorAll("#runs th")], body = document.querySelector("#runs tbody");
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    const value = (row) => {
      const text = row.cells[column].dataset.value;
      return text === undefined || text === "nan" ? null : column ? Number(text.replace("inf", "Infinity")) : text;
    };
    const compare = (a, b) => (column ? a - b : a.localeCompare(b, "en", { numeric: true }));
    // what is missing stays last
    const sorted = [...body.rows].map((row) => [value(row), row]).sort(([a], [b]) =>
      a === b ? 0 : a === null ? 1 : b === null ? -1 : way * compare(a, b));
    body.append(...sorted.map(([, row]) => row));
  }));

  const alerts = document.getElementById("alerts");
  if (alerts) addAlerts(alerts);
  document.querySelectorAll("figure.panel").forEach(addPanel);
  new ResizeObserver(fit).observe(document.querySelector("main"));
  root.dataset.ready = "";
})();
