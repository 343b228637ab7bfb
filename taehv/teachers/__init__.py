"""What the student is distilled from: one file each, and the registry in ``base``."""
