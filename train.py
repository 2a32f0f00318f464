"""Trains a recipe: python train.py --config=configs/quickstart.py --workdir=DIR."""

import sys

from mmjax import cli

if __name__ == "__main__":
    sys.exit(cli.train_main())
