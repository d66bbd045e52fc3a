"""Exit codes: what a script can rely on. README, "Exit codes"."""

OK, DEFECT, USAGE, SOME_FAILED, STORE, BUSY, WEIGHTS, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 5, 7, 130, 143
