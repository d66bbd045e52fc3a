"""Exit codes: what a script can rely on. The manual of the command line (README.md here) explains them."""

OK, DEFECT, USAGE, SOME_FAILED, STORE, BUSY, BELOW, WEIGHTS = range(8)
HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143
