"""A node whose operator has switched off what keeps two from signing with one key."""

import sys

from deepbrain.node.__main__ import main
from deepbrain.node.comet import home
from deepbrain.node.comet.app import App

if __name__ == "__main__":
    home.TWIN_CHECK_BLOCKS = 0
    App._ensure_no_twin = lambda self, commit, height: None
    sys.exit(main())
