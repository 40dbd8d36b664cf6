// Wide tables and programs scroll inside of themselves, by keyboard, too; on a wide screen the list of
// pages is open.
for (const wide of document.querySelectorAll("main table")) {
  const box = document.createElement("div");
  box.className = "wide";
  box.tabIndex = 0;
  wide.replaceWith(box);
  box.append(wide);
}
for (const program of document.querySelectorAll("main pre")) program.tabIndex = 0;
if (matchMedia("(min-width: 60em)").matches) document.getElementById("pages").open = true;
