"""Evaluates a trained workdir: python eval.py --workdir=DIR."""

import sys

from mmjax.cli import eval

if __name__ == "__main__":
    sys.exit(eval.main())
