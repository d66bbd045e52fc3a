"""Exit codes: what a script can rely on. README, "Exit codes"."""

OK, DEFECT, USAGE, SOME_FAILED, STORE, BUSY, BELOW, WEIGHTS = range(8)
INTERRUPTED, TERMINATED = 130, 143
