"""The child that holds adapters against a model; see ``attachable``.

    python -m backend.engines.attachable_child    < {"model": FOLDER, "adapters": [FOLDER, ...]}

One line for each, in their order: true or false. Knows nothing about where adapters come from.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.engines.adapters import open_loras
from backend.engines.base import Lora
from backend.errors import CriaError
from backend.weights.opening import open_checkpoint


def fits(model: Path, adapters: Sequence[str]) -> Iterator[bool]:
    """Yield for each adapter whether it can be attached to a model."""
    try:
        base = open_checkpoint(model)
    except CriaError:
        yield from (False for _ in adapters)
        return
    for folder in adapters:
        try:
            open_loras(base, [Lora(folder)])
        except Exception:  # noqa: BLE001 - the last boundary: one odd folder must not hide the others
            yield False
        else:
            yield True


def main() -> None:
    """Answer the request on stdin."""
    wanted = json.load(sys.stdin)
    for answer in fits(Path(wanted["model"]), wanted["adapters"]):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
