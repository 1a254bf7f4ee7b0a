"""``python -m data_prep.convert``: the same as ``invert-rl convert``."""

import argparse
import sys

from data_prep.convert import command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m data_prep.convert")
    command.add_arguments(parser)
    sys.exit(command.run(parser.parse_args()))
