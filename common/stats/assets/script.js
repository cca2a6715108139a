// Keeps the page up to date, shows times in the reader's zone and a chart's values under the pointer. Everything works without it.
"use strict";

const link = document.getElementById("link");
let busy = false;

/** Says whether what is shown is up to date. */
function tell(state, text) {
  // Said once: a screen reader reads each change aloud.
  if (link.className === state) return;
  link.className = state;
  link.firstElementChild.textContent = text;
}

const two = (number) => String(number).padStart(2, "0");
const date = (at) => `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
const time = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;
const moment = (at) => `${at.getFullYear()}-${date(at)} ${time(at)}:${two(at.getSeconds())}`;

/** How far the reader's zone is from UTC then, as `UTC+5:45`. */
function zone(at) {
  const minutes = Math.abs(at.getTimezoneOffset());
  if (minutes === 0) return "UTC";
  const sign = at.getTimezoneOffset() < 0 ? "+" : "−";
  return `UTC${sign}${Math.floor(minutes / 60)}${minutes % 60 ? ":" + two(minutes % 60) : ""}`;
}

/** Puts the reader's times in the place of UTC. */
function localise(part) {
  for (const element of part.querySelectorAll("time")) {
    const at = new Date(element.dateTime);
    if (element.title) element.title = moment(at);
    else element.textContent = "zone" in element.dataset ? `${moment(at)} ${zone(at)}` : moment(at);
  }
  for (const axis of part.querySelectorAll(".foot")) {
    const label = axis.dataset.part === "date" ? date : time;
    for (const text of axis.querySelectorAll("text")) text.textContent = label(new Date(text.dataset.time));
  }
  for (const step of part.querySelectorAll(".step")) {
    step.firstElementChild.textContent = `${step.dataset.value} · ${moment(new Date(step.dataset.time))}`;
  }
}

/** Lets the keyboard scroll what is wider than its place. */
function reach() {
  for (const part of document.querySelectorAll(".wide")) {
    const scrolls = part.scrollWidth > part.clientWidth + 1;
    if (!scrolls) {
      part.removeAttribute("tabindex");
      continue;
    }
    part.tabIndex = 0;
    part.setAttribute("role", "group");
    part.setAttribute("aria-label", part.querySelector("caption").textContent);
  }
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
  localise(fresh);
  live.replaceWith(fresh);
  reach();
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

localise(document);
reach();
addEventListener("resize", reach);

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
