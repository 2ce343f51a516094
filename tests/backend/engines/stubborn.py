"""An engine process that does not behave: it takes the key, says a port, and then does what its one argument names.

``deaf`` ignores SIGTERM; ``family`` leaves a child behind; ``flood`` prints forty megabytes without an end of line
before it says its port. Nothing listens on that port.
"""

import os
import signal
import subprocess
import sys
import time

FLOOD = 40_000_000  # characters


def main(how: str) -> None:
    sys.stdin.readline()
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "flood":
        for _ in range(FLOOD // 100_000):
            os.write(2, b"x" * 100_000)
        os.write(2, b"\nlast words\n")
    if how == "family":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    os.write(1, b'{"port": 1}\n')
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
