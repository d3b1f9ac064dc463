"""What rows say: whether two runs agree. Used by ``make study`` and ``make compare``; draws and trains nothing."""
