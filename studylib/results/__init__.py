"""What rows say: statistics, claims, verdicts, tables, and the chapter that shows them. Every chapter."""
