"""From stored frames to model pixels, and the exact way back."""
