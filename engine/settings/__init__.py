"""What is to be run: chapters and profiles, read strictly and checked before anything trains."""
