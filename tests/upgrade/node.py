"""A node that has the next version of the rules, too: `python -m tests.upgrade.node`."""

import sys

from tests.upgrade.next_version import register

from deepbrain.node.__main__ import main

if __name__ == "__main__":
    register()
    sys.exit(main())
