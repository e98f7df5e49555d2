"""Where things lie. The checkout by default; the folder named by IQA_HOME where that is set."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("IQA_HOME") or CHECKOUT).resolve()
NOTEBOOKS = CHECKOUT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
DATA = HOME / "data"
RUNS = HOME / "runs"
FIGURES = HOME / "figures"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, sync, rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
