"""Files of images: found in folders and archives, placed, kept decoded."""
