"""Many runs from one file, each an execution of the training notebook."""
