"""Training of super-resolution networks on BasicSR's registries, datasets, losses, metrics and loggers.

Whatever of this room is imported, BasicSR can be imported after it.
"""

from hatdet.training.basicsr_compat import make_importable

make_importable()
