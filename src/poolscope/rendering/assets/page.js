// The pictures of a report: without them the page is complete in words and tables. All text of the program is set by
// textContent or drawn; none becomes markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const began = data.started || 0;
  const full = [began, began + Math.max(data.duration || 0, 0.001)]; // grows while the page is live
  let range = full.slice();
  const followers = []; // what shows the range of time
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const HUES = [210, 28, 130, 355, 265, 48, 180, 310, 90, 235];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hue = (index) => `hsl(${HUES[Math.max(0, index) % HUES.length]} 60% ${(dark.matches ? 62 : 45) + 6 * (Math.floor(index / HUES.length) % 3)}%)`;

  function seconds(value) {
    if (!Number.isFinite(value)) return "—";
    if (value < 1e-3) return `${(value * 1e6).toPrecision(3)} µs`;
    if (value < 1) return `${(value * 1e3).toPrecision(3)} ms`;
    if (value < 120) return `${value.toPrecision(3)} s`;
    return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  }
  const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB") + "." + String(Math.floor((at % 1) * 10));

  function show(from, to) {
    const least = (full[1] - full[0]) / 5000;
    const width = Math.min(full[1] - full[0], Math.max(to - from, least));
    from = Math.max(full[0], Math.min(from, full[1] - width));
    if (from === range[0] && from + width === range[1]) return;
    range = [from, from + width];
    for (const follow of followers) follow();
    for (const button of document.querySelectorAll("button.whole")) button.disabled = range[0] === full[0] && range[1] === full[1];
  }
  function keys(figure) {
    figure.addEventListener("keydown", (event) => {
      const width = range[1] - range[0], middle = (range[0] + range[1]) / 2;
      const to = {
        ArrowLeft: [range[0] - width / 4, range[1] - width / 4], ArrowRight: [range[0] + width / 4, range[1] + width / 4],
        "+": [middle - width / 4, middle + width / 4], "-": [middle - width, middle + width],
        Home: full, Escape: full,
      }[event.key];
      if (!to || event.target.tagName === "INPUT") return;
      event.preventDefault();
      show(to[0], to[1]);
    });
  }

  // What was found, behind the lines: a band as long as it lasted, and a line at its begin.
  function bands(pool) {
    return (plot) => {
      const { left, top, width, height } = plot.bbox, context = plot.ctx;
      context.save();
      context.beginPath(); context.rect(left, top, width, height); context.clip();
      for (const finding of pool.findings) {
        const from = plot.valToPos(began + finding.since, "x", true);
        const to = plot.valToPos(finding.until === null ? full[1] : began + finding.until, "x", true);
        context.fillStyle = context.strokeStyle = colour(finding.severity);
        context.globalAlpha = finding.severity === "info" ? 0.06 : 0.13;
        context.fillRect(from, top, Math.max(1, to - from), height);
        if (finding.after !== undefined) { // it began between two scrapes
          const after = plot.valToPos(began + finding.after, "x", true);
          context.globalAlpha = 0.4;
          context.fillRect(after, top, from - after, height);
        }
        context.globalAlpha = 0.9;
        context.lineWidth = 2 * devicePixelRatio;
        context.beginPath(); context.moveTo(from, top); context.lineTo(from, top + height); context.stroke();
      }
      context.restore();
    };
  }

  function chart(place, pool, series, values, height, more) {
    const axis = () => ({ stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } });
    let plot = null;
    const options = () => ({
      width: Math.max(200, place.clientWidth), height,
      cursor: { sync: { key: "time" }, drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: true, range: () => range }, y: { range: (_, low, high) => [0, Math.max(high * 1.05, more.least)] } },
      axes: [{ ...axis(), values: (_, ticks) => ticks.map((at) => clock(at).replace(/\.0$/, "")), space: 90 }, { ...axis(), size: 64, values: (_, ticks) => ticks.map(more.tick) }],
      series: [{ label: "time", value: (_, at) => (at === null ? "—" : clock(at)) }, ...series.map((each) => ({
        label: each.label, stroke: colour(each.colour), width: 2, dash: each.dash,
        fill: each.fill ? colour(each.colour) + "22" : undefined, points: { show: false },
        value: (_, value) => (value === null ? "—" : more.told(value)),
      }))],
      hooks: {
        drawClear: [bands(pool)],
        setSelect: [(self) => { if (self.select.width > 3) { const { left, width } = self.select;
          const from = self.posToVal(left, "x"), to = self.posToVal(left + width, "x");
          self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); show(from, to); } }],
      },
    });
    const make = () => { if (plot) plot.destroy(); plot = new uPlot(options(), values, place);
      plot.over.addEventListener("dblclick", () => show(full[0], full[1])); };
    make();
    const follow = () => plot.setScale("x", { min: range[0], max: range[1] });
    followers.push(follow);
    const sized = new ResizeObserver(() => { if (Math.abs(plot.width - place.clientWidth) > 1) plot.setSize({ width: Math.max(200, place.clientWidth), height }); });
    sized.observe(place);
    dark.addEventListener("change", make);
    return {
      set: (grown) => { values = grown; plot.setData(values); },
      end: () => { followers.splice(followers.indexOf(follow), 1); sized.disconnect(); dark.removeEventListener("change", make); plot.destroy(); },
    };
  }

  const counted = { least: 1, tick: (value) => String(value), told: (value) => value.toFixed(1) };
  const waited = { least: 0.001, tick: (value) => (value === 0 ? "0" : seconds(value)), told: seconds };
  const TASKS = [
    { label: "running", colour: "active", fill: true }, { label: "queued", colour: "queued", fill: true },
    { label: "workers", colour: "soft", dash: [4, 4] },
  ];
  function wholeButtons(place) {
    for (const button of place.querySelectorAll("button.whole")) {
      button.disabled = range[0] === full[0] && range[1] === full[1];
      button.addEventListener("click", () => show(full[0], full[1]));
    }
  }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new DataView(await new Response(stream).arrayBuffer());
  }

  // Tasks as columns: [submitted, started, finished] in seconds of the run, the function and the lane of each.
  async function tasksOf(pool) {
    const view = await unpacked(pool.tasks), count = pool.shown, unit = pool.unit / 1e9;
    const tasks = { submitted: new Float64Array(count), started: new Float64Array(count), finished: new Float64Array(count), of: new Int32Array(count), lane: new Int32Array(count) };
    let at = 0;
    for (let task = 0; task < count; task++) {
      const [gap, wait, run, of, lane] = [0, 1, 2, 3, 4].map((column) => view.getInt32(4 * (column * count + task), true));
      at += gap;
      tasks.submitted[task] = at * unit;
      tasks.started[task] = wait < 0 ? Infinity : (at + wait) * unit;
      tasks.finished[task] = wait < 0 ? Infinity : run < 0 ? data.duration : (at + wait + run) * unit;
      tasks.of[task] = of;
      tasks.lane[task] = lane;
    }
    return tasks;
  }

  // The tasks of each lane in order of their starts, and how many are in lanes beyond the most that are drawn.
  function lanesOf(tasks, most) {
    const lanes = [];
    let hidden = 0;
    tasks.lane.forEach((lane, task) => {
      if (lane < 0) return;
      if (lane >= most) hidden += 1; else (lanes[lane] ||= []).push(task);
    });
    for (const lane of lanes) lane.sort((one, other) => tasks.started[one] - tasks.started[other]);
    return { lanes, hidden };
  }

  // `what` has the depth of the queue over time, if there is one, the words about what is not there, and what tells of one bar.
  function drawLanes(figure, what, tasks) {
    const canvas = figure.querySelector("canvas"), tip = figure.querySelector(".tip");
    const { lanes, hidden } = lanesOf(tasks, 48);
    const row = lanes.length > 24 ? 10 : 16, left = 64, queue = what.queue ? 36 : 0, height = queue + Math.max(1, lanes.length) * row + 22;
    const [ends, queued] = what.queue || [[], []], most = queued.reduce((one, other) => Math.max(one, other), 1);
    const place = (at, width) => left + ((began + at - range[0]) / (range[1] - range[0])) * (width - left);
    function draw() {
      const width = canvas.parentElement.clientWidth, scale = devicePixelRatio || 1;
      canvas.width = width * scale; canvas.height = height * scale; canvas.style.height = `${height}px`;
      const context = canvas.getContext("2d");
      context.scale(scale, scale);
      context.clearRect(0, 0, width, height);
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = colour("soft");
      if (what.queue) context.fillText("queue", 8, queue - 8);
      context.fillStyle = colour("queued");
      queued.forEach((depth, point) => {
        const from = Math.max(left, place(ends[Math.max(0, point - 1)], width)), to = Math.min(width, place(ends[point], width));
        const tall = (queue - 8) * depth / most;
        if (to > from && tall >= 0.3) context.fillRect(from, queue - 4 - Math.max(1, tall), to - from, Math.max(1, tall));
      });
      lanes.forEach((lane, number) => {
        const top = queue + number * row;
        context.fillStyle = colour("soft");
        if (lanes.length > 1 && (row >= 16 || number % 4 === 0)) context.fillText(String(number + 1), 40, top + row - 4);
        let last = -1, lastOf = -1;
        for (const task of lane) {
          const from = Math.max(left, place(tasks.started[task], width)), to = Math.min(width, place(tasks.finished[task], width));
          if (to < left || from > width) continue;
          // What is shorter than a pixel beside another one of its function adds nothing.
          if (to - last < 0.5 && lastOf === tasks.of[task]) continue;
          context.fillStyle = hue(tasks.of[task]);
          context.fillRect(from, top + 1, Math.max(0.7, to - from - (to - from > 3 ? 1 : 0)), row - 2);
          last = Math.max(to, from + 0.7); lastOf = tasks.of[task];
        }
      });
      context.fillStyle = colour("soft");
      const ticks = width < 500 ? 2 : 5;
      for (let tick = 0; tick < ticks; tick++) {
        const part = tick / (ticks - 1), at = range[0] + (range[1] - range[0]) * part, x = left + (width - left) * part;
        context.textAlign = part === 1 ? "right" : part === 0 ? "left" : "center";
        context.fillText(clock(at), x, height - 6);
      }
    }
    followers.push(draw);
    new ResizeObserver(draw).observe(canvas.parentElement);
    dark.addEventListener("change", draw);
    const notes = [...what.notes];
    if (hidden) notes.push(`${hidden.toLocaleString()} tasks in further lanes are not drawn.`);
    tip.textContent = notes.join(" ");
    let from = null;
    const at = (event) => { const box = canvas.getBoundingClientRect();
      return range[0] + ((event.clientX - box.left - left) / (box.width - left)) * (range[1] - range[0]); };
    canvas.addEventListener("pointerdown", (event) => { from = at(event); });
    canvas.addEventListener("pointerup", (event) => { const to = at(event);
      if (from !== null && Math.abs(to - from) > (range[1] - range[0]) / 100) show(Math.min(from, to), Math.max(from, to)); from = null; });
    canvas.addEventListener("dblclick", () => show(full[0], full[1]));
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), lane = lanes[Math.floor((event.clientY - box.top - queue) / row)], when = at(event) - began;
      const task = lane && lane.find((each) => tasks.started[each] <= when && when <= tasks.finished[each]);
      tip.textContent = task === undefined ? notes.join(" ") : `${what.told(task, seconds(tasks.finished[task] - tasks.started[task]))}, from ${clock(began + tasks.started[task])}`;
    });
    draw();
  }

  function legend(figure, names) {
    names.slice(0, 10).forEach((name, index) => {
      const key = document.createElement("span"), mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      key.className = "key";
      square.setAttribute("width", "100%"); square.setAttribute("height", "100%"); square.setAttribute("fill", hue(index));
      mark.setAttribute("aria-hidden", "true");
      mark.append(square);
      key.append(mark, document.createTextNode(name));
      figure.querySelector(".legend").append(key);
    });
  }

  function slider(box, pool) {
    const input = box.querySelector("input"), output = box.querySelector("output");
    const tell = () => {
      const [workers, p50, p95, makespan] = pool.sizing[Number(input.value)];
      const present = workers === pool.max_workers ? " (as it is)" : "";
      output.textContent = `${workers} ${pool.places}${present}: half of the tasks wait ${seconds(p50)} or less, 95 % ${seconds(p95)}; all done in ${seconds(makespan)}`;
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", tell);
    tell();
  }

  async function start() {
    wholeButtons(document);
    for (const figure of document.querySelectorAll("figure.timeline")) {
      const pool = data.pools[Number(figure.dataset.pool)];
      const [at, active, queued, wait] = pool.timeline;
      const times = at.map((each) => began + each);
      figure.hidden = false;
      const [counts, waits] = figure.querySelectorAll(".chart");
      if (pool.workers) { // of a fleet, whose queues are long beside its pools
        chart(counts, pool, [TASKS[0], TASKS[2]], [times, active, pool.workers], 120, counted);
        chart(waits, pool, [TASKS[1]], [times, queued], 140, counted);
      } else if (active) chart(counts, pool, TASKS, [times, active, queued, at.map(() => pool.max_workers)], 200, counted);
      if (wait) chart(waits || counts, pool, [{ label: pool.late || "longest wait", colour: "wait", fill: true }], [times, wait], 140, waited);
      keys(figure);
    }
    for (const box of document.querySelectorAll(".sizing")) { box.hidden = false; slider(box, data.pools[Number(box.dataset.pool)]); }
    for (const figure of document.querySelectorAll("figure.tasks")) {
      const pool = data.pools[Number(figure.dataset.pool)];
      if (typeof DecompressionStream === "undefined") continue; // an older browser: the tables say it all
      figure.hidden = false;
      legend(figure, pool.functions);
      const tasks = await tasksOf(pool), [at, , queued] = pool.timeline;
      const notes = pool.left_out ? [`${pool.left_out.toLocaleString()} tasks before these are not kept in this page.`] : [];
      const told = (task, length) => `${pool.functions[tasks.of[task]] || "?"}: waited ${seconds(tasks.started[task] - tasks.submitted[task])}, ran ${length}`;
      drawLanes(figure, { queue: [at, queued], notes, told }, tasks);
      keys(figure);
    }
    for (const figure of document.querySelectorAll("figure.blocks")) {
      const { places, blocks } = data.loops[Number(figure.dataset.loop)];
      figure.hidden = false;
      legend(figure, places);
      const bars = { started: blocks.map(([at]) => at), finished: blocks.map(([at, length]) => at + length), of: blocks.map((block) => block[2]), lane: blocks.map(() => 0) };
      const told = (block, length) => `${places[bars.of[block]] || "at a line that is not known"}: held the loop for ${length}`;
      drawLanes(figure, { notes: [], told }, bars);
      keys(figure);
    }
    document.documentElement.dataset.drawn = "true"; // for who waits for the pictures
  }

  // --- live: the same parts, made here of what the feed says, which is words and numbers

  function made(tag, text, classes) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (classes) element.className = classes;
    return element;
  }
  function meter(share, label) {
    const bar = made("meter");
    bar.max = 1; bar.high = 0.999; bar.value = share;
    bar.setAttribute("aria-label", label);
    return bar;
  }
  function table(head, rows) {
    const whole = made("table"), top = whole.createTHead().insertRow(), body = whole.createTBody();
    for (const name of head) top.append(made("th", name));
    for (const cells of rows) {
      const row = body.insertRow();
      for (const cell of cells) row.insertCell().append(cell);
    }
    const scroll = made("div", undefined, "scroll");
    scroll.append(whole);
    return scroll;
  }
  // A place is filled anew only where what it says has changed: what is open, marked or read aloud there stays.
  const said = new Map();
  function fill(place, content, make) {
    const text = JSON.stringify(content);
    if (said.get(place) === text) return;
    const open = new Set(Array.from(place.querySelectorAll("details[open]"), (each) => each.dataset.key));
    said.set(place, text);
    place.replaceChildren(...make());
    for (const each of place.querySelectorAll("details")) each.open = open.has(each.dataset.key);
  }

  function article(told) {
    const box = made("article", undefined, told.severity), when = made("p", "", "facts lasted");
    box.append(made("h3", `${told.pattern}, cause ${told.cause}: ${told.subject}`));
    if (told.summary !== document.getElementById("headline").textContent) box.append(made("p", told.summary));
    box.append(when);
    for (const place of told.places) {
      const line = made("div");
      line.append(made("code", place.where), " in ", made("code", place.function), place.share && `, ${place.share} of samples`);
      box.append(line);
      if (place.source) box.append(made("pre", place.source));
    }
    if (told.advice) box.append(made("p", told.advice, "advice"));
    if (told.evidence.length) {
      const more = made("details"), list = made("dl");
      more.dataset.key = `${told.subject} ${told.pattern} ${told.cause} ${Math.round(told.since)}`;
      for (const [name, value] of told.evidence) {
        const pair = made("div");
        pair.append(made("dt", name), made("dd", value));
        list.append(pair);
      }
      more.append(made("summary", "Evidence"), list);
      box.append(more);
    }
    return box;
  }
  function findings(all) {
    const place = document.getElementById("findings");
    const shown = all.filter((told) => told.severity !== "info" || told.until === null);
    // Begins are measured anew at each look, ends and lengths change: none of them is a reason to make it all anew.
    const content = shown.map(({ lasted, since, until, evidence, ...rest }) => [rest, until === null, evidence.map(([name]) => name)]);
    fill(place, content, () => (shown.length ? [made("h2", "What was found"), ...shown.map(article)] : []));
    place.querySelectorAll(".lasted").forEach((when, index) => {
      const told = shown[index];
      when.textContent = `${told.lasted}, from ${clock(told.since)}${told.until === null ? "" : ` to ${clock(told.until)}`}`;
    });
    place.querySelectorAll("article").forEach((box, index) => box.querySelectorAll("dd").forEach((value, at) => { value.textContent = shown[index].evidence[at][1]; }));
  }

  const pools = new Map();
  function section(line) {
    const box = document.getElementById("pool").content.firstElementChild.cloneNode(true);
    const figure = box.querySelector("figure"), [counts, oldest] = box.querySelectorAll(".chart");
    const pool = { box, findings: [], points: [[], [], [], []], charts: [] };
    box.querySelector("h2").textContent = `${{ pool: "Pool", limit: "Limit", queue: "Work queue" }[line.group]} ${line.name}`;
    counts.setAttribute("aria-label", `Running and queued tasks of ${line.name} over time`);
    oldest.setAttribute("aria-label", `Age of the task of ${line.name} that is queued longest, over time`);
    document.getElementById("pools").append(box);
    pool.charts.push(
      chart(counts, pool, TASKS, [[], [], [], []], 200, counted),
      chart(oldest, pool, [{ label: "oldest queued", colour: "wait", fill: true }], [[], []], 140, waited),
    );
    keys(figure);
    wholeButtons(figure);
    pools.set(line.key, pool);
    return pool;
  }
  function take(line) {
    const pool = pools.get(line.key) || section(line), { box, points } = pool;
    for (const point of line.points) point.forEach((value, field) => points[field].push(value));
    for (const column of points) column.splice(0, Math.max(0, column.length - 600));
    pool.findings = line.bands.map(([severity, since, until]) => ({ severity, since, until }));
    pool.size = line.size;
    const facts = box.querySelector("p.facts"), batch = box.querySelector(".batch"), list = box.querySelector("dl");
    facts.textContent = `${line.kind}, ${line.state}`;
    batch.hidden = !line.batch;
    batch.firstElementChild.value = line.batch_done;
    batch.lastElementChild.textContent = line.batch;
    fill(list, line.facts, () => line.facts.map(([name, value]) => {
      const pair = made("div");
      pair.append(made("dt", name), made("dd", value));
      return pair;
    }));
    const more = box.querySelector("details");
    if (more.open) {
      const rows = points[0].map((at, place) => [clock(at), points[1][place].toFixed(1), points[2][place].toFixed(1), seconds(points[3][place])]);
      more.lastElementChild.replaceChildren(table(["time", "running", "queued", "oldest queued"], rows.slice(-30).reverse()));
    }
  }
  function grow(board) {
    const times = Array.from(pools.values(), (pool) => pool.points[0]).filter((at) => at.length);
    const followed = range[0] === full[0] && range[1] === full[1];
    full[0] = Math.min(board.at - 10, ...times.map((at) => at[0]));
    full[1] = Math.max(board.at, ...times.map((at) => at[at.length - 1]));
    if (followed) range = full.slice();
    for (const { points: [at, active, queued, oldest], size, charts } of pools.values()) {
      charts[0].set([at, active, queued, at.map(() => size)]);
      charts[1].set([at, oldest]);
    }
    for (const follow of followers) follow();
  }
  function overview(board) {
    const rows = board.pools.map((line) => [line.name, line.kind, line.state, line.active, line.size, line.busy, line.queued, line.wait_p95, line.rate]);
    fill(document.getElementById("overview"), rows, () => (rows.length ? [made("h2", "Now"), table(
      ["", "running", "queued", "wait p95", "done", "", "busy", "kind"],
      board.pools.map((line) => [line.name, `${line.active} of ${line.size}`, line.queued.toLocaleString(), line.wait_p95, line.rate,
        made("span", line.state, line.state), meter(line.busy, `busy of ${line.name}`), line.kind]),
    )] : [made("p", "No pool has done anything yet.")]));
    const loops = board.loops.map(({ trend, ...rest }) => rest);
    fill(document.getElementById("loops"), loops, () => (loops.length ? [made("h2", "Event loops"), table(
      ["event loop", "tasks", "lag p95", "blocked in all", "", "blocked now", "kind"],
      loops.map((loop) => [loop.name, loop.tasks.toLocaleString(), loop.lag_p95, loop.blocked_seconds,
        made("span", loop.state, loop.state), meter(loop.blocked, `blocked part of ${loop.name}`), loop.kind]),
    )] : []));
  }

  let last = 0;
  function taken(board) {
    const there = new Set(board.since > last ? [] : board.pools.map((line) => line.key)); // else it is another program
    for (const [key, { box, charts }] of pools) if (!there.has(key)) { for (const each of charts) each.end(); box.remove(); pools.delete(key); }
    last = board.at;
    document.title = `poolscope: ${board.word}`;
    const word = document.getElementById("word"), headline = document.getElementById("headline");
    word.className = `badge ${board.look}`;
    if (word.textContent !== board.word) word.textContent = board.word;
    if (headline.textContent !== board.headline) headline.textContent = board.headline;
    document.getElementById("facts").textContent = `${board.command && `${board.command}, `}Python ${board.python}, seen at ${clock(board.at)}`;
    overview(board);
    findings(board.findings);
    board.pools.forEach(take);
    fill(document.getElementById("notes"), board.notes, () => board.notes.map((note) => made("li", note)));
    grow(board);
  }
  async function ask() {
    const trouble = document.getElementById("trouble");
    if (!document.hidden) {
      let told = "";
      try {
        const answer = await fetch(`${data.live}?since=${last}`, { cache: "no-store", signal: AbortSignal.timeout(10000) });
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        taken(await answer.json());
      } catch (error) {
        told = `No answer (${error.message})${last ? ` since ${clock(last)}` : ""}: the program or its endpoint has ended, or is busy. Asking again.`;
      }
      if (trouble.textContent !== told) trouble.textContent = told;
      document.documentElement.dataset.drawn = "true";
    }
    setTimeout(ask, 1000);
  }

  if (data.live) ask(); else start();
})();
