// A click on a figure shows it as large as the window allows; Escape or another click ends that.
const dialog = document.createElement("dialog");
dialog.className = "zoom";
dialog.addEventListener("click", () => dialog.close());
// Sphinx takes Escape for its search marks, so that the browser does not see it.
dialog.addEventListener("keydown", (event) => event.key === "Escape" && dialog.close());
document.body.append(dialog);

for (const figure of document.querySelectorAll("article img")) {
  figure.tabIndex = 0;
  figure.addEventListener("click", () => {
    dialog.replaceChildren(figure.cloneNode());
    dialog.showModal();
  });
  figure.addEventListener("keydown", (event) => event.key === "Enter" && figure.click());
}
