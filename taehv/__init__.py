"""Training tiny video autoencoders, reproducibly."""

__version__ = "0.1.0"
