"""What the ``taehv`` command's subcommands do with videos, latents and checkpoints; ``cli.py`` only parses."""
