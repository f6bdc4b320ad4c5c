"""From images of your own to a network that fits a device."""
