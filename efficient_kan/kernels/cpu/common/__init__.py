"""What products and penalties share."""
