"""Runs from one tracking store into another."""
