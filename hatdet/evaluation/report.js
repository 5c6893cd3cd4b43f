"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const press = (buttons, chosen) => buttons.forEach((b) => b.setAttribute("aria-pressed", b === chosen));
const flip = (button) => {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", pressed);
  return pressed;
};
document.documentElement.classList.add("scripted");

// One detector at a time.
const detector = document.getElementById("detector");
const showDetector = () => all(".detector").forEach((part) => {
  part.hidden = part.dataset.detector !== detector.value;
});
if (detector) {
  detector.addEventListener("change", showDetector);
  showDetector();
}

// Precision and recall: which IoU, which arms.
for (const chart of all(".chart")) {
  const choices = all("[data-iou]", chart);
  const choose = (button) => {
    press(choices, button);
    all("[data-curves]", chart).forEach((part) => { part.hidden = part.dataset.curves !== button.dataset.iou; });
  };
  choices.forEach((button) => button.addEventListener("click", () => choose(button)));
  if (choices.length) choose(choices[0]);
  for (const part of all("[data-curves]", chart)) {
    all("button[data-arm]", part).forEach((button, i) => button.addEventListener("click", () => {
      all("polyline", part)[i].classList.toggle("off", !flip(button));
    }));
  }
}

// The gallery: filters.
const gallery = document.querySelector(".gallery");
if (gallery) {
  const cards = all(".card", gallery);
  const filters = all("[data-filter]");
  const classes = document.getElementById("class");
  const update = () => {
    const kind = filters.find((b) => b.getAttribute("aria-pressed") === "true").dataset.filter;
    const wanted = `${kind}/${classes.value}`;
    cards.forEach((card) => { card.hidden = !card.dataset.has.split(" ").includes(wanted); });
    all(".box", gallery).forEach((box) => {
      box.classList.toggle("off", classes.value !== "any" && box.dataset.class !== classes.value);
    });
    const shown = cards.filter((card) => !card.hidden).length;
    document.getElementById("counter").textContent = `${shown} of ${cards.length} images`;
    document.getElementById("none-left").hidden = shown > 0;
  };
  filters.forEach((button) => button.addEventListener("click", () => {
    press(filters, button);
    update();
  }));
  classes.addEventListener("change", update);
  classes.value = "any"; // browsers restore it when they reload
  all("[data-toggle]").forEach((button) => button.addEventListener("click", () => {
    gallery.classList.toggle(`no-${button.dataset.toggle}`, !flip(button));
  }));
  all(".larger", gallery).forEach((button) => button.addEventListener("click", () => {
    button.closest(".card").classList.toggle("large", flip(button));
  }));

  // The slider: the range input is for keys and screen readers, pointers act on the whole picture.
  for (const stage of all(".stage", gallery)) {
    const range = stage.querySelector("input");
    const move = () => stage.style.setProperty("--at", `${range.value}%`);
    range.addEventListener("input", move);
    const follow = (event) => {
      if (!stage.hasPointerCapture(event.pointerId)) return;
      const { left, width } = stage.getBoundingClientRect();
      range.value = (100 * (event.clientX - left)) / width;
      move();
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      range.focus({ preventScroll: true, focusVisible: false });
      event.preventDefault();
      if (event.pointerType === "mouse") follow(event); // a touch may be the start of scrolling
    });
    stage.addEventListener("pointermove", follow);
    stage.addEventListener("pointerup", follow);
  }
}

const copy = document.getElementById("copy");
copy.addEventListener("click", async () => {
  const code = document.querySelector(".command code");
  getSelection().selectAllChildren(code);
  const copied = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
  copy.textContent = copied ? "copied" : "selected: press Ctrl+C";
});
addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
