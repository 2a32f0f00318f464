"""Trains a recipe: python train.py --config=configs/quickstart.py --workdir=DIR."""

import sys

from mmjax.cli import train

if __name__ == "__main__":
    sys.exit(train.main())
