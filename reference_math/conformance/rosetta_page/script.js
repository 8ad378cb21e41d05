(() => {
  const data = JSON.parse(document.getElementById("ros-data").textContent);
  const [one, other, only] = ["one", "other", "only"].map(name => document.getElementById("ros-" + name));
  const out = document.getElementById("ros-out");

  // Text goes in as text, never as HTML.
  function add(parent, tag, kind, text) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  }
  const gap = (gaps, a, b) => gaps[a + "," + b] || gaps[b + "," + a];
  function share(x) {
    if (x === "inf") return "without bound";
    if (x < 1e-12) return "0";
    return x >= 1e-3 ? Number((100 * x).toPrecision(2)) + "%" : x.toExponential(1);
  }
  function verdict(found, a, b) {
    if (a === b) return ["one library", "ros-dim"];
    if (!found) return ["other inputs: not compared", "ros-dim"];
    if (!found.words.endsWith("apart")) return [found.words, "ros-same"];
    const parts = ["value", "gradient"].filter(key => key in found).map(key => key + " " + share(found[key]));
    return [parts.join(", ") + " apart", "ros-apart"];
  }
  function side(parent, row) {
    const box = add(parent, "div", "ros-side"), name = add(box, "div", "ros-name", data.libraries[row.library].name + " ");
    if (row.default) add(name, "span", "ros-tag", "by default");
    add(box, "code", "", row.call);
    for (const [key, call] of Object.entries(row.grads)) {
      const more = add(box, "details", "");
      add(more, "summary", "ros-dim", "its gradient" + (key.length > 4 ? ", " + key : ""));
      add(more, "code", "", call);
    }
    if (row.note) add(box, "p", "", row.note);
    if (row.departs) add(box, "p", "ros-dim", "expected instead: " + row.departs);
    add(box, "p", "ros-dim", row.place);
    add(box, "p", "ros-dim", row.proof);
  }
  function topic(parent, name, said, rows) {
    const box = add(parent, "div", "ros-topic"), head = add(box, "div", "ros-head");
    add(head, "b", "", name);
    add(head, "span", said[1], said[0]);
    const sides = add(box, "div", "ros-sides");
    rows.forEach(row => side(sides, row));
  }
  function whole(a, b) {
    const mine = data.grpo.rows[a], theirs = data.grpo.rows[b];
    if (!mine || !theirs) return;
    const found = a === b ? { columns: [], apart: {} } : gap(data.grpo.gaps, a, b);
    add(out, "h3", "", "GRPO by default, from the rewards to the gradient");
    const parts = Object.entries(found.apart).map(([key, x]) => key + " " + share(x));
    const apart = Object.values(found.apart).some(x => x === "inf" || x > 1e-12);
    const line = add(out, "p", apart ? "ros-apart" : "ros-same");
    line.textContent = a === b ? "One library." : parts.length ? "Apart on the batch: " + parts.join(", ") : "Nothing that both compute.";
    if (found.columns.length) {
      const table = add(add(out, "div", "ros-wide"), "table"), head = add(table, "tr");
      ["", data.libraries[a].name, data.libraries[b].name].forEach(text => add(head, "th", "", text));
      for (const column of found.columns) {
        const line = add(table, "tr");
        add(line, "th", "", column);
        [mine, theirs].forEach(row => add(line, "td", "", row[column] === null ? "-" : String(row[column])));
      }
    }
    const box = add(out, "div", "ros-topic"), sides = add(box, "div", "ros-sides");
    [[a, mine], [b, theirs]].forEach(([key, row]) => {
      const half = add(sides, "div", "ros-side");
      add(half, "div", "ros-name", data.libraries[key].name);
      for (const [part, call] of Object.entries(row.calls)) {
        add(half, "p", "ros-dim", part === "advantages" ? "A, the advantages" : part);
        add(half, "code", "", call);
      }
      if (row.note) add(half, "p", "", row.note);
      add(half, "p", "ros-dim", row.source);
    });
  }
  function show() {
    const a = one.value, b = other.value, alone = { [a]: [], [b]: [] };
    out.textContent = "";
    for (const key of a === b ? [a] : [a, b]) {
      const said = data.libraries[key];
      add(out, "p", "ros-said", said.name + ": " + said.version +
        (said.again ? "" : ", compared at that commit, not made again here"));
    }
    whole(a, b);
    for (const table of data.tables) {
      const both = [];
      for (const found of table.topics) {
        const rows = [a, b].map(key => found.rows.find(row => row.library === key));
        if (rows[0] && rows[1]) {
          const said = verdict(gap(found.gaps, a, b), a, b);
          if (!only.checked || said[1] === "ros-apart") both.push([found.name, said, a === b ? rows.slice(1) : rows]);
        } else rows.forEach((row, i) => row && alone[[a, b][i]].push(found.name));
      }
      if (!both.length) continue;
      add(out, "h3", "", table.title);
      add(out, "p", "ros-said", table.said);
      both.forEach(found => topic(out, ...found));
    }
    for (const key of Object.keys(alone)) {
      if (alone[key].length) add(out, "p", "ros-said", "Only " + data.libraries[key].name + " has: " + alone[key].join("; ") + ".");
    }
  }
  function from() {
    const asked = decodeURIComponent(location.hash.slice(1)).split(",");
    const known = asked.length === 2 && asked.every(key => key in data.libraries);
    [one.value, other.value] = known ? asked : data.first;
    show();
  }
  [one, other].forEach(choice => choice.addEventListener("change", () => {
    history.replaceState(null, "", "#" + one.value + "," + other.value);
    show();
  }));
  only.addEventListener("change", show);
  addEventListener("hashchange", from);
  from();
})();
