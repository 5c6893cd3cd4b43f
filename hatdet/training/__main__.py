"""`torchrun --nproc_per_node=N -m hatdet.training -opt FILE`: `hatdet train` as a module, for launchers."""

import sys

from hatdet.cli.app import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]], prog_name="hatdet")
