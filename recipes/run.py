"""python recipes/run.py recipes/<study>.yaml [--profile paper]: runs a study to its report."""

import sys

from sj_cka.cli import main

if __name__ == "__main__":  # worker processes import this file
    sys.argv.insert(1, "run")
    main()
