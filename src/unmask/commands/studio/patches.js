// A picture whose patches are pressed by pointer or keyboard. gradio calls this with
// element, props and trigger; the value is a 0 or a 1 for each patch.
let presses = null; // what this stroke does to patches; null between strokes
let last = null; // where the pointer was

const cells = () => [...element.querySelectorAll(".patches button")];
const isPressed = (cell) => cell.getAttribute("aria-pressed") === "true";

function press(cell, pressed) {
  if (props.kind === "one") {
    cells().forEach((each) => each.setAttribute("aria-pressed", "false"));
  }
  cell.setAttribute("aria-pressed", String(pressed));
}

function finish() {
  presses = null;
  const focused = cells().indexOf(document.activeElement);
  props.value = cells().map((cell) => Number(isPressed(cell))).join("");
  trigger("pressed");
  // the patches are drawn anew
  if (focused >= 0) setTimeout(() => cells()[focused].focus());
}

function cellAt(x, y) {
  const cell = document.elementFromPoint(x, y)?.closest(".patches button");
  return element.contains(cell) ? cell : null;
}

element.addEventListener("pointerdown", (event) => {
  const cell = cellAt(event.clientX, event.clientY);
  if (!cell || event.button) return;
  presses = !isPressed(cell);
  press(cell, presses);
  last = event;
});

window.addEventListener("pointermove", (event) => {
  if (presses === null || props.kind === "one") return;
  // a fast pointer jumps over patches
  const x = event.clientX - last.clientX;
  const y = event.clientY - last.clientY;
  const steps = Math.ceil(Math.hypot(x, y) / 4);
  for (let i = 1; i <= steps; i++) {
    const share = i / steps;
    const cell = cellAt(last.clientX + x * share, last.clientY + y * share);
    if (cell) press(cell, presses);
  }
  last = event;
});

for (const end of ["pointerup", "pointercancel"]) {
  window.addEventListener(end, () => presses !== null && finish());
}

element.addEventListener("keydown", (event) => {
  const all = cells();
  const at = all.indexOf(event.target);
  if (at < 0) return;
  const step = {
    ArrowLeft: -1,
    ArrowRight: 1,
    ArrowUp: -props.columns,
    ArrowDown: props.columns,
  }[event.key];
  if (event.key === " " || event.key === "Enter") {
    press(all[at], !isPressed(all[at]));
    finish();
  } else if (step && all[at + step]) {
    all[at].tabIndex = -1;
    all[at + step].tabIndex = 0;
    all[at + step].focus();
  } else {
    return;
  }
  event.preventDefault();
});
