// Follows the page by server-sent events, keeps relative times true, and reads charts out. Everything else works
// without this file.
(() => {
  "use strict";

  const live = document.getElementById("live");
  const stream = document.getElementById("stream");
  const announcer = document.getElementById("announce");
  let announced = text("[data-announce]");

  function text(selector) {
    const found = live.querySelector(selector);
    return found ? found.textContent.trim() : "";
  }

  // The same words as the server's.
  function relative(seconds) {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [number, unit] =
      size < 60 ? [size, "s"] : size < 3600 ? [size / 60, "min"] : size < 86400 ? [size / 3600, "h"] : [size / 86400, "d"];
    const words = `${Math.floor(number)} ${unit}`;
    return seconds < 0 ? `${words} ago` : `in ${words}`;
  }

  function tick() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const words = relative((Date.parse(time.dateTime) - Date.now()) / 1000);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  // A part that somebody works in is left as it is.
  function isBusy(part) {
    const active = document.activeElement;
    const typing = part.contains(active) && active.matches("input, select, textarea");
    const filled = [...part.querySelectorAll("input:not([type=hidden])")].some((input) => input.value !== input.defaultValue);
    const selection = document.getSelection();
    const selecting = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
    return typing || filled || selecting;
  }

  function withoutTimes(part) {
    const copy = part.cloneNode(true);
    for (const time of copy.querySelectorAll("time")) time.textContent = "";
    for (const details of copy.querySelectorAll("details")) details.open = false;
    return copy.innerHTML;
  }

  function place(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const link = element.getAttribute("href");
    return link ? `a[href="${CSS.escape(link)}"]` : null;
  }

  function replace(old, part) {
    if (isBusy(old) || withoutTimes(old) === withoutTimes(part)) return;
    const focused = old.contains(document.activeElement) ? place(document.activeElement) : null;
    for (const details of old.querySelectorAll("details[id][open]")) {
      const same = part.querySelector(`#${CSS.escape(details.id)}`);
      if (same) same.open = true;
    }
    old.replaceWith(part);
    if (focused) part.querySelector(focused)?.focus({ preventScroll: true });
  }

  function show(html) {
    const page = new DOMParser().parseFromString(html, "text/html").body;
    for (const old of [...live.children]) {
      if (!old.id || !page.querySelector(`:scope > #${CSS.escape(old.id)}`)) old.remove();
    }
    let before = null;
    for (const part of [...page.children]) {
      const old = part.id ? live.querySelector(`:scope > #${CSS.escape(part.id)}`) : null;
      if (old) replace(old, part);
      else if (before) before.after(part);
      else live.prepend(part);
      before = part.id ? live.querySelector(`:scope > #${CSS.escape(part.id)}`) : part;
    }
    tick();
    const words = text("[data-announce]");
    if (words !== announced) announcer.textContent = announced = words;
  }

  function say(words, waits) {
    if (!stream) return;
    stream.hidden = false;
    stream.classList.toggle("waits", waits);
    if (stream.textContent !== words) stream.textContent = words;
  }

  let source = null;

  function follow() {
    if (source || document.hidden || !stream) return;
    source = new EventSource(`/live?view=${encodeURIComponent(location.pathname + location.search)}`);
    source.addEventListener("page", (event) => {
      say("live", false);
      show(event.data);
    });
    source.addEventListener("problem", (event) => say(event.data, true));
    source.addEventListener("error", () => {
      say("not connected", true);
      // Where the server refused, the browser does not come back by itself.
      if (source && source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(follow, 5000);
      }
    });
  }

  function leave() {
    source?.close();
    source = null;
  }

  function read(event) {
    const chart = event.target.closest?.(".chart");
    for (const other of document.querySelectorAll(".chart")) if (other !== chart) unread(other);
    if (!chart || !chart.dataset.points) return;
    const svg = chart.querySelector("svg");
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * 720;
    const points = chart.dataset.points.split(";").map((point) => point.split("|"));
    const [x, time, value] = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const reading = chart.querySelector(".read");
    reading.dataset.rest ??= reading.textContent;
    reading.textContent = `${value} at ${time}`;
    let cursor = svg.querySelector(".cursor");
    if (!cursor) {
      cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
      cursor.setAttribute("class", "cursor");
      svg.append(cursor);
    }
    cursor.setAttribute("d", `M${x} 0V96`);
  }

  function unread(chart) {
    const reading = chart.querySelector(".read");
    if (reading.dataset.rest === undefined) return;
    reading.textContent = reading.dataset.rest;
    delete reading.dataset.rest;
    chart.querySelector(".cursor")?.remove();
  }

  document.addEventListener("pointermove", read);
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  addEventListener("pagehide", leave);
  setInterval(tick, 1000);
  tick();
  follow();
})();
