"""Networks as files: written, read, checked, and those of the package."""
