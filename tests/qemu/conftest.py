"""These tests are of another machine: `make qemu` boots it and runs them there."""

import os

if "DBC_QEMU" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
