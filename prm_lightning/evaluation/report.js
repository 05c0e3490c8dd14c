// Shows the solutions of the page. Their text is never markup: it goes through textContent only.
(() => {
  "use strict";
  const PER_PAGE = 5; // solutions
  const IN_GRID = 300; // solutions
  const IN_COLUMN = 40; // steps
  const LONG = 1200; // characters, beyond which a text is folded
  const TALL = 14; // lines, beyond which it is folded too
  const MANY = 60; // steps of a solution that are shown at once
  const WAIT = 150; // milliseconds without typing before a search
  // Characters that reorder what is around them, that cannot be seen, or that are half of one.
  const HIDDEN = new RegExp(
    "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f" +
    "\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]", "u");
  const HALVES = /[\ud800-\udfff]/gu;

  const sets = JSON.parse(document.getElementById("solutions-data").textContent);
  if (!sets.length) return;
  for (const set of sets) {
    set.sources = set.sources.map((name) => name.replace(HALVES, "\ufffd"));
    const scores = set.solutions.flatMap((solution) => solution.scores);
    set.lowest = scores.reduce((a, b) => Math.min(a, b), set.threshold);
    set.highest = scores.reduce((a, b) => Math.max(a, b), set.threshold);
  }
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const grid = document.getElementById("grid");
  const { set: setBox, filter: filterBox, source: sourceBox, search: searchBox } = form.elements;
  let page = 1;
  let pages = 1;
  let shownSet = -1;
  let chosen = -1; // place in the grid

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const isWrong = (label) => label !== null && label < 0.5;
  const isRight = (label) => label !== null && label >= 0.5;
  const percent = (score) => score.toFixed(3);

  // How bad the worst step of a kind is: positive where there is one, larger is worse.
  const worst = (solution, threshold, kind) => {
    let found = 0;
    solution.scores.forEach((score, k) => {
      const label = solution.labels[k];
      if (kind === "misses" && isWrong(label) && score >= threshold) {
        found = Math.max(found, 1 + score);
      }
      if (kind === "alarms" && isRight(label) && score < threshold) {
        found = Math.max(found, 2 - score);
      }
    });
    return found;
  };

  const KINDS = {
    all: () => 1,
    misses: (s, threshold) => worst(s, threshold, "misses"),
    alarms: (s, threshold) => worst(s, threshold, "alarms"),
    wrong: (s) => (s.labels.some(isWrong) ? 1 : 0),
    right: (s) => (s.first === -1 ? 1 : 0),
  };

  const choose = (set) => {
    const text = searchBox.value.trim().toLowerCase();
    const kind = KINDS[filterBox.value];
    const has = (part) => part.toLowerCase().includes(text);
    const found = [];
    for (const solution of set.solutions) {
      if (sourceBox.value !== "" && set.sources[solution.source] !== sourceBox.value) continue;
      const badness = kind(solution, set.threshold);
      if (!badness) continue;
      const problem = set.problems[solution.problem];
      if (text && !has(problem) && !has(solution.id) && !solution.steps.some(has)) continue;
      found.push([badness, solution]);
    }
    return found.sort((a, b) => b[0] - a[0]).map((pair) => pair[1]);
  };

  const fill = (element, text) => {
    element.dir = "auto"; // also keeps its direction to itself
    if (!HIDDEN.test(text)) {
      element.textContent = text;
      return;
    }
    let plain = "";
    const flush = () => {
      element.append(plain);
      plain = "";
    };
    for (const char of text) {
      if (!HIDDEN.test(char)) {
        plain += char;
        continue;
      }
      flush();
      const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      element.append(make("span", "mark", `U+${code}`));
    }
    flush();
  };

  const addText = (parent, name, text) => {
    const element = make("div", `text ${name}`);
    fill(element, text);
    parent.append(element);
    if (text.length <= LONG && text.split("\n").length <= TALL) return;
    const button = make("button");
    const fold = (folded) => {
      element.classList.toggle("folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
      const count = text.length.toLocaleString("en");
      button.textContent = folded ? `Show all ${count} characters` : "Show less";
    };
    button.type = "button";
    button.addEventListener("click", () => fold(!element.classList.contains("folded")));
    fold(true);
    parent.append(button);
  };

  const describeLabel = (label) => {
    if (label === null) return "no label";
    const word = isWrong(label) ? "✗ labelled wrong" : "✓ labelled right";
    return label === 0 || label === 1 ? word : `${word} (${label})`;
  };

  // Red below the threshold, blue from there on, deepest at the lowest and the highest score.
  const shade = (element, set, score, deepest) => {
    const flagged = score < set.threshold;
    const end = flagged ? set.lowest : set.highest;
    const share = end === set.threshold ? 1 : (score - set.threshold) / (end - set.threshold);
    element.classList.add(flagged ? "low" : "high");
    element.style.setProperty("--amount", `${Math.round(6 + share * (deepest - 6))}%`);
  };

  const makeGrid = (set, found) => found.slice(0, IN_GRID).map((solution, index) => {
    const column = make("button");
    column.type = "button";
    column.title = `${index + 1}: ${describe(set, solution)}`;
    column.setAttribute("aria-label", column.title);
    solution.scores.slice(0, IN_COLUMN).forEach((score, k) => {
      const label = solution.labels[k];
      const cell = make("span", "", isWrong(label) ? "✗" : isRight(label) ? "·" : "");
      shade(cell, set, score, 70);
      column.append(cell);
    });
    column.addEventListener("click", () => {
      page = Math.floor(index / PER_PAGE) + 1;
      chosen = index;
      writeAddress();
      const article = list.children[index % PER_PAGE];
      if (article) article.scrollIntoView();
    });
    return column;
  });

  const makeStep = (set, solution, k) => {
    const score = solution.scores[k];
    const label = solution.labels[k];
    const flagged = score < set.threshold;
    const step = make("li", "step");
    shade(step, set, score, 35);
    const meta = make("div", "meta");
    meta.append(make("span", "number", `step ${k + 1}`));
    meta.append(make("span", "score", `P(correct) ${percent(score)}`));
    meta.append(make("span", "label", describeLabel(label)));
    if (isWrong(label) && !flagged) meta.append(make("span", "verdict", "missed"));
    else if (isRight(label) && flagged) meta.append(make("span", "verdict", "false alarm"));
    else if (flagged) meta.append(make("span", "flag", "flagged"));
    step.append(meta);
    addText(step, "", solution.steps[k]);
    return step;
  };

  const describe = (set, solution) => {
    const flagged = solution.scores.findIndex((score) => score < set.threshold);
    const truth = { "-1": "every step labelled right", "-2": "first error unknown" };
    const cut = solution.first >= solution.steps.length ? ", which was cut off" : "";
    const error = truth[solution.first] || `first error at step ${solution.first + 1}${cut}`;
    return `${error}; ${flagged < 0 ? "none flagged" : `first flagged: step ${flagged + 1}`}; lowest ` +
      `score ${percent(Math.min(...solution.scores))}`;
  };

  const makeSolution = (set, solution) => {
    const article = make("article", "solution");
    const title = make("h3");
    fill(title, solution.id || "unnamed");
    const source = make("bdi");
    fill(source, set.sources[solution.source]);
    const about = make("p", "about");
    about.append(source, ` · ${describe(set, solution)}`);
    article.append(title, about);
    addText(article, "problem", set.problems[solution.problem]);
    const steps = make("ol", "steps");
    article.append(steps);
    const show = (start, end) => {
      for (let k = start; k < Math.min(end, solution.steps.length); k += 1) {
        steps.append(makeStep(set, solution, k));
      }
    };
    show(0, MANY);
    if (solution.steps.length > MANY) {
      const more = make("button", "more", `Show the other ${solution.steps.length - MANY} steps`);
      more.type = "button";
      more.addEventListener("click", () => {
        show(MANY, Infinity);
        more.remove();
      });
      article.append(more);
    }
    return article;
  };

  const fillSources = (set) => {
    const options = ["", ...set.sources].map((name) => {
      const option = make("option", "", name === "" ? "all sources" : name);
      option.value = name;
      return option;
    });
    sourceBox.replaceChildren(...options);
  };

  const render = () => {
    const set = sets[setBox.selectedIndex];
    const found = choose(set);
    pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(page, 1), pages);
    const here = found.slice((page - 1) * PER_PAGE, page * PER_PAGE);
    list.replaceChildren(...here.map((solution) => makeSolution(set, solution)));
    grid.replaceChildren(...makeGrid(set, found));
    if (grid.children[chosen]) grid.children[chosen].setAttribute("aria-current", "true");
    const kept = set.solutions.length < set.total
      ? `, the ones with the largest errors of ${set.total.toLocaleString("en")}` : "";
    document.getElementById("status").textContent =
      `${found.length.toLocaleString("en")} of ${set.solutions.length.toLocaleString("en")} ` +
      `solutions${kept}; flagged below ${percent(set.threshold)}`;
    document.getElementById("page").textContent = `page ${page} of ${pages}`;
    for (const button of document.querySelectorAll("#pages button")) {
      const back = ["first", "previous"].includes(button.dataset.go);
      button.disabled = back ? page === 1 : page === pages;
    }
  };

  const pick = (box, value) => {
    const known = [...box.options].findIndex((option) => option.value === value);
    box.selectedIndex = Math.max(known, 0);
  };

  const readAddress = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    pick(setBox, wanted.get("set"));
    if (setBox.selectedIndex !== shownSet) {
      shownSet = setBox.selectedIndex;
      fillSources(sets[shownSet]);
    }
    pick(filterBox, wanted.get("filter"));
    pick(sourceBox, wanted.get("source") || "");
    const search = wanted.get("search") || "";
    if (searchBox.value.trim() !== search) searchBox.value = search;
    page = Number.parseInt(wanted.get("page"), 10) || 1;
    render();
  };

  const writeAddress = () => {
    const wanted = new URLSearchParams();
    if (setBox.selectedIndex > 0) wanted.set("set", setBox.value);
    if (filterBox.value !== "all") wanted.set("filter", filterBox.value);
    if (sourceBox.value) wanted.set("source", sourceBox.value);
    if (searchBox.value.trim()) wanted.set("search", searchBox.value.trim());
    if (page > 1) wanted.set("page", page);
    const text = wanted.toString() || "filter=all";
    if (location.hash.slice(1) === text) render();
    else location.replace(`#${text}`);
  };

  const isFilter = () => location.hash.includes("=");
  const restart = () => {
    page = 1;
    chosen = -1;
    writeAddress();
  };
  let timer;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", restart);
  searchBox.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(restart, WAIT);
  });
  document.getElementById("pages").addEventListener("click", (event) => {
    const go = event.target.dataset.go;
    if (!go) return;
    chosen = -1;
    page = { first: 1, previous: page - 1, next: page + 1, last: pages }[go];
    writeAddress();
    document.getElementById("status").scrollIntoView();
  });
  window.addEventListener("hashchange", () => isFilter() && readAddress());

  setBox.replaceChildren(...sets.map((set, index) => {
    const option = make("option", "", set.name);
    option.value = String(index);
    return option;
  }));
  setBox.closest("p").hidden = sets.length === 1;
  readAddress();
  if (isFilter()) document.getElementById("solutions").scrollIntoView();
})();
