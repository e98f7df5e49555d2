"""The page on which people rate: for JupyterLab and Voilà.

app = RatingApp("photos/")
app.page
"""

from __future__ import annotations

import html
import io
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import anywidget
import ipywidgets as widgets
import matplotlib.pyplot as plt
import nbformat
import traitlets

from iqa_lib import paths
from iqa_lib.errors import DataError, ImageError, WorkbookError
from iqa_lib.progress import in_a_line
from iqa_lib.rating import learn, take_along
from iqa_lib.rating.session import SHOWN, Item, Session, Study

REFIT_AFTER = 20  # photographs
KINDS = {"one, 1 to 5": "acr", "one, on a slider": "slider", "two, which is better": "pair"}
DONE, NONE = "All is rated. Thank you.", "None of these photographs can be read."


class Photographs(anywidget.AnyWidget):
    """What the browser shows, and sends when a key is pressed (``page.js``)."""

    _esm = Path(__file__).with_name("page.js")
    view = traitlets.Dict().tag(sync=True)
    photo = traitlets.Bytes(b"").tag(sync=True)
    other = traitlets.Bytes(b"").tag(sync=True)


class RatingApp:
    """The application; ``page`` is its page. Ratings are on disk before the next photograph is shown.

    Args:
        photographs: a folder.
        rater, kind, choice, seed: as `Session`; the first two can be changed on the page. Without a rater it is who
            rated in this browser before.

    Raises:
        DataError, StorageError: as `Study`.
    """

    def __init__(
        self, photographs: str | Path | Study, rater: str = "", kind: str = "acr", choice: str = "random", seed: int = 0
    ):
        if kind not in KINDS.values():
            raise DataError(f"One rates by {', '.join(KINDS.values())}; got '{kind}'.")
        self.study = photographs if isinstance(photographs, Study) else Study(photographs)
        self._options = {"choice": choice, "seed": seed}
        self._worker = ThreadPoolExecutor(1, "learning")
        self._reader = ThreadPoolExecutor(1, "reading")
        self._last: Future | None = None
        self._learnt_at = 0
        self._anyone = not rater
        self.item: Item | None = None
        self.photographs = Photographs()
        self.photographs.on_msg(lambda _, content, buffers: self._guarded(lambda: self.hear(content)))
        style = {"description_width": "60px"}
        self.rater = widgets.Text(rater or "me", description="Rater", continuous_update=False, style=style)
        self.kind = widgets.Dropdown(options=KINDS, value=kind, description="Show", style=style)
        self.judge = widgets.Button(description="How far to trust it", icon="bar-chart", layout={"width": "auto"})
        self.take = widgets.Button(description="Take it along", icon="download")
        self.status, self.learnt, self.result = (widgets.HTML() for _ in range(3))
        self.figure = widgets.Image(layout=widgets.Layout(max_width="640px", display="none"))
        for control in (self.rater, self.kind):
            control.observe(lambda _: self._guarded(self._start), "value")
        self.judge.on_click(lambda _: self._later(self._judge))
        self.take.on_click(lambda _: self._later(self._take))
        buttons = widgets.HBox([self.judge, self.take])
        self.page = widgets.VBox(
            [
                widgets.HBox([self.rater, self.kind]),
                *(self.photographs, self.status, self.learnt, buttons, self.result, self.figure),
            ]
        )
        self._start()
        self._later(self._look, self.learnt)

    # --- the person -------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.session = Session(self.study, self.rater.value, self.kind.value, **self._options)
        self._show()

    def hear(self, content: dict) -> None:
        """What the page sends: that it is there, a rating, an undo, a wish to look closely."""
        act = content.get("act")
        if act == "hello":
            if content.get("rater") and self._anyone:
                self.rater.value = str(content["rater"])
            return
        self._anyone = False
        if content.get("token") != self._token():
            self.photographs.send_state()  # the page is behind
            return
        if self.item is None and act != "undo":
            return
        if act == "zoom":
            name = self.item.images[int(content["side"])]
            detail = self.study.detail(name, float(content["x"]), float(content["y"]))
            self.photographs.send({"act": "zoom", "token": self._token(), "side": int(content["side"])}, [detail])
        elif act == "rate":
            added = self.session.rate(self.item, content["value"], float(content["seconds"]), float(content["zoom"]))
            self._show("" if added else "That one was rated in another window.")
        elif act == "undo":
            if self.session.undo():
                self._show("once more")
            else:
                self._answer("There is nothing to undo.")

    def _token(self) -> str:
        return f"{self.session.rater} {self.session.kind} {self.session.standing.lines}"

    def _answer(self, hint: str) -> None:
        self.photographs.send({"act": "same", "token": self._token(), "hint": hint})

    def _show(self, hint: str = "") -> None:
        """The next photograph that can be read; those that cannot are named."""
        short = SHOWN[1 if self.session.kind != "pair" else 2]
        while True:
            self.item = self.session.item()
            names = self.item.images if self.item else ()
            try:
                pictures, sizes = [self.study.picture(name, short) for name in names], [*map(self.study.size, names)]
                break
            except ImageError:
                continue  # it is among the faults now, and is not asked for again
        done, planned = len(self.session.given), self.session.planned
        left = self.session.seconds_left() / 60
        ended = DONE if done or len(self.study.faults) < len(self.study.files) else NONE
        said = f"{done} of {planned}" + (f", about {max(round(left), 1)} min left" if self.item else f". {ended}")
        with self.photographs.hold_sync():  # all of it at once
            if pictures:
                self.photographs.photo, self.photographs.other = pictures[0], pictures[-1] if len(pictures) > 1 else b""
            self.photographs.view = {
                **{"token": self._token(), "kind": self.session.kind, "rater": self.session.rater},
                **{"done": done, "planned": planned, "said": said, "sizes": sizes, "finished": self.item is None},
                "hint": hint,
            }
        self._say_faults()
        if self.item and (after := self.session.item_after(self.item)):
            self._reader.submit(lambda: [self.study.picture(name, short) for name in after.images])
        rated = self.session.photographs
        if rated // REFIT_AFTER > self._learnt_at // REFIT_AFTER:
            self._learnt_at = rated
            self._later(self._learn, self.learnt)

    def _say_faults(self) -> None:
        faults = [f"{in_a_line(name)} {reason}" for name, reason in sorted(self.study.faults.items())]
        self.status.value = (
            html.escape(f"Skipped: {'; '.join(faults[:5])}" + " …" * (len(faults) > 5)) if faults else ""
        )

    # --- the model, in a thread -------------------------------------------------------------------------

    def _look(self) -> None:
        self.learnt.value = "The default model looks at the photographs …"
        self.study.look()
        self.learnt.value = ""
        self._say_faults()
        if self.session.photographs >= learn.FEWEST:
            self._learn()

    def _learn(self) -> None:
        self.learnt.value = html.escape(f"Learnt: {learn.agreement(*self.study.lessons())}.")

    def _judge(self) -> None:
        report = take_along.report(self.study)
        figure = report.figure()
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        plt.close(figure)
        self.figure.value, self.figure.layout.display = content.getvalue(), None
        self.result.value = "<br>".join(html.escape(line) for line in report.lines)

    def _take(self) -> None:
        self.result.value = "Saving, for half a minute or so …"
        folder = take_along.save(self.study, take_along.report(self.study))
        command = html.escape(f'python -m iqa_lib score PHOTO --model "{folder}"')
        self.result.value = f"Saved in {html.escape(str(folder))}. Score with it: <code>{command}</code>"

    def _later(self, action: Callable[[], None], where: widgets.HTML | None = None) -> None:
        self._last = self._worker.submit(self._guarded, action, where or self.result)

    def wait(self, timeout: float | None = None) -> None:
        """Until all that was begun in the background is done."""
        if self._last is not None:
            self._last.result(timeout)

    def _guarded(self, action: Callable[[], None], where: widgets.HTML | None = None) -> None:
        """Does it; what goes wrong is said on the page, which stays usable."""
        try:
            action()
        except Exception as error:  # any kind: a page without an answer would look broken
            why = str(error) if isinstance(error, WorkbookError) else f"{type(error).__name__}: {error}"
            (where or self.status).value = f"<b>{html.escape(why)}</b>"
            if where is None:
                self._answer(why)


def write_page(photographs: str, file: Path) -> None:
    """A notebook with the page alone, for Voilà (`make rate`)."""
    study = Study(photographs)
    code = f"from iqa_lib.rating.app import RatingApp\n\nRatingApp({str(study.folder)!r}).page"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    paths.write_atomically(file, nbformat.writes(notebook))


if __name__ == "__main__":  # make rate FOLDER=photos/
    try:
        write_page(sys.argv[1], Path(sys.argv[2]))
    except WorkbookError as error:
        sys.exit(f"error: {error}")
