// Joins the table of runs to the charts: what is chosen there is drawn here.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
// as long as no run is chosen
const DRAWN_FIRST = 8;
const RELOAD_SECONDS = 60;

async function loadDataTables() {
  const text = document.getElementById("datatables").textContent;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const module = await import(url);
  URL.revokeObjectURL(url);
  return module;
}

// Draws a chart of these values anew, after those that are being drawn.
let drawn = Promise.resolve();
const draw = (name, values) => (drawn = drawn.then(() => embed(name, values)));

const isRepeated = (values) => new Set(values.map(({ x, others }) => `${x} ${others}`)).size < values.length;

async function embed(name, values) {
  const place = document.getElementById(name);
  if (!place) return;
  place.hidden = values.length === 0;
  if (place.hidden) return;
  const spec = read(`${name}-spec`);
  // without seeds there is no spread: Vega would warn of it, and draw an empty group
  if (!isRepeated(values)) spec.layer = spec.layer?.filter((layer) => layer.mark.type !== "errorbar");
  spec.data.values = values;
  await vegaEmbed(place, spec, {
    actions: { export: true, source: false, compiled: false, editor: false },
    theme: dark.matches ? "dark" : undefined,
    config: { background: "transparent", axis: { gridOpacity: 0.25 } },
  });
  place.querySelector("summary")?.setAttribute("aria-label", "save this chart");
}

const choices = (chart) =>
  Object.fromEntries(
    [...document.querySelectorAll(`select[data-chart="${chart}"]`)].map((select) => [select.name, select.value]),
  );

const selects = (which = "") => [...document.querySelectorAll(`main .controls select${which}`)];
const boxes = (table) => table.rows().nodes().toArray().flatMap((row) => row.querySelector("input") ?? []);
const runOf = (box) => box.closest("tr").dataset.run;

// What DataTables keeps beside its own state, and what it found there.
let remembered;
const readControls = (table) => ({
  choices: selects().map((select) => select.value),
  chosen: boxes(table).filter((box) => box.checked).map(runOf),
});

function restoreControls({ choices = [], chosen = [] }) {
  selects().forEach((select, i) => {
    if ([...select.options].some((option) => option.value === choices[i])) select.value = choices[i];
  });
  for (const box of boxes(table)) box.checked = chosen.includes(runOf(box));
  selects("[data-column]").forEach(filterTable);
}

const { default: DataTable, set_or_remove_dark_class: followColours } = await loadDataTables();
followColours();
const element = document.getElementById("runs");
const [column, direction] = element.dataset.sort.split(" ");
const table = new DataTable(element, {
  order: [[Number(column), direction]],
  pageLength: 25,
  autoWidth: false,
  columnDefs: [{ targets: 0, orderable: false, searchable: false }],
  layout: { topStart: "pageLength", topEnd: "search", bottomStart: "info", bottomEnd: "paging" },
  // as long as the tab is open: an open page loads itself again
  stateSave: true,
  stateDuration: -1,
  stateSaveParams: (settings, state) => Object.assign(state, readControls(new DataTable.Api(settings))),
  stateLoadParams: (_, state) => void (remembered = state),
});

// a browser lays out 25 rows in much less time than a thousand
element.hidden = false;

const curves = new Map(read("curves-data").map((run) => [run.run, run]));
const points = document.getElementById("dials") ? read("dials-data") : [];
const rows = (which) => table.rows(which).nodes().toArray();

// The chosen runs; else the first ones of the table as it is sorted and filtered.
async function drawCurves() {
  const { measure } = choices("curves");
  if (!measure) return;
  const chosen = boxes(table).filter((box) => box.checked).map((box) => box.closest("tr"));
  const candidates = chosen.length ? chosen : rows({ search: "applied", order: "applied" });
  const ids = candidates.map((row) => row.dataset.run).filter((run) => curves.get(run)?.curves[measure]);
  const shown = chosen.length ? ids : ids.slice(0, DRAWN_FIRST);
  document.getElementById("shown").textContent = chosen.length
    ? `${shown.length} of ${chosen.length} chosen runs have this curve`
    : `the first ${shown.length} of the table; choose runs by their boxes`;
  const values = shown.flatMap((run) =>
    curves.get(run).curves[measure].map(([epoch, value]) => ({ run, title: curves.get(run).title, epoch, value })),
  );
  await draw("curves", values);
}

async function drawDials() {
  const { measure, dial } = choices("dials");
  await draw("dials", points.filter((point) => point.measure === measure && point.dial === dial));
}

function filterTable(select) {
  table.column(Number(select.dataset.column)).search(select.value, { exact: select.value !== "" }).draw();
}

if (remembered) restoreControls(remembered);
for (const select of selects("[data-column]")) select.addEventListener("change", () => filterTable(select));
for (const select of selects('[data-chart="curves"]')) select.addEventListener("change", drawCurves);
for (const select of selects('[data-chart="dials"]')) select.addEventListener("change", drawDials);
element.addEventListener("change", drawCurves);
document.getElementById("clear")?.addEventListener("click", () => {
  for (const box of boxes(table)) box.checked = false;
  table.state.save();
  drawCurves();
});
document.addEventListener("change", () => table.state.save());
dark.addEventListener("change", () => Promise.all([drawCurves(), drawDials()]));
await Promise.all([drawCurves(), drawDials()]);
table.on("draw", drawCurves);
document.documentElement.dataset.ready = "true";

// While something runs the page shows what is new, with all that was chosen in it.
if ("open" in document.querySelector("main").dataset) setInterval(() => location.reload(), RELOAD_SECONDS * 1000);
