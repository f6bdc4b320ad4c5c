"""The commands of `gnsmall`, which `gnsmall_keras.cli` parses and calls."""
