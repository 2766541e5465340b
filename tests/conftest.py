"""Tests run in two processes (pyproject.toml): with more threads than processors, torch's would wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
