// What the rating page needs beside htmx: answers that are sent until they are confirmed, keys, and a clock.
"use strict";
(() => {
  const $ = (css, from = document) => from.querySelector(css);
  const all = (css, from = document) => [...from.querySelectorAll(css)];
  const pause = (ms) => new Promise((go) => setTimeout(go, ms));
  const page = () => $("#page");

  // The clock: seconds since the last event in which the page was in view and somebody was at it.
  const IDLE = 30000;
  let active = 0, input = performance.now(), ticked = input, inView = true;
  function tick() {
    const now = performance.now();
    if (inView && document.visibilityState === "visible" && now - input < IDLE) active += Math.min(now - ticked, 2000);
    ticked = now;
    inView = document.visibilityState === "visible";
  }
  function seconds() {
    tick();
    const spent = active / 1000;
    active = 0;
    return spent.toFixed(2);
  }
  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
  for (const kind of ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchstart"])
    addEventListener(kind, () => { input = performance.now(); }, { passive: true, capture: true });

  function status(text, kind = "") {
    $("#status").textContent = text;
    $("#status").className = kind;
  }

  // Events wait here, in order, until the server has confirmed them; sent again, they have the same nonce.
  const queue = [], dirty = new Map();
  let sending = false, held = null, shown = page()?.dataset.n;
  function nonce() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((own) => own.toString(16).padStart(2, "0")).join("");
  }
  function send(what, field, values) {
    held = null;
    queue.push({
      path: `/item/${page().dataset.n}/${what}`, field,
      values: { csrf: page().dataset.csrf, nonce: nonce(), seconds: seconds(), ...values },
    });
    pump();
  }
  async function pump() {
    if (sending) return;
    sending = true;
    let wait = 500, refused = "";
    while (queue.length) {
      const { path, field, values } = queue[0];
      if (wait === 500) status("Saving…");
      try {
        const answer = await fetch(path, {
          method: "POST", body: new URLSearchParams(values), headers: { "HX-Request": "true" },
          keepalive: true, signal: AbortSignal.timeout(15000),
        });
        const text = await answer.text();
        if (answer.status >= 500 || answer.status === 408) throw new Error(text);
        queue.shift();
        wait = 500;
        document.getElementById(field)?.classList.toggle("lost", !answer.ok);
        if (answer.ok) htmx.swap("#progress", text, { swapStyle: "outerHTML" });
        else refused = text;
      } catch {
        status("Not saved, trying again", "bad");
        await pause(wait);
        wait = Math.min(2 * wait, 8000);
      }
    }
    sending = false;
    status(refused ? `Not saved: ${refused}` : "Saved", refused ? "bad" : "good");
    if (held && !refused) held();
    held = null;
  }
  function write(area) {
    clearTimeout(dirty.get(area));
    if (dirty.delete(area)) send("text", area.id, { question: area.dataset.text, value: area.value });
  }
  const writeAll = () => [...dirty.keys()].forEach(write);
  document.addEventListener("input", ({ target }) => {
    if (!target.matches("[data-text]")) return;
    clearTimeout(dirty.get(target));
    dirty.set(target, setTimeout(write, 1000, target));
    status("Writing…");
  });
  document.addEventListener("focusout", ({ target }) => write(target));
  addEventListener("pagehide", writeAll);
  addEventListener("beforeunload", (event) => {
    writeAll();
    if (queue.length) event.preventDefault();
  });

  // Other pages, undo and skip go through htmx, once everything before them is confirmed.
  document.addEventListener("htmx:confirm", (event) => {
    writeAll();
    if (event.target.matches(".skip form")) $("[name=seconds]", event.target).value = seconds();
    if (!queue.length) return;
    event.preventDefault();
    held = () => event.detail.issueRequest(true);
  });
  for (const kind of ["htmx:sendError", "htmx:timeout"])
    document.addEventListener(kind, () => status("No connection to the server. Try that again.", "bad"));
  document.addEventListener("htmx:responseError", ({ detail }) => status(detail.xhr.responseText, "bad"));
  document.addEventListener("htmx:afterSettle", ({ detail }) => {
    const swapped = detail.target?.id; // none of what this script swaps
    if (swapped === "help-body") $("#help").showModal();
    if (swapped !== "page") return;
    active = 0;
    status("");
    conditions();
    const same = page().dataset.n === shown; // else htmx would keep the focus at the question of the same name
    if (!same || !page().contains(document.activeElement)) $("h1").focus({ preventScroll: true });
    shown = page().dataset.n;
    go($("[data-undone]"));
  });

  // Questions.
  const stops = () => all(".q").filter((own) => !own.disabled);
  const chosen = (name) => $(`input[name="${name}"]:checked`);
  const here = () => document.activeElement?.closest(".q");
  function conditions() {
    for (const own of all(".q[data-if]")) {
      const on = chosen(own.dataset.if), hint = $(".hint", own);
      own.disabled = !on || Number(on.value) >= Number(own.dataset.below);
      hint.dataset.text ??= hint.textContent;
      hint.textContent = on && own.disabled ? "Not applicable after your answer above." : hint.dataset.text;
    }
  }
  function go(own) {
    if (!own) return;
    own.focus({ preventScroll: true });
    own.scrollIntoView({ block: "center" });
  }
  const open = () => stops().find((own) => !chosen(own.id));
  function step(by) {
    const own = here(), end = document.activeElement === $("[rel=next]");
    if (!own) return go(end && by < 0 ? stops().at(-1) : open() ?? stops()[0]);
    const next = stops()[stops().indexOf(own) + by];
    if (next) go(next);
    else if (by > 0) $("[rel=next]").focus();
  }
  function answer(own, value) {
    const [unit, question] = own.id.split(".");
    send("answer", own.id, { unit, question, value });
    conditions();
  }
  function digit(value) {
    const own = here();
    if (!own) return step(1); // never answer what is perhaps not in view
    const radio = $(`input[value="${value}"]`, own);
    if (!radio) return status(`There is no ${value} here.`, "bad");
    if (!radio.checked) {
      radio.checked = true;
      answer(own, value);
    }
    step(1);
  }
  function clear() {
    const on = here() && chosen(here().id);
    if (!on) return;
    on.checked = false;
    answer(here(), "");
  }
  document.addEventListener("change", ({ target }) => {
    if (target.matches(".q input")) answer(target.closest(".q"), target.value);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "answers") return;
    event.preventDefault(); // Enter on an answer
    step(1);
  });

  // Keys. While somebody types they are letters.
  function press(key) {
    const own = $(`[data-key="${key}"]`);
    if (own?.tagName === "FORM") own.requestSubmit();
    else own?.click();
    if (key === "s") $(".skip[open] select")?.focus();
  }
  function keys(event) {
    const { key, target } = event;
    if (target.matches("textarea, select, input[type=text]")) {
      if (key !== "Escape" && !(key === "Enter" && event.ctrlKey)) return false;
      if (target.closest(".skip")) {
        target.closest(".skip").open = false;
        $(".skip summary").focus();
      } else if (open()) go(open());
      else $("[rel=next]").focus(); // all is answered: a digit would change an answer
      return true;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]") || !$("#answers")) return false;
    const radio = target.matches("[type=radio]"); // there the arrows choose, as everywhere
    if (/^[0-9]$/.test(key)) digit(key);
    else if (key === "j" || (key === "ArrowDown" && here() && !radio)) step(1);
    else if (key === "k" || (key === "ArrowUp" && here() && !radio)) step(-1);
    else if (key === "Delete" || key === "Backspace") clear();
    else if (key === "i") $("[data-text]").focus();
    else if (key === "c") $("[data-text=note]").focus();
    else if (key === "ArrowLeft" && !radio) press("b");
    else if ("unbs?".includes(key)) press(key);
    else if (key === "Escape" && $(".skip[open]")) $(".skip").open = false;
    else return false;
    return true;
  }
  document.addEventListener("keydown", (event) => {
    if (keys(event)) event.preventDefault();
  });

  conditions();
  go($("[data-undone]"));
})();
