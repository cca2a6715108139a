// Keeps the page up to date, and shows a chart's values under the pointer. Everything works without it.
"use strict";

const link = document.getElementById("link");
let busy = false;

/** Says whether what is shown is up to date. */
function tell(state, text) {
  link.className = state;
  link.firstElementChild.textContent = text;
}

/** Whether somebody is in the middle of something that a change would disturb. */
function inUse() {
  const selection = document.getSelection();
  const live = document.getElementById("live");
  const selects = !selection.isCollapsed && live.contains(selection.anchorNode);
  return document.hidden || selects || document.querySelector("figure.pointed") !== null;
}

/** Puts the part that changes in its place, and keeps focus and scroll. */
function swap(fresh) {
  const live = document.getElementById("live");
  const focusable = "a, button, [tabindex]";
  const at = [...live.querySelectorAll(focusable)].indexOf(document.activeElement);
  const scrolled = [...live.querySelectorAll(".wide")].map((part) => part.scrollLeft);
  live.replaceWith(fresh);
  fresh.querySelectorAll(".wide").forEach((part, number) => {
    part.scrollLeft = scrolled[number] ?? 0;
  });
  if (at >= 0) fresh.querySelectorAll(focusable)[at]?.focus({ preventScroll: true });
}

async function refresh() {
  if (busy || inUse()) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!fresh) throw new Error("no page");
    if (!inUse()) swap(fresh);
    tell("on", "live");
  } catch {
    tell("lost", "connection lost");
  }
  busy = false;
}

// On a narrow screen the menu is wider than the page.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

let source = null;

function listen() {
  source = new EventSource("/events");
  source.addEventListener("open", () => tell("on", "live"));
  source.addEventListener("changed", refresh);
  source.addEventListener("error", () => {
    tell("lost", "connection lost");
    // A browser gives up when it is answered with an error.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
  });
}

// Browsers allow few connections to one server: pages that nobody sees need none.
document.addEventListener("visibilitychange", () => {
  source?.close();
  if (!document.hidden) {
    listen();
    refresh();
  }
});
addEventListener("pagehide", () => source?.close());
if (!document.hidden) listen();

/** Shows one step of a chart; the chart's summary where there is none. */
function point(figure, step) {
  const readout = figure.parentElement.querySelector(".readout");
  const at = step?.dataset.at;
  figure.classList.toggle("pointed", step !== undefined);
  readout.textContent = step ? step.firstElementChild.textContent : figure.getAttribute("aria-label");
  if (!step) return;
  const middle = parseFloat(step.getAttribute("x")) + parseFloat(step.getAttribute("width")) / 2;
  const cursor = figure.querySelector(".cursor");
  const dot = figure.querySelector(".dot");
  cursor.setAttribute("x1", middle + "%");
  cursor.setAttribute("x2", middle + "%");
  dot.setAttribute("cx", middle + "%");
  dot.setAttribute("cy", (at ?? -100) + "%");
}

document.addEventListener("pointerover", (event) => {
  const step = event.target.closest?.(".step");
  const pointed = document.querySelector("figure.pointed");
  if (step) point(step.closest("figure"), step);
  else if (pointed) point(pointed);
});
document.addEventListener("pointerleave", () => {
  const pointed = document.querySelector("figure.pointed");
  if (pointed) point(pointed);
});

// The same by keyboard: a chart that has the focus is walked through.
let walked = 0;
document.addEventListener("keydown", (event) => {
  const figure = document.activeElement?.closest?.("figure");
  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (!figure) return;
  if (event.key === "Escape") return point(figure);
  if (!(event.key in moves)) return;
  event.preventDefault();
  const steps = figure.querySelectorAll(".step");
  const from = figure.classList.contains("pointed") ? walked : steps.length;
  walked = Math.max(0, Math.min(steps.length - 1, from + moves[event.key]));
  point(figure, steps[walked]);
});
document.addEventListener("focusout", (event) => {
  const figure = event.target.closest?.("figure.pointed");
  if (figure) point(figure);
});
