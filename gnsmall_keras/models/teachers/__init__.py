"""Networks to distil from, a file a family."""
