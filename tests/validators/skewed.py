"""A node on a machine whose clock is off by the seconds in CLOCK_SKEW."""

import os
import sys
import time

from deepbrain.node.__main__ import main
from deepbrain.node.comet import program

if __name__ == "__main__":
    right = time.time_ns
    program.version_of = lambda path: program.VERSION  # it is built from sources that were changed
    time.time_ns = lambda: right() + int(os.environ["CLOCK_SKEW"]) * 10**9
    sys.exit(main())
