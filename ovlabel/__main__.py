"""python -m ovlabel"""

from ovlabel.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
