"""The version, in a file that changes with nothing else."""

__version__ = "0.1.0"
