"""How fast the explorer answers when the level is dragged, with nothing cached.

    python benchmarks/explorer.py          # the demo profile
    python benchmarks/explorer.py smoke

Every level of three distortions on three test images is asked for one after the other; the time runs from the
control's change to the score and stage weights on show, and to everything. The model trains first if it must.
"""

import os
import statistics
import sys
import time

from iqa_lib.data.images import load_images
from iqa_lib.explorer.app import Explorer
from iqa_lib.profile import load_profile
from iqa_lib.training.train import train


def main() -> None:
    settings = load_profile(sys.argv[1] if len(sys.argv) > 1 else "demo")
    images = load_images(settings)
    explorer = Explorer(settings, [train(settings, images)], images)
    explorer.wait()
    scored, all_shown = [], []
    choices = [key for _, key in explorer.image.options]
    for key in (choices[0], choices[len(choices) // 2], choices[-1]):
        for distortion in ("gaussian-blur", "jpeg", "white-noise"):
            for level in (1, 3, 5):
                explorer.level.value = 0
                explorer.image.value, explorer.distortion.value = key, distortion
                explorer.wait()
                explorer.answers.cache.clear()
                times = drag(explorer, level)
                scored.append(times[0])
                all_shown.append(times[1])
    print(f"{settings.profile}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, n = {len(scored)} changes")
    print(f"score and stage weights  median {statistics.median(scored):.3f} s, slowest {max(scored):.3f} s")
    print(f"everything               median {statistics.median(all_shown):.3f} s, slowest {max(all_shown):.3f} s")


def drag(explorer: Explorer, level: int) -> tuple[float, float]:
    """Seconds until score and stage weights are on show, and until everything is."""
    told: list[tuple[str, float]] = []
    # a score may round to the number that was there: the status line changes in any case
    explorer.status.observe(lambda change: told.append((change["new"], time.monotonic())), "value")
    started = time.monotonic()
    explorer.level.value = level
    explorer.wait()
    explorer.status.unobserve_all()
    scored, done = (next(when for text, when in told if word in text) for word in ("maps …", "ready"))
    return scored - started, done - started


if __name__ == "__main__":
    main()
