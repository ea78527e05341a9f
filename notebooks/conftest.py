"""Notebooks are compared on one thread each: the same sums on any number of cores, and no waiting on a busy one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # kernels start with it
