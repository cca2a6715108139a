// What is wrong with a page, as a list of sentences; and a walk through it by keyboard.
(() => {
  const mistakes = [];
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const said = (element) => (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
  const which = (element) => `<${element.localName} class="${element.getAttribute("class") ?? ""}"> “${said(element)}”`;
  const shown = (element) => element.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true });
  const hidden = (element) => element.closest(".hidden, .skip, [aria-hidden=true] title") !== null;

  // Contrast (WCAG 2.2, 1.4.3): the colour of each text on what is painted under it.
  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = parse(getComputedStyle(at).backgroundColor);
      if (layer[3] > 0) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.data.trim() || !shown(element) || hidden(element) || element.localName === "title") continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const under = ground(element);
    const color = over(parse(element.closest("svg") ? style.fill : style.color), under);
    const found = contrast(color, under);
    if (found < least) mistakes.push(`contrast of ${found.toFixed(2)}: ${which(element)}`);
  }
  // What is drawn without words needs 3 (1.4.11).
  for (const line of all(".line")) {
    const found = contrast(parse(getComputedStyle(line).stroke), ground(line.closest("figure")));
    if (found < 3) mistakes.push(`contrast of ${found.toFixed(2)}: the chart's line`);
  }

  // Order.
  if (!document.documentElement.lang) mistakes.push("no language");
  if (!document.title.trim()) mistakes.push("no title");
  for (const landmark of ["header", "nav", "main"]) {
    if (!document.querySelector(landmark)) mistakes.push(`no ${landmark}`);
  }
  const headings = all("h1, h2, h3, h4").filter(shown);
  if (headings.filter((heading) => heading.localName === "h1").length !== 1) mistakes.push("not one first heading");
  if (headings[0]?.localName !== "h1") mistakes.push("the first heading is not the first");
  headings.reduce((before, heading) => {
    const level = Number(heading.localName[1]);
    if (level > before + 1) mistakes.push(`a level is left out before ${which(heading)}`);
    return level;
  }, 0);
  for (const table of all("table")) {
    if (!table.caption?.textContent.trim()) mistakes.push("a table without a caption");
    for (const head of all("th", table)) if (!head.scope) mistakes.push(`no scope: ${which(head)}`);
    const columns = all("thead th", table).length;
    for (const row of all("tbody tr", table)) {
      if (row.cells.length !== columns) mistakes.push(`${row.cells.length} cells in ${columns} columns: ${which(row)}`);
    }
  }
  for (const region of all("section")) {
    const named = region.getAttribute("aria-label") || document.getElementById(region.getAttribute("aria-labelledby"));
    if (!named && !region.querySelector("h1, h2, h3")) mistakes.push(`a section without a name: ${which(region)}`);
  }
  const ids = all("[id]").map((element) => element.id);
  for (const id of new Set(ids)) {
    if (ids.filter((other) => other === id).length > 1) mistakes.push(`two elements with the id ${id}`);
  }
  for (const reference of all("[aria-labelledby], [aria-describedby]")) {
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      const id = reference.getAttribute(name);
      if (id && !document.getElementById(id)) mistakes.push(`${name} of nothing: ${id}`);
    }
  }

  // Names.
  for (const element of all("a, button")) {
    if (!said(element) && !element.getAttribute("aria-label")) mistakes.push(`no name: ${which(element)}`);
  }
  for (const input of all("input:not([type=hidden])")) {
    if (!input.labels.length && !input.getAttribute("aria-label")) mistakes.push(`no label: ${input.name}`);
  }
  for (const picture of all("svg, img")) {
    const named = picture.closest("[aria-hidden=true]") || picture.getAttribute("aria-label") || picture.alt;
    if (!named) mistakes.push(`a picture without words: ${which(picture)}`);
  }

  // Room.
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) mistakes.push(`wider than the window of ${width}`);
  for (const element of all("main *")) {
    if (element.closest("svg") || !shown(element) || hidden(element)) continue;
    const style = getComputedStyle(element);
    const cut = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
    if (cut && !element.matches(".wide, input")) mistakes.push(`cut off: ${which(element)}`);
    const box = element.getBoundingClientRect();
    const scrolls = element.closest(".wide");
    if (!scrolls && box.width > 0 && (box.left < -1 || box.right > width + 1)) {
      mistakes.push(`beyond the window: ${which(element)}`);
    }
    if (scrolls && scrolls.scrollWidth > scrolls.clientWidth + 1 && !scrolls.matches("[tabindex]")) {
      mistakes.push(`scrolls, and not by keyboard: ${which(scrolls)}`);
    }
  }
  for (const element of all("a, button, input").filter(shown)) {
    if (hidden(element)) continue;
    const box = element.getBoundingClientRect();
    const inText = getComputedStyle(element).display === "inline";
    if (!inText && (box.height < 24 || box.width < 24)) mistakes.push(`small to hit: ${which(element)}`);
  }
  // On a line of axis labels none may touch the next.
  for (const axis of all(".foot, .side")) {
    const boxes = all("text", axis).filter(shown).map((text) => text.getBoundingClientRect());
    boxes.forEach((box, at) => {
      const touches = boxes.some((other, where) => where > at && box.left < other.right && other.left < box.right
        && box.top < other.bottom && other.top < box.bottom);
      if (touches) mistakes.push("labels of the chart overlap");
    });
  }

  // By keyboard.
  const reachable = () => all("a[href], button, input:not([type=hidden]), [tabindex='0']").filter(shown);
  // By what they are: a live page may have put others in their place meanwhile.
  const name = (element) => which(element) + (element.getAttribute("href") ?? "");
  const visited = new Set();
  window.walk = {
    all: () => reachable().length,
    step: () => {
      const element = document.activeElement;
      visited.add(name(element));
      if (element === document.body) return null;
      const style = getComputedStyle(element);
      const box = element.getBoundingClientRect();
      if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 1) return `no mark of the focus: ${which(element)}`;
      if (box.bottom < 0 || box.top > innerHeight) return `not seen when it has the focus: ${which(element)}`;
      const under = document.querySelector("header").getBoundingClientRect().bottom;
      if (!element.closest("header") && !element.matches(".skip") && box.bottom <= under) return `under the header: ${which(element)}`;
      return null;
    },
    missed: () => reachable().filter((element) => !visited.has(name(element))).map(which),
  };
  return mistakes;
})()
