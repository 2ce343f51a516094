"""A worker under strace, which lets one exact call of it fail or kills it there. For tests only.

The manager starts this module as it would start the real worker; ``CRIA_TEST_INJECT`` is for strace's ``-e inject=``.
Light, since every traced import is slow. Knows nothing about what the points mean.
"""

import os
import sys
from pathlib import Path

from tests.backend.jobs.warm_worker import run_tuned

INJECT = "CRIA_TEST_INJECT"
MODULE = "tests.backend.jobs.traced_worker"


def trace(arguments: list[str]) -> None:
    """Become strace with a worker below it; the job's lock goes along."""
    inject = os.environ[INJECT]
    watch = ["-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"]
    worker = [sys.executable, "-m", MODULE, "--work", *arguments]
    os.execvp("strace", ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", *watch, *worker])


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        sys.exit(run_tuned(Path(sys.argv[2]), Path(sys.argv[3])))
    trace(sys.argv[1:])
