// A head of a sortable table sorts by its column: numbers by their size, the greatest first, texts by the alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.replaceAll(",", "");
      const rows = [...table.tBodies[0].rows];
      const numeric = rows.every((row) => value(row) === "–" || value(row) === "" || !Number.isNaN(parseFloat(value(row))));
      const size = (row) => (Number.isNaN(parseFloat(value(row))) ? -Infinity : parseFloat(value(row)));
      const falling = head.ariaSort ? head.ariaSort !== "descending" : numeric;
      rows.sort((a, b) => (numeric ? size(a) - size(b) : value(a).localeCompare(value(b))) * (falling ? -1 : 1));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      table.tBodies[0].append(...rows);
    });
  });
}
