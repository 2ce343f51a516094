"""The child process that checks one model's files: a worker with one step.

    python -m backend.jobs.checker JOB_FOLDER DATA_FOLDER LOCK_FD

Knows nothing about set-ups.
"""

import sys
from pathlib import Path

from backend.jobs.check import CHECK
from backend.jobs.steps import PUBLISH
from backend.jobs.sums import check_sums, leave
from backend.jobs.worker import run

if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2]), table={CHECK: check_sums, PUBLISH: leave}))
