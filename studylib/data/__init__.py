"""Images, text and what is learnt of them: data sets, augmentation, tasks, scores. Every chapter."""
