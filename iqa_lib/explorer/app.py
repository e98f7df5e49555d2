"""The explorer: choose or upload an image, distort it, and watch score, attention and maps answer.

    explorer = Explorer(settings, [run, another_run])
    explorer.app            # the page: ipywidgets, for JupyterLab and Voilà

A change of any control makes a `Request`. One thread answers them, the score first, then the curve over the levels,
the activation maps and the quality map, and drops these when a newer request waits.
"""

import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iqa_lib.data.catalog import describe
from iqa_lib.data.decode import PHOTOGRAPHS
from iqa_lib.data.distortions import DISTORTIONS
from iqa_lib.data.images import ImageSet, load_images
from iqa_lib.errors import ExplainError, WorkbookError
from iqa_lib.explorer import answers, drawing
from iqa_lib.explorer.answers import Answers, digest, labelled, read_upload
from iqa_lib.explorer.request import Picture, Request
from iqa_lib.paths import to_csv
from iqa_lib.profile import Profile
from iqa_lib.progress import in_a_line
from iqa_lib.training.predictor import ALPHAS
from iqa_lib.training.runs import Run

LEVELS = range(6)  # 0: the image as it is
UPLOADS = 12  # that stay in the list of images


class _Overtaken(Exception):
    """A newer request waits."""


class Panel:
    """What is shown of one model."""

    def __init__(self):
        self.title, self.bars, self.maps_scale, self.overlay_scale = (_html() for _ in range(4))
        self.overlay = _picture(*drawing.PHOTO)
        self.maps = _picture(*drawing.STRIP)
        left = widgets.VBox([self.overlay, self.overlay_scale])
        right = widgets.VBox([self.bars, self.maps, self.maps_scale])
        self.box = widgets.VBox([self.title, _row([left, right])])
        self.box.layout.min_width = f"{drawing.STRIP[0]}px"


