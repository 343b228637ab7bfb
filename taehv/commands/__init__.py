"""What the ``taehv`` command does: one function per command, whose signature is its options and docstring its help.

What takes long to import (torch, mlflow, av) is imported in these functions: help is there at once.
"""
