"""Pictures of what a fitted model makes of images."""
