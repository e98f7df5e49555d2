// One photograph, or two, and the keyboard. The kernel says what to show (view, photo, other); a press is sent with the
// view's token, once, and nothing can be pressed until the next view is there.
const CSS = `
.iqa-rate { font: 15px/1.5 system-ui, sans-serif; padding: 8px; outline: none; min-height: 60vh }
.iqa-rate:focus { box-shadow: inset 0 0 0 2px #4477aa }
.iqa-rate .stage { display: flex; gap: 12px; justify-content: center; align-items: center; height: 62vh; overflow: hidden;
  background: #808080; margin: 6px 0 }
.iqa-rate .stage img { max-height: 100%; min-width: 0; object-fit: contain; cursor: zoom-in }
.iqa-rate .stage img.one { max-width: 100% } .iqa-rate .stage img.two { max-width: calc(50% - 6px) }
.iqa-rate .stage img.detail { max-width: none; max-height: none; cursor: zoom-out }
.iqa-rate .row { display: flex; gap: 8px; justify-content: center; align-items: center; flex-wrap: wrap }
.iqa-rate button { font: inherit; padding: 6px 14px } .iqa-rate progress { flex: 1; min-width: 120px }
.iqa-rate input[type=range] { width: 420px } .iqa-rate .hint { opacity: .75; text-align: center }`;
const ACR = ["1 bad", "2 poor", "3 fair", "4 good", "5 excellent"];

export default {
  render({ model, el }) {
    const make = (tag, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(tag), properties));
    make("style", el, { textContent: CSS });
    const page = make("div", el, { className: "iqa-rate", tabIndex: 0 });
    page.dataset.lmSuppressShortcuts = "true"; // JupyterLab's, which would turn a cell into a heading
    const top = make("div", page, { className: "row" });
    const bar = make("progress", top, { ariaLabel: "progress" }), said = make("span", top);
    const stage = make("div", page, { className: "stage" });
    const answers = make("div", page, { className: "row" });
    const tools = make("div", page, { className: "row" });
    const hint = make("div", page, { className: "hint" });
    hint.setAttribute("role", "status"); hint.setAttribute("aria-live", "polite");
    let view = {}, waiting = false, paused = false, zoomed = false, started = 0, seconds = 0, zoom = 1, slider = null, late = 0;
    const urls = [];
    const url = (bytes) => { urls.push(URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }))); return urls.at(-1); };
    const ready = () => view.token !== undefined && !waiting && !paused && !view.finished;

    function rate(value) {
      if (!ready()) return;
      waiting = true;
      seconds += (performance.now() - started) / 1000;
      model.send({ act: "rate", token: view.token, value, seconds, zoom });
      late = setTimeout(() => { hint.textContent = "No answer: reload the page. Every rating that is counted above is on disk."; }, 15000);
    }
    function undo() { if (!waiting && !paused && view.token !== undefined) { waiting = true; model.send({ act: "undo", token: view.token }); } }
    function pause() {
      if (waiting) return;
      paused = !paused;
      if (paused) seconds += (performance.now() - started) / 1000; else started = performance.now();
      stage.style.visibility = paused ? "hidden" : "visible";
      said.textContent = paused ? "paused: P goes on" : view.said;
    }
    function detail(side, x, y) {
      if (!ready()) return;
      if (zoomed) { zoomed = false; draw(); return; }
      model.send({ act: "zoom", token: view.token, side, x, y });
    }
    const scale = (img, side) => img.clientWidth * devicePixelRatio / (view.sizes?.[side]?.[0] || img.naturalWidth || 1);
    function show(bytes, side, className) {
      const img = make("img", stage, { className, alt: `photograph ${side + 1}`, src: url(bytes) });
      img.onload = () => { zoom = Math.max(zoom, className === "detail" ? devicePixelRatio : scale(img, side)); };
      img.onclick = (e) => detail(side, e.offsetX / img.clientWidth, e.offsetY / img.clientHeight);
    }
    function draw() {
      urls.splice(0).forEach((old) => URL.revokeObjectURL(old));
      stage.replaceChildren();
      if (view.finished || view.token === undefined) return;
      const two = view.kind === "pair";
      show(model.get("photo"), 0, two ? "two" : "one");
      if (two) show(model.get("other"), 1, "two");
    }
    function button(parent, text, act) { make("button", parent, { textContent: text, onclick: () => { act(); page.focus(); } }); }
    function controls() {
      answers.replaceChildren(); tools.replaceChildren(); slider = null;
      if (!view.finished && view.kind === "acr") ACR.forEach((text, i) => button(answers, text, () => rate(i + 1)));
      if (!view.finished && view.kind === "pair")
        [["← left is better", 0], ["↓ no difference", 0.5], ["right is better →", 1]].forEach(([t, v]) => button(answers, t, () => rate(v)));
      if (!view.finished && view.kind === "slider") {
        make("span", answers, { textContent: "bad" });
        slider = make("input", answers, { type: "range", min: 0, max: 100, step: 1, value: 50, ariaLabel: "quality, 0 to 100" });
        make("span", answers, { textContent: "excellent" });
        button(answers, "Enter", () => rate(+slider.value));
      }
      button(tools, "Undo (U)", undo); button(tools, "Pause (P)", pause); button(tools, "Zoom (Z)", () => detail(0, 0.5, 0.5));
    }
    page.onkeydown = (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || e.repeat && !e.key.startsWith("Arrow")) return;
      const arrows = { ArrowLeft: 0, ArrowDown: 0.5, ArrowRight: 1 };
      if (view.kind === "acr" && /^[1-5]$/.test(e.key)) rate(+e.key);
      else if (view.kind === "pair" && e.key in arrows && !e.repeat) rate(arrows[e.key]);
      else if (slider && e.key in arrows && e.target !== slider) slider.value = +slider.value + (e.key === "ArrowLeft" ? -2 : 2);
      else if (slider && e.key === "Enter") rate(+slider.value);
      else if (e.key === "u" || e.key === "U" || e.key === "Backspace") undo();
      else if (e.key === "p" || e.key === "P") pause();
      else if (e.key === "z" || e.key === "Z") detail(0, 0.5, 0.5);
      else return;
      e.preventDefault(); e.stopPropagation();
    };
    function changed() {
      const before = view.token;
      view = model.get("view");
      if (view.rater) localStorage.setItem("iqa-rater", view.rater);
      bar.max = view.planned || 1; bar.value = view.done || 0;
      if (!paused) said.textContent = view.said || "";
      hint.textContent = view.hint || "";
      if (view.token === before) return;
      clearTimeout(late);
      waiting = zoomed = false; seconds = 0; zoom = 0; started = performance.now();
      draw(); controls();
    }
    model.on("change:view", changed);
    model.on("msg:custom", (message, buffers) => {
      if (message.token !== view.token) return;
      if (message.act === "same") { waiting = false; clearTimeout(late); hint.textContent = message.hint; return; }
      zoomed = true; stage.replaceChildren(); show(buffers[0], message.side, "detail");
    });
    const rater = localStorage.getItem("iqa-rater") || ""; // before the view's is kept
    changed();
    model.send({ act: "hello", rater });
    page.focus();
    return () => urls.forEach((old) => URL.revokeObjectURL(old));
  },
};
