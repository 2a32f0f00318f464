"""Evaluates a trained workdir: python eval.py --workdir=DIR."""

import sys

from mmjax import cli

if __name__ == "__main__":
    sys.exit(cli.eval_main())
