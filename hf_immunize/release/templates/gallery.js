"use strict";
(() => {
  const body = document.querySelector("tbody");
  const heads = [...document.querySelectorAll("th[data-column]")].sort((a, b) => a.dataset.column - b.dataset.column);
  const said = document.querySelector("#sorted");
  const choice = document.querySelector("#sort-by");
  const turn = document.querySelector("#sort-turn");
  const isText = (column) => column === 0 || column === heads.length - 1;
  const order = (column, descending) =>
    (isText(column) ? ["A to Z", "Z to A"] : ["smallest first", "largest first"])[descending ? 1 : 0];

  function sort(column, descending) {
    const value = (row) => {
      const given = row.cells[column].dataset.value;
      return given === "" ? null : isText(column) ? given.toLowerCase() : Number(given);
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    // What was not measured stands last either way.
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const greater = isText(column) ? a.localeCompare(b) : a > b ? 1 : a < b ? -1 : 0;
      return descending ? -greater : greater;
    });
    body.append(...rows.map(([, row]) => row));
    heads.forEach((head, number) => {
      if (number === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const words = order(column, descending);
    said.textContent = `Sorted by ${heads[column].dataset.name}, ${words}.`;
    choice.value = String(column);
    turn.textContent = words[0].toUpperCase() + words.slice(1);
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") === "ascending"));
    head.append(button);
    choice.add(new Option(head.dataset.name, column));
    if (head.hasAttribute("aria-sort")) choice.value = String(column);
  });
  const current = () => heads[Number(choice.value)].getAttribute("aria-sort");
  choice.addEventListener("change", () => sort(Number(choice.value), false));
  turn.addEventListener("click", () => sort(Number(choice.value), current() === "ascending"));
  document.querySelector(".sorting").hidden = false;
})();
