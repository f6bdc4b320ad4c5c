"""What runs .tflite files, and whether they fit."""
