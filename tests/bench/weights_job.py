"""One job of the weights benchmark in a process of its own, with everything the real worker has imported.

    python -m tests.bench.weights_job OUT BASE [--delta DIR] [--lora DIR]

Prints one JSON line: when the work began (seconds since the epoch), its parts, and the peak of resident memory.
"""

import argparse
import json
import time
from pathlib import Path

from backend.jobs.worker import peak_memory
from backend.weights.delta import add_delta
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save, written


def main() -> None:
    """Make the model folder and say what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--delta", type=Path)
    parser.add_argument("--lora", type=Path)
    asked = parser.parse_args()
    began = time.time()
    checkpoint = open_checkpoint(asked.base)
    if asked.delta:
        checkpoint = add_delta(checkpoint, open_checkpoint(asked.delta))
    if asked.lora:
        checkpoint = add_lora(checkpoint, asked.lora)
    opened = time.time()
    last = 0
    for step in save(checkpoint, asked.out):
        last = step.done
    figures = {"began": began, "open_s": opened - began, "save_s": time.time() - opened}
    print(json.dumps(figures | {"bytes": last, "peak": peak_memory(), "sha256": written(asked.out)}))


if __name__ == "__main__":
    main()
