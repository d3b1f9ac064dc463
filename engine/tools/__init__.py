"""What is done with runs and files beside running them."""
