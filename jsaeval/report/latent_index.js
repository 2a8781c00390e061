"use strict";
(() => {
  const id = name => document.getElementById(name), body = document.querySelector(".latents tbody");
  const rows = [...body.rows].map(row => ({
    row, kinds: (row.dataset.kinds ?? "").split(" "), latent: row.cells[0].dataset.value,
    text: row.cells[1].textContent.toLowerCase(),
    values: [...row.cells].map(cell => cell.dataset.value ? Number(cell.dataset.value) : null),
  }));
  const ranges = [...document.querySelectorAll("fieldset[data-column]")].map(set => [Number(set.dataset.column), ...set.querySelectorAll("input")]);
  const end = input => input.value.trim() === "" ? null : Number(input.value.replace(",", "."));
  let sorted = "";
  const sort = () => {
    const column = Number(id("sort").value), sign = Number(id("order").value);
    if (sorted === (sorted = column + "/" + sign)) return;
    // What is undefined stays at the end.
    rows.sort((a, b) => {
      if (column === 1) return sign * a.text.localeCompare(b.text, "en");
      const [x, y] = [a.values[column], b.values[column]];
      return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
    });
    body.append(...rows.map(own => own.row));
    document.querySelectorAll(".latents thead th").forEach((head, i) =>
      head.setAttribute("aria-sort", i !== column ? "none" : sign > 0 ? "ascending" : "descending"));
  };
  const filter = () => {
    const words = id("find").value.toLowerCase().split(/\s+/).filter(word => word), which = id("which").value;
    const limits = ranges.map(([column, low, high]) => [column, end(low), end(high)]);
    ranges.forEach(([, ...inputs]) => inputs.forEach(input => input.setAttribute("aria-invalid", Number.isNaN(end(input)))));
    let n = 0;
    for (const own of rows) {
      const kept = (!which || own.kinds.includes(which)) && words.every(word => own.latent === word || own.text.includes(word)) &&
        limits.every(([column, low, high]) => {
          const value = own.values[column];
          return (low === null || low !== low || (value !== null && value >= low)) &&
            (high === null || high !== high || (value !== null && value <= high));
        });
      own.row.hidden = !kept;
      n += kept;
    }
    id("found").textContent = `${n} of ${rows.length}`;
  };
  const update = () => { sort(); filter(); };
  document.querySelector(".controls").addEventListener("input", update);
  document.querySelectorAll(".latents thead th").forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      id("order").value = id("sort").value === String(i) && id("order").value === "1" ? "-1" : "1";
      id("sort").value = i;
      update();
    });
  });
  // A page that one comes back to has its inputs filled in already.
  addEventListener("pageshow", update);
})();
