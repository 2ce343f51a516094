"""The app as ``app.py`` starts it, with an echo engine that says it can attach LoRAs. Takes its flags."""

import sys
from dataclasses import replace

import backend.engines
from app import main

if __name__ == "__main__":
    echo = backend.engines.ENGINES["echo"]
    backend.engines.ENGINES["echo"] = replace(echo, attaches=True)  # type: ignore[index]
    sys.exit(main(sys.argv[1:]))
