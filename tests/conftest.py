"""Before torch is imported: one thread a process, as pytest already runs two processes side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
