"""python recipes/run.py recipes/<study>.yaml [--profile paper]: runs a study to its report."""

import sys

if __name__ == "__main__":  # worker processes import this file
    from sj_cka.cli import main

    sys.argv.insert(1, "run")
    main()
