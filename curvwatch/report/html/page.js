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

  // (1 - t) of one colour and t of another
  function mixed(one, other, t) {
    const [a, b] = [one, other].map((text) => text.match(/[\d.]+/g).map(Number));
    return `rgb(${[0, 1, 2].map((i) => Math.round(a[i] + (b[i] - a[i]) * t)).join(", ")})`;
  }

  // of several layers the first lines are faint, and the last ones strong
  function lineColour(line) {
    const own = runColour(line.run);
    if (line.depth === undefined || line.depth === 0.5) return own;
    return line.depth < 0.5 ? mixed(own, colour("card"), 1.2 * (0.5 - line.depth)) : mixed(own, colour("ink"), line.depth - 0.5);
  }
  const lineDash = (line) => (line.edge ? [2, 4] : line.which ? data.lines[line.which % data.lines.length] : runDash(line.run));

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
  for (const heat of data.heats) if (heat.x.length) { widen(heat.x[0]); widen(heat.x.at(-1)); }
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
      series: [{}, ...more.series], bands: more.bands ?? [], hooks: more.hooks,
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
    const series = panel.lines.map((line) => ({
      label: data.runs[line.run].name, show: shown[line.run], stroke: () => lineColour(line),
      width: line.edge ? 1.5 : 1.8, dash: lineDash(line),
      points: line.edge ? { show: false } : { size: 4, fill: () => lineColour(line) },
    }));
    if (panel.level !== null) series.push({ stroke: () => colour("level"), width: 1, dash: [6, 4], points: { show: false } });
    // how far values may be off: a band from one series to the next
    const bands = [], extra = panel.lines.map(() => []);
    panel.lines.forEach((line, i) => {
      if (!line.error || !line.x.length) return;
      for (const side of [1, -1]) {
        tables.push([line.x, line.y.map((y, j) => (y === null || line.error[j] === null ? null : y + side * line.error[j]))]);
        series.push({ show: shown[line.run], auto: false, width: 0, points: { show: false } });
        extra[i].push(series.length);
      }
      bands.push({ series: extra[i], fill: () => lineColour(line).replace("rgb(", "rgba(").replace(")", ", 0.2)") });
    });
    const joined = uPlot.join(tables);

    const read = (x) => panel.lines.forEach((line, i) => {
      const value = !line.x.length ? null : x === null ? lastKnown(line.y) : line.y[nearest(line.x, x)];
      const at = !line.x.length || !line.error ? -1 : x === null ? line.y.findLastIndex((y) => y !== null) : nearest(line.x, x);
      const error = at < 0 || line.y[at] === null ? null : line.error[at];
      items[i].querySelector("b").textContent = written(value) + (error === null ? "" : " ± " + written(error));
    });
    const swatches = () => panel.lines.forEach((line, i) => {
      const mark = items[i].querySelector(".swatch");
      if (line.depth !== undefined) mark.style.color = lineColour(line);
      if (line.which) mark.firstElementChild.setAttribute("stroke-dasharray", lineDash(line).join(" "));
    });
    const scale = { linear: {}, log: { distr: 3 }, asinh: { distr: 4, asinh: panel.linear } }[panel.scale];
    const plot = new uPlot(options(node, 230, {
      y: scale, series, bands,
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
    swatches();
    charts.push({ plot, node, restyle: swatches, update: () => panel.lines.forEach((line, i) => {
      for (const j of [i + 1, ...extra[i]]) plot.setSeries(j, { show: shown[line.run] });
      items[i].classList.toggle("off", !shown[line.run]);
    }) });
  }

  // colours of a heat map, one for each letter of its cells
  function ramp(signed) {
    const stops = [0, 1, 2, 3, 4].map((i) => colour((signed ? "sign" : "heat") + i));
    return [...data.shades].map((_, i, all) => {
      const at = (4 * i) / (all.length - 1), below = Math.min(3, Math.floor(at));
      return mixed(stops[below], stops[below + 1], at - below);
    });
  }

  // what a colour stands for, from 0 to 1
  function valueOf({ scale, low, high, middle }, shade) {
    const between = (a, b) => a + shade * (b - a);
    if (scale === "log") return 10 ** between(Math.log10(low), Math.log10(high));
    return scale === "asinh" ? middle * Math.sinh(between(Math.asinh(low / middle), Math.asinh(high / middle))) : between(low, high);
  }

  function addHeat(figure) {
    const heat = data.heats[figure.dataset.heat], node = figure.querySelector(".plot");
    const [from, bar, to] = figure.querySelector(".ramp").children, hovered = figure.querySelector(".hovered");
    const { x: edges, rows, colours, linear } = heat, columns = edges.length - 1;
    const index = new Map([...data.shades].map((letter, i) => [letter, i]));
    let painted = ramp(colours.signed);
    // what lies at a height from 0 to 1: a layer, or a value
    const at = (height) => {
      if (heat.names) return heat.names[Math.min(rows - 1, Math.floor(height * rows))];
      if (linear === null) return written(heat.low + height * (heat.high - heat.low));
      const low = Math.asinh(heat.low / linear), high = Math.asinh(heat.high / linear);
      return written(linear * Math.sinh(low + height * (high - low)));
    };
    function cells(u) {
      const { ctx, bbox } = u;
      const xs = edges.map((x) => Math.round(u.valToPos(x, "x", true)));
      const ys = Array.from({ length: rows + 1 }, (_, i) => Math.round(u.valToPos(i / rows, "y", true)));
      ctx.save();
      ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
      for (let column = 0; column < columns; column++) for (let row = 0; row < rows; row++) {
        const shade = index.get(heat.cells[column * rows + row]);
        if (shade === undefined) continue;
        ctx.fillStyle = painted[shade];
        ctx.fillRect(xs[column], ys[row + 1], xs[column + 1] - xs[column], ys[row] - ys[row + 1]);
      }
      ctx.restore();
    }
    function read(u) {
      const x = u.posToVal(u.cursor.left, "x"), height = u.posToVal(u.cursor.top, "y");
      const inside = u.cursor.left >= 0 && u.cursor.top >= 0 && columns > 0 && x >= edges[0] && x <= edges[columns];
      if (!inside) { hovered.textContent = ""; return; }
      const column = Math.max(0, edges.findLastIndex((edge) => edge <= x && edge < edges[columns]));
      const row = Math.min(rows - 1, Math.floor(height * rows)), shade = index.get(heat.cells[column * rows + row]);
      const value = shade === undefined ? "nothing" : "about " + written(Number(valueOf(colours, shade / (data.shades.length - 1)).toPrecision(2)));
      hovered.textContent = `${data.x} ${placed((edges[column] + edges[column + 1]) / 2)}, ${heat.names ? "" : "eigenvalue "}${at(height)}: ${value}`;
    }
    const short = (text) => (text.length > 15 ? "…" + text.slice(-14) : text);
    const plot = new uPlot(options(node, heat.names ? Math.min(420, 110 + 16 * rows) : 270, {
      y: { range: [0, 1] },
      axis: { splits: () => heat.ticks.map(([height]) => height), values: () => heat.ticks.map(([, text]) => short(text)), grid: { show: false }, size: heat.names ? 116 : 64 },
      cursor: { points: { show: false } },
      series: [{ show: false }],
      hooks: { drawAxes: [cells], setCursor: [read] },
    }), [[first, last], [null, null]], node);
    function restyle() {
      painted = ramp(colours.signed);
      bar.style.background = `linear-gradient(to right, ${painted.filter((_, i) => i % 7 === 0).join(", ")})`;
    }
    from.textContent = written(colours.low);
    to.textContent = written(colours.high) + { linear: "", log: ", in powers of ten", asinh: ", far from 0 in powers of ten" }[colours.scale];
    restyle();
    charts.push({ plot, node, restyle, update: () => figure.classList.toggle("off", !shown[heat.run]) });
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

  const update = () => { charts.forEach((chart) => chart.plot.batch(chart.update)); fit(); };
  const redraw = () => charts.forEach(({ plot, restyle }) => { restyle?.(); plot.redraw(false, true); });
  const fit = () => charts.forEach(({ plot, node }) => {
    const width = Math.max(200, node.clientWidth);
    if (node.clientWidth && width !== plot.width) plot.setSize({ width, height: plot.height });
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
  document.querySelectorAll("figure.heat").forEach(addHeat);
  new ResizeObserver(fit).observe(document.querySelector("main"));
  root.dataset.ready = "";
})();
