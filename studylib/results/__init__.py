"""What rows say: verdicts on the claims (the end of every chapter), and whether two runs agree (``make compare``)."""
