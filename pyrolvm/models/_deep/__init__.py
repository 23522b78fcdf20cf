"""What models with a decoder share."""