class Explorer:
    """The application; ``app`` is its page. Every number and picture on it is in a widget's ``value``.

    Args:
        settings: whose test images are offered.
        runs: models to choose from, the first one chosen; complete, and trained at the profile's crop size.
        images: the profile's, where they are loaded already.
        synchronous: answer in the caller's thread, so that everything is shown when a control's change returns.

    Raises:
        ExplainError: no run, or no test image.
    """

    def __init__(self, settings: Profile, runs: list[Run], images: ImageSet | None = None, synchronous: bool = False):
        self._settings, self._images = settings, images or load_images(settings)
        rows = self._images.rows("test")
        if not runs or not len(rows):
            raise ExplainError("The explorer needs at least one finished run and one test image.")
        self._rows = rows[np.argsort(self._images.scores(rows), kind="stable")]
        self._test_scores = self._images.scores(self._rows)
        self._kind = describe(settings.dataset, settings.data_folder).scores
        self._uploads: OrderedDict[str, Picture] = OrderedDict()
        self.kept: list[Request] = []
        self._thread = None if synchronous else ThreadPoolExecutor(1, "explorer")
        self._last: Future | None = None
        self._newest: Request | None = None
        self._interruptible: Request | None = None  # at work on what a newer one may stop
        self._together = False
        self.models = labelled(runs)
        self.answers = Answers(self.models, self._check)
        self._build_controls()
        self._build_page()
        self._show_list()
        self._ask()

    # --- the page ---------------------------------------------------------------------------------------

    def _build_controls(self) -> None:
        kinds = [("none", None), *((f"{d.id} · {d.name}", d.name) for d in DISTORTIONS.values())]
        others = [("none", None), *((label, label) for label in self.models)]
        # the four columns fit JupyterLab's page on a laptop
        self.image = _control(widgets.Dropdown, "Image", 200, 46, options=self._choices())
        self.image.value = self._rows[len(self._rows) // 2].item()
        self.upload = _control(widgets.FileUpload, "Upload an image", 200, accept=",".join(["image/*", *PHOTOGRAPHS]))
        self.distortion = _control(widgets.Dropdown, "Distortion", 245, 76, options=kinds)
        self.distortion.value = next(iter(DISTORTIONS))
        self.level = _control(widgets.IntSlider, "Level (0–5)", 245, 76, min=0, max=LEVELS[-1])
        self.model = _control(widgets.Dropdown, "Model", 285, 60, options=list(self.models))
        self.other = _control(widgets.Dropdown, "Compare", 285, 60, options=others, index=0)
        self.opacity = _control(widgets.FloatSlider, "Map opacity", 200, 80, value=0.5, max=1, step=0.05)
        self.opacity.readout_format = ".0%"
        self.keep = _control(widgets.Button, "Keep", 98, icon="bookmark")
        self.clear = _control(widgets.Button, "Clear list", 98)
        for control in (self.image, self.distortion, self.level, self.model, self.other, self.opacity):
            control.observe(self._ask, "value")
        self.upload.observe(self._on_upload, "value")
        self.keep.on_click(lambda _: self._guarded(self._keep))
        self.clear.on_click(lambda _: self._guarded(self._clear))

    def _build_page(self) -> None:
        self.status, self.caption, self.scale, self.curve, self.list = (_html() for _ in range(5))
        self.photo = _picture(*drawing.PHOTO)
        self.caption.layout.min_height = "66px"  # three lines, so that the page does not move
        self.panels = [Panel(), Panel()]
        controls = [
            [self.image, self.upload],
            [self.distortion, self.level],
            [self.model, self.other],
            [self.opacity, widgets.HBox([self.keep, self.clear])],
        ]
        numbers = widgets.VBox([self.scale, self.curve], layout=widgets.Layout(flex="1 1 460px"))
        self.app = widgets.VBox(
            [
                _row([widgets.VBox(column) for column in controls]),
                self.status,
                _row([widgets.VBox([self.photo, self.caption]), numbers]),
                _row([panel.box for panel in self.panels]),
                self.list,
            ]
        )

    def _choices(self) -> list[tuple[str, int | str]]:
        """Options of the list of images: the latest upload first, test images from lowest to highest score."""
        names = [Path(str(name)).name for name in self._images.table["image"].iloc[self._rows]]
        uploads = [(f"uploaded · {p.name}", key) for key, p in reversed(self._uploads.items())]
        rows = zip(self._test_scores, names, self._rows, strict=True)
        choices = uploads + [(f"{score:.0f} · {name}", row.item()) for score, name, row in rows]
        return [(in_a_line(text), key) for text, key in choices]

    def _say(self, text: str, sign: str) -> None:
        self.status.value = drawing.status(text, sign)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Does what a control asks for; what goes wrong is said on the page, which stays usable."""
        try:
            action()
        except Exception as error:  # any kind: a widget without an answer would look broken
            why = f"That did not work ({type(error).__name__}: {error}). Choose something else."
            self._say(str(error) if isinstance(error, WorkbookError) else why, drawing.TROUBLE)

    # --- asking -----------------------------------------------------------------------------------------

    def _ask(self, _: Any = None) -> None:
        if not self._together:
            self._guarded(self._ask_now)

    def _ask_now(self) -> None:
        self.level.disabled = self.distortion.value is None
        level = 0 if self.level.disabled else self.level.value
        models = tuple(dict.fromkeys(m for m in (self.model.value, self.other.value) if m))
        request = Request(self._picture(), self.distortion.value, level, models, self.opacity.value)
        self._newest = request
        self._say("scoring …", drawing.BUSY)
        if self._thread is None:
            self._answer(request)
        else:
            self._last = self._thread.submit(self._answer, request)

    def wait(self, timeout: float | None = None) -> None:
        """Until everything requested is shown, or the status says why not; ``timeout`` in seconds."""
        if self._last is not None:
            self._last.result(timeout)

    def _picture(self) -> Picture:
        key = self.image.value
        if key in self._uploads:
            return self._uploads[key]
        row = self._images.table.iloc[key]
        pixels_HWC = np.array(self._images.image(key))
        return Picture(Path(str(row["image"])).name, pixels_HWC, digest(pixels_HWC), float(row["score"]))

    def _on_upload(self, change: dict) -> None:
        if change["new"]:
            file = change["new"][0]
            self._guarded(lambda: self._take(file["name"], bytes(file["content"])))
            self.upload.value = ()  # so that the same file may be chosen again

    def _take(self, name: str, content: bytes) -> None:
        self._say(f"reading “{name}” …", drawing.BUSY)
        picture = read_upload(name, content, self._settings)
        self._uploads[picture.digest] = picture
        self._uploads.move_to_end(picture.digest)
        if len(self._uploads) > UPLOADS:
            self._uploads.popitem(last=False)
        self._together = True  # several controls change, one request is made
        try:
            self.level.value = 0  # first as it is
            self.image.options = self._choices()
            self.image.value = picture.digest
        finally:
            self._together = False
        self._ask()

    # --- answering: on the one thread ---------------------------------------------------------------------

    def _answer(self, request: Request) -> None:
        if request is self._newest:  # those between the one at work and the newest are left out
            self._guarded(lambda: self._show(request))

    def _show(self, request: Request) -> None:
        started = time.monotonic()
        self._show_score(request)
        after = time.monotonic() - started
        self._interruptible = request
        try:
            self._check()
            self._say("maps …", drawing.BUSY)
            self._show_curve(request)
            self._show_activations(request)
            self._show_quality(request)
        except _Overtaken:
            return
        finally:
            self._interruptible = None
        done = time.monotonic() - started
        self._say(f"ready · score after {after:.2f} s, maps after {done:.2f} s", drawing.READY)

    def _check(self) -> None:
        """Called before every pass of a model, too: a map of many crops that nobody waits for is not finished."""
        if self._interruptible is not None and self._interruptible is not self._newest:
            raise _Overtaken

    def _show_score(self, request: Request) -> None:
        request.pixels_HWC = self.answers.distorted(request, request.level)
        self.photo.value = drawing.photo(request.pixels_HWC)
        height, width = request.pixels_HWC.shape[:2]
        self.caption.value = drawing.caption(f"{request.title()}\nscored at {width} × {height} px")
        for place, panel in enumerate(self.panels):
            panel.box.layout.display = None if place < len(request.models) else "none"
            panel.box.layout.width = "100%" if len(request.models) == 1 else "calc(50% - 8px)"
        for panel, model in zip(self.panels, request.models, strict=False):
            score = self.answers.get(answers.score, request, model)
            request.scores.append(score)
            sure = self.answers.sureness(request, model)
            panel.title.value = drawing.headline(request.marks()[-1], np.mean(self._test_scores < score.value), sure)
            panel.bars.value = drawing.bars(score.alphas, model)
        known = request.picture.known
        self.scale.value = drawing.scale(request.marks(), self._test_scores, known, self._kind)

    def _show_curve(self, request: Request) -> None:
        request.curves = [[] for _ in request.models]
        for level in LEVELS if request.distortion else LEVELS[:1]:
            for line, model in zip(request.curves, request.models, strict=True):
                self._check()
                line.append(self.answers.get(answers.score, request, model, level).value)
        self.curve.value = drawing.curve(request.marks(), request.curves, request.distortion, request.level)

    def _show_activations(self, request: Request) -> None:
        for panel, model in zip(self.panels, request.models, strict=False):
            activation_SHW = self.answers.get(answers.activations, request, model)
            panel.maps.value = drawing.activation_maps(activation_SHW)
            panel.maps_scale.value = drawing.activation_scale(activation_SHW)

    def _show_quality(self, request: Request) -> None:
        request.maps = [self.answers.get(answers.quality, request, model) for model in request.models]
        span = drawing.quality_span(request.maps)
        for panel, map_HW in zip(self.panels, request.maps, strict=False):
            panel.overlay.value = drawing.overlay(request.pixels_HWC, map_HW, request.opacity, span)
            panel.overlay_scale.value = drawing.quality_scale(span)

    # --- keeping ------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if len(self._newest.scores) < len(self._newest.models):
            raise ExplainError("There is no score of this image yet, so nothing to keep.")
        self.kept.append(self._newest)
        self._show_list()

    def _clear(self) -> None:
        self.kept.clear()
        self._show_list()

    def _show_list(self) -> None:
        if not self.kept:
            self.list.value = drawing.caption("Kept: nothing yet. “Keep” notes what is on show, for export.")
            return
        files = {
            "explorer.csv": f"data:text/csv;base64,{base64.b64encode(self.csv()).decode()}",
            "explorer.png": f"data:image/png;base64,{base64.b64encode(self.png()).decode()}",
        }
        self.list.value = drawing.kept_list(self.table(), len(self.kept), files)

    def table(self, requests: list[Request] | None = None) -> pd.DataFrame:
        """A row for each image and model of these requests, or of what was kept: score 0–100, any stage weights."""
        columns = ["image", "distortion", "level", "score in the dataset", "model", "score", *ALPHAS]
        lines = []
        for r in self.kept if requests is None else requests:
            shown = (r.picture.name, r.distortion if r.level else "none", r.level, r.picture.known)
            for model, score in zip(r.models, r.scores, strict=True):
                alphas = np.round(score.alphas or [np.nan] * len(ALPHAS), 4)
                lines.append((*shown, model, round(score.value, 3), *alphas))
        return pd.DataFrame(lines, columns=columns)

    def shown(self) -> pd.DataFrame:
        """As `table`, of what is on show."""
        return self.table([self._newest])

    def csv(self) -> bytes:
        return to_csv(self.table()).encode()

    def png(self) -> bytes:
        """What was kept, as one sheet of small images."""
        return drawing.sheet(self.kept)

    def snapshot(self) -> Figure:
        """What is on show, as a figure; waits until all of it is. ExplainError where it could not be shown."""
        self.wait()
        if len(self._newest.maps) < len(self._newest.models):
            raise ExplainError("Nothing to save: the page could not show this image; its status line says why.")
        return drawing.snapshot(self._newest)


# --- the shapes of widgets ----------------------------------------------------------------------------------


def _html() -> widgets.HTML:
    return widgets.HTML(layout=widgets.Layout(margin="2px 0"))


def _picture(width: int, height: int) -> widgets.Image:
    # of fixed size, so the page does not move while an image is replaced
    size = widgets.Layout(width=f"{width}px", height=f"{height}px", min_height=f"{height}px", margin="2px 0")
    # A tooltip would break it (ipywidgets 8.1.9).
    return widgets.Image(width=width, height=height, layout=size)


def _control(kind: type, description: str, width: int, label: int = 0, **traits: Any) -> widgets.Widget:
    """``width`` of the whole in px, of which ``label`` are for the description beside a slider or list."""
    if label:
        traits["style"] = {"description_width": f"{label}px"}
    return kind(description=description, layout=widgets.Layout(width=f"{width}px"), **traits)


def _row(children: list[widgets.Widget]) -> widgets.HBox:
    layout = widgets.Layout(flex_flow="row wrap", grid_gap="4px 16px", align_items="flex-start")
    return widgets.HBox(children, layout=layout)
