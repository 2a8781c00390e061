"use strict";
(() => {
  const tip = document.getElementById("tip");
  let on = null;
  const hide = () => { tip.hidden = true; on?.classList.remove("on"); on = null; };
  const value = token => token?.dataset.v ?? "0";
  const show = token => {
    on?.classList.remove("on");
    (on = token).classList.add("on");
    const lines = [...token.closest("li").querySelectorAll(".line")];
    const at = [...token.parentNode.children].indexOf(token), name = document.createElement("span");
    name.textContent = token.textContent.replaceAll(" ", "␣");
    const told = lines.map((line, i) => (i ? "simulated " : "activation ") + value(line.children[at]));
    tip.replaceChildren(name, "  " + told.join(", "));
    tip.hidden = false;
    const box = token.getClientRects()[0], own = tip.getBoundingClientRect();
    const above = box.top - own.height - 6;
    tip.style.left = Math.max(4, Math.min(box.left, innerWidth - own.width - 4)) + "px";
    tip.style.top = (above > 0 ? above : box.bottom + 6) + "px";
  };
  const token = event => event.target.closest?.(".line i");
  addEventListener("pointerover", event => { if (event.pointerType === "mouse") token(event) ? show(token(event)) : hide(); });
  addEventListener("click", event => token(event) ? show(token(event)) : hide());
  addEventListener("scroll", hide, { passive: true });
  addEventListener("focusout", hide);
  addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") return hide();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], on_line = event.target.matches(".examples > li");
    const next = on_line && { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
    if (next) {
      event.target[next]?.focus();
      event.preventDefault();
    }
    if (!step) return;
    if (on_line) {
      const line = event.target.querySelector(".line"), tokens = [...line.children], at = tokens.indexOf(on?.parentNode === line ? on : null);
      show(tokens[at < 0 ? Math.max(0, tokens.findIndex(own => own.classList.contains("f"))) : (at + step + tokens.length) % tokens.length]);
      event.preventDefault();
    } else if (event.target === document.body) {
      const link = document.querySelector(step < 0 ? "a[rel=prev]" : "a[rel=next]");
      if (link) location.href = link.href;
    }
  });
})();
