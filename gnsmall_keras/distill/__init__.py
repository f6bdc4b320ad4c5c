"""Losses for labels and, later, for teachers."""
