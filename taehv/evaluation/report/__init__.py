"""Figures, videos and the HTML report of finished runs."""
